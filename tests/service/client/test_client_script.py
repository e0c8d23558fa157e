"""A script ranks, tunes, downloads and predicts while the service is killed and started again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.deployment import ROOT
from tests.support.service.services import Running, embedded, trains, wait_until

SCRIPT = ROOT / "examples/rank_tune_predict.py"
SECONDS = 300  # a busy machine starts the service three times


@contextmanager
def script(service: Running, csv: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The script, while it runs."""
    command = [sys.executable, SCRIPT, service.client.url, TINY, csv, folder]
    pipe = subprocess.PIPE
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder.parent)}
    started = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    with started:
        try:
            yield started
        finally:
            started.kill()


def kill_and_start_again(service: Running) -> None:
    service.kill()
    service.start("serve", "--port", service.client.url.rpartition(":")[2])
    service.wait_ready()


@pytest.mark.slow  # a minute
@pytest.mark.timeout(900)
def test_a_script_prints_the_same_when_the_service_is_killed_twice(
    few_mirrors: str, tmp_path: Path
) -> None:
    csv = tmp_path / "train.csv"
    rows = [f"a {'fine' if i % 2 else 'poor'} sentence {i},{i % 2}" for i in range(400)]
    csv.write_text("text,label\n" + "\n".join(rows) + "\n")
    with embedded(tmp_path / "data", few_mirrors) as service:

        def jobs(prefix: str) -> list[dict[str, Any]]:
            found = service.client.call("GET", "/v1/jobs")["data"]
            return [job for job in found if job["id"].startswith(prefix)]

        with script(service, csv, tmp_path / "killed") as killed:
            wait_until(lambda: jobs("rk_"), SECONDS, service.logs)
            kill_and_start_again(service)
            wait_until(lambda: any(map(trains, jobs("ft_"))), SECONDS, service.logs)
            kill_and_start_again(service)
            printed, told = killed.communicate(timeout=SECONDS)
        assert killed.returncode == 0, (told, service.logs())
        assert "asking again" in told
        (job,) = jobs("ft_")
        assert job["attempt"] > 1, "it was killed in the middle"
        with script(service, csv, tmp_path / "calm") as calm:
            expected, calm_told = calm.communicate(timeout=SECONDS)
    assert calm.returncode == 0, calm_told
    assert printed == expected
    assert "encoder.layer." in printed
