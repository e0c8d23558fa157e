"""Choose how a model is scored: two samples of unequal length are first scored in both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from surgery.data.tokens.dataset import Batch, has_tags
from surgery.data.tokens.sequences import IGNORED
from surgery.errors import ScoresNotFinite
from surgery.gradients.accumulators import Traces
from surgery.gradients.hooks import UnsupportedModule
from surgery.gradients.passes import Objective, score_batch, score_one_by_one
from surgery.models.blocks import Unit, model_inputs
from surgery.schemas import JobWarning
from surgery.schemas.enums import Fisher

ScoringPath = Literal["batched", "one_sample", "mixed"]
CHECK_TOKENS = 16  # length of these two samples; the rules do not depend on length
# Allowed difference, as a share of a parameter's score: far above what rounding causes in this
# number format, far below what a wrong formula causes.
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.05}
FULL_TOLERANCE = 5e-3
# The share of the sum of all blocks' scores below which a score counts as zero. That of a key bias,
# for example, is zero except for rounding.
FLOOR = {torch.bfloat16: 1e-2, torch.float16: 1e-3}
FULL_FLOOR = 1e-6
ONE_SAMPLE = "scored_one_sample_at_a_time"


@dataclass
class Plan:
    """How the samples are scored, and which units.

    ``once`` names the weights whose modules are used once in a forward pass.
    """

    path: ScoringPath
    units: list[Unit]
    warnings: list[JobWarning] = field(default_factory=list)
    once: set[str] = field(default_factory=set)

    @property
    def columns(self) -> dict[str, int]:
        """Maps the name of each scored parameter to the position of its unit."""
        return {name: place for place, unit in enumerate(self.units) for name in unit.members}

    def note_slow_batch(self, reason: str) -> None:
        """Note that a batch broke a rule that the first one followed."""
        if self.path == "batched":
            self.path = "mixed"
            message = f"some batches were scored one sample at a time: {reason}"
            self.warnings.append(JobWarning(code=ONE_SAMPLE, message=message))


def make_plan(model: nn.Module, units: Sequence[Unit], batch: Batch, objective: Objective) -> Plan:
    """Choose the path, and leave out groups beside the blocks that only the slow path could score.

    The hooks refuse modules by their structure. A module that mixes rows and padding that affects
    other tokens are found by comparing the scores of both ways. Raises ScoresNotFinite.
    """
    pair = unequal_pair(model, batch)
    check = replace(objective, fisher=Fisher.EMPIRICAL)
    kept, warnings = list(units), list[JobWarning]()
    while True:
        try:
            found, once = _check(model, kept, pair, check, batched=True)
        except UnsupportedModule as error:
            broken = [u for u in kept if set(error.parameters) & set(u.members)]
            reason = str(error)
        else:
            expected, _ = _check(model, kept, pair, check, batched=False)
            broken = _differing(kept, found, expected, next(model.parameters()).dtype)
            reason = "batched gradients of this architecture differ from single ones"
        if not broken:
            return Plan("batched", kept, warnings, once)
        if any(unit.ranked for unit in broken):
            message = f"scored one sample at a time: {reason}"
            slow = JobWarning(code=ONE_SAMPLE, message=message)
            return Plan("one_sample", list(units), [slow])
        kept = [unit for unit in kept if unit not in broken]
        warnings += [
            JobWarning(code="group_not_scored", message=f"{unit.name} not scored: {reason}")
            for unit in broken
        ]


def unequal_pair(model: nn.Module, batch: Batch) -> Batch:
    """The first tokens of the longest and of the shortest row, of the latter a quarter fewer.

    A model without an attention mask is trained on its padding: for it nothing is cut off.
    """
    mask = batch["attention_mask"]
    width, tagged = mask.shape[-1], has_tags(batch)
    lengths = mask.reshape(len(mask), -1, width).any(1).sum(1)
    rows = lengths.argsort()[[-1, 0]]
    size = min(CHECK_TOKENS, int(lengths[rows[0]]))
    left = _pads_left(model, mask)
    window = slice(width - size, width) if left else slice(0, size)
    pair = {
        name: tensor[rows][..., window].clone()
        if tensor.dim() > 1 and tensor.shape[-1] == width and (name != "labels" or tagged)
        else tensor[rows]
        for name, tensor in batch.items()
    }
    if "attention_mask" in model_inputs(model, batch):
        shown = max(1, size - size // 4)
        hidden = slice(0, size - shown) if left else slice(shown, size)
        pair["attention_mask"][1, ..., hidden] = 0
        if tagged:
            pair["labels"][1, hidden] = IGNORED
    return pair


def _pads_left(model: nn.Module, mask: Tensor) -> bool:
    """Whether the batch is padded on the left; without padding, the model's config decides."""
    if bool(mask.all()):
        return getattr(getattr(model, "config", None), "summary_type", None) == "last"
    return bool((mask[..., 0] == 0).any())


def _check(
    model: nn.Module, units: Sequence[Unit], pair: Batch, objective: Objective, *, batched: bool
) -> tuple[Tensor, set[str]]:
    """Squared norms (2, P) of each parameter of the units, and the names of weights used once."""
    names = [name for unit in units for name in unit.members]
    parameters = dict(model.named_parameters())
    columns = {name: column for column, name in enumerate(names)}
    traces = Traces({name: parameters[name] for name in names}, columns, grams=objective.grams)
    traces.begin([0, 1])
    if batched:
        once = score_batch(model, traces, pair, [0, 1], objective)
        return traces.matrix(), once
    score_one_by_one(model, traces, pair, [0, 1], objective)
    found = traces.matrix()
    if not torch.isfinite(found).all():
        raise ScoresNotFinite
    return found, set()


def _differing(
    units: Sequence[Unit], found: Tensor, expected: Tensor, dtype: torch.dtype
) -> list[Unit]:
    """The units that have a parameter whose score differs from the expected one, or is NaN."""
    places = [place for place, unit in enumerate(units) for _ in unit.members]
    ranked = torch.tensor([units[place].ranked for place in places])
    floor = FLOOR.get(dtype, FULL_FLOOR) * expected[:, ranked].sum(1, keepdim=True)
    allowed = TOLERANCE.get(dtype, FULL_TOLERANCE) * expected + floor
    wrong = ~((found - expected).abs() <= allowed).all(0)  # so that NaN counts as wrong too
    broken = {places[column] for column in wrong.nonzero().flatten().tolist()}
    return [units[place] for place in sorted(broken)]
