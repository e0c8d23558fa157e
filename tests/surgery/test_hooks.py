"""The two forms of a squared norm, and the rules that a model must keep for either."""

from __future__ import annotations

import pytest
import torch
from encoders import padded_batch, tiny
from reference import layer_traces, squared_gradients
from torch import Tensor, nn

from surgery import hooks
from surgery.architecture import find_blocks
from surgery.fisher import FisherScores, fisher_scores
from surgery.spec import Problem


def engine(model: nn.Module, batches: list[dict[str, Tensor]]) -> FisherScores:
    return fisher_scores(model, find_blocks(model), batches, Problem.CLASSIFICATION)


def expected_of(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    blocks = [(block.name, block.module) for block in find_blocks(model)]
    return layer_traces(squared_gradients(model, batches), blocks, model)


@pytest.mark.parametrize("kept", ["gram", "inputs"])
@pytest.mark.parametrize("lengths", [[6, 4, 3], [12, 12], [38, 20, 31]], ids=["6", "12", "38"])
def test_both_forms_of_the_trace(
    lengths: list[int], kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever form is cheaper; a Gram matrix of 38 tokens comes in four blocks."""
    monkeypatch.setattr(hooks, "GRAM_COST", 0 if kept == "gram" else 1e9)
    monkeypatch.setattr(hooks, "CHUNK_NUMBERS", 1000)  # two samples of 16 x 24 at once
    model, batch = tiny("roberta"), padded_batch(lengths, seed=3)
    found = engine(model, [batch]).per_sample
    torch.testing.assert_close(found, expected_of(model, [batch]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("tokens", [1, 11, 12, 13, 64, 65, 127, 128, 129, 300])
def test_gram_matrices(tokens: int) -> None:
    """The lower half in blocks stands for the whole."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, tokens, 5, generator=generator, dtype=torch.float64)
    whole = [rows @ rows.mT for rows in (first, second)]
    grams = [hooks.Gram(rows) for rows in (first, second)]
    torch.testing.assert_close(grams[0].dot(grams[1]), (whole[0] * whole[1]).sum((1, 2)))
    torch.testing.assert_close(grams[0].total(), whole[0].sum((1, 2)))


def test_long_rows_take_the_direct_form() -> None:
    """Of 16 x 24, T²(d + p) exceeds T·d·p from 13 tokens on."""
    model = tiny("bert")
    feed_forward = "bert.encoder.layer.0.intermediate.dense.weight"
    accumulator = hooks.Traces(model, [feed_forward])
    assert isinstance(accumulator.keep(torch.zeros(2, 12, 16), 24), hooks.Gram)
    assert isinstance(accumulator.keep(torch.zeros(2, 13, 16), 24), Tensor)


def test_query_key_and_value_share_a_gram_matrix() -> None:
    model = tiny("bert")
    accumulator = hooks.Traces(model, ["bert.encoder.layer.0.attention.self.query.weight"])
    states = torch.zeros(2, 4, 16)
    kept = accumulator.keep(states, 16)
    assert accumulator.keep(states, 16) is kept
    assert accumulator.keep(states.clone(), 16) is not kept


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
        if fault in {"one row", "two dimensions"}:
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


def test_toy_follows_the_rules() -> None:
    assert engine(Toy(), [padded_batch([7, 3, 5])]).path == "batched"


@pytest.mark.parametrize("rows", [[6, 6, 6], [7, 3, 5], [6]])
@pytest.mark.parametrize(
    ("fault", "words"),
    {
        "rows mixed": "differ from single ones",
        "used twice": "blocks.0.inner is used more than once",
        "shared parameter": "shared between modules",
        "raw parameter": "blocks.0 is a Piece with parameters",
        "unused": "blocks.0.idle took no part",
        "one row": "blocks.0.position does not see one row a sample",
        "two dimensions": "blocks.0.position does not see one row a sample",
        "padding leaks": "differ from single ones",
    }.items(),
)  # fmt: skip
def test_models_that_break_a_rule_take_the_slow_path(
    fault: str, words: str, rows: list[int]
) -> None:
    model, batches = Toy(fault), [padded_batch(rows), padded_batch([5, 4], seed=1)]
    scores = engine(model, batches)
    assert scores.path == "one_sample"
    assert words in scores.warnings[0]
    torch.testing.assert_close(scores.per_sample, expected_of(model, batches), rtol=1e-9, atol=0)
