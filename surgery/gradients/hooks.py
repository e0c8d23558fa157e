"""Hooks that hand the inputs and output gradients of each module to an accumulator."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn

from surgery.gradients.accumulators import Accumulator, SavedInputs, whole_inputs

KINDS = (nn.Linear, nn.LayerNorm, nn.Embedding)


class UnsupportedModule(Exception):
    """The batched formulas do not hold for a module, whose scored parameters are ``parameters``."""

    def __init__(self, message: str, parameters: tuple[str, ...] = ()) -> None:
        self.parameters = parameters
        super().__init__(message)


@dataclass
class ScoredModule:
    """A module with scored parameters: ``own`` maps weight and bias to their full names.

    A module can be used several times in one forward pass. ``inputs`` holds the inputs of each use,
    or what the accumulator saves of them; ``gradients`` maps a use to its output gradients.
    """

    path: str
    own: dict[str, str]
    inputs: list[SavedInputs] = field(default_factory=list)
    gradients: dict[int, Tensor] = field(default_factory=dict)

    def unsupported(self, reason: str) -> UnsupportedModule:
        return UnsupportedModule(f"{self.path} {reason}", tuple(self.own.values()))


class GradientHooks:
    """A context in which each module with scored parameters feeds an accumulator.

    ``rows`` is the number of samples; in multiple choice each of them consists of ``texts`` texts.
    The uses of a module that is used several times are joined along the tokens, so that they are
    added up before squaring. ``once`` names weights that are known to be used once: for these the
    accumulator decides in the forward pass what to save of the inputs.

    The constructor, the forward pass and ``expect_all_used`` raise UnsupportedModule for a scored
    parameter that is in another kind of module or in two modules, and for a module that does not
    get one row for each text.
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
        """Raise UnsupportedModule unless every module with scored parameters was used."""
        for entry in self._modules.values():
            if not entry.inputs:
                raise entry.unsupported("took no part in the forward pass")

    def backward(self, logits: Tensor, direction: Tensor, *, last: bool) -> None:
        """Feed the accumulator with Jᵀv of every sample; ``last`` frees the autograd graph."""
        # The result is not needed: the hooks take the output gradients on the way.
        self._last = last
        torch.autograd.grad(logits, self._leaves, direction, retain_graph=not last)
        for module, entry in self._modules.items():
            if entry.gradients:  # one of the uses does not reach the outputs
                self._hand_over(module, entry)

    def _on_forward(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        entry = self._modules[module]
        inputs, seen = args[0], self._rows * self._texts
        if isinstance(module, nn.Embedding) and len(output) == 1 < seen:
            # Positions are looked up once for all rows. With a copy, each row gets a gradient.
            output = output.expand(seen, *output.shape[1:])
            inputs = inputs.expand(seen, *inputs.shape[1:])
        if output.dim() < 2 or len(output) != seen:
            raise entry.unsupported("does not see one row a sample")
        use = len(entry.inputs)
        entry.inputs.append(self._saved(module, entry, inputs, output))
        if not output.requires_grad:
            # One of the lowest scored modules: gradients are computed down to here and no further.
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
        """The names of the weights whose module was used exactly once so far."""
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
                ids = ids.masked_fill(ids == module.padding_idx, -1)  # has no gradient
            self._accumulator.add_embedding(weight, ids, gradients)
        if bias is not None:
            self._accumulator.add_vector(bias, gradients.sum(1))

    def _shaped(self, states: Tensor) -> Tensor:
        """States as (N, T, d) over all texts of a sample; not copied if they have that shape."""
        if states.dim() == 3 and len(states) == self._rows:
            return states
        return states.reshape(self._rows, -1, states.shape[-1])

    def _joined(self, uses: list[Tensor]) -> Tensor:
        """The states of all uses as (N, T, d); those of a single use are not copied."""
        shaped = [self._shaped(use) for use in uses]
        return shaped[0] if len(shaped) == 1 else torch.cat(shaped, dim=1)


def _normalised(module: nn.LayerNorm, states: Tensor) -> Tensor:
    return nn.functional.layer_norm(states, module.normalized_shape, eps=module.eps)
