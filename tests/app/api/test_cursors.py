"""Cursors that no page gave out."""

from __future__ import annotations

from pathlib import Path

from app.api.pages import encode_cursor
from tests.support.service.problems import problem, says
from tests.support.service.stored import place_in


def test_a_cursor_that_is_no_position_is_refused(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        for listed in ("events", "metrics"):
            path = f"/v1/jobs/{place.kept.lease.job_id}/{listed}"
            for position in ("9" * 19, "9" * 140, "²", "-1", "1.5", ""):
                answer = place.api.get(path, params={"cursor": encode_cursor(position)})
                says(problem(answer, 422, "invalid"), "/cursor", "no such cursor")
            end = place.api.get(path, params={"cursor": encode_cursor("9" * 18)})
            assert (end.status_code, end.json()["data"]) == (200, [])
