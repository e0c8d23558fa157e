"""A script ranks, tunes, downloads and predicts while the service is killed and started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.models.mirror import TINY
from tests.support.service.deployment import ROOT
from tests.support.service.services import Running, embedded, wait_until

SCRIPT = ROOT / "examples/rank_tune_predict.py"


def start(service: Running, csv: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, SCRIPT, service.client.url, TINY, csv, folder]
    pipe = subprocess.PIPE
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(folder.parent)}
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)


def kill_and_start_again(service: Running) -> None:
    service.kill()
    service.start("serve", "--port", service.client.url.rpartition(":")[2])
    service.wait_ready()


def test_a_script_prints_the_same_when_the_service_is_killed_twice(
    few_mirrors: str, tmp_path: Path
) -> None:
    csv = tmp_path / "train.csv"
    rows = [f"a {'fine' if i % 2 else 'poor'} sentence {i},{i % 2}" for i in range(400)]
    csv.write_text("text,label\n" + "\n".join(rows) + "\n")
    with embedded(tmp_path / "data", few_mirrors) as service:

        def has_job(prefix: str, phase: str | None = None) -> bool:
            jobs = service.client.call("GET", "/v1/jobs")["data"]
            found = [job for job in jobs if job["id"].startswith(prefix)]
            return any(phase is None or job["phase"] == phase for job in found)

        script = start(service, csv, tmp_path / "killed")
        wait_until(lambda: has_job("rk_"), 120, service.logs)
        kill_and_start_again(service)
        wait_until(lambda: has_job("ft_", "train"), 120, service.logs)
        kill_and_start_again(service)
        printed, told = script.communicate(timeout=180)
        assert script.returncode == 0, (told, service.logs())
        assert "asking again" in told
        (job,) = service.client.call("GET", "/v1/jobs", params={"kind": "finetune"})["data"]
        assert job["attempt"] > 1, "it was killed in the middle"
        calm = start(service, csv, tmp_path / "calm")
        expected, calm_told = calm.communicate(timeout=180)
    assert calm.returncode == 0, calm_told
    assert printed == expected
    assert "encoder.layer." in printed
    assert "LABEL" not in printed, "the labels have the names of the file's"
