"""The errors of the library and the service, in words a user can act on.

These errors know nothing of HTTP. Each has a stable ``code`` and a message that says what to do
about it. Its faults say where in the request (``pointer``, a JSON Pointer) or in which ``row`` of
a file the problem lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_FAULTS = 100  # in one problem document; a longer list helps nobody


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where it is, and what to do about it."""

    detail: str
    pointer: str | None = None
    file: str | None = None
    row: int | None = None
    column: str | None = None
    count: int | None = None
    """How many rows have this fault, if several do; ``row`` is the first of them."""
    rows: tuple[int, ...] | None = None
    """The first of these rows."""
    suggestion: Any = None
    """A value for the field at ``pointer`` that may be what was meant."""

    def as_dict(self) -> dict[str, Any]:
        """The fields that are known, as JSON can carry them."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {
            name: encodable(value) if isinstance(value, str) else value
            for name, value in known.items()
        }


def encodable(text: str) -> str:
    """The text, with what an answer or a database cannot hold escaped: NUL and lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


class SurgeryError(Exception):
    """The request cannot be carried out."""

    code: str = "internal"
    retriable: bool = False

    def __init__(self, detail: str | None = None, faults: list[Fault] | None = None) -> None:
        # A name in a user's file may contain a lone surrogate, which no JSON answer can carry.
        self.detail = encodable(detail or (self.__doc__ or "").strip())
        self.faults = faults or []
        super().__init__(self.detail)

    def as_problem(self) -> dict[str, Any]:
        """The members of a problem document (RFC 9457) that do not depend on HTTP."""
        return {
            "type": "about:blank",
            "title": (type(self).__doc__ or "").strip().split(";")[0].rstrip("."),
            "code": self.code,
            "detail": self.detail,
            "retriable": self.retriable,
            "errors": [fault.as_dict() for fault in self.faults[:MAX_FAULTS]],
        }


class ModelNotFound(SurgeryError):
    """No such model in the mirror or on the Hub."""

    code = "model_not_found"


class ModelGated(SurgeryError):
    """The model's owner asks for an access request; set HF_TOKEN of an account that has it."""

    code = "model_gated"


class ModelUnsupported(SurgeryError):
    """The model is not an encoder with repeated blocks that this service can load."""

    code = "model_unsupported"


class UnsafeWeights(SurgeryError):
    """The model has no safetensors weights, or malformed ones; pickled weights are never read."""

    code = "unsafe_weights"


class UnsafeFiles(SurgeryError):
    """A file of the model is not a regular file, is too large, or refers outside its folder."""

    code = "unsafe_files"


class DatasetNotFound(SurgeryError):
    """No such dataset among the presets, the uploads, the mirror or the Hub."""

    code = "dataset_not_found"


class DatasetInvalid(SurgeryError):
    """The dataset has errors; nothing was kept."""

    code = "dataset_invalid"


class RowsInvalid(SurgeryError):
    """The checkpoint's model cannot read some of the rows."""

    code = "rows_invalid"


class SelectionEmpty(SurgeryError):
    """The selection matches no layer."""

    code = "selection_empty"


class SelectionMismatch(SurgeryError):
    """The selection does not belong to this model."""

    code = "selection_mismatch"


class CheckpointMismatch(SelectionMismatch):
    """The checkpoint does not belong to this model or dataset."""

    code = "checkpoint_mismatch"


class CheckpointDamaged(SurgeryError):
    """A file of the checkpoint is not what was written; download it again."""

    code = "checkpoint_damaged"


class ExportFailed(SurgeryError):
    """The model cannot be exported to ONNX; leave checkpoints.onnx out."""

    code = "export_failed"


class ExportRefused(SurgeryError):
    """The place that the model should be handed over to does not take it."""

    code = "export_refused"


class DestinationUnavailable(SurgeryError):
    """The service that the model should be handed over to did not answer; try again."""

    code = "destination_unavailable"
    retriable = True


class StorageFailed(SurgeryError):
    """Files could not be written; free some room and submit again."""

    code = "storage_failed"
    retriable = True


class MethodUndefined(SurgeryError):
    """The ranking method is not defined for this request; use another method."""

    code = "method_undefined"


class TrainingInvalid(SurgeryError):
    """The training options do not fit the dataset or the device."""

    code = "training_invalid"


class ScoresNotFinite(SurgeryError):
    """Gradients overflowed or the model's weights hold NaN; the scores mean nothing."""

    code = "scores_not_finite"


class TrainingDiverged(SurgeryError):
    """The loss became NaN or infinite; lower the learning rate."""

    code = "training_diverged"


