"""Libraries that compute per-sample gradients or the Fisher diagonal, as their users set them up.

Each library that leaves hooks on a model gets a copy of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from bench.fisher.cases import Case, inputs_of, loss_of, require_gradients_of_blocks
from bench.fisher.methods import Gives, Method, Run
from bench.fisher.per_sample import (
    Named,
    accumulate,
    joined,
    mean,
    opacus_ghost,
    opacus_norms,
    opacus_squares,
    torch_func_norms,
    torch_func_squares,
)
from surgery.data.tokens.dataset import Batch

PRODUCTS = 4  # Fisher-vector products of Hutchinson's estimate


def _extended(case: Case) -> Case:
    """A copy whose Linears BackPACK watches: it has no rule for a LayerNorm.

    ``extend`` of the whole model raises on BERT, whose modules have a child named ``output``.
    """
    from backpack import extend

    copied = case.copied()
    require_gradients_of_blocks(copied)
    for block in copied.blocks:
        for module in block.modules():
            if isinstance(module, nn.Linear):
                extend(module)
    return copied


def _taken(case: Case, field: str) -> Iterator[tuple[str, Tensor]]:
    """What BackPACK left on the parameters, removed from them."""
    for name, p in case.scored.items():
        p.grad = None
        if hasattr(p, field):
            yield name, getattr(p, field)
            delattr(p, field)


def backpack_norms(case: Case) -> Run:
    """BatchL2Grad."""
    from backpack import backpack
    from backpack.extensions import BatchL2Grad

    copied = _extended(case)

    def run() -> Named:
        norms: dict[str, list[Tensor]] = defaultdict(list)
        for batch in copied.batches:
            loss = loss_of(copied.model, batch)
            with backpack(BatchL2Grad()):
                loss.backward()
            for name, values in _taken(copied, "batch_l2"):
                norms[name].append(values)
        return joined(norms)

    return run


def backpack_squares(case: Case) -> Run:
    """SumGradSquared."""
    from backpack import backpack
    from backpack.extensions import SumGradSquared

    copied = _extended(case)

    def run() -> Named:
        total: Named = {}
        for batch in copied.batches:
            loss = loss_of(copied.model, batch)
            with backpack(SumGradSquared()):
                loss.backward()
            for name, values in _taken(copied, "sum_grad_squared"):
                accumulate(total, name, values)
        return mean(total, copied.rows)

    return run


def nngeometry(case: Case) -> Run:
    """PMatDiag of the empirical Fisher over the blocks' Linear and LayerNorm modules.

    The generator differentiates with respect to its first input, so it is given embeddings.
    """
    from nngeometry.backend import TorchHooksJacobianBackend
    from nngeometry.layercollection import LayerCollection
    from nngeometry.object import PMatDiag

    copied = case.copied()
    require_gradients_of_blocks(copied)
    layers = LayerCollection()
    for block in copied.blocks:
        for module in block.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm):
                layers.add_layer_from_model(copied.model, module)

    def value(embedded: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        logits = copied.model(inputs_embeds=embedded, attention_mask=mask).logits
        return logits.log_softmax(1).gather(1, labels[:, None])

    generator = TorchHooksJacobianBackend(copied.model, value, layer_collection=layers)

    def run() -> Named:
        total = torch.zeros(layers.numel())
        for batch in copied.batches:
            embedded = copied.model.get_input_embeddings()(batch["input_ids"]).detach()
            examples = (embedded, batch["attention_mask"], batch["labels"])
            total += PMatDiag(generator, examples=examples).get_diag().cpu() * len(embedded)
        modules = dict(copied.model.named_modules())
        names = [name for name, _ in layers.named_parameters(modules)]
        parts = (total / copied.rows).split([copied.scored[n].numel() for n in names])
        return {n: p.view_as(copied.scored[n]) for n, p in zip(names, parts, strict=True)}

    return run


class _Logits(nn.Module):
    """A model from a dictionary of inputs to logits, as curvlinops wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Batch) -> Tensor:
        return self.model(**inputs).logits


def curvlinops(case: Case) -> Run:
    """Hutchinson's estimate of the empirical Fisher's diagonal: it offers no exact one."""
    from curvlinops import EFLinearOperator, hutchinson_diag

    copied = case.copied()
    require_gradients_of_blocks(copied)
    copied.model.set_attn_implementation("eager")  # the fused kernel has no forward derivative
    operator = EFLinearOperator(
        _Logits(copied.model),
        nn.CrossEntropyLoss(reduction="sum"),
        list(copied.scored.values()),
        [(inputs_of(batch), batch["labels"]) for batch in copied.batches],
        check_deterministic=False,
        batch_size_fn=lambda inputs: len(inputs["input_ids"]),
    )

    def run() -> Named:
        diagonal = hutchinson_diag(operator, PRODUCTS) / copied.rows
        parts = diagonal.split([p.numel() for p in copied.scored.values()])
        return {n: d.view_as(p) for (n, p), d in zip(copied.scored.items(), parts, strict=True)}

    return run


T, D = Gives.TRACE, Gives.DIAGONAL
PEERS = [
    Method("Opacus ghost", T, opacus_ghost, "opacus"),
    Method(
        "Opacus ghost, lean",
        T,
        partial(opacus_ghost, activations_only=True),
        "opacus",
        documented=False,
    ),
    Method("Opacus hooks, norms", T, opacus_norms, "opacus"),
    Method("torch.func, norms", T, torch_func_norms, "torch.func"),
    Method("BackPACK norms", T, backpack_norms, "backpack"),
    Method("Opacus hooks, squares", D, opacus_squares, "opacus"),
    Method("torch.func, squares", D, torch_func_squares, "torch.func"),
    Method("BackPACK squares", D, backpack_squares, "backpack"),
    Method("nngeometry PMatDiag", D, nngeometry, "nngeometry"),
    Method("curvlinops Hutchinson", D, curvlinops, "curvlinops", estimate=True),
]
FUNCTORCH = Method("Opacus functorch", T, partial(opacus_norms, mode="functorch"), "opacus")
