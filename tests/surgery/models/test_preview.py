"""Previewed rows against those that a job with the loaded model reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from surgery.data.tokens.dataset import Encoded
from surgery.data.tokens.sequences import IGNORED
from surgery.data.tokens.tokenize import encode
from surgery.errors import ModelUnsupported
from surgery.models.lengths import token_lengths
from surgery.models.loading import LoadedModel
from surgery.models.preview import PreviewOrder, preview
from surgery.schemas.data.preview import Preview
from surgery.schemas.enums import Problem
from tests.support.models.checkpoints import loaded_from, task, write_checkpoint
from tests.support.models.encoders import CONFIGS

WORDS = "a b c d e f g h i j k l m n o"
LONG = " ".join([WORDS] * 4)  # more than the tiny models have positions
LABELS = ["no", "yes"]
SINGLE = [
    {"text": text, "label": n % 2} for n, text in enumerate(["a b", WORDS, LONG, "A é 日本 zz"])
]
PAIRS = [
    {"text": WORDS, "text_pair": "c d", "label": 0},
    {"text": "a", "text_pair": LONG, "label": 1},
]
CHOICES = [
    {"text": "a b", "choices": ["c", WORDS, LONG], "label": 2},
    {"text": WORDS, "choices": ["d", "e", "f"], "label": 0},
]
TAGGED = [
    {"tokens": ["abc", "d", "ef"], "label": [0, 1, 0]},
    {"tokens": WORDS.split(), "label": [1] * 15},
]
LIMIT = 10


def order(
    loaded: LoadedModel, rows: list[dict[str, Any]], problem: Problem, limit: int
) -> PreviewOrder:
    return PreviewOrder(
        model="me/own", folder=loaded.snapshot, dataset="ds_1", split="train", problem=problem,
        labels=["0", "1", "2"] if problem is Problem.MULTIPLE_CHOICE else LABELS, total=len(rows), rows=rows, shown=len(rows), max_length=limit,
    )  # fmt: skip


def check(shown: Preview, encoded: Encoded) -> None:
    """Every sequence has the ids, types and lengths that the model is given."""
    sequences = [sequence for row in shown.rows for sequence in row.sequences]
    assert len(sequences) == len(encoded.offsets) - 1
    for place, sequence in enumerate(sequences):
        own = slice(encoded.offsets[place], encoded.offsets[place + 1])
        assert sequence.input_ids == encoded.ids[own].tolist()
        types = None if encoded.types is None else encoded.types[own].tolist()
        assert sequence.token_type_ids == types
        assert sequence.length == encoded.whole[place]
        assert sequence.truncated is (len(sequence.input_ids) < sequence.length)
        assert len(sequence.cut) == min(50, sequence.length - len(sequence.input_ids))
        assert len(sequence.tokens) == len(sequence.input_ids)


def both(
    loaded: LoadedModel, rows: list[dict[str, Any]], problem: Problem, limit: int = LIMIT
) -> tuple[Preview, Encoded]:
    encoded = encode(Dataset.from_list(rows), loaded.tokenizer, limit)
    shown = preview(order(loaded, rows, problem, limit))
    check(shown, encoded)
    return shown, encoded


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_tokens_are_those_that_the_model_is_given(kind: str, tmp_path: Path) -> None:
    loaded = loaded_from(write_checkpoint(tmp_path / "m", kind), task())
    both(loaded, SINGLE, Problem.CLASSIFICATION)
    shown, encoded = both(loaded, SINGLE, Problem.CLASSIFICATION, 8192)  # what the model takes
    counted = token_lengths(encoded, loaded, 8192)
    for name in ("bins", "counts", "longest", "truncated", "suggested_max_length"):
        assert getattr(shown.lengths, name) == getattr(counted, name), name
    both(loaded, PAIRS, Problem.CLASSIFICATION)


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlnet", "albert"])
def test_choices_are_sequences_of_one_row(kind: str, tmp_path: Path) -> None:
    loaded = loaded_from(write_checkpoint(tmp_path / "m", kind), task())
    shown, _ = both(loaded, CHOICES, Problem.MULTIPLE_CHOICE)
    assert [len(row.sequences) for row in shown.rows] == [3, 3]
    assert [row.label_name for row in shown.rows] == ["2", "0"]
    assert shown.lengths.sampled == 2


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert"])
def test_tags_are_at_the_first_tokens_of_their_words(kind: str, tmp_path: Path) -> None:
    loaded = loaded_from(write_checkpoint(tmp_path / "m", kind), task())
    shown, encoded = both(loaded, TAGGED, Problem.TOKEN_CLASSIFICATION)
    tags = [tag for row in shown.rows for tag in row.token_labels or []]
    wanted = [None if tag == IGNORED else tag for tag in encoded.labels.tolist()]
    assert tags == wanted
    assert any(tag is not None for tag in tags)


def test_labels_have_their_names(tmp_path: Path) -> None:
    loaded = loaded_from(write_checkpoint(tmp_path / "m", "bert"), task())
    shown, _ = both(loaded, SINGLE, Problem.CLASSIFICATION)
    assert [(row.row, row.label, row.label_name) for row in shown.rows] == [
        (1, 0, "no"), (2, 1, "yes"), (3, 0, "no"), (4, 1, "yes"),
    ]  # fmt: skip
    numbers = [{"text": "a", "label": 0.5}]
    (row,) = both(loaded, numbers, Problem.REGRESSION)[0].rows
    assert (row.label, row.label_name, row.token_labels) == (0.5, None, None)


def test_what_is_cut_off_is_shown(tmp_path: Path) -> None:
    loaded = loaded_from(write_checkpoint(tmp_path / "m", "bert"), task())
    shown, _ = both(loaded, [{"text": WORDS, "label": 0}], Problem.CLASSIFICATION, 6)
    (sequence,) = shown.rows[0].sequences
    assert sequence.tokens == ["[CLS]", "a", "b", "c", "d", "[SEP]"]
    assert sequence.cut == WORDS.split()[4:]


def test_the_real_tokenizer(real_model: Path) -> None:
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(real_model, Path(folder) / "real")
        loaded = loaded_from(Path(folder) / "real", task())
        texts = ["Hello, WORLD! naïve café", "日本語 text", "[MASK] [PAD] x", "a " * 300]
        rows = [{"text": text, "label": 0} for text in texts]
        shown, encoded = both(loaded, rows, Problem.CLASSIFICATION, 16)
    assert int(np.max(encoded.whole)) == shown.lengths.longest


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m", "bert")
    loaded = loaded_from(folder, task())
    config = loaded.snapshot / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 50', '"vocab_size": 8'))
    with pytest.raises(ModelUnsupported, match="embedding has 8 rows"):
        preview(order(loaded, SINGLE, Problem.CLASSIFICATION, LIMIT))
