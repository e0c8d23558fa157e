"""Workers, and an API process, that are killed in the middle of what they write.

``killed_workers.py DATABASE-URL DATA-DIR ARTIFACTS-URL POINT…`` makes one process for each point,
which claims the next job and dies there by kill -9.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from app.artifacts.machine import request_folder
from app.artifacts.storage import open_storage
from app.db import Database
from app.jobs import state_machine
from app.settings import Settings
from surgery.io.folders import complete_folder, whole_folder
from surgery.io.reporter import CheckpointSummary
from surgery.schemas.resolved import Learned
from tests.support.faults.told_attempts import ToldAttempt, begin_claimed
from worker.protocol import CheckpointSaved, EventFilesSaved, Finished, StateSaved


def die(*_: Any, **__: Any) -> NoReturn:
    """By kill -9."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def made(told: ToldAttempt, name: str) -> Path:
    folder = told.attempt.scratch / name
    with complete_folder(folder) as building:
        for file in ("config.json", "weights.safetensors"):
            (building / file).write_text(name)
    return folder


def checkpoint(told: ToldAttempt, step: int) -> None:
    summary = CheckpointSummary(step, step, "delta", metrics={}, is_best=True)
    told.child.say(CheckpointSaved(path=made(told, f"checkpoint-{step}"), summary=summary))


def state(told: ToldAttempt, step: int) -> None:
    told.child.say(StateSaved(path=made(told, f"state-{step}"), step=step))


def before_the_row(told: ToldAttempt) -> None:
    """The second checkpoint's files are stored, its row is not."""
    checkpoint(told, 1)
    checkpoint(told, 2)
    _after(told, "commit_checkpoint", die, skip=1)


def half_way(told: ToldAttempt) -> None:
    """One of the second checkpoint's files is stored."""
    checkpoint(told, 1)
    checkpoint(told, 2)
    storage: Any = told.attempt.storage
    write = storage._write_folder

    def half(folder: Path, key: str, *arguments: Any, **named: Any) -> None:
        if folder.name != "checkpoint-2":
            write(folder, key, *arguments, **named)
            return
        if not storage.local:
            storage._files.put_file(
                str(folder / "config.json"), storage._path(f"{key}/config.json")
            )
            die()
        with whole_folder(Path(storage._path(key))) as building:  # as onto another disk
            (building / "config.json").write_text("{")
            die()

    storage._write_folder = half


def before_the_old_state_goes(told: ToldAttempt) -> None:
    """A second state is in its row; the first is still there."""
    state(told, 1)
    state(told, 2)
    told.attempt.storage.delete = die  # type: ignore[method-assign]


def at_the_end(told: ToldAttempt) -> None:
    """The job has succeeded; its state is still there."""
    told.child.say(EventFilesSaved(path=made(told, "events")))
    checkpoint(told, 1)
    state(told, 1)
    finish = state_machine.finish

    def finish_and_die(*arguments: Any) -> None:
        finish(*arguments[:2], {}, Learned(), *arguments[4:])
        die()

    state_machine.finish = finish_and_die  # type: ignore[assignment]
    told.attempt._reports.completed = lambda _result: {}  # type: ignore[method-assign,assignment]
    told.child.say(Finished(result=RESULT, resolved=Learned()))


POINTS: dict[str, Callable[[ToldAttempt], None]] = {
    each.__name__: each
    for each in (before_the_row, half_way, before_the_old_state_goes, at_the_end)
}


def _after(told: ToldAttempt, name: str, act: Callable[..., Any], skip: int) -> None:
    from app.jobs.outputs import records

    original, calls = getattr(records, name), []

    def counted(*arguments: Any) -> Any:
        calls.append(name)
        return original(*arguments) if len(calls) <= skip else act()

    setattr(records, name, counted)


def upload(settings: Settings) -> None:
    """An API process dies while it reads an upload."""
    with request_folder(settings, "upload") as folder:
        (folder / "train.csv").write_text("text,label\n")
        die()


def run(point: str, url: str, settings: Settings) -> None:
    """Die at this point."""
    if point == "upload":
        upload(settings)
    told = begin_claimed(Database(url), settings, open_storage(settings))
    POINTS[point](told)
    with told.attempt.log:
        told.run()


if __name__ == "__main__":
    from tests.support.service.finished_runs import finetune_result

    RESULT = finetune_result(0.5).model_dump(mode="json")
    database_url, data, artifacts, *points = sys.argv[1:]
    for each in points:
        child = os.fork()
        if child == 0:
            own = Settings(data_dir=Path(data), artifacts_url=artifacts)
            run(each, database_url, own)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), each
