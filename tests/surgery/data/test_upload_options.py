"""What a command line says of a dataset, against the spec of the HTTP form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from surgery.command_line.options import columns_option, reference_of, upload_spec
from surgery.errors import SurgeryError
from surgery.schemas.data.dataset import UploadSpec


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("text=sentence,label=y", {"text": "sentence", "label": "y"}),
        (" text = a b , text_pair= c=d ", {"text": "a b", "text_pair": "c=d"}),
        ("choices=options,label=gold", {"choices": "options", "label": "gold"}),
        ("choices=a,choices=b,label=l", {"choices": ["a", "b"], "label": "l"}),
        ("text=t,label=a,label=b", {"text": "t", "label": ["a", "b"]}),
        ('{"text": "a,b", "label": "l"}', {"text": "a,b", "label": "l"}),
    ],
)
def test_columns_in_short_and_as_json(columns: str, expected: dict[str, Any]) -> None:
    found = upload_spec(columns, None, None)
    assert found == {"columns": expected}
    assert UploadSpec.model_validate(found).columns is not None


@pytest.mark.parametrize("name", ["body", "the text", "a,b", "a=b", ' "x" ', " y", "{z}"])
def test_columns_are_written_so_that_they_are_read_again(name: str) -> None:
    columns = {"text": name, "label": "team"}
    written = columns_option(columns)
    assert upload_spec(written, None, None) == {"columns": columns}
    assert written.startswith("{") is (name not in {"body", "the text"})


def test_what_is_left_out_stays_to_be_inferred() -> None:
    assert upload_spec(None, None, None) == {}
    whole = upload_spec("text=t,label=l", "classification", "no, yes", 7)
    assert whole == {
        "columns": {"text": "t", "label": "l"}, "problem": "classification",
        "labels": ["no", "yes"], "seed": 7,
    }  # fmt: skip
    assert upload_spec(None, None, None, label_separator=" ") == {"label_separator": " "}
    assert upload_spec(None, None, '["a,b", "c"]') == {"labels": ["a,b", "c"]}


@pytest.mark.parametrize(
    ("columns", "labels", "words"),
    [
        ("sentence,label=y", None, "--columns: 'sentence' is not part=column"),
        ("text=,label=y", None, "'text=' is not part=column"),
        ("text=a,text=b", None, "--columns names text twice"),
        ('{"text": ', None, "--columns is not JSON"),
        (None, '["a"', "--labels is not JSON"),
    ],
)
def test_an_option_that_cannot_be_taken_apart(
    columns: str | None, labels: str | None, words: str
) -> None:
    with pytest.raises(SurgeryError) as caught:
        upload_spec(columns, None, labels)
    assert words in str(caught.value)


def test_a_dataset_that_is_no_file() -> None:
    assert reference_of("glue/cola") == "glue/cola"
    hub = {"hub": "me/own", "columns": {"text": "t", "label": "l"}}
    assert reference_of(json.dumps(hub)) == hub
    for given, words in (("data/trian.csv.gz", "there is no file data/trian"), ("{", "not JSON")):
        with pytest.raises(SurgeryError, match=words):
            reference_of(given)
