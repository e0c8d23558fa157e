"""Find where the frozen prefix of a model ends by running it, without a table of architectures.

Below the lowest trained layer nothing changes from step to step. Autograd tells how far that is:
the output of a block requires no gradient as long as no trained parameter contributed to it, be it
of a block, the embeddings, a table of relative positions or a block that is used twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch
from surgery.models.blocks import Block, encoder_of, model_inputs, part_of


class CannotReplay(Exception):
    """Stored states cannot replace the prefix; the message says why."""


@dataclass(frozen=True)
class Output:
    """The form of a block's output: a tensor of ``shape``, alone (``rest`` None) or in a tuple.

    ``single`` says that there is no other tensor in it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    rest: tuple[Any, ...] | None
    single: bool

    @classmethod
    def of(cls, output: Any) -> Output:
        """Describe an output without keeping its tensors alive."""
        first = output[0] if isinstance(output, tuple) else output
        rest = tuple(output[1:]) if isinstance(output, tuple) else None
        if not isinstance(first, Tensor) or any(isinstance(part, Tensor) for part in rest or ()):
            return cls((), torch.float32, None, single=False)
        return cls(tuple(first.shape), first.dtype, rest, single=True)


@dataclass(frozen=True)
class BlockRun:
    """One run of a block in a forward pass."""

    block: Block
    output: Output
    frozen: bool  # no trained parameter contributed to the output
    given_frozen: bool  # no trained parameter contributed to the input
    began: int  # when it began and ended, counted in events of the pass
    ended: int


@dataclass(frozen=True)
class Embedded:
    """The embeddings, whose output (N, T, ``width``) only the prefix may read."""

    module: nn.Module
    width: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Cut:
    """The frozen prefix: the first ``runs`` of blocks, out of ``total``, and all before their end.

    ``quiet`` are the modules that run in it, ``shared`` those of them that also run later, and
    ``after`` is the first block after it. If the prefix is empty, ``reason`` says why.
    """

    runs: tuple[BlockRun, ...]
    total: int
    quiet: tuple[nn.Module, ...]
    shared: tuple[nn.Module, ...]
    after: nn.Module | None
    embeddings: Embedded | None
    reason: str | None = None

    @property
    def blocks(self) -> list[nn.Module]:
        """The distinct modules of the prefix's blocks."""
        return list({id(run.block.module): run.block.module for run in self.runs}.values())

    @property
    def last(self) -> nn.Module:
        """The block whose output is that of the prefix."""
        return self.runs[-1].block.module

    @property
    def last_runs(self) -> int:
        """How often the last block runs in the prefix."""
        return sum(run.block.module is self.last for run in self.runs)


