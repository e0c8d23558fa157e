"""Model folders of strangers over HTTP: no file of the worker, and no secret of it, comes back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file

from surgeon.client import ApiError
from tests.support.models.hostile_folders import FOLDERS, HARMLESS, LATE, Canaries
from tests.support.models.mirror import TINY
from tests.support.service.services import Running, embedded_with

Json = dict[str, Any]
SECRETS = {
    "HF_TOKEN": "canary-of-the-hub",
    "WANDB_MODE": "disabled",
    "MLFLOW_TRACKING_PASSWORD": "canary-of-mlflow",
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-store",
}
BESIDE = "canary beside the mirror"
WEIGHT = 0.12345679  # a number that stands in another job's checkpoint alone
ROWS = "text,label\n" + "".join(f"[SEP] [SEP] text {n},{n % 2}\n" for n in range(40))


@pytest.fixture(scope="module")
def service(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hostile")
    text = folder / "secret.txt"
    text.write_text(f"{BESIDE}\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    weights = (
        folder / "data" / "artifacts" / "jobs" / "ft_other" / "1" / "best" / "model.safetensors"
    )
    weights.parent.mkdir(parents=True)
    other = {"embeddings.word_embeddings.weight": torch.full((30522, 16), WEIGHT)}
    save_file(other, weights)
    for name, change in FOLDERS.items():
        own = folder / "mirror" / "models" / "hostile" / name
        shutil.copytree(mirror / "models" / TINY, own)
        change(own, Canaries(text, weights))
    outside = folder / "outside"
    shutil.copytree(mirror / "models" / TINY, outside)
    (folder / "mirror" / "models" / "hostile" / "link-folder").symlink_to(outside)
    with embedded_with(folder / "data", str(folder / "mirror"), SECRETS) as running:
        yield running


@pytest.fixture(scope="module")
def dataset(service: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    path.write_text(ROWS)
    return service.client.upload(path).id


def tune(service: Running, model: str, dataset: str) -> Json:
    """A fine-tune of one step: its job, or the problem it was refused with."""
    body = {
        "model": model, "dataset": dataset, "selection": {"policy": "last_k", "k": 1},
        "training": {"epochs": 1, "max_steps": 1, "batch_size": 4, "max_length": 16},
        "checkpoints": {"form": "full"},
    }  # fmt: skip
    try:
        return service.finished(service.client.submit("finetunes", body))
    except ApiError as refused:
        return {"status": "refused", "problem": refused.problem}


def has_canary(content: bytes) -> bool:
    number = torch.tensor([WEIGHT] * 4).numpy().tobytes()
    return any(
        canary in content for canary in (BESIDE.encode(), b"canary-of-", b"root:x:0", number)
    )


def everything_of(service: Running) -> Iterator[tuple[Path, bytes]]:
    """All that the service keeps: rows, logs, caches, checkpoints."""
    for path in service.data.rglob("*"):
        if path.is_file() and "ft_other" not in path.parts:
            yield path, path.read_bytes()


@pytest.mark.parametrize("name", FOLDERS)
def test_no_canary_comes_back(service: Running, dataset: str, name: str) -> None:
    job = tune(service, f"hostile/{name}", dataset)
    assert not has_canary(repr(job).encode())
    assert (job["status"] == "succeeded") == (name in HARMLESS), job
    if name in HARMLESS:
        for row in service.client.checkpoints(job["id"]):
            assert not has_canary(repr(row).encode())
    elif name in LATE:
        assert (job["status"], job["error"]["code"]) == ("failed", "model_unsupported")
        assert "tokenizer.json" in job["error"]["detail"]
    else:
        assert job["status"] == "refused"
        assert job["problem"]["status"] == 422
        assert job["problem"]["code"] in {"unsafe_files", "unsafe_weights", "model_unsupported"}
        if name.startswith("link"):  # where it leads is told to nobody
            assert "secret" not in repr(job)
            assert "ft_other" not in repr(job)
    assert [str(path) for path, content in everything_of(service) if has_canary(content)] == []


def test_a_folder_outside_the_mirror_is_not_there(service: Running, dataset: str) -> None:
    assert tune(service, "hostile/link-folder", dataset)["problem"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("name", "file", "key"),
    [
        ("vocab-environ", "tokenizer_config.json", "vocab"),
        ("vocab-absolute", "tokenizer_config.json", "vocab"),
        ("special-tokens-vocab", "special_tokens_map.json", "vocab"),
        ("index-absolute", "model.safetensors.index.json", "weight_map"),
        ("index-relative", "model.safetensors.index.json", "weight_map"),
    ],
)
def test_the_file_and_the_key_are_named(
    service: Running, dataset: str, name: str, file: str, key: str
) -> None:
    problem = tune(service, f"hostile/{name}", dataset)["problem"]
    assert (problem["status"], problem["code"]) == (422, "unsafe_files")
    assert file in problem["detail"]
    assert key in problem["detail"]
    [fault] = problem["errors"]
    assert fault["file"] == file
    assert fault["column"].startswith(key)
    assert fault["pointer"] == "/model"


def test_the_job_s_process_has_no_secret_to_read(service: Running, dataset: str) -> None:
    assert tune(service, "hostile/name-or-path", dataset)["status"] == "succeeded"
    [child] = service.children()
    environment = Path(f"/proc/{child.pid}/environ").read_bytes()
    names = {entry.partition(b"=")[0] for entry in environment.split(b"\0")}
    assert b"PATH" in names
    assert b"canary" not in environment
    assert not names & {name.encode() for name in SECRETS}
    arguments = b" ".join(part.encode() for part in child.cmdline())
    assert b"canary" not in arguments


def test_the_job_s_process_is_confined(service: Running) -> None:
    [child] = service.children()
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status  # a filter
    assert not child.net_connections()
    assert "not fully confined" not in service.logs()
    assert psutil.Process(child.pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert psutil.Process(child.pid).rlimit(psutil.RLIMIT_DATA)[0] <= os.sysconf(
        "SC_PAGE_SIZE"
    ) * os.sysconf("SC_PHYS_PAGES")
