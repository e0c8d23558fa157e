"""The web page: the files in app/api/page, which are built from web/ (see CONTRIBUTING.md).

It is a client of the API like any other: it needs no key to load, asks its reader for one where the
service wants one, and loads nothing from elsewhere. Its addresses are fragments (``/#/runs``), so
the service answers this one document and its files, and no path of the API means something else.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from mimetypes import guess_type
from pathlib import Path

from fastapi import APIRouter, Request, Response

import app.api
from app.errors import NotFound

router = APIRouter(include_in_schema=False)
BUILT = Path(app.api.__file__).parent / "page"
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
FOREVER = "public, max-age=31536000, immutable"  # the names hold a hash of the content
GZIP = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))")  # named, and not refused
NAME = re.compile(r"[\w-]+(\.[\w-]+)+")


@dataclass(frozen=True)
class PageFile:
    """A file of the page, as it is sent."""

    content: bytes
    compressed: bytes
    media_type: str
    tag: str


@cache
def page_file(name: str) -> PageFile | None:
    """A file of the built page by its path there, or None. It is read and compressed once."""
    path = BUILT / name
    if not path.is_file():
        return None
    content = path.read_bytes()
    compressed = gzip.compress(content, mtime=0)
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return PageFile(content, compressed, guess_type(name)[0] or "application/octet-stream", tag)


def _answer(file: PageFile, request: Request, headers: dict[str, str]) -> Response:
    """A file, compressed for a client that takes it so."""
    given = {"ETag": file.tag, "Vary": "Accept-Encoding", **headers}
    if GZIP.search(request.headers.get("accept-encoding", "")):
        coded = {**given, "Content-Encoding": "gzip", "ETag": f'{file.tag[:-1]}-gzip"'}
        return Response(file.compressed, headers=coded, media_type=file.media_type)
    return Response(file.content, headers=given, media_type=file.media_type)


@router.get("/")
async def get_page(request: Request) -> Response:
    """The document. It is asked for again each time, as it names the files of one build."""
    file = page_file("index.html")
    if file is None:
        raise NotFound("this installation has no web page; /docs describes the API")
    headers = {"Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    return _answer(file, request, headers)


@router.get("/assets/{name}")
async def get_page_asset(name: str, request: Request) -> Response:
    """A script, a style sheet or a picture of the page. Raises NotFound for other names."""
    file = page_file(f"assets/{name}") if NAME.fullmatch(name) else None
    if file is None:
        raise NotFound(f"{request.url.path} is no part of the web page; reload it, at /")
    return _answer(file, request, {"Cache-Control": FOREVER})
