"""What can go wrong in the science and in running it, in words a user can act on.

These errors know no HTTP. Each has a stable ``code``, says where in the request (``pointer``, a
JSON Pointer) or in which ``row`` the fault lies, and its message says what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_FAULTS = 100  # of one document; more would tell nobody more


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, and what to do."""

    detail: str
    pointer: str | None = None
    file: str | None = None
    row: int | None = None
    column: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Only the fields that are known."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return {
            name: encodable(value) if isinstance(value, str) else value
            for name, value in known.items()
        }


def encodable(text: str) -> str:
    """Text with what UTF-8 cannot write (lone surrogates) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


class SurgeryError(Exception):
    """The request cannot be carried out."""

    code: str = "internal"
    retriable: bool = False

    def __init__(self, detail: str | None = None, faults: list[Fault] | None = None) -> None:
        # A name in a stranger's file may hold half of a character, which no answer can carry.
        self.detail = encodable(detail or (self.__doc__ or "").strip())
        self.faults = faults or []
        super().__init__(self.detail)

    def as_problem(self) -> dict[str, Any]:
        """The failure as the members of a problem (RFC 9457) that need no HTTP."""
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
    """The model is no encoder with repeated blocks that this service can load."""

    code = "model_unsupported"


class UnsafeWeights(SurgeryError):
    """The model has no safetensors weights, or malformed ones; pickled weights are never read."""

    code = "unsafe_weights"


class UnsafeFiles(SurgeryError):
    """A file of the model is no plain file, is too large, or names what lies outside its folder."""

    code = "unsafe_files"


class DatasetNotFound(SurgeryError):
    """No such dataset among the presets, the uploads, the mirror or the Hub."""

    code = "dataset_not_found"


class DatasetInvalid(SurgeryError):
    """The dataset has errors; nothing was kept."""

    code = "dataset_invalid"


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


class ArtifactsFailed(StorageFailed):
    """Storage failed; artifacts could not be read or written."""


class FailedBefore(SurgeryError):
    """Other jobs failed before this one.

    The code is that of the first of their problems; another try may help where it may for all.
    """

    def __init__(self, detail: str, problems: Sequence[Mapping[str, Any]], **more: Any) -> None:
        super().__init__(detail, **more)
        self.code = problems[0]["code"]
        self.retriable = all(problem.get("retriable", False) for problem in problems)


class NoRanking(FailedBefore):
    """No ranking to go by; the one that was waited for failed."""


class NoRunSucceeded(FailedBefore):
    """No run succeeded; each says why."""


class UnreadableResult(SurgeryError):
    """Unreadable result; another version of the service stored it."""


def nearest(word: str, known: list[str]) -> str | None:
    """The known name most like a misspelt one, if any is near."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, n=1, cutoff=0.6)
    return found[0] if found else None


def fault_line(fault: Mapping[str, Any], said: str | None) -> str:
    """Where a fault lies, and what it is unless that was ``said`` already."""
    place = [str(fault[key]) for key in ("pointer", "file") if fault.get(key)]
    place += [f"{key} {fault[key]}" for key in ("row", "column") if fault.get(key) is not None]
    where = ", ".join(place)
    return f"  at {where}" if fault.get("detail") == said else f"  {where}: {fault.get('detail')}"
