"""Hooks that turn activations and their gradients into per-sample gradient statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHUNK_NUMBERS = 4_000_000  # of formed gradients held at once: 16 MB in float32


class UnsupportedModule(Exception):
    """The batched formulas do not hold for a module; the message names it."""


class Accumulator:
    """What is kept of per-sample gradients. ``names`` are the scored parameters, in order."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.names = names
        self.scored = {name: parameters[name] for name in names}

    def begin(self, rows: int) -> None:
        """A batch of so many samples follows."""
        raise NotImplementedError

    def add_linear(self, weight: str, bias: str | None, inputs: Tensor, gradients: Tensor) -> None:
        """A Linear saw inputs (N, T, d) and output gradients (N, T, p)."""
        raise NotImplementedError

    def add_rows(self, name: str, gradients: Tensor) -> None:
        """The gradient of a vector for every sample of the batch, (N, d)."""
        raise NotImplementedError

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """The whole gradient of one parameter for one sample."""
        raise NotImplementedError


class Traces(Accumulator):
    """Squared gradient norms of each sample and parameter: an N × P matrix."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__(model, names)
        self._column = {name: column for column, name in enumerate(names)}
        self._batches: list[Tensor] = []
        # A Gram matrix A Aᵀ serves every Linear fed by the same tensor (query, key and value).
        self._grams: dict[int, tuple[Tensor, Tensor]] = {}

    def begin(self, rows: int) -> None:
        """Open a new (rows, P) part of the matrix."""
        device = next(iter(self.scored.values())).device
        self._grams.clear()
        self._batches.append(
            torch.zeros(rows, len(self.names), dtype=torch.float64, device=device)
        )

    def _add(self, name: str, values: Tensor) -> None:
        self._batches[-1][:, self._column[name]] += values

    def add_linear(self, weight: str, bias: str | None, inputs: Tensor, gradients: Tensor) -> None:
        """‖GᵀA‖² by whichever form costs less: T²(d + p) with Gram matrices, T·d·p without."""
        tokens, wide, tall = inputs.shape[1], inputs.shape[2], gradients.shape[2]
        if tokens * (wide + tall) <= wide * tall:
            gram = gradients @ gradients.mT
            self._add(weight, (gram * self._gram(inputs)).sum((1, 2)))
            if bias is not None:
                self._add(bias, gram.sum((1, 2)))
            return
        chunk = max(1, CHUNK_NUMBERS // (wide * tall))
        norms = [
            (g.mT @ a).square().sum((1, 2))
            for g, a in zip(gradients.split(chunk), inputs.split(chunk), strict=True)
        ]
        self._add(weight, torch.cat(norms))
        if bias is not None:
            self.add_rows(bias, gradients.sum(1))

    def _gram(self, inputs: Tensor) -> Tensor:
        known = self._grams.get(inputs.data_ptr())
        if known is None or known[0].shape != inputs.shape:
            # The last few only: blocks come one after the other, and a Gram matrix is T × T.
            while len(self._grams) >= 2:
                self._grams.pop(next(iter(self._grams)))
            # Holding the tensor keeps its address from being given to another.
            known = self._grams[inputs.data_ptr()] = (inputs, inputs @ inputs.mT)
        return known[1]

    def add_rows(self, name: str, gradients: Tensor) -> None:
        """Square and sum each row."""
        self._add(name, gradients.square().sum(1))

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """Square and sum the whole tensor."""
        self._batches[-1][row, self._column[name]] += gradient.square().sum()

    def matrix(self) -> Tensor:
        """Squared norms (N, P), float64, on the CPU."""
        return torch.cat(self._batches).cpu()


class Diagonal(Accumulator):
    """Elementwise sums of squared gradients, over two disjoint halves of the samples."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__(model, names)
        first, second = (
            {name: torch.zeros_like(parameter) for name, parameter in self.scored.items()}
            for _ in range(2)
        )
        self.halves = (first, second)
        self._seen = self._rows = 0
        self._buffers: dict[torch.Size, Tensor] = {}

    def begin(self, rows: int) -> None:
        """Samples go to the halves in turn, whatever the batch sizes."""
        self._seen += self._rows
        self._rows = rows

    def _half(self, row: int) -> dict[str, Tensor]:
        return self.halves[(self._seen + row) % 2]

    def add_linear(self, weight: str, bias: str | None, inputs: Tensor, gradients: Tensor) -> None:
        """g_i = G_iᵀ A_i into one reused buffer, then D += g_i²."""
        shape = self.scored[weight].shape
        buffer = self._buffers.setdefault(shape, torch.empty_like(self.scored[weight]))
        for row in range(len(inputs)):
            torch.mm(gradients[row].mT, inputs[row], out=buffer)
            self._half(row)[weight].addcmul_(buffer, buffer)
        if bias is not None:
            self.add_rows(bias, gradients.sum(1))

    def add_rows(self, name: str, gradients: Tensor) -> None:
        """Square, then sum over the rows of each half."""
        squares = gradients.square()
        self._half(0)[name] += squares[0::2].sum(0)
        self._half(1)[name] += squares[1::2].sum(0)

    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """Square and add the whole tensor."""
        self._half(row)[name].addcmul_(gradient, gradient)


