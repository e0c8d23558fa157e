"""Translate pydantic's errors to entries of a problem: each a JSON Pointer and a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from surgery.errors import MAX_FAULTS, misspelt, printable
from surgery.schemas import Strict
from surgery.schemas.data import dataset
from surgery.schemas.data.dataset import HUB_DATASET_PATTERN, NAME_PATTERN
from surgery.schemas.jobs import comparison, estimate, finetune, ranking, selection
from surgery.schemas.options import adapter, layer_schedule, training

SCHEMAS = {
    kind.__name__: kind
    for module in (
        adapter,
        comparison,
        dataset,
        estimate,
        finetune,
        layer_schedule,
        ranking,
        selection,
        training,
    )
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Strict)
}
FIELD_NAMES = frozenset(name for kind in SCHEMAS.values() for name in kind.model_fields)

DEEPEST = 3  # objects within each other, in which a field is looked for

_LETTERS = "letters, digits, '_', '-' and single dots; paths and URLs are not read"
_NAMES = {
    HUB_DATASET_PATTERN: f"must be owner/name or name, each of {_LETTERS}",
    NAME_PATTERN: f"must be one name, of {_LETTERS}",
}


def faults_of(error: ValidationError, root: str = "") -> list[dict[str, Any]]:
    """The faults of a document that did not match one of our schemas."""
    return validation_faults(list(error.errors()), root, SCHEMAS.get(error.title))


def validation_faults(
    errors: list[Any], root: str = "", schema: type[BaseModel] | None = None
) -> list[dict[str, Any]]:
    """The first of pydantic's errors, with JSON Pointers.

    For a misspelt field, the nearest name is suggested that the ``schema`` of the whole document
    has at this place.
    """
    faults: dict[tuple[str, str], dict[str, Any]] = {}
    objects = {_place(error) for error in errors if _is_of_object(error)}
    for error in errors:
        if len(faults) == MAX_FAULTS:
            break
        if error["type"] == "string_type" and _place(error) in objects:
            continue  # an object was given where a name is allowed too: show its own faults only
        # For a union, the path names the branch that was tried. The document has no such step.
        steps = [str(s) for s in error["loc"] if not _is_branch(str(s))]
        unknown = error["type"] == "extra_forbidden"
        if unknown and _is_branch(str(error["loc"][-1])):  # what the user wrote is never a branch
            steps.append(str(error["loc"][-1]))
        detail = str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "value_error":
            steps += _field_meant(detail)
        pointer = root + "".join(f"/{pointer_step(step)}" for step in steps)
        if unknown:
            near = _meant(steps, fields_at(schema, error["loc"][:-1]), schema)
            detail = "unknown field; " + (f"did you mean {near}?" if near else "leave it out")
        if error["type"] in {"model_type", "model_attributes_type"}:
            detail = "must be a JSON object"
        if error["type"] == "string_pattern_mismatch":
            detail = _NAMES.get(error["ctx"]["pattern"], detail)
        faults.setdefault((pointer, detail), {"pointer": pointer or "/", "detail": detail})
    return list(faults.values())


def pointer_step(name: str) -> str:
    """The beginning of a name as a step of a JSON Pointer (RFC 6901) that any answer can carry."""
    return printable(name, 200).replace("~", "~0").replace("/", "~1")


def fields_at(schema: type[BaseModel] | None, place: Iterable[str | int]) -> list[str]:
    """The names that a document may use at a place, from every object that is allowed there."""
    kinds = {schema} if schema else set()
    for step in place:
        fields = [kind.model_fields[str(step)] for kind in kinds if step in kind.model_fields]
        if fields:  # otherwise the step is an index, a key, or the branch of a union
            kinds = {kind for field in fields for kind in _objects(field.annotation)}
    return sorted({name for kind in kinds for name in kind.model_fields})


def _meant(steps: list[str], beside: list[str], schema: type[BaseModel] | None) -> str | None:
    """What was probably meant: a field beside the unknown one, or one of this name elsewhere.

    Each is told by its whole path. Elsewhere only the name itself counts, or a clear misspelling
    of it: half of a name stands for another thing in every object.
    """
    *parents, name = steps
    near = misspelt(name, beside)
    elsewhere = [] if near or schema is None else _elsewhere(name, schema)
    if not near and not elsewhere and name not in FIELD_NAMES:  # those are meant as they are
        near = _begun(name, beside)
    paths = [".".join([*parents, near])] if near else elsewhere
    return " or ".join(map(repr, paths)) or None


def _elsewhere(name: str, schema: type[BaseModel]) -> list[str]:
    """The paths of fields of this name in a whole document, the least deep of them."""
    named: dict[str, list[str]] = {}
    for path in sorted(paths_of(schema), key=lambda path: path.count(".")):
        same = named.setdefault(path.rpartition(".")[2], [])
        if not same or (same[0].count(".") == path.count(".") and path not in same):
            same.append(path)
    return named.get(name) or named.get(misspelt(name, list(named)) or "", [])


def _begun(name: str, known: list[str]) -> str | None:
    """The first known name that begins with this one's words, or the other way round.

    As `batch` begins `batch_size`, and `model_name` with `model`.
    """
    return next((each for each in known if _begins(each, name) or _begins(name, each)), None)


def _begins(whole: str, start: str) -> bool:
    return f"{whole}_".startswith(f"{start}_")


def paths_of(schema: type[BaseModel], start: str = "") -> Iterator[str]:
    """The dotted path of every field of a document, but those of the entries of lists."""
    for name, field in schema.model_fields.items():
        yield f"{start}{name}"
        if start.count(".") < DEEPEST and get_origin(field.annotation) is not list:
            for kind in _objects(field.annotation):
                yield from paths_of(kind, f"{start}{name}.")


def _objects(annotation: Any) -> Iterator[type[BaseModel]]:
    """All model classes that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _objects(inner)


def _field_meant(detail: str) -> list[str]:
    """The field that an object's validator complains of: its message begins with the name."""
    path = detail.partition(" ")[0].split(".")
    return path if all(name in FIELD_NAMES for name in path) else []


def _place(error: Any) -> tuple[Any, ...]:
    """The path of the union within which the error occurred, or of the error itself."""
    steps = error["loc"]
    first = next((i for i, step in enumerate(steps) if _is_branch(str(step))), len(steps))
    return tuple(steps[:first])


def _is_of_object(error: Any) -> bool:
    """Whether the error is within an object that was tried as a branch of a union."""
    branch = next((str(step) for step in error["loc"] if _is_branch(str(step))), "")
    object_tried = branch.startswith("function-") or branch[:1].isupper()
    return object_tried and error["type"] != "model_type"


def _is_branch(step: str) -> bool:
    named = {"str", "int", "constrained-str", *layer_schedule.TYPES}
    return "[" in step or step in named or step in SCHEMAS
