"""What a job's process is told of its worker's environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Settings
from worker.process import _environment


def test_trackers_are_told_and_the_service_s_own_secrets_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"MLFLOW_TRACKING_URI": "http://mlflow", "WANDB_API_KEY": "k", "WANDB_MODE": "offline"}
    kept_back = {
        "SURGEON_DATABASE_URL": "postgresql://u:p@h/d", "SURGEON_REDIS_URL": "redis://:p@h",
        "AWS_SECRET_ACCESS_KEY": "s",
    }  # fmt: skip
    for name, value in (given | kept_back).items():
        monkeypatch.setenv(name, value)
    found = _environment(Settings(data_dir=tmp_path, database_url="sqlite://", redis_url=None))
    assert given.items() <= found.items()
    assert not kept_back.keys() & found.keys()


def test_how_processes_reach_each_other_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"NCCL_SOCKET_IFNAME": "eth1", "NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "lo"}
    kept_back = {"MY_NCCL_SECRET": "s", "GLOOM": "s"}
    for name, value in (given | kept_back).items():
        monkeypatch.setenv(name, value)
    found = _environment(Settings(data_dir=tmp_path, database_url="sqlite://"))
    assert given.items() <= found.items()
    assert not kept_back.keys() & found.keys()
