"""`surgeon db check`: which stored folders rows name that are not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from app.db.tables import Job
from app.jobs.outputs import records
from app.settings import settings_from_environment
from surgeon.cli import app as cli
from tests.support.service.stored import place_in


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("SURGEON_DATA_DIR", str(tmp_path / "data"))
    settings_from_environment.cache_clear()
    yield
    settings_from_environment.cache_clear()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        kept, artifacts = place.kept, place.artifacts
        assert checked(0) == []
        [row] = records.checkpoints_of(place.service.database, kept.lease.job_id)
        (artifacts / row.path / "config.json").unlink(missing_ok=True)
        removed = next(p for p in (artifacts / row.path).iterdir() if p.suffix == ".safetensors")
        removed.unlink()
        assert [each["owner"] for each in checked(1)] == [kept.id]
        shutil.rmtree(artifacts / row.path)
        with place.service.database.write() as session:
            state = {"path": "jobs/x/1/state-1", "step": 1, "bytes": 1}
            session.execute(update(Job).values(state=state))
        missing = {each["owner"]: each for each in checked(1)}
        assert missing.keys() == {kept.id, kept.lease.job_id}
        assert missing[kept.lease.job_id]["remedy"] == "nothing: it starts over"
        said = CliRunner().invoke(cli, ["db", "check"]).stderr.replace("\n", " ")
        assert f"{kept.id}: {row.path} is missing; delete it" in said


def checked(code: int) -> list[dict[str, Any]]:
    result = CliRunner().invoke(cli, ["db", "check", "--json"])
    assert result.exit_code == code, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found
