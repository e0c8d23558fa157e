"""What a request to store a dataset says: a form with files, or a reference to the Hub as JSON."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import Depends, Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile as Uploaded

from app.api.http.bodies.documents import NotJson, parse_json, unstorable, wrong_text
from app.api.http.bodies.middleware import RefusedBody, described_type, is_json
from app.errors import Unprocessable, WrongMediaType
from surgery.data.files.source import shown
from surgery.errors import MAX_FAULTS, nearest, printable
from surgery.schemas.data.dataset import DatasetReference, UploadSpec
from surgery.schemas.validation import faults_of, pointer_step, validation_faults

# Other names that people give to the parts of the form.
_SYNONYMS = {
    "train": ("training", "data", "dataset", "file", "files", "upload"),
    "validation": ("valid", "val", "dev", "eval", "evaluation", "test"),
    "spec": ("options", "config"),
    "name": ("title", "label", "dataset_name"),
}
LONGEST_FILE_NAME = 255  # bytes, as on most file systems
_PARTS = {name: part for part, names in _SYNONYMS.items() for name in (part, *names)}


async def read_reference(request: Request) -> DatasetReference | None:
    """The reference in a JSON body; None for a form, whose parts are checked instead."""
    kind = described_type(request.headers).get_content_type()
    if not is_json(kind):
        if kind != "multipart/form-data":
            raise WrongMediaType(
                "send the files as multipart/form-data, or a reference to a dataset of the Hub as "
                f"application/json; this is {kind}"
            )
        await check_parts(request)
        return None
    try:
        return DatasetReference.model_validate(parse_json((await request.body()).decode()))
    except NotJson as error:  # it is empty: any other has been checked
        raise RefusedBody(400, "not_json", str(error)) from error
    except ValidationError as error:
        faults = validation_faults(list(error.errors()), schema=DatasetReference)
        raise Unprocessable("the request body has errors", errors=faults) from error


ReferenceDep = Annotated[DatasetReference | None, Depends(read_reference)]


async def check_parts(request: Request) -> None:
    """Raises Unprocessable for unknown parts of the form and for parts that were sent twice."""
    parts = (await request.form()).multi_items()
    sent = [name for name, _ in parts]
    unknown = (name for name in dict.fromkeys(sent) if name not in _SYNONYMS)
    faults = [
        {"pointer": f"/{_escaped(name)}", "detail": _unknown_part(name)}
        for name in islice(unknown, MAX_FAULTS)
    ]
    faults += [
        {"pointer": f"/{_escaped(name)}", "detail": f"the name of this file {said}"}
        for name, part in parts
        if isinstance(part, Uploaded) and (said := _wrong_name(part.filename or ""))
    ]
    faults += [
        {
            "pointer": f"/{name}",
            "detail": f"{name!r} was sent twice; send one file for each split"
            if name in {"train", "validation"}
            else f"{name!r} was sent twice; send one",
        }
        for name in _SYNONYMS
        if sent.count(name) > 1
    ]
    if faults:
        raise Unprocessable(faults[0]["detail"], errors=faults)


def _wrong_name(filename: str) -> str | None:
    if len(filename.encode("utf-8", "replace")) > LONGEST_FILE_NAME:
        return f"is longer than {LONGEST_FILE_NAME} bytes"
    return wrong_text(filename)


def _escaped(name: str) -> str:
    """A name as a part of a JSON Pointer (RFC 6901)."""
    return pointer_step(shown(name))


def _unknown_part(name: str) -> str:
    if name in UploadSpec.model_fields:
        return f'unknown part {name!r}; it belongs in spec, as in {{"{name}": …}}'
    known = "the parts are train, validation, spec and name"
    near = nearest(name.lower(), list(_PARTS))
    return f"unknown part {shown(printable(name))!r}; " + (
        f"did you mean {_PARTS[near]!r}?" if near else known
    )


def parse_spec(text: str) -> UploadSpec:
    try:
        document = parse_json(text, "the form field spec")
        faults = [{**f, "pointer": f"/spec{f['pointer']}"} for f in unstorable(document)]
        if not faults:
            return UploadSpec.model_validate(document)
    except ValidationError as error:
        faults = faults_of(error, root="/spec")
    except NotJson as error:
        detail = str(error)
        raise Unprocessable(detail, errors=[{"pointer": "/spec", "detail": detail}]) from error
    raise Unprocessable("the form field spec has errors", errors=faults)
