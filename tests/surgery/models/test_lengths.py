"""What a maximum cuts of the rows, and that results say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import Encoded, TaskData
from surgery.data.tokens.tokenize import encode
from surgery.io.reporter import Quiet
from surgery.models.lengths import TOKEN_BINS, token_lengths, truncation_warnings
from surgery.models.trainable import layers_of_model
from surgery.ranking.ranking import rank_layers
from surgery.schemas.enums import Method
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.options.training import TrainingSpec
from surgery.training.loop import finetune
from tests.support.models.checkpoints import loaded_from, write_checkpoint
from tests.support.models.toys import QUICK, rank, toy_data, toy_model


def rows_of(*tokens: int, choices: int = 1) -> Encoded:
    """Sequences that had so many tokens before they were cut; nothing else of them is real."""
    whole = np.array(tokens, dtype=np.int32)
    return Encoded(
        ids=whole, types=None, offsets=np.arange(len(whole) + 1), labels=whole, whole=whole,
        pad_id=0, choices=choices,
    )  # fmt: skip


def test_a_histogram_counts_rows_up_to_each_usual_maximum() -> None:
    found = token_lengths(rows_of(3, 8, 9, 16, 32, 33, 128, 129, 9000), toy_model(), 32)
    assert dict(zip(found.bins, found.counts, strict=True)) == {
        **dict.fromkeys(TOKEN_BINS, 0), 0: 2, 9: 2, 17: 1, 33: 1, 65: 1, 129: 1, 8193: 1,
    }  # fmt: skip
    assert (found.rows, found.longest, found.unit) == (9, 9000, "tokens")
    assert found.truncated == pytest.approx(4 / 9)


def test_a_row_is_as_long_as_its_longest_choice() -> None:
    found = token_lengths(rows_of(4, 40, 5, 6, choices=2), toy_model(), 32)
    assert (found.rows, found.longest, found.truncated) == (2, 40, 0.5)


@pytest.mark.parametrize(
    ("tokens", "most", "suggested"),
    [
        ([10] * 100, 512, 32),
        ([10] * 99 + [400], 512, 32),
        ([10] * 98 + [400] * 2, 512, 512),
        ([10] * 98 + [64] * 2, 512, 64),
        ([10] * 98 + [65] * 2, 512, 128),
        ([3000] * 100, 512, 512),
        ([3000] * 100, 514, 512),
        ([3000] * 100, 10**30, 4096),
        ([9000] * 100, 10**30, 8192),
        ([30] * 100, 20, 20),
    ],
)
def test_the_smallest_maximum_that_cuts_hardly_a_row(
    tokens: list[int], most: int, suggested: int
) -> None:
    loaded = toy_model()
    loaded.model.config.max_position_embeddings = 10**6
    loaded.tokenizer.model_max_length = most
    assert token_lengths(rows_of(*tokens), loaded, 8).suggested_max_length == suggested
    loaded.tokenizer.model_max_length = 10**30
    loaded.model.config.max_position_embeddings = min(most, 10**6)
    assert token_lengths(rows_of(*tokens), loaded, 8).suggested_max_length == suggested


def test_a_warning_says_what_to_do() -> None:
    loaded = toy_model()
    loaded.model.config.max_position_embeddings = 64
    few = token_lengths(rows_of(*[10] * 95, *[40] * 5), loaded, 32)
    assert truncation_warnings(few, 32) == []
    many = token_lengths(rows_of(*[10] * 94, *[40] * 6), loaded, 32)
    (warning,) = truncation_warnings(many, 32)
    assert warning.message == (
        "max_length 32 cut 6% of 100 training rows; the longest has 40 tokens"
    )
    assert warning.remedy == "set max_length to 64"
    beyond = token_lengths(rows_of(100), loaded, 64)
    (warning,) = truncation_warnings(beyond, 64)
    assert warning.message.endswith("the longest has 100 tokens; the model takes no more")
    assert warning.remedy is not None
    assert warning.remedy.startswith("split longer texts")


def test_the_rows_of_validation_are_told_apart() -> None:
    """A maximum chosen by the training rows may cut those that measure."""
    loaded = toy_model()
    loaded.model.config.max_position_embeddings = 128
    short, long = rows_of(*[10] * 100), rows_of(*[10] * 8, 40, 70)
    found = token_lengths(short, loaded, 32, long)
    assert (found.rows, found.longest, found.truncated) == (100, 10, 0.0)
    assert found.validation is not None
    assert (found.validation.rows, found.validation.longest) == (10, 70)
    assert (found.validation.truncated, found.suggested_max_length) == (0.2, 128)
    assert sum(found.validation.counts) == 10
    (warning,) = truncation_warnings(found, 32)
    assert warning.message.startswith(
        "max_length 32 cut 20% of 10 validation rows; the longest has 70"
    )
    assert len(truncation_warnings(token_lengths(long, loaded, 32, long), 32)) == 2
    assert token_lengths(long, loaded, 32).validation is None


def _long(table: Dataset, most: int) -> int:
    """Rows of more than so many tokens: a letter each, and two of the tokenizer's."""
    return sum(len(text.split()) + 2 > most for text in table["text"])


