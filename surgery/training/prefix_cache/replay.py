"""Stand-ins for the blocks of a frozen prefix: they return stored states, all else runs as ever.

The model keeps every module and parameter: only the ``forward`` of some is another for a while, and
only for a batch whose states were selected. Masks, positions, relative biases, pooling and head are
the model's own.
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
from surgery.training.prefix_cache.trace import Cut, Embedded, Form, is_ids

Forward = Callable[..., Any]


class _Reached(Exception):
    """The prefix is done; what comes after it is not needed."""


@contextmanager
def quiet_prefix(model: nn.Module, cut: Cut) -> Iterator[None]:
    """Keep what runs in the prefix in eval mode (no dropout) while the rest trains."""
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
def prefix_states(model: nn.Module, cut: Cut, form: Form, batch: Batch) -> Tensor:
    """The states (N, T, d) that the prefix puts out for a batch; the rest does not run."""
    found: list[Any] = []

    def stop(_module: nn.Module, _given: Any, output: Any) -> None:
        found.append(output)
        if len(found) == cut.last_runs:
            raise _Reached

    handle = cut.last.register_forward_hook(stop)
    try:
        model(**model_inputs(model, batch))
    except _Reached:
        return form.unwrap(found[-1])
    finally:
        handle.remove()
    raise AssertionError("the prefix did not run as often as it was seen to")


class StandIns:
    """The blocks of a prefix, able to return stored states in place of their own.

    With ``embeddings``, these return zeros meanwhile, since nobody reads what they say.
    """

    def __init__(self, cut: Cut, form: Form, embeddings: Embedded | None) -> None:
        self.cut, self.form = cut, form
        self.embeddings = embeddings
        self._selected: tuple[States, Sequence[int]] | None = None
        self._padded: Tensor | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put them in place; without selected rows they change nothing."""
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
        """Let them return the stored states of these rows."""
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
        """What a block is given to work on: its length is that of the states."""
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
