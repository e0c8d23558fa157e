"""Cursors of events and measurements that no page of theirs gave out."""

from __future__ import annotations

from pathlib import Path

from tests.support.service.problems import problem, says
from tests.support.service.stored import place_in


def test_a_cursor_of_nothing_or_of_another_list_is_refused(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        own = f"/v1/jobs/{place.kept.lease.job_id}"
        for listed in ("events", "metrics"):
            path = f"{own}/{listed}"
            for cursor in ("9" * 19, "MQ", "²", "-1", "1.5", "", "x" * 400):
                answer = place.api.get(path, params={"cursor": cursor})
                says(problem(answer, 422, "invalid"), "/cursor", "no such cursor")
        first = place.api.get(f"{own}/events", params={"limit": 1}).json()["next_cursor"]
        answer = place.api.get(f"{own}/metrics", params={"cursor": first})
        says(problem(answer, 422, "invalid"), "/cursor", "belongs to another list")
        rest = place.api.get(f"{own}/events", params={"cursor": first, "limit": 200}).json()
        assert [event["seq"] for event in rest["data"]] == [2, 3]
