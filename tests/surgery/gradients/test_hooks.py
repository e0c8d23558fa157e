"""The two forms of a squared norm, and the rules that a model must keep for either."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from surgery.gradients import accumulators
from surgery.gradients.engine import FisherScores, fisher_scores
from surgery.gradients.passes import Objective
from surgery.models.blocks import find_blocks, groups_of, units_of
from surgery.schemas.enums import Problem
from tests.support.models.encoders import padded_batch, tiny
from tests.support.reference.gradients import layer_traces, squared_gradients


def engine(
    model: nn.Module, batches: list[dict[str, Tensor]], *, elementwise: bool = False
) -> FisherScores:
    units = units_of(model, find_blocks(model))
    objective = Objective(Problem.CLASSIFICATION)
    return fisher_scores(model, units, batches, objective, elementwise=elementwise)


def expected_of(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    blocks = [(block.name, block.module) for block in find_blocks(model)]
    return layer_traces(squared_gradients(model, batches), blocks, model)


@pytest.mark.parametrize("kept", ["gram", "inputs"])
@pytest.mark.parametrize("lengths", [[6, 4, 3], [12, 12], [38, 20, 31]], ids=["6", "12", "38"])
def test_both_forms_of_the_trace(
    lengths: list[int], kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever form is cheaper; a Gram matrix of 38 tokens comes in two blocks."""
    monkeypatch.setattr(accumulators, "GRAM_COST", 0 if kept == "gram" else 1e9)
    monkeypatch.setattr(accumulators, "CHUNK_NUMBERS", 1000)  # two samples of 16 x 24 at once
    model, batch = tiny("roberta"), padded_batch(lengths, seed=3)
    found = engine(model, [batch]).per_sample
    torch.testing.assert_close(found, expected_of(model, [batch]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("tokens", [1, 11, 12, 13, 64, 65, 127, 128, 129, 300])
def test_gram_matrices(tokens: int) -> None:
    """The lower half in blocks stands for the whole."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, tokens, 5, generator=generator, dtype=torch.float64)
    whole = [rows @ rows.mT for rows in (first, second)]
    grams = [accumulators.Gram(rows) for rows in (first, second)]
    torch.testing.assert_close(grams[0].dot(grams[1].doubled()), (whole[0] * whole[1]).sum((1, 2)))


def traces_of(weights: list[tuple[int, int]]) -> accumulators.Traces:
    """For Linears of these shapes (p, d), with one row in the batch."""
    scored = {str(n): nn.Parameter(torch.zeros(shape)) for n, shape in enumerate(weights)}
    found = accumulators.Traces(scored, {name: int(name) for name in scored})
    found.begin([0])
    return found


def test_long_rows_take_the_direct_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 x 24, T²(d + p) exceeds T·d·p / 0.75 from 13 tokens on."""
    made: list[int] = []

    class Counted(accumulators.Gram):
        def __init__(self, rows: Tensor) -> None:
            made.append(rows.shape[1])
            super().__init__(rows)

    monkeypatch.setattr(accumulators, "Gram", Counted)
    traces = traces_of([(24, 16)])
    for tokens in (12, 13):
        traces.add_linear("0", torch.ones(1, tokens, 16), torch.ones(1, tokens, 24))
    assert made == [12, 12]  # of gradients and of inputs


def test_query_key_and_value_share_a_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tensor] = []

    class Counted(accumulators.Gram):
        def __init__(self, rows: Tensor) -> None:
            made.append(rows)
            super().__init__(rows)

    monkeypatch.setattr(accumulators, "Gram", Counted)
    traces = traces_of([(16, 16)] * 3)
    states = torch.rand(1, 4, 16)
    for name in "012":
        traces.add_linear(name, states, torch.rand(1, 4, 16))
    assert sum(torch.equal(rows, states) for rows in made) == 1
    traces.add_linear("0", states.clone(), torch.rand(1, 4, 16))
    assert sum(torch.equal(rows, states) for rows in made) == 2


class Piece(nn.Module):
    """A block of a toy encoder that can be built to break each rule of the batched formulas."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.inner = nn.Linear(8, 8)
        if fault == "shared parameter":
            self.twin = nn.Linear(8, 8)
            self.twin.weight = self.inner.weight
        if fault == "raw parameter":
            self.scale = nn.Parameter(torch.rand(8))
        if fault == "unused":
            self.idle = nn.Linear(8, 8)
        if fault.startswith("one row") or fault == "two dimensions":
            self.position = nn.Linear(8, 8)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        new = self.inner(states)
        if self.fault == "rows mixed":
            new = new - 0.5 * new.mean(0, keepdim=True)
        if self.fault == "padding leaks":
            new = new + new.mean(1, keepdim=True)
        if self.fault == "used twice":
            new = self.inner(torch.tanh(new))
        if self.fault == "shared parameter":
            new = self.twin(torch.tanh(new))
        if self.fault == "raw parameter":
            new = new * self.scale
        if self.fault == "one row":
            new = new + self.position(states[:1] * 0 + 1)
        if self.fault == "one row from 9 tokens":
            shared = len(states) > 1 and states.shape[1] >= 9
            new = new + self.position((states[:1] if shared else states) * 0 + 1)
        if self.fault == "two dimensions":
            new = new + self.position(states[:, 0])[:, None]
        return states + torch.tanh(new) * mask[..., None]


class Toy(nn.Module):
    """Two blocks between an embedding and a masked mean."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 8)
        self.blocks = nn.ModuleList(Piece(fault) for _ in range(2))
        self.head = nn.Linear(8, 2)
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Toy:
        states, mask = self.words(input_ids), attention_mask.double()
        for block in self.blocks:
            states = block(states, mask)
        self.logits = self.head((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return self


@pytest.mark.parametrize("rows", [[6, 6, 6], [7, 3, 5], [6]])
@pytest.mark.parametrize("shape", ["", "used twice", "two dimensions"])
def test_models_that_follow_the_rules(shape: str, rows: list[int]) -> None:
    """A module may be used several times, and see one state a row instead of one a token."""
    model, batches = Toy(shape), [padded_batch(rows), padded_batch([5, 4], seed=1)]
    scores = engine(model, batches)
    assert (scores.path, scores.warnings) == ("batched", [])
    torch.testing.assert_close(scores.per_sample, expected_of(model, batches), rtol=1e-9, atol=0)
    whole = engine(model, batches, elementwise=True)
    sums = torch.stack([whole.diagonal[n].sum() for u in whole.units for n in u.members])
    torch.testing.assert_close(sums.sum(), scores.per_sample.mean(0).sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("rows", [[6, 6, 6], [7, 3, 5], [6]])
@pytest.mark.parametrize(
    ("fault", "words"),
    {
        "rows mixed": "differ from single ones",
        "shared parameter": "blocks.0.twin shares a parameter",
        "raw parameter": "blocks.0 is a Piece with parameters",
        "unused": "blocks.0.idle took no part",
        "one row": "blocks.0.position does not see one row a sample",
        "padding leaks": "differ from single ones",
    }.items(),
)  # fmt: skip
def test_models_that_break_a_rule_take_the_slow_path(
    fault: str, words: str, rows: list[int]
) -> None:
    model, batches = Toy(fault), [padded_batch(rows), padded_batch([5, 4], seed=1)]
    scores = engine(model, batches)
    assert scores.path == "one_sample"
    assert words in scores.warnings[0].message
    torch.testing.assert_close(scores.per_sample, expected_of(model, batches), rtol=1e-9, atol=0)


def test_a_later_batch_that_breaks_a_rule_is_scored_by_itself() -> None:
    """As sparse attention does that begins at some length."""
    model = Toy("one row from 9 tokens")
    batches = [padded_batch([7, 3]), padded_batch([9, 4], seed=1), padded_batch([5, 2], seed=2)]
    scores = engine(model, batches)
    assert scores.path == "mixed"
    assert "some batches were scored one sample at a time" in scores.warnings[0].message
    torch.testing.assert_close(scores.per_sample, expected_of(model, batches), rtol=1e-9, atol=0)


def test_a_group_that_breaks_a_rule_is_left_out_alone() -> None:
    model = Toy("")
    model.scale = nn.Parameter(torch.ones(2, dtype=torch.float64))
    units = units_of(model, find_blocks(model)) + groups_of(model, find_blocks(model))
    batches = [padded_batch([7, 3, 5])]
    scores = fisher_scores(model, units, batches, Objective(Problem.CLASSIFICATION))
    assert scores.path == "batched"
    (warning,) = scores.warnings
    told = warning.message
    assert told.startswith("embeddings not scored: " if "emb" in told else "other not scored")
    assert [unit.name for unit in scores.units if unit.ranked] == ["blocks.0", "blocks.1"]
