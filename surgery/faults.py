"""What is wrong with a document: pydantic's errors as faults, and faults as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery import dataset_spec, finetune_spec, selection_spec, spec, training_spec

FIELD_NAMES = sorted(
    {
        name
        for module in (dataset_spec, finetune_spec, selection_spec, spec, training_spec)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, dataset_spec.Strict)
        for name in kind.model_fields
    }
)

_LETTERS = "letters, digits, '_', '-' and single dots; paths and URLs are not read"
_NAMES = {
    dataset_spec.HUB_DATASET_PATTERN: f"must be owner/name or name, each of {_LETTERS}",
    dataset_spec.NAME_PATTERN: f"must be one name, of {_LETTERS}",
}


def validation_faults(errors: list[Any], root: str = "") -> list[dict[str, Any]]:
    """Pydantic's errors as JSON Pointers, a misspelt field with the nearest known name."""
    faults: dict[tuple[str, str], dict[str, Any]] = {}
    objects = {_place(error) for error in errors if _is_of_object(error)}
    for error in errors:
        if error["type"] == "string_type" and _place(error) in objects:
            continue  # an object was given where a name would do as well: it is wrong as an object
        # A union tags the path with the branch it tried; the caller's document has no such step.
        steps = [str(s) for s in error["loc"] if not _is_branch(str(s))]
        detail = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "value_error":
            steps += _field_meant(detail)
        pointer = root + "".join(f"/{step}" for step in steps)
        if error["type"] == "extra_forbidden":
            near = spec.nearest(steps[-1], FIELD_NAMES) if steps else None
            detail = "unknown field" + (f"; did you mean {near!r}?" if near else "")
        if error["type"] == "string_pattern_mismatch":
            detail = _NAMES.get(error["ctx"]["pattern"], detail)
        faults.setdefault((pointer, detail), {"pointer": pointer or "/", "detail": detail})
    return list(faults.values())


def _field_meant(detail: str) -> list[str]:
    """What a validator of a whole object complains of: its message begins with the field."""
    path = detail.partition(" ")[0].split(".")
    return path if all(name in FIELD_NAMES for name in path) else []


def _place(error: Any) -> tuple[Any, ...]:
    """Where the union stands of which the error is a branch."""
    steps = error["loc"]
    first = next((i for i, step in enumerate(steps) if _is_branch(str(step))), len(steps))
    return tuple(steps[:first])


def _is_of_object(error: Any) -> bool:
    """Whether a branch was tried that is an object, and an object was given."""
    branch = next((str(step) for step in error["loc"] if _is_branch(str(step))), "")
    object_tried = branch.startswith("function-") or branch[:1].isupper()
    return object_tried and error["type"] != "model_type"


def _is_branch(step: str) -> bool:
    return "[" in step or step in {"str", "int", "constrained-str"} or step[:1].isupper()


def fault_line(fault: Mapping[str, Any], said: str | None) -> str:
    """Where a fault lies, and what it is unless that was ``said`` already."""
    place = [str(fault[key]) for key in ("pointer", "file") if fault.get(key)]
    place += [f"{key} {fault[key]}" for key in ("row", "column") if fault.get(key) is not None]
    where = ", ".join(place)
    return f"  at {where}" if fault.get("detail") == said else f"  {where}: {fault.get('detail')}"