def test_a_ranking_tells_the_lengths_of_its_sample() -> None:
    result = rank(rows=40, max_length=8)
    assert result.lengths is not None
    assert result.lengths.rows == sum(result.lengths.counts) == 40
    assert result.lengths.truncated == _long(toy_data(40).train, 8) / 40 > 0.05
    assert any(warning.message.startswith("max_length 8 cut") for warning in result.warnings)
    wide = rank(rows=40, max_length=32)
    assert wide.lengths is not None
    assert wide.lengths.truncated == 0
    assert not any("max_length" in warning.message for warning in wide.warnings)
    unread = rank_layers(toy_model(), toy_data(40), RankingOptions(method=Method.FIRST))
    assert unread.lengths is None


def test_a_ranking_is_the_same_with_and_without_the_cache(tmp_path: Path) -> None:
    data = TaskData(**{**vars(toy_data(40)), "fingerprint": "sha256:0", "tokens": tmp_path})
    options = RankingOptions(**QUICK, samples=24, max_length=8)
    found = [rank_layers(toy_model(), data, options)]
    encode_split(data, "train", toy_model().tokenizer, 8)
    assert len(list(tmp_path.iterdir())) == 1
    found += [rank_layers(toy_model(), data, options)]
    without = [result.model_dump(exclude={"seconds"}) for result in found]
    assert without[0] == without[1]


def tuned(data: TaskData, folder: Path, max_length: int) -> FinetuneResult:
    training = TrainingSpec(max_steps=2, max_length=max_length)
    spec = FinetuneSpec.model_validate(
        {"model": "m", "dataset": "d", "selection": {"policy": "all"}, "training": training}
    )
    loaded = loaded_from(write_checkpoint(folder / "model", "bert"), data)
    return finetune(loaded, data, spec, layers_of_model(loaded), Quiet(folder / "out"))


def test_a_finetune_tells_the_lengths_of_train_and_reuses_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TaskData(**{**vars(toy_data(40)), "fingerprint": "sha256:0", "tokens": tmp_path / "t"})
    first = tuned(data, tmp_path / "one", 8)
    assert first.lengths is not None
    assert first.lengths.rows == 40
    assert first.lengths.truncated == _long(data.train, 8) / 40
    assert first.lengths.validation is not None
    rows = len(data.validation)
    assert first.lengths.validation.truncated == _long(data.validation, 8) / rows > 0
    cut = [each for each in first.warnings if each.code == "rows_truncated"]
    assert [warning.message[:16] for warning in cut] == ["max_length 8 cut"] * 2
    tokens = sorted((tmp_path / "t").iterdir())
    assert len(tokens) == 2, "train and validation"
    written = [path.stat().st_ino for path in tokens]

    def refuse(*_: Any) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr("surgery.data.tokens.cache.token_chunks", refuse)
    again = tuned(data, tmp_path / "two", 8)
    assert again.lengths == first.lengths
    assert again.best.metrics == first.best.metrics
    assert [path.stat().st_ino for path in sorted((tmp_path / "t").iterdir())] == written
    one, two = (tmp_path / run / "out" / "checkpoint-2" for run in ("one", "two"))
    same = {
        path.name: (two / path.name).read_bytes() == path.read_bytes() for path in one.iterdir()
    }
    assert same == dict.fromkeys(same, True)
    assert {"tokenizer.json", "tokenizer_config.json"} <= same.keys()


def test_lengths_of_real_tokens_are_those_before_the_cut() -> None:
    table = Dataset.from_list([{"text": "a b c d", "text_pair": "e f g", "label": 0}])
    loaded = toy_model()
    found = token_lengths(encode(table, loaded.tokenizer, 5), loaded, 5)
    assert (found.longest, found.truncated) == (10, 1.0)