class GradientHooks:
    """While open, feeds an accumulator from every Linear and LayerNorm that holds scored parameters.

    Raises UnsupportedModule from the forward pass, or from ``expect_all_used``, when a scored
    parameter lives in another kind of module, a module is used twice, shares its parameter, or does
    not see one row a sample.
    """

    def __init__(self, model: nn.Module, accumulator: Accumulator, rows: int) -> None:
        self._accumulator = accumulator
        self._rows = rows
        self._inputs: dict[nn.Module, Tensor] = {}
        self._used: set[nn.Module] = set()
        self._handles: list[Any] = []
        by_identity = {id(p): name for name, p in accumulator.scored.items()}
        self._modules: dict[nn.Module, tuple[str, dict[str, str]]] = {}
        for path, module in model.named_modules():
            own = {
                kind: by_identity[id(p)]
                for kind, p in module.named_parameters(recurse=False)
                if id(p) in by_identity
            }
            if own:
                self._modules[module] = (path, own)
        self._check_kinds(len(by_identity))

    def _check_kinds(self, parameters: int) -> None:
        held = sum(len(own) for _, own in self._modules.values())
        if held != parameters:
            raise UnsupportedModule("a parameter is shared between modules")
        for module, (path, own) in self._modules.items():
            if type(module) not in (nn.Linear, nn.LayerNorm) or set(own) - {"weight", "bias"}:
                raise UnsupportedModule(f"{path} is a {type(module).__name__} with parameters")

    def __enter__(self) -> GradientHooks:
        for module in self._modules:
            self._handles.append(module.register_forward_hook(self._on_forward))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._inputs.clear()

    def expect_all_used(self) -> None:
        """Every scored parameter must have been seen."""
        for module, (path, _) in self._modules.items():
            if module not in self._used:
                raise UnsupportedModule(f"{path} took no part in the forward pass")

    def _on_forward(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        path, own = self._modules[module]
        if module in self._used:
            raise UnsupportedModule(f"{path} is used more than once")
        if output.dim() != 3 or len(output) != self._rows:
            raise UnsupportedModule(f"{path} does not see one row a sample")
        self._used.add(module)
        self._inputs[module] = args[0].detach()
        if not output.requires_grad:
            # The lowest scored modules: gradients need to come this far down and no further.
            output.requires_grad_(True)
        output.register_hook(lambda gradient: self._on_gradient(module, own, gradient))
        return output

    @torch.no_grad()
    def _on_gradient(self, module: nn.Module, own: dict[str, str], gradient: Tensor) -> None:
        inputs = self._inputs.pop(module)
        if isinstance(module, nn.Linear):
            if "weight" in own:
                self._accumulator.add_linear(own["weight"], own.get("bias"), inputs, gradient)
            return
        assert isinstance(module, nn.LayerNorm)
        if "weight" in own:
            normalised = nn.functional.layer_norm(inputs, module.normalized_shape, eps=module.eps)
            self._accumulator.add_rows(own["weight"], (gradient * normalised).sum(1))
        if "bias" in own:
            self._accumulator.add_rows(own["bias"], gradient.sum(1))
