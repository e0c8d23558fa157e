"""Hooks that turn activations and their gradients into per-sample gradient statistics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

GRAM_ROWS = 128  # of a Gram matrix computed at once; larger ones skip part of their upper half
FEW_ROWS = 12  # the same on a CPU, whose products of few rows are 2 to 3 times as fast …
SHORT = 64  # … up to this many tokens
GRAM_COST = 0.75  # of a number of a Gram matrix, against one of a formed gradient
CHUNK_NUMBERS = 4_000_000  # of formed gradients held at once: 16 MB in float32


class UnsupportedModule(Exception):
    """The batched formulas do not hold for a module; the message names it."""


class Gram:
    """X Xᵀ of each sample, (N, T, T), as the rows of its lower half: it is symmetric.

    Block b holds tokens ``starts[b]`` to ``starts[b + 1]`` against all up to the latter.
    """

    def __init__(self, rows: Tensor) -> None:
        tokens = rows.shape[1]
        size = FEW_ROWS if tokens <= SHORT and rows.device.type == "cpu" else GRAM_ROWS
        self.starts = range(0, tokens, size)
        self.blocks = [rows[:, s : s + size] @ rows[:, : s + size].mT for s in self.starts]

    def dot(self, other: Gram) -> Tensor:
        """Sum of the elementwise product of two Gram matrices, (N,)."""
        return self._sum([a * b for a, b in zip(self.blocks, other.blocks, strict=True)])

    def total(self) -> Tensor:
        """Sum of all elements, ‖Σ_t x_t‖², (N,)."""
        return self._sum(self.blocks)

    def _sum(self, blocks: list[Tensor]) -> Tensor:
        # What lies left of the diagonal blocks stands for its mirror image too.
        parts = [block.sum((1, 2)) for block in blocks] + [
            block[:, :, :start].sum((1, 2))
            for start, block in zip(self.starts, blocks, strict=True)
            if start
        ]
        return torch.stack(parts).sum(0)


class Accumulator(ABC):
    """What is kept of per-sample gradients. ``names`` are the scored parameters, in order."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.names = names
        self.scored = {name: parameters[name] for name in names}

    @abstractmethod
    def begin(self, rows: int) -> None:
        """A batch of so many samples follows."""

    @abstractmethod
    def keep(self, inputs: Tensor, outputs: int) -> Any:
        """What the backward pass needs of the inputs (N, T, d) of a Linear with so many outputs."""

    @abstractmethod
    def add_linear(self, weight: str, bias: str | None, kept: Any, gradients: Tensor) -> None:
        """What was kept of a Linear's inputs meets its output gradients (N, T, p)."""

    @abstractmethod
    def add_rows(self, name: str, gradients: Tensor) -> None:
        """The gradient of a vector for every sample of the batch, (N, d)."""

    @abstractmethod
    def add_gradient(self, name: str, row: int, gradient: Tensor) -> None:
        """The whole gradient of one parameter for one sample."""


class Traces(Accumulator):
    """Squared gradient norms of each sample and parameter: an N × P matrix."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__(model, names)
        self._column = {name: column for column, name in enumerate(names)}
        self._batches: list[Tensor] = []
        # A Gram matrix A Aᵀ serves every Linear fed by the same tensor (query, key and value).
        self._last: tuple[ReferenceType[Tensor], Gram] | None = None

    def begin(self, rows: int) -> None:
        """Open a new (rows, P) part of the matrix."""
        device = next(iter(self.scored.values())).device
        self._batches.append(torch.zeros(rows, len(self.names), dtype=torch.float64, device=device))

    def _add(self, name: str, values: Tensor) -> None:
        self._batches[-1][:, self._column[name]] += values

    def keep(self, inputs: Tensor, outputs: int) -> Gram | Tensor:
        """The Gram matrices where T²(d + p) costs less than the T·d·p of forming gradients.

        T × T numbers a sample then stay in memory, not T × d.
        """
        tokens, wide = inputs.shape[1:]
        if GRAM_COST * tokens * (wide + outputs) > wide * outputs:
            return inputs.detach()
        if self._last is None or self._last[0]() is not inputs:
            self._last = (ref(inputs), Gram(inputs.detach()))
        return self._last[1]

    def add_linear(self, weight: str, bias: str | None, kept: Any, gradients: Tensor) -> None:
        """‖GᵀA‖² in the form that was chosen in the forward pass."""
        if isinstance(kept, Gram):
            gram = Gram(gradients)
            self._add(weight, gram.dot(kept))
            if bias is not None:
                self._add(bias, gram.total())
            return
        chunk = max(1, CHUNK_NUMBERS // self.scored[weight].numel())
        norms = [
            (g.mT @ a).square().sum((1, 2))
            for g, a in zip(gradients.split(chunk), kept.split(chunk), strict=True)
        ]
        self._add(weight, torch.cat(norms))
        if bias is not None:
            self.add_rows(bias, gradients.sum(1))

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

    def keep(self, inputs: Tensor, outputs: int) -> Tensor:  # noqa: ARG002
        """The inputs themselves."""
        return inputs.detach()

    def add_linear(self, weight: str, bias: str | None, kept: Any, gradients: Tensor) -> None:
        """g_i = G_iᵀ A_i into one reused buffer, then D += g_i²."""
        shape = self.scored[weight].shape
        buffer = self._buffers.setdefault(shape, torch.empty_like(self.scored[weight]))
        for row in range(len(kept)):
            torch.mm(gradients[row].mT, kept[row], out=buffer)
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
    """While open, feeds an accumulator from each Linear and LayerNorm that holds scored parameters.

    Raises UnsupportedModule from the forward pass, or from ``expect_all_used``, when a scored
    parameter lives in another kind of module, a module is used twice, shares its parameter, or does
    not see one row a sample.
    """

    def __init__(self, model: nn.Module, accumulator: Accumulator, rows: int) -> None:
        self._accumulator = accumulator
        self._rows = rows
        self._kept: dict[nn.Module, Any] = {}
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

    def __enter__(self) -> Self:
        for module in self._modules:
            self._handles.append(module.register_forward_hook(self._on_forward))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._kept.clear()

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
        inputs = args[0]
        self._kept[module] = (
            self._accumulator.keep(inputs, output.shape[2])
            if isinstance(module, nn.Linear)
            else inputs.detach()
        )
        if not output.requires_grad:
            # The lowest scored modules: gradients need to come this far down and no further.
            output.requires_grad_(True)
        output.register_hook(lambda gradient: self._on_gradient(module, own, gradient))
        return output

    @torch.no_grad()
    def _on_gradient(self, module: nn.Module, own: dict[str, str], gradient: Tensor) -> None:
        kept = self._kept.pop(module)
        if isinstance(module, nn.Linear):
            if "weight" in own:
                self._accumulator.add_linear(own["weight"], own.get("bias"), kept, gradient)
            return
        assert isinstance(module, nn.LayerNorm)
        if "weight" in own:
            normalised = nn.functional.layer_norm(kept, module.normalized_shape, eps=module.eps)
            self._accumulator.add_rows(own["weight"], (gradient * normalised).sum(1))
        if "bias" in own:
            self._accumulator.add_rows(own["bias"], gradient.sum(1))
