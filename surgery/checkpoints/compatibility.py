"""Check whether a run may begin with a checkpoint's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.schemas.enums import NAMED, Problem


def continuation_fault(
    record: Mapping[str, Any],
    model: str,
    fingerprint: str,
    problem: Problem,
    labels: Sequence[str] | None,
) -> str | None:
    """Why a run on this model and dataset cannot continue from a checkpoint, or None if it can.

    ``record`` is that of the checkpoint. ``labels`` are None if only reading the data tells them.
    """
    base = record["base"]
    if base["fingerprint"] != fingerprint:
        return (
            f"the checkpoint is of {base['id']} ({base['fingerprint']}), not of the {model} named "
            "here; name that model, or leave continue_from out"
        )
    if record["problem"] != problem.value:
        return (
            f"the checkpoint's head is for {record['problem']}, but the dataset's problem is "
            f"{problem.value}; give a dataset of the same problem, or leave continue_from out"
        )
    if problem in NAMED and labels is not None and list(labels) != list(record["labels"]):
        return (
            f"the checkpoint's labels are {_shown(record['labels'])}, the dataset's "
            f"{_shown(labels)}; they must be the same in the same order"
        )
    return None


def _shown(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(repr(label[:40]) for label in labels[:8]) + more
