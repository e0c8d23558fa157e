"""A saved state whose files are gone, as after a restore: the job starts over, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.artifacts.attempt_logs import log_key, read_log
from app.artifacts.storage import open_storage
from app.db import Database
from app.jobs.attempts import attempts_of
from app.settings import Settings
from surgery.schemas.resolved import Learned
from tests.support.faults.told_attempts import begin
from tests.support.service.finished_runs import finetune_result
from worker.protocol import Finished
from worker.supervisor.attempt.attempt import Outcome


@pytest.mark.parametrize("artifacts", ["", "memory://lost-states"], ids=["folder", "object store"])
def test_a_job_whose_state_is_lost_starts_over(
    database: Database, tmp_path: Path, artifacts: str
) -> None:
    settings = Settings(data_dir=tmp_path / "data", artifacts_url=artifacts)
    state = {"path": "jobs/ft_1/1/state-40", "step": 40, "bytes": 1}
    told = begin(database, tmp_path, [], settings=settings, state=state)
    told.child.say(
        Finished(result=finetune_result(0.5).model_dump(mode="json"), resolved=Learned())
    )
    with told.attempt.log:
        assert told.run() is Outcome.SUCCEEDED
    order: Any = told.child.orders[0]
    assert order.state_folder is None
    [attempt] = attempts_of(database, told.lease.job_id)
    folder = log_key(told.lease.job_id, told.lease.epoch)
    said = read_log(open_storage(settings), folder, attempt.log_bytes).text
    assert "the saved state of step 40 is missing or damaged: the job starts over" in said
