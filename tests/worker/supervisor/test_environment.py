"""What a job's process is told of its worker's environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import Settings
from worker.supervisor.environments import WorkerFolders, child_environment, fetcher_environment

SECRETS = {
    "HF_TOKEN": "hf_canary", "MLFLOW_TRACKING_PASSWORD": "canary", "MLFLOW_TRACKING_URI": "http://c",
    "WANDB_API_KEY": "canary", "SURGEON_DATABASE_URL": "postgresql://u:canary@h/d",
    "SURGEON_REDIS_URL": "redis://:canary@h", "AWS_SECRET_ACCESS_KEY": "canary",
    "HTTPS_PROXY": "http://user:canary@proxy", "SURGEON_API_KEY_HASHES": "canary",
}  # fmt: skip


def test_the_job_s_process_is_told_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    found = child_environment(WorkerFolders.new(tmp_path))
    assert not SECRETS.keys() & found.keys()
    assert not any("canary" in value for value in found.values())


def test_the_token_and_the_proxy_belong_to_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = Settings(
        data_dir=tmp_path, database_url="sqlite://", redis_url=None, api_key_hashes=[]
    )
    found = fetcher_environment(settings)
    assert SECRETS.keys() & found.keys() == {"HF_TOKEN", "HTTPS_PROXY"}


def test_how_processes_reach_each_other_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"NCCL_SOCKET_IFNAME": "eth1", "NCCL_DEBUG": "INFO", "GLOO_SOCKET_IFNAME": "lo"}
    kept_back = {"MY_NCCL_SECRET": "s", "GLOOM": "s"}
    for name, value in (given | kept_back).items():
        monkeypatch.setenv(name, value)
    found = child_environment(WorkerFolders.new(tmp_path))
    assert given.items() <= found.items()
    assert not kept_back.keys() & found.keys()
