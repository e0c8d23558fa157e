"""Refuses a change of an object that is not any more as the caller has read it."""

from __future__ import annotations

import re

from app.errors import ChangedMeanwhile
from surgery import __version__

TAG = re.compile(r'(W/)?"([^"]*)"')


def version_tag(version: int) -> str:
    """The ETag of an object whose answers depend on its own row alone."""
    return f'"{__version__}-{version}"'


def check_version(if_match: str | None, version: int) -> None:
    """Raises ChangedMeanwhile unless the header ``If-Match`` allows to change this version.

    The header is a list of ETags or ``*``. An ETag has the object's version behind the service's;
    what else it has is not the object's own, such as its place in the queue. Weak ETags never match
    (RFC 9110, 13.1.1).
    """
    if if_match is None or if_match.strip() == "*":
        return
    given = [tag.split("-") for weak, tag in TAG.findall(if_match) if not weak]
    if not any(len(parts) > 1 and parts[1] == str(version) for parts in given):
        raise ChangedMeanwhile(
            "the object has changed since it was read: its ETag is not the one in If-Match; read "
            "it again"
        )
