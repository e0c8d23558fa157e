"""The released computation of the paper, against its obvious twin in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surgery.data.tokens.dataset import TaskData
from surgery.errors import SurgeryError
from surgery.models.loading import LoadedModel
from surgery.ranking.paper import longest_input, padded_batches
from surgery.ranking.ranking import rank_layers
from surgery.schemas.enums import Method, Problem
from surgery.schemas.jobs.ranking import RankingOptions, RankingResult
from tests.support.models.checkpoints import loaded_from, write_checkpoint
from tests.support.models.toys import by_index, toy_data, toy_model
from tests.support.reference.ranking import released_scores


def paper(loaded: LoadedModel, data: TaskData) -> RankingResult:
    return rank_layers(loaded, data, RankingOptions(method=Method.PAPER_COMPAT))


def twin(loaded: LoadedModel, data: TaskData, rows: int = 100) -> list[float]:
    table = list(data.validation)[:rows]
    blocks = [block.module for block in loaded.blocks]
    return released_scores(loaded.model, blocks, loaded.tokenizer, table, 40)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "albert", "deberta-v2"])
def test_scores_equal_the_released_computation(kind: str) -> None:
    loaded, data = toy_model(kind), toy_data(4, validation=12)
    result = paper(loaded, data)
    assert by_index(result) == pytest.approx(twin(loaded, data), rel=1e-9)
    assert result.path == ("one_sample" if kind == "deberta-v2" else "batched")
    assert result.samples == 12


def test_pairs_and_numbers() -> None:
    loaded, data = toy_model(), toy_data(4, validation=8)
    paired = data.validation.add_column(
        "text_pair", [text[::-1] for text in data.validation["text"]]
    )
    data = TaskData(data.train, paired, data.problem, data.labels, data.metrics)
    assert by_index(paper(loaded, data)) == pytest.approx(twin(loaded, data), rel=1e-9)
    loaded = toy_model(problem=Problem.REGRESSION)
    data = toy_data(4, validation=8, problem=Problem.REGRESSION)
    assert by_index(paper(loaded, data)) == pytest.approx(twin(loaded, data), rel=1e-9)


def test_the_first_hundred_validation_rows_are_scored() -> None:
    loaded, data = toy_model(), toy_data(4, validation=103)
    result = paper(loaded, data)
    assert result.samples == 100
    assert by_index(result) == pytest.approx(twin(loaded, data), rel=1e-9)
    assert by_index(result) != pytest.approx(twin(loaded, data, 103), rel=1e-4)
    other = TaskData(
        data.train, data.validation.select(range(100)), data.problem, data.labels, data.metrics
    )
    assert by_index(paper(loaded, other)) == by_index(result)


def test_a_loaded_checkpoint_keeps_its_untrained_head(tmp_path: Path) -> None:
    data = toy_data(4, validation=10)
    loaded = loaded_from(write_checkpoint(tmp_path / "bert", "bert"), data)
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    result = paper(loaded, data)
    assert by_index(result) == pytest.approx(twin(loaded, data), rel=1e-4)  # float32
    assert result.head is None
    assert all(torch.equal(value, before[n]) for n, value in loaded.model.state_dict().items())


def test_the_result_says_what_it_is() -> None:
    result = paper(toy_model(), toy_data(4))
    assert (result.method, result.aggregate, result.fisher) == ("paper_compat", None, None)
    assert any("validation rows" in warning.message for warning in result.warnings)
    assert all(layer.ci is None for layer in result.layers)
    assert result.stability.split_half_kendall_tau is not None
    assert result.groups == []


def test_batches_are_padded_to_the_maximum_and_padding_is_attended_to() -> None:
    loaded = toy_model()
    loaded.tokenizer.model_max_length = 20
    assert longest_input(loaded) == 20
    [batch] = padded_batches(loaded, toy_data(4), range(12))
    assert batch["input_ids"].shape == (12, 20)
    assert bool(batch["attention_mask"].all())
    assert (batch["input_ids"] == loaded.tokenizer.pad_token_id).any()


def test_the_default_ranking_is_another() -> None:
    """Attention to padding alone moves the scores."""
    loaded, data = toy_model(), toy_data(60, validation=60)
    swapped = TaskData(data.validation, data.train, data.problem, data.labels, data.metrics)
    options = RankingOptions(aggregate="frobenius", samples=60, model_prior=False)
    ours, theirs = by_index(rank_layers(loaded, swapped, options)), by_index(paper(loaded, data))
    assert ours != pytest.approx(theirs, rel=0.05)


def test_tags_are_refused() -> None:
    problem = Problem.TOKEN_CLASSIFICATION
    with pytest.raises(SurgeryError, match="not defined for problem token_classification"):
        paper(toy_model(problem=problem), toy_data(4, problem=problem))
