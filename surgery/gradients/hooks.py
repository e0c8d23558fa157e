"""Hooks that hand each module's inputs and output gradients to an accumulator, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from surgery.gradients.accumulators import Accumulator, SavedInputs, whole_inputs

KINDS = (nn.Linear, nn.LayerNorm, nn.Embedding)


class UnsupportedModule(Exception):
    """The batched formulas do not hold for a module; ``parameters`` are the scored ones it has."""

    def __init__(self, message: str, parameters: tuple[str, ...] = ()) -> None:
        self.parameters = parameters
        super().__init__(message)


@dataclass
class ScoredModule:
    """A module with scored parameters: ``own`` maps their kind (weight, bias) to their names.

    ``inputs`` holds what each use of this batch saw, or what the accumulator kept of it,
    ``gradients`` what came back for it.
    """

    path: str
    own: dict[str, str]
    inputs: list[SavedInputs] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)

    def unsupported(self, reason: str) -> UnsupportedModule:
        """An error that names this module."""
        return UnsupportedModule(f"{self.path} {reason}", tuple(self.own.values()))


class GradientHooks:
    """While open, feeds an accumulator from each module that holds scored parameters.

    ``rows`` is the number of samples; with multiple choice each is seen as so many ``texts``.
    A module used several times has its uses joined along the tokens: they are added before
    squaring. For the weights that ``once`` names, which are used once, the accumulator decides
    already in the forward pass what to keep.
    Raises UnsupportedModule, when opened, in the forward pass or from ``expect_all_used``, where a
    scored parameter lives in another kind of module or is shared by two, or where a module does not
    see one row a text.
    """

    def __init__(
        self,
        model: nn.Module,
        accumulator: Accumulator,
        rows: int,
        texts: int = 1,
        once: Collection[str] = (),
    ) -> None:
        self._accumulator = accumulator
        self._once = once
        self._rows, self._texts = rows, texts
        self._handles: list[Any] = []
        self._leaves: list[Tensor] = []
        self._last = False
        by_identity = {id(p): name for name, p in accumulator.scored.items()}
        self._modules: dict[nn.Module, ScoredModule] = {}
        for path, module in model.named_modules():
            own = {
                kind: by_identity[id(p)]
                for kind, p in module.named_parameters(recurse=False)
                if id(p) in by_identity
            }
            if own:
                self._modules[module] = ScoredModule(path, own)
        self._check_kinds()

    def _check_kinds(self) -> None:
        seen: set[str] = set()
        for module, entry in self._modules.items():
            if type(module) not in KINDS or set(entry.own) - {"weight", "bias"}:
                kind = type(module).__name__
                raise entry.unsupported(f"is a {kind} with parameters of its own")
            if isinstance(module, nn.Embedding) and (module.max_norm or module.scale_grad_by_freq):
                raise entry.unsupported("rescales its table or its gradients")
            if seen & set(entry.own.values()):
                raise entry.unsupported("shares a parameter with another module")
            seen |= set(entry.own.values())
        if lost := set(self._accumulator.scored) - seen:
            raise UnsupportedModule(f"{min(lost)} belongs to no module", tuple(lost))

    def __enter__(self) -> Self:
        for module in self._modules:
            self._handles.append(module.register_forward_hook(self._on_forward))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for entry in self._modules.values():
            entry.inputs.clear()
            entry.gradients.clear()
        self._leaves.clear()

    def expect_all_used(self) -> None:
        """Every scored parameter must have been seen."""
        for entry in self._modules.values():
            if not entry.inputs:
                raise entry.unsupported("took no part in the forward pass")

    def backward(self, logits: Tensor, direction: Tensor, *, last: bool) -> None:
        """Feed the accumulator with Jᵀv of every sample; the graph is freed after the last."""
        # Nothing is returned or stored: the hooks take what they need on the way.
        self._last = last
        torch.autograd.grad(logits, self._leaves, direction, retain_graph=not last)
        for module, entry in self._modules.items():
            if entry.gradients:  # a use that does not reach the outputs
                self._hand_over(module, entry)

    def _on_forward(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        entry = self._modules[module]
        inputs, seen = args[0], self._rows * self._texts
        if isinstance(module, nn.Embedding) and len(output) == 1 < seen:
            # Positions are looked up once for all rows: each gets a copy, and so a gradient.
            output = output.expand(seen, *output.shape[1:])
            inputs = inputs.expand(seen, *inputs.shape[1:])
        if output.dim() < 2 or len(output) != seen:
            raise entry.unsupported("does not see one row a sample")
        use = len(entry.inputs)
        entry.inputs.append(self._saved(module, entry, inputs, output))
        if not output.requires_grad:
            # The lowest scored modules: gradients need to come this far down and no further.
            output.requires_grad_(True)
            self._leaves.append(output)
        output.register_hook(self._taker(module, use))
        return output

    @torch.no_grad()
    def _saved(
        self, module: nn.Module, entry: ScoredModule, inputs: Tensor, output: Tensor
    ) -> SavedInputs:
        weight = entry.own.get("weight")
        if not isinstance(module, nn.Linear) or weight not in self._once:
            return inputs
        if entry.inputs:
            raise entry.unsupported("is used more often than in the first batch")
        return self._accumulator.save_inputs(self._shaped(inputs), output.shape[-1])

    def used_once(self) -> set[str]:
        """The weights whose module was used once so far."""
        return {
            entry.own["weight"]
            for entry in self._modules.values()
            if len(entry.inputs) == 1 and "weight" in entry.own
        }

    def _taker(self, module: nn.Module, use: int) -> Callable[[Tensor], None]:
        entry = self._modules[module]

        def take(gradient: Tensor) -> None:
            entry.gradients[use] = gradient.detach()
            if len(entry.gradients) == len(entry.inputs):
                self._hand_over(module, entry)

        return take

    @torch.no_grad()
    def _hand_over(self, module: nn.Module, entry: ScoredModule) -> None:
        uses = sorted(entry.gradients)
        gradients = self._joined([entry.gradients[use] for use in uses])
        inputs = [entry.inputs[use] for use in uses]
        entry.gradients.clear()
        if self._last:
            entry.inputs.clear()
        weight, bias = entry.own.get("weight"), entry.own.get("bias")
        if isinstance(module, nn.Linear) and weight is not None:
            saved = (
                inputs[0] if weight in self._once else self._joined([*map(whole_inputs, inputs)])
            )
            self._accumulator.add_linear(weight, saved, gradients)
        if isinstance(module, nn.LayerNorm) and weight is not None:
            states = [_normalised(module, whole_inputs(seen)) for seen in inputs]
            normalised = self._joined(states)
            self._accumulator.add_vector(weight, (gradients * normalised).sum(1))
        if isinstance(module, nn.Embedding) and weight is not None:
            ids = torch.cat([whole_inputs(seen).reshape(self._rows, -1) for seen in inputs], dim=1)
            if module.padding_idx is not None:
                ids = ids.masked_fill(ids == module.padding_idx, -1)  # never has a gradient
            self._accumulator.add_embedding(weight, ids, gradients)
        if bias is not None:
            self._accumulator.add_vector(bias, gradients.sum(1))

    def _shaped(self, states: Tensor) -> Tensor:
        """(N, T, d) over all texts of a sample; states in that shape are the same object."""
        if states.dim() == 3 and len(states) == self._rows:
            return states
        return states.reshape(self._rows, -1, states.shape[-1])

    def _joined(self, uses: list[Tensor]) -> Tensor:
        """(N, T, d) over all uses; a single one is not copied."""
        shaped = [self._shaped(use) for use in uses]
        return shaped[0] if len(shaped) == 1 else torch.cat(shaped, dim=1)


def _normalised(module: nn.LayerNorm, states: Tensor) -> Tensor:
    return nn.functional.layer_norm(states, module.normalized_shape, eps=module.eps)