class OutOfMemory(SurgeryError):
    """The batch does not fit in memory; ask for a smaller batch_size or max_length."""

    code = "out_of_memory"
    retriable = True


class UpstreamUnavailable(SurgeryError):
    """The Hugging Face Hub did not answer; try again."""

    code = "upstream_unavailable"
    retriable = True


class InternalError(SurgeryError):
    """Internal error; the log tells more."""


class WorkerLost(SurgeryError):
    """Worker lost; another attempt may do better."""

    code = "worker_lost"
    retriable = True


class DeadlineExceeded(SurgeryError):
    """Deadline exceeded; another attempt would exceed it again."""

    code = "deadline_exceeded"


class Cancelled(SurgeryError):
    """Cancelled on request."""

    code = "cancelled"


class Unstorable(SurgeryError):
    """The database refuses what the job reported; another attempt would report it again."""

    code = "unstorable"


class ArtifactsFailed(StorageFailed):
    """Storage failed; artifacts could not be read or written."""


class FailedBefore(SurgeryError):
    """Jobs that this one depends on failed.

    The code is that of the first of their problems. This error is retriable only if all of them
    are.
    """

    def __init__(self, detail: str, problems: Sequence[Mapping[str, Any]], **more: Any) -> None:
        super().__init__(detail, **more)
        self.code = problems[0]["code"]
        self.retriable = all(problem.get("retriable", False) for problem in problems)


class NoRanking(FailedBefore):
    """No ranking to select layers by; the job that should have made it failed."""


class NoRunSucceeded(FailedBefore):
    """No run succeeded; each says why."""


class UnreadableResult(SurgeryError):
    """Unreadable result; another version of the service stored it."""


def printable(text: str, longest: int = 100) -> str:
    """The beginning of a text that somebody sent, for an error; a message repeats no whole body."""
    return encodable(text if len(text) <= longest else f"{text[:longest]}…")


LONGEST_NAME = 100  # no field, preset or layer has a longer one
LONG_NAME = 9  # letters from which on two of them can be wrong


def nearest(word: str, known: list[str]) -> str | None:
    """The known name closest to a misspelt one, or None if none is close.

    One comparison costs as much as the product of both lengths, so a long word is close to none.
    """
    from difflib import get_close_matches

    if len(word) > LONGEST_NAME:
        return None
    matches = get_close_matches(word, known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def misspelt(word: str, known: list[str]) -> str | None:
    """The known name of which a word is clearly a misspelling, or None.

    Clear is a letter that is wrong, missing, too much or swapped with its neighbour, two of them in
    a name of nine letters or more; case and underscores do not count. Names that are merely alike,
    such as `revision` and `precision`, mean different things.
    """
    from difflib import get_close_matches

    if len(word) > LONGEST_NAME:
        return None
    plain = {_letters(each): each for each in reversed(known)}
    wanted = _letters(word)
    for each in get_close_matches(wanted, list(plain), n=3, cutoff=0.7):
        if _edits(wanted, each) <= (1 if min(len(wanted), len(each)) < LONG_NAME else 2):
            return plain[each]
    return None


def _letters(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _edits(one: str, other: str) -> int:
    """How many letters to change, add, drop or swap with a neighbour to make one of the other."""
    rows = [list(range(len(other) + 1))]  # each has the edits for a beginning of ``one``
    for place, letter in enumerate(one, 1):
        above, row = rows[-1], [place]
        for column, wanted in enumerate(other, 1):
            least = min(above[column] + 1, row[-1] + 1, above[column - 1] + (letter != wanted))
            swapped = one[place - 2 : place] == wanted + other[column - 2 : column - 1]
            if swapped and column > 1:
                least = min(least, rows[-2][column - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]


def fault_line(fault: Mapping[str, Any], said: str | None) -> str:
    """A line that says where a fault lies, and what it is unless ``said`` said that already."""
    place = [str(fault[key]) for key in ("pointer", "file") if fault.get(key)]
    place += [f"{key} {fault[key]}" for key in ("row", "column") if fault.get(key) is not None]
    if fault.get("count"):
        place[-1 if fault.get("column") is None else -2] = _rows_line(fault)
    where, detail = ", ".join(place), str(fault.get("detail"))
    known = detail == said or (said or "").endswith(f": {detail}")
    return f"  at {where}" if known else f"  {where}: {detail}"


def _rows_line(fault: Mapping[str, Any]) -> str:
    first = ", ".join(f"{row:,}" for row in fault["rows"])
    more = ", …" if fault["count"] > len(fault["rows"]) else ""
    return f"{fault['count']:,} rows ({first}{more})"
