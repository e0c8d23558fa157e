"""The command line's options about a dataset file, and the upload spec they stand for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from surgery.data.files.source import format_of
from surgery.errors import DatasetInvalid, SurgeryError
from surgery.schemas.data.dataset import UploadSpec
from surgery.schemas.fields import Option, option_of, options_of

# The options that go with a dataset file.
DATASET_OPTIONS = (
    Option("validation", Path, help="Validation file."),
    option_of(
        UploadSpec,
        "columns",
        type=str,
        metavar="PART=COLUMN,…",
        help="Columns, as in text=sentence,label=y "
        "(choices=a,choices=b; label=a,label=b), or JSON.",
    ),
    *options_of(UploadSpec, "problem"),
    option_of(
        UploadSpec,
        "labels",
        metavar="NAME,…",
        help="Class or tag names in index order, comma-separated or JSON.",
    ),
    *options_of(UploadSpec, "label_separator"),
    option_of(UploadSpec, "seed", name="split_seed"),
)


_PLAIN = re.compile(r"[^,={}\"\s](?:[^,={}\"]*[^,={}\"\s])?")  # a name that needs no JSON
_REPEATED = ("choices", "label")  # parts that several columns may make up


def upload_spec(
    columns: str | None,
    problem: str | None,
    labels: str | None,
    split_seed: int = 0,
    label_separator: str | None = None,
) -> dict[str, Any]:
    """The fields of an `UploadSpec` that these options set; the others are left to be inferred.

    The values are not validated here. Raises SurgeryError if an option cannot be parsed; the
    message begins with the option's name.
    """
    given = {
        "columns": None if columns is None else _columns(columns),
        "problem": problem,
        "labels": None if labels is None else _labels(labels),
        "label_separator": label_separator,
        "seed": split_seed or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _columns(text: str) -> Any:
    if text.lstrip().startswith("{"):
        return _parsed("--columns", text)
    found: dict[str, list[str]] = {}
    for pair in text.split(","):
        part, equals, name = (piece.strip() for piece in pair.partition("="))
        if not (part and equals and name):
            raise SurgeryError(
                f"--columns: {pair!r} is not part=column; write text=sentence,label=y, or a JSON "
                "object if a name contains a comma"
            )
        found.setdefault(part, []).append(name)
    twice = [part for part, names in found.items() if len(names) > 1 and part not in _REPEATED]
    if twice:
        raise SurgeryError(
            f"--columns names {twice[0]} twice; only choices and label may be repeated"
        )
    return {part: names if len(names) > 1 else names[0] for part, names in found.items()}


def columns_option(columns: Mapping[str, Any]) -> str:
    """The value of ``--columns`` that names these columns, of which each part has one."""
    names = columns.values()
    if all(isinstance(name, str) and _PLAIN.fullmatch(name) for name in names):
        return ",".join(f"{part}={name}" for part, name in columns.items())
    return json.dumps(columns, ensure_ascii=False)


def _labels(text: str) -> Any:
    if text.lstrip().startswith("["):
        return _parsed("--labels", text)
    return [name.strip() for name in text.split(",")]


def _parsed(option: str, text: str) -> Any:
    try:
        found = json.loads(text)
        # Python accepts NaN and lone surrogates, which no request can carry.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        return found
    except (ValueError, RecursionError) as error:
        raise SurgeryError(f"{option} is not JSON: {error}") from None


def is_file(given: str | Path) -> bool:
    """Whether there is such a file; False also for a name that is too long for one."""
    try:
        return Path(given).is_file()
    except OSError:
        return False


def reference_of(given: str) -> str | dict[str, Any]:
    """The dataset that an argument refers to if it is no file: a name, or a Hub reference in JSON.

    Raises SurgeryError for a file that does not exist, and for malformed JSON.
    """
    if given.lstrip().startswith("{"):
        found = _parsed("the dataset", given)
        assert isinstance(found, dict)
        return found
    try:
        format_of(PurePath(given).name)
    except DatasetInvalid:
        return given
    raise SurgeryError(f"there is no file {given}")
