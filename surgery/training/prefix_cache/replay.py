"""Stand-ins for the blocks of a frozen prefix, which return stored states.

The model keeps every module and parameter: only the ``forward`` of the prefix's blocks is replaced
for a while, and only for a batch whose states were selected. Masks, positions, relative biases,
pooling and head are still computed by the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch
from surgery.models.blocks import encoder_of, model_inputs
from surgery.training.prefix_cache.states import States
from surgery.training.prefix_cache.trace import Cut, Embedded, OutputForm, is_ids

Forward = Callable[..., Any]


class _PrefixDone(Exception):
    """The prefix has run; the rest of the forward pass is not needed."""


@contextmanager
def quiet_prefix(model: nn.Module, cut: Cut) -> Iterator[None]:
    """Keep the modules of the prefix in eval mode (without dropout) while the rest trains."""
    encoder = encoder_of(model)

    def hush(*_: Any) -> None:
        for module in cut.quiet:
            if module.training:
                module.eval()

    def release(*_: Any) -> None:
        for module in cut.shared:
            module.train(encoder.training)

    handles = [encoder.register_forward_pre_hook(hush)]
    if cut.after is not None:
        handles.append(cut.after.register_forward_pre_hook(release))
    elif cut.runs:
        handles.append(cut.last.register_forward_hook(release))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def prefix_states(model: nn.Module, cut: Cut, form: OutputForm, batch: Batch) -> Tensor:
    """The states (N, T, d) that the prefix outputs for a batch; the rest does not run."""
    outputs: list[Any] = []

    def stop(_module: nn.Module, _given: Any, output: Any) -> None:
        outputs.append(output)
        if len(outputs) == cut.last_runs:
            raise _PrefixDone

    handle = cut.last.register_forward_hook(stop)
    try:
        model(**model_inputs(model, batch))
    except _PrefixDone:
        return form.unwrap(outputs[-1])
    finally:
        handle.remove()
    raise AssertionError("the prefix did not run as often as when it was traced")


class StandIns:
    """Replaces the blocks of a prefix, which then return stored states.

    With ``embeddings``, these return zeros meanwhile, since only the prefix reads their output.
    """

    def __init__(self, cut: Cut, form: OutputForm, embeddings: Embedded | None) -> None:
        self.cut, self.form = cut, form
        self.embeddings = embeddings
        self._selected: tuple[States, Sequence[int]] | None = None
        self._padded: Tensor | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Replace the blocks' forward; unless rows are selected, this changes nothing."""
        changed: list[tuple[nn.Module, Forward | None]] = []
        try:
            changed.extend(_replace(module, self._block) for module in self.cut.blocks)
            if self.embeddings is not None:
                changed.append(_replace(self.embeddings.module, self._embed))
            yield
        finally:
            for module, own in changed:
                _restore(module, own)

    @contextmanager
    def replay(self, states: States, rows: Sequence[int]) -> Iterator[None]:
        """Make the blocks return the stored states of these rows."""
        self._selected, self._padded = (states, rows), None
        try:
            yield
        finally:
            self._selected = self._padded = None

    def _block(self, forward: Forward, *given: Any, **named: Any) -> Any:
        if self._selected is None:
            return forward(*given, **named)
        if self._padded is None:
            incoming = self._incoming([*given, *named.values()])
            tokens = incoming.shape[0 if self.form.tokens_first else 1]
            states, rows = self._selected
            self._padded = states.padded(rows, tokens).to(incoming.device, self.form.dtype)
        return self.form.wrap(self._padded)

    def _incoming(self, given: Sequence[Any]) -> Tensor:
        """The hidden states that a block is given, which have the length of the stored ones."""
        return next(
            value
            for value in given
            if isinstance(value, Tensor)
            and value.dim() == 3
            and value.shape[2] == self.form.width
            and value.is_floating_point()
        )

    def _embed(self, forward: Forward, *given: Any, **named: Any) -> Any:
        if self._selected is None:
            return forward(*given, **named)
        ids = next(filter(is_ids, (*given, *named.values())))
        assert self.embeddings is not None
        zero = torch.zeros((), dtype=self.embeddings.dtype, device=ids.device)
        return zero.expand(*ids.shape, self.embeddings.width)


def _replace(module: nn.Module, stand_in: Forward) -> tuple[nn.Module, Forward | None]:
    own = module.__dict__.get("forward")
    module.forward = partial(stand_in, module.forward)
    return module, own


def _restore(module: nn.Module, own: Forward | None) -> None:
    if own is None:
        del module.forward
    else:
        module.forward = own
