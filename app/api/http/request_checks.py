"""Checks that every operation makes first: names of query parameters, and NUL characters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant

from app.errors import Unprocessable
from surgery.errors import MAX_FAULTS, nearest

METADATA = re.compile(r"metadata\[(.*)\]")
MAX_METADATA = 16  # as many as a job can have
NUL = "\0"


async def metadata_filter(request: Request) -> dict[str, str]:
    """The labels that jobs of a list must have, from parameters ``metadata[key]=value``."""
    given = request.query_params.items()
    wanted = {match[1]: value for name, value in given if (match := METADATA.fullmatch(name))}
    if len(wanted) > MAX_METADATA:
        detail = f"{len(wanted)} labels were given, but a job has at most {MAX_METADATA}"
        raise Unprocessable(detail, errors=[{"pointer": "/metadata", "detail": detail}])
    return wanted


MetadataFilter = Annotated[dict[str, str], Depends(metadata_filter)]


def _dependants(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for inner in dependant.dependencies:
        yield from _dependants(inner)


async def check_query(request: Request) -> None:
    """Raises Unprocessable for unknown query parameters: a misspelt one must not be ignored."""
    parts = list(_dependants(request.scope["route"].dependant))
    known = sorted({str(field.alias) for part in parts for field in part.query_params})
    labelled = any(part.call is metadata_filter for part in parts)
    unknown = [
        name
        for name in dict.fromkeys(request.query_params)
        if name not in known and not (labelled and METADATA.fullmatch(name))
    ]
    faults = [
        {"pointer": f"/{_shown(name)}", "detail": _unknown(name, known, labelled=labelled)}
        for name in unknown[:MAX_FAULTS]
    ]
    if faults:
        raise Unprocessable(faults[0]["detail"], errors=faults)


def _unknown(name: str, known: list[str], *, labelled: bool) -> str:
    near = nearest(name, known)
    taken = ", ".join([*known, *(["metadata[key]"] if labelled else [])]) or "none"
    hint = f"did you mean {near!r}?" if near else f"this operation takes: {taken}"
    return f"unknown query parameter {_shown(name[:100])!r}; {hint}"


async def refuse_nul(request: Request) -> None:
    """Raises Unprocessable for a NUL character, which neither Postgres nor a file name can hold."""
    given = [*request.path_params.items(), *request.query_params.multi_items()]
    places = [f"/{_shown(name)}" for name, value in given if NUL in f"{name}{value}"]
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json" and b"\\u0000" in await request.body():
        places += _with_nul(await request.json())
    if places:
        detail = "has a NUL character (\\0), which cannot be stored; leave it out"
        faults = [{"pointer": place, "detail": detail} for place in places[:MAX_FAULTS]]
        raise Unprocessable(f"{places[0].lstrip('/') or 'the body'} {detail}", errors=faults)


def _with_nul(document: Any) -> Iterator[str]:
    """JSON Pointers to texts and names with a NUL. It does not recurse, as bodies may be deep."""
    waiting = [("", document)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str) and NUL in value:
            yield place or "/"
        elif isinstance(value, dict):
            yield from (f"{place}/{_shown(name)}" for name in value if NUL in name)
            waiting += [(f"{place}/{_shown(name)}", inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{place}/{index}", inner) for index, inner in enumerate(value)]


def _shown(name: str) -> str:
    return name.replace(NUL, "\\0")
