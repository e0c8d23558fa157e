"""Opacus and torch.func: the gradients of all samples of a batch, or their norms.

Opacus leaves hooks and attributes on a model, so it gets a copy. Methods that hold the gradients of
all samples take pieces of a batch, as Opacus' BatchMemoryManager and the ``chunk_size`` of
torch.func.vmap do: those of whole batches do not fit the memory of most machines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from bench.fisher.cases import Case, inputs_of, log_likelihood, loss_of, require_gradients_of_blocks
from bench.fisher.methods import Run, watch_first_block
from surgery.data.tokens.dataset import Batch

PIECE_BYTES = 3 * 2**30  # of the gradients of samples held at once
Named = dict[str, Tensor]


def _piece_rows(case: Case) -> int:
    """How many samples' gradients are in memory at the same time."""
    each = sum(p.numel() * p.element_size() for p in case.scored.values())
    return max(1, PIECE_BYTES // each)


def _pieces(case: Case) -> list[Batch]:
    rows = _piece_rows(case)
    return [
        {name: tensor[start : start + rows] for name, tensor in batch.items()}
        for batch in case.batches
        for start in range(0, len(batch["labels"]), rows)
    ]


def joined(parts: dict[str, list[Tensor]]) -> Named:
    return {name: torch.cat(values) for name, values in parts.items()}


def accumulate(total: Named, name: str, values: Tensor) -> None:
    total[name] = total[name].add_(values) if name in total else values


def mean(total: Named, rows: int) -> Named:
    return {name: value.div_(rows) for name, value in total.items()}


def _opacus(case: Case, mode: str) -> tuple[Case, nn.Module]:
    """A copy of the case, and its model wrapped. Opacus records in train mode only."""
    from opacus.grad_sample.utils import wrap_model

    copied = case.copied()
    require_gradients_of_blocks(copied)
    return copied, wrap_model(copied.model.train(), grad_sample_mode=mode, loss_reduction="sum")


def opacus_norms(case: Case, mode: str = "hooks") -> Run:
    """GradSampleModule: the gradients of all samples, then their norms."""
    copied, wrapped = _opacus(case, mode)

    def run() -> Named:
        norms: dict[str, list[Tensor]] = defaultdict(list)
        for batch in _pieces(copied):
            loss_of(wrapped, batch).backward()
            for name, p in copied.scored.items():
                norms[name].append(p.grad_sample.flatten(1).norm(dim=1).square())
                p.grad_sample = p.grad = None
        return joined(norms)

    return run


def opacus_squares(case: Case) -> Run:
    """GradSampleModule: the gradients of all samples, squared and added."""
    copied, wrapped = _opacus(case, "hooks")

    def run() -> Named:
        total: Named = {}
        for batch in _pieces(copied):
            loss_of(wrapped, batch).backward()
            for name, p in copied.scored.items():
                accumulate(total, name, p.grad_sample.square_().sum(0))
                p.grad_sample = p.grad = None
        return mean(total, copied.rows)

    return run


def opacus_ghost(case: Case, *, activations_only: bool = False) -> Run:
    """Ghost clipping's norms: those of a Linear without its per-sample gradients.

    Its documented use calls ``backward()``, which also computes every parameter's gradient; with
    ``activations_only`` the backward pass stops at the lowest block's input and skips them.
    """
    copied, wrapped = _opacus(case, "ghost")
    seen: list[Tensor] = []
    if activations_only:
        watch_first_block(copied, seen)

    def run() -> Named:
        norms: dict[str, list[Tensor]] = defaultdict(list)
        for batch in copied.batches:
            loss = loss_of(wrapped, batch)
            if activations_only:
                torch.autograd.grad(loss, [seen.pop()])
            else:
                loss.backward()
            for name, p in copied.scored.items():
                norms[name].append(p._norm_sample.square())  # noqa: SLF001
                p._norm_sample = p.grad = None  # noqa: SLF001
        return joined(norms)

    return run


def _inputs_for_vmap(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """Boolean masks (N, 1, 1, 1, T) instead of the 2-D mask, whose content transformers looks at.

    That raises under vmap. Models with two kinds of attention take a mask for each of them.
    Without padding there is no mask, as transformers itself drops one of all ones.
    """
    inputs: dict[str, Any] = inputs_of(batch)
    mask = inputs.pop("attention_mask")
    if bool(mask.all()):
        return inputs
    whole = mask.bool()[:, None, None, None]
    if "sliding_attention" not in (getattr(model.config, "layer_types", None) or []):
        return {**inputs, "attention_mask": whole}
    places = torch.arange(mask.shape[1], device=mask.device)
    near = (places[:, None] - places).abs() <= model.config.sliding_window
    both = {"full_attention": whole, "sliding_attention": whole & near}
    return {**inputs, "attention_mask": both}


def _torch_func(case: Case) -> Callable[[], Iterator[tuple[str, Tensor]]]:
    """vmap over grad of a functional call: a parameter's gradients (n, …) of each piece."""
    parameters = {name: p.detach() for name, p in case.scored.items()}

    def value(parameters: Named, inputs: dict[str, Any], label: Tensor) -> Tensor:
        single = {n: t[None] if n != "attention_mask" else t for n, t in inputs.items()}
        output = torch.func.functional_call(case.model, parameters, (), single)
        return log_likelihood(output.logits, label[None])

    gradients = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0, 0))
    pieces = [(_inputs_for_vmap(case.model, piece), piece["labels"]) for piece in _pieces(case)]

    def run() -> Iterator[tuple[str, Tensor]]:
        case.model.requires_grad_(False)
        for inputs, labels in pieces:
            found = gradients(parameters, inputs, labels)
            for name in list(found):
                yield name, found.pop(name)  # not held any longer than needed

    return run


def torch_func_norms(case: Case) -> Run:
    """The gradients of all samples, then their norms."""
    gradients = _torch_func(case)

    def run() -> Named:
        norms: dict[str, list[Tensor]] = defaultdict(list)
        for name, gradient in gradients():
            norms[name].append(gradient.flatten(1).norm(dim=1).square())
        return joined(norms)

    return run


def torch_func_squares(case: Case) -> Run:
    """The gradients of all samples, squared and added."""
    gradients = _torch_func(case)

    def run() -> Named:
        total: Named = {}
        for name, gradient in gradients():
            accumulate(total, name, gradient.square_().sum(0))
        return mean(total, case.rows)

    return run