class _Trace:
    """Records what runs in a forward pass, in order: blocks, and leaf modules outside them."""

    def __init__(self) -> None:
        self.clock = 0
        self.runs: list[BlockRun] = []
        self.leaves: list[tuple[nn.Module, int]] = []
        self.embedded: list[Embedded | None] = []
        self._begun: list[tuple[int, bool]] = []

    def embed(
        self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        ids = next(filter(is_ids, (*given, *named.values())), None)
        plain = isinstance(output, Tensor) and ids is not None and output.shape[:-1] == ids.shape
        self.embedded.append(Embedded(module, output.shape[-1], output.dtype) if plain else None)

    def leaf(self, module: nn.Module, *_: Any) -> None:
        self.clock += 1
        self.leaves.append((module, self.clock))

    def begin(self, _module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.clock += 1
        self._begun.append((self.clock, not _has_gradient([*given, *named.values()])))

    def end(self, block: Block, _module: nn.Module, _given: Any, _named: Any, output: Any) -> None:
        self.clock += 1
        began, given_frozen = self._begun.pop()
        frozen = not _has_gradient(output)
        described = Output.of(output)
        self.runs.append(BlockRun(block, described, frozen, given_frozen, began, self.clock))


def is_ids(value: Any) -> bool:
    """Whether a value is a tensor of token ids."""
    return isinstance(value, Tensor) and not value.is_floating_point() and value.dim() == 2


def _has_gradient(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.requires_grad
    return isinstance(value, list | tuple) and any(map(_has_gradient, value))


@contextmanager
def _watching(model: nn.Module, blocks: Sequence[Block]) -> Iterator[_Trace]:
    trace = _Trace()
    inside = {id(part) for block in blocks for part in block.module.modules()}
    handles = [
        module.register_forward_pre_hook(trace.leaf)
        for module in encoder_of(model).modules()
        if id(module) not in inside and next(module.children(), None) is None
    ]
    embeddings = part_of(model, "embeddings")
    if embeddings is not None:
        handles.append(embeddings.register_forward_hook(trace.embed, with_kwargs=True))
    for block in blocks:
        handles += [
            block.module.register_forward_pre_hook(trace.begin, with_kwargs=True),
            block.module.register_forward_hook(partial(trace.end, block), with_kwargs=True),
        ]
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


@torch.enable_grad()
def find_cut(model: nn.Module, blocks: Sequence[Block], batch: Batch) -> Cut:
    """Run a batch and find the longest prefix in which nothing trains.

    The parameters' ``requires_grad`` tells what trains. The model must be in eval mode, and is not
    changed.
    """
    with _watching(model, blocks) as trace:
        model(**model_inputs(model, batch))
    count = 0
    while count < len(trace.runs) and trace.runs[count].frozen:
        count += 1
    count, reason = _without_repeats(trace.runs, count)
    if not trace.runs[0].given_frozen:
        return Cut((), len(trace.runs), (), (), None, None, "what runs before the layers trains")
    embeddings = part_of(model, "embeddings")
    end = trace.runs[count - 1].ended if count else trace.runs[0].began
    before = {id(module): module for module, at in trace.leaves if at < end}
    later = {id(module) for module, at in trace.leaves if at > end}
    quiet = [*before.values(), *(run.block.module for run in trace.runs[:count])]
    return Cut(
        runs=tuple(trace.runs[:count]),
        total=len(trace.runs),
        quiet=tuple([*quiet, embeddings] if embeddings is not None else quiet),
        shared=tuple(module for key, module in before.items() if key in later),
        after=trace.runs[count].block.module if count < len(trace.runs) else None,
        embeddings=trace.embedded[0] if len(trace.embedded) == 1 else None,
        reason=None if count else reason or "the lowest layer trains",
    )


def _without_repeats(runs: Sequence[BlockRun], count: int) -> tuple[int, str | None]:
    """No prefix, and the reason, if a block runs in it and later: a stand-in cannot tell when."""
    later = {id(run.block.module) for run in runs[count:]}
    for run in runs[:count]:
        if id(run.block.module) in later:
            return 0, f"layer {run.block.name} also runs above the lowest trained layer"
    return count, None


@dataclass(frozen=True)
class OutputForm:
    """The form of the output of the prefix's last block: states of ``width`` numbers.

    ``tokens_first`` says that the states are (T, N, d) and not (N, T, d). ``rest`` follows the
    states in a tuple; it is None if the output is not a tuple.
    """

    width: int
    dtype: torch.dtype
    tokens_first: bool
    rest: tuple[Any, ...] | None

    def wrap(self, states: Tensor) -> Any:
        """States (N, T, d) in the form of the block's output."""
        placed = states.transpose(0, 1) if self.tokens_first else states
        return placed if self.rest is None else (placed, *self.rest)

    def unwrap(self, output: Any) -> Tensor:
        """The states (N, T, d) in a block's output."""
        placed: Tensor = output[0] if isinstance(output, tuple) else output
        return placed.transpose(0, 1) if self.tokens_first else placed


def output_form(run: BlockRun, sequences: int, tokens: int) -> OutputForm:
    """The form of a block's output for a batch of ``sequences`` with ``tokens`` each.

    Raises CannotReplay if the output has more than one tensor, or not one state for each token.
    """
    shape, name = run.output.shape, run.block.name
    if not run.output.single:
        raise CannotReplay(f"layer {name} outputs more than a state for each token")
    batch_first = len(shape) == 3 and shape[0] == sequences and shape[1] >= tokens
    tokens_first = len(shape) == 3 and shape[1] == sequences and shape[0] >= tokens
    if not (batch_first or tokens_first):
        raise CannotReplay(
            f"layer {name} outputs states of shape {shape} for {sequences} sequences of {tokens} "
            "tokens"
        )
    if batch_first and tokens_first:
        raise CannotReplay(
            f"layer {name} outputs states of shape {shape}, in which sequences and tokens cannot "
            "be told apart"
        )
    return OutputForm(shape[2], run.output.dtype, tokens_first, run.output.rest)
