"""Kill and pause workers at random while they run jobs, and say what became of the jobs.

``python -m bench.soak``: on SQLite and on a Postgres of its own, four workers run short fine-tunes
that only pretend to train; every half second one of them is killed (SIGKILL) or paused for longer
than its lease (SIGSTOP). When all jobs are over, each must have succeeded once, by its last
attempt, and after a collection there must be no file but those that rows name, and no process.
Exits with 1 otherwise.

The control runs the same without the fence: writes do not ask for the attempt's epoch and the
lease's time, and a worker does not stop by its own clock. The soak must find what follows.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path

from app.db import Database
from app.settings import Settings
from bench.migrate.__main__ import own_postgres
from bench.soak.oracle import Strike, Verdict, judge
from bench.soak.worker import now, work
from tests.support.faults.told_attempts import SPEC
from tests.support.service.queued_jobs import RESOLVED, submit_many

WORKERS = 4
STRIKE_SECONDS = 0.5
LEASE_SECONDS = 2.0
PAUSE_SECONDS = (2.0, 3.5)  # from a lease on, so that another worker has the job by then
LIMIT_SECONDS = 5.0  # for each job, before it counts as lost
COLUMNS = (
    *("jobs", "kills", "pauses", "lost", "stale", "twice", "left files", "left processes"),
    *("recovery p50, s", "p99, s", "seconds"),
)


def settings_for(folder: Path, url: str) -> Settings:
    """Every interval so short that a soak ends within minutes."""
    seconds = {"lease": LEASE_SECONDS, "heartbeat": 0.3, "fence_margin": 0.5, "sweep": 0.5,
               "poll": 0.1, "grace": 1.0, "retry_backoff": 0.05}  # fmt: skip
    intervals = {name: timedelta(seconds=value) for name, value in seconds.items()}
    return Settings.model_validate({"data_dir": folder, "database_url": url, **intervals})


class Herd:
    """The workers, each a fork of this process, which has one thread and no connection."""

    def __init__(self, settings: Settings, *, unfenced: bool) -> None:
        self._settings, self._unfenced = settings, unfenced
        self._paused: dict[int, float] = {}
        self.pids = [self._start() for _ in range(WORKERS)]
        self.strikes: list[Strike] = []

    def _start(self) -> int:
        pid = os.fork()
        if pid == 0:
            log = os.open(self._settings.data_dir / "workers.log", os.O_WRONLY | os.O_APPEND)
            for stream in (1, 2):
                os.dup2(log, stream)
            with suppress(KeyboardInterrupt):
                work(self._settings, unfenced=self._unfenced)
            os._exit(1)
        return pid

    def strike(self, choice: random.Random) -> None:
        """Kill a worker and start another, or pause one; wake those that were paused for long."""
        for pid, until in list(self._paused.items()):
            if now() > until:
                os.kill(pid, signal.SIGCONT)
                del self._paused[pid]
        place = choice.randrange(WORKERS)
        pid, kind = self.pids[place], choice.choice(("kill", "pause"))
        if pid in self._paused:
            return
        self.strikes.append(Strike(kind, f"{socket.gethostname()}:{pid}", now()))
        if kind == "pause":
            os.kill(pid, signal.SIGSTOP)
            self._paused[pid] = now() + choice.uniform(*PAUSE_SECONDS)
            return
        self._end(pid)
        self.pids[place] = self._start()

    def _end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def end(self) -> None:
        """Kill them all."""
        for pid in self.pids:
            self._end(pid)


def soak(settings: Settings, jobs: int, seed: int, *, unfenced: bool) -> tuple[Herd, Verdict]:
    """Run so many jobs to their ends under fire."""
    database = Database(settings.resolved_database_url)
    database.upgrade()
    ids = submit_many(database, jobs, spec=SPEC, resolved=RESOLVED, max_attempts=1000)
    database.close()  # no connection may be shared with a fork
    (settings.data_dir / "workers.log").touch()
    herd, choice = Herd(settings, unfenced=unfenced), random.Random(seed)
    deadline = now() + jobs * LIMIT_SECONDS
    while now() < deadline and left(settings):
        time.sleep(STRIKE_SECONDS)
        herd.strike(choice)
    herd.end()
    return herd, judge(settings, ids, herd.strikes)


def left(settings: Settings) -> int:
    """How many jobs are not over."""
    from sqlalchemy import func, select

    from app.db.tables import TERMINAL, Job

    database = Database(settings.resolved_database_url)
    with database.read() as session:
        count = session.scalar(select(func.count()).where(Job.status.not_in(TERMINAL)))
    database.close()
    return int(count or 0)


@contextmanager
def database_of(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a new database; empty for SQLite in the data directory."""
    with own_postgres(folder) if kind == "postgres" else nullcontext("") as url:
        yield url


def percentile(values: list[float], share: float) -> float:
    """Of sorted values; 0 if there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def run(kind: str, jobs: int, seed: int, *, unfenced: bool) -> int:
    """One soak and its line of the table; how many faults it found."""
    began = now()
    with tempfile.TemporaryDirectory(prefix="surgeon-soak-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # as root, Postgres runs as another user
        data = folder / "data"
        data.mkdir()
        with database_of(kind, folder) as url:
            herd, verdict = soak(settings_for(data, url), jobs, seed, unfenced=unfenced)
    kinds = [strike.kind for strike in herd.strikes]
    cells = (
        *(jobs, kinds.count("kill"), kinds.count("pause"), len(verdict.lost), len(verdict.stale)),
        *(len(verdict.twice), len(verdict.files), len(verdict.processes)),
        *(f"{percentile(verdict.recoveries, share):.1f}" for share in (0.5, 0.99)),
        f"{now() - began:.0f}",
    )
    name = f"{kind}, no fence" if unfenced else kind
    line = " | ".join(f"{cell!s:>{len(title)}}" for title, cell in zip(COLUMNS, cells, strict=True))
    print(f"| {name:18} | {line} |", flush=True)
    return verdict.faults


def main() -> None:
    """Soak each database with the fence, and without it."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300, help="jobs of each soak (300)")
    parser.add_argument("--only", choices=["sqlite", "postgres"], help="one database")
    parser.add_argument("--seed", type=int, default=0, help="of the strikes (0)")
    parser.add_argument("--without-control", action="store_true", help="leave the control out")
    given = parser.parse_args()
    kinds = [given.only] if given.only else ["sqlite", "postgres"]
    print(f"| {'':18} | {' | '.join(COLUMNS)} |", flush=True)
    print(f"|{'-' * 20}|{'|'.join('-' * (len(title) + 2) for title in COLUMNS)}|", flush=True)
    wrong = []
    for kind in kinds:
        if run(kind, given.jobs, given.seed, unfenced=False):
            wrong.append(f"{kind}: see its line")
        if not given.without_control and not run(kind, given.jobs, given.seed, unfenced=True):
            wrong.append(f"{kind}: the control found nothing; a soak of more jobs would")
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()
