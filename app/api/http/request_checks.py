"""Checks that every operation makes first: of its path, its query and a body it would ignore."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from fastapi import Depends, Request
from fastapi._compat import ModelField
from fastapi.dependencies.models import Dependant

from app.api.http.bodies.documents import LARGEST, wrong_text
from app.api.http.bodies.middleware import has_body
from app.errors import NotFound, Unprocessable
from surgery.errors import MAX_FAULTS, nearest, printable
from surgery.schemas.validation import pointer_step

METADATA = re.compile(r"metadata\[(.*)\]")
MAX_METADATA = 16  # as many as a job can have


async def metadata_filter(request: Request) -> dict[str, list[str]]:
    """The labels that jobs of a list must have, from parameters ``metadata[key]=value``."""
    wanted: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        if match := METADATA.fullmatch(name):
            wanted.setdefault(match[1], []).append(value)
    if len(wanted) > MAX_METADATA:
        detail = f"{len(wanted)} labels were given, but a job has at most {MAX_METADATA}"
        raise Unprocessable(detail, errors=[{"pointer": "/metadata", "detail": detail}])
    return wanted


MetadataFilter = Annotated[dict[str, list[str]], Depends(metadata_filter)]


def _dependants(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _dependants(inner)


async def check_query(request: Request) -> None:
    """Raises Unprocessable for query parameters that are unknown, or that no database can store.

    A misspelt one must not be ignored.
    """
    if not request.scope["query_string"]:
        return
    parts = list(_dependants(request.scope["route"].dependant))
    fields = {str(field.alias): field for part in parts for field in part.query_params}
    labelled = any(part.call is metadata_filter for part in parts)
    given = request.query_params.multi_items()
    unknown = [
        name
        for name in dict.fromkeys(name for name, _ in given)
        if name not in fields and not (labelled and METADATA.fullmatch(name))
    ]
    faults = [
        {"pointer": f"/{pointer_step(name)}", "detail": f"{pointer_step(name)} {said}"}
        for name, value in given
        if (said := wrong_text(name) or wrong_text(value) or _out_of_range(fields.get(name), value))
    ]
    known = sorted(fields)
    faults += [
        {"pointer": f"/{pointer_step(name)}", "detail": _unknown(name, known, labelled=labelled)}
        for name in unknown[:MAX_FAULTS]
    ]
    if faults:
        raise Unprocessable(faults[0]["detail"], errors=faults[:MAX_FAULTS])


def _out_of_range(field: ModelField | None, value: str) -> str | None:
    """Why a number of the query is refused, or None; its own limits are checked later."""
    if field is None or not _is_integer(field.field_info.annotation):
        return None
    digits = value.strip().lstrip("+-").lstrip("0")
    if digits.isdecimal() and (len(digits) > 19 or int(digits) > LARGEST):
        return "is beyond the integers of 64 bits"
    return None


def _is_integer(annotation: Any) -> bool:
    return annotation is int or int in get_args(annotation)


def _unknown(name: str, known: list[str], *, labelled: bool) -> str:
    near = nearest(name, known)
    taken = ", ".join([*known, *(["metadata[key]"] if labelled else [])]) or "none"
    hint = f"did you mean {near!r}?" if near else f"this operation takes: {taken}"
    return f"unknown query parameter {printable(name)!r}; {hint}"


async def check_path(request: Request) -> None:
    """Raises NotFound for a path with a character that no id or name has, and no database holds."""
    for value in request.path_params.values():
        if said := wrong_text(str(value)):
            raise NotFound(f"nothing has this path: {printable(str(value))!r} {said}")


async def refuse_useless_body(request: Request) -> None:
    """Raises Unprocessable for a body where none is read: what it asks for would be ignored.

    An empty object asks for nothing; many clients send one with every POST.
    """
    if request.scope["route"].body_field is not None or not has_body(request.headers):
        return
    body = await request.body()
    if body.strip() not in {b"", b"{}"}:
        raise Unprocessable(
            f"{request.method} {printable(request.url.path)} takes no body; send none",
            errors=[{"pointer": "/", "detail": "takes no body"}],
        )
