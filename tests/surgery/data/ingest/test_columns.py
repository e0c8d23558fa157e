from __future__ import annotations

import pytest

from surgery.data.ingest.columns.infer import settle_columns
from surgery.errors import DatasetInvalid
from surgery.schemas.data.dataset import Columns


@pytest.mark.parametrize(
    ("header", "text", "pair", "label"),
    [
        ("Sentence,LABEL", "Sentence", None, "LABEL"),
        ("question,sentence,label", "question", "sentence", "label"),
        ("passage,question,label", "question", "passage", "label"),
        ("hypothesis,premise,label", "premise", "hypothesis", "label"),
        ("review,other,class", "review", None, "class"),
        ("y,tweet,idx", "tweet", None, "y"),
        ("target,words", "words", None, "target"),
    ],
)
def test_columns_are_inferred_by_name(header: str, text: str, pair: str | None, label: str) -> None:
    row = dict.fromkeys(header.split(","), "some words")
    found = settle_columns(row, None, None, "train")
    assert found == (Columns(text=text, text_pair=pair, label=label), None, True)


def test_a_single_column_of_words_is_the_text() -> None:
    row = {"id": "x7", "words": "some words", "n": "3", "ratio": "-0.5e3", "label": "1"}
    assert settle_columns(row, None, None, "train").columns.text == "words"


def test_named_columns_are_taken_as_they_are() -> None:
    row = {"sentence1": "a", "sentence2": "b", "y": "1"}
    named = Columns(text="sentence2", label="y")
    assert settle_columns(row, named, None, "train") == (named, None, False)
    assert settle_columns(row, Columns(text="sentence2"), None, "train") == (named, None, True)


def test_names_from_strangers_are_shown_short() -> None:
    row = {"x" * 10_000: "a", **{f"c{n}": "a" for n in range(500)}}
    with pytest.raises(DatasetInvalid) as caught:
        settle_columns(row, None, None, "train")
    assert len(caught.value.detail) < 600
