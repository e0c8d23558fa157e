"""Whether stored states may take the place of a prefix: tried on a few rows before anything else.

The rows' states are computed one row at a time and replayed in one padded batch, so that padding,
positions or a mixing of rows that stored states would not bring back show in the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from surgery.architecture import model_inputs
from surgery.data import Batch, Encoded, on_device
from surgery.prefix_replay import StandIns, prefix_states
from surgery.prefix_states import Layout, States
from surgery.prefix_trace import CannotReplay, Cut, Embedded, Form

# Largest difference of a logit from the plain forward pass's, as a share of the largest logit. A
# wrong replay is off by the logits' own size.
TOLERANCE = 1e-3
ROUNDED = 5e-2  # the same where states or products are rounded to fewer bits than float32 has


class Check:
    """A few rows of a split, on which a way to replay is compared with the plain forward pass.

    ``kept`` is the dtype in which states are stored. All in eval mode.
    """

    def __init__(
        self, model: nn.Module, cut: Cut, form: Form, encoded: Encoded, kept: torch.dtype
    ) -> None:
        self._model, self._cut, self._form, self._kept = model, cut, form, kept
        self._encoded = encoded
        self._device = next(model.parameters()).device
        self._rows = list(range(len(encoded)))
        self._batch = self._on_device(self._rows)

    @torch.no_grad()
    def fitting(self) -> tuple[StandIns, bool]:
        """Stand-ins that give the logits of the plain forward pass, and whether the head reads no
        state but the first token's.

        Raises CannotReplay where none do.
        """
        plain = self._logits()
        choices: list[Embedded | None] = [None]
        if self._cut.embeddings is not None:
            choices.insert(0, self._cut.embeddings)
        for embeddings in choices:
            stand_ins = StandIns(self._cut, self._form, embeddings)
            whole = self._replayed(stand_ins, first_only=False)
            if self._close(plain, whole):
                return stand_ins, self._reads_first_only(stand_ins, whole)
        raise CannotReplay("replaying its output does not give the model's own predictions")

    def _reads_first_only(self, stand_ins: StandIns, whole: Tensor) -> bool:
        if self._cut.after is not None:
            return False
        first = self._replayed(stand_ins, first_only=True)
        return torch.equal(first, whole)

    def _close(self, plain: Tensor, found: Tensor) -> bool:
        exact = (torch.float32, torch.float64)
        rounds = self._kept not in exact or plain.dtype not in exact
        rounds |= torch.get_float32_matmul_precision() != "highest"
        worst = float((plain - found).abs().max())
        return worst <= (ROUNDED if rounds else TOLERANCE) * float(plain.abs().max())

    def _replayed(self, stand_ins: StandIns, *, first_only: bool) -> Tensor:
        layout = Layout(self._encoded, first_only=first_only)
        flat = torch.zeros(
            layout.states + 1, self._form.width, dtype=self._kept, device=self._device
        )
        states = States(layout, flat)
        for row in self._rows:
            batch = self._on_device([row])
            states.put([row], prefix_states(self._model, self._cut, self._form, batch))
        with stand_ins.installed(), stand_ins.replay(states, self._rows):
            return self._logits()

    def _logits(self) -> Tensor:
        logits: Tensor = self._model(**model_inputs(self._model, self._batch)).logits
        if self._encoded.tagged:  # nobody reads what is said of padding
            return logits[self._batch["attention_mask"] == 1]
        return logits

    def _on_device(self, rows: Sequence[int]) -> Batch:
        return on_device(self._encoded.batch(rows), self._device)
