"""What the Hub says of a model that it does not give."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from surgery.errors import ModelGated, ModelNotFound, UpstreamUnavailable
from surgery.io.hub import MODEL, hub_errors
from surgery.io.sources import Sources
from surgery.models.source.resolve import resolve_model
from tests.support.outside.hub import FakeHub


@pytest.mark.parametrize(
    ("status", "error", "expected", "match"),
    [
        (404, "RepoNotFound", ModelNotFound, "no model me/own"),
        (404, "RevisionNotFound", ModelNotFound, "no revision 'v2'"),
        (403, "GatedRepo", ModelGated, "gated"),
        (403, None, ModelNotFound, "refuses"),
        (429, None, UpstreamUnavailable, "try again"),
        (500, None, UpstreamUnavailable, "try again"),
    ],
)
def test_what_the_hub_refuses_is_told(
    hub: FakeHub,
    online: Sources,
    status: int,
    error: str | None,
    expected: type[Exception],
    match: str,
) -> None:
    hub.status, hub.error = status, error
    with pytest.raises(expected, match=match) as caught:
        resolve_model("me/own@v2", online)
    assert "hf_canary" not in str(caught.value)


def test_a_hub_out_of_reach_may_be_tried_again(online: Sources) -> None:
    with pytest.raises(UpstreamUnavailable, match="did not answer") as caught:
        resolve_model("me/own", replace(online, endpoint="http://127.0.0.1:9"))
    assert caught.value.retriable


def test_a_download_that_came_out_wrong_may_be_tried_again() -> None:
    with pytest.raises(UpstreamUnavailable), hub_errors(MODEL, "me/own", None):
        raise OSError("Consistency check failed: file should be of size 2 but has size 1")


def test_a_full_disk_is_no_fault_of_the_hub() -> None:
    with pytest.raises(OSError, match="No space left"), hub_errors(MODEL, "me/own", None):
        raise OSError(errno.ENOSPC, "No space left on device")
