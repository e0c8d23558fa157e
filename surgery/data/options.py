"""What a command line says about a dataset of one's own, and the spec of an upload it writes."""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any

from surgery.data.files.source import format_of
from surgery.errors import DatasetInvalid, SurgeryError
from surgery.schemas.dataset import UploadSpec
from surgery.schemas.fields import Option, option_of, options_of

DATASET_OPTIONS = (
    Option("validation", Path, help="Validation file."),
    option_of(
        UploadSpec,
        "columns",
        type=str,
        metavar="PART=COLUMN,…",
        help="Columns, as in text=sentence,label=y (choices=a,choices=b), or JSON.",
    ),
    *options_of(UploadSpec, "problem"),
    option_of(
        UploadSpec,
        "labels",
        metavar="NAME,…",
        help="Class or tag names in index order, comma-separated or JSON.",
    ),
    option_of(UploadSpec, "seed", name="split_seed"),
)
"""They go with a file."""


def upload_spec(
    columns: str | None, problem: str | None, labels: str | None, split_seed: int = 0
) -> dict[str, Any]:
    """The spec that these options write; those left out stay to be inferred.

    Whether the values make sense is for `UploadSpec` and for the data to say. Raises SurgeryError
    where an option cannot be taken apart; the message begins with its name.
    """
    given = {
        "columns": None if columns is None else _columns(columns),
        "problem": problem,
        "labels": None if labels is None else _labels(labels),
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
                f"--columns: {pair!r} is no part=column; write text=sentence,label=y, or a JSON "
                "object where a name holds a comma"
            )
        found.setdefault(part, []).append(name)
    twice = [part for part, names in found.items() if len(names) > 1 and part != "choices"]
    if twice:
        raise SurgeryError(f"--columns names {twice[0]} twice; only choices may be several")
    return {part: names if len(names) > 1 else names[0] for part, names in found.items()}


def _labels(text: str) -> Any:
    if text.lstrip().startswith("["):
        return _parsed("--labels", text)
    return [name.strip() for name in text.split(",")]


def _parsed(option: str, text: str) -> Any:
    try:
        found = json.loads(text)
        # Python reads NaN, and half a character, which no request can carry.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        return found
    except (ValueError, RecursionError) as error:
        raise SurgeryError(f"{option} is not JSON: {error}") from None


def is_file(given: str | Path) -> bool:
    """Whether there is such a file; a name too long for one names none."""
    try:
        return Path(given).is_file()
    except OSError:
        return False


def reference_of(given: str) -> str | dict[str, Any]:
    """What a command line calls a dataset that is no file: a name, or a Hub reference in JSON.

    Raises SurgeryError for a file that is not there, and for what is not JSON.
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
