"""Jobs whose library panics, takes all memory or loses its process: they end with a named code."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.mirror import TINY
from tests.support.service.services import Running, embedded_with, trains, wait_until

Json = dict[str, Any]
LIMIT = 4 << 30


def catastrophic(folder: Path) -> None:
    """A pattern whose search gives up: the tokenizers library panics, which is no Exception."""
    document = json.loads((folder / "tokenizer.json").read_text())
    split = {"pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    document["pre_tokenizer"] = {"type": "Split", **split}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # which reads tokenizer.json as it is
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def enormous(folder: Path) -> None:
    """Embeddings of 12 GB, of which the weights hold next to nothing."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 200_000_000}))


def senseless(folder: Path) -> None:
    """Heads that do not divide the width: the class itself refuses its config."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 7}))


def unfit(folder: Path) -> None:
    """A size that shows only when a batch is run."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"chunk_size_feed_forward": 7}))


def aborting(folder: Path) -> None:
    """A table of normalisation that ends the process of whoever reads it."""
    document = json.loads((folder / "tokenizer.json").read_text())
    document["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA////AAAA"}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


MODELS = (catastrophic, enormous, senseless, unfit, aborting)


@pytest.fixture(scope="module")
def service(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("runaway")
    for change in MODELS:
        own = folder / "mirror" / "models" / "runaway" / change.__name__
        shutil.copytree(mirror / "models" / TINY, own)
        change(own)
    shutil.copytree(mirror / "models" / TINY, folder / "mirror" / "models" / TINY)
    limit = {"SURGEON_JOB_MEMORY_BYTES": str(LIMIT)}
    with embedded_with(folder / "data", str(folder / "mirror"), limit) as running:
        yield running


@pytest.fixture(scope="module")
def dataset(service: Running, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    rows = [f"{'a' * 3000}c {n},{n % 2}" for n in range(40)]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return service.client.upload(path).id


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        pytest.param(
            *("catastrophic", "model_unsupported", "fails on a text: PanicException"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("enormous", "model_unsupported", "describes blocks and embeddings of 3,200,0"),
            marks=pytest.mark.slow,
        ),
        ("senseless", "model_unsupported", "does not describe a model: ValueError"),
        ("unfit", "model_unsupported", "the model's own code (modeling_bert) fails on a batch"),
        ("aborting", "model_unsupported", "a library ended the process while it read the model"),
    ],
)
def test_the_job_ends_at_its_first_attempt(
    service: Running, dataset: str, model: str, code: str, words: str
) -> None:
    body = {"model": f"runaway/{model}", "dataset": dataset, "samples": 16, "max_length": 32}
    job = service.finished(service.client.submit("rankings", body))
    assert (job["status"], job["error"]["code"]) == ("failed", code)
    assert words in job["error"]["detail"]
    starts = [each for each in job["transitions"] if each["status"] == "running"]
    assert len(starts) == 1
    assert str(service.data) not in json.dumps(job)


@pytest.mark.slow
def test_a_job_that_loses_every_process_keeps_what_the_last_one_said(
    service: Running, dataset: str
) -> None:
    body = {
        "model": TINY, "dataset": dataset, "selection": {"policy": "last_k", "k": 1},
        "training": {"epochs": 500, "batch_size": 4, "max_length": 16},
    }  # fmt: skip
    job = service.client.submit("finetunes", body)

    def trains_again(attempt: int) -> bool:
        now = service.client.job(job["id"])
        return now["attempt"] == attempt and trains(now) and bool(service.children())

    for attempt in (1, 2, 3):
        wait_until(lambda wanted=attempt: trains_again(wanted), 90, service.logs)
        wait_until(lambda: "train_loss" in service.logs(), 60)
        service.children()[0].send_signal(signal.SIGKILL)
    error = service.finished(job)["error"]
    assert error["code"] == "worker_lost"
    assert "SIGKILL" in error["detail"]
    assert any(line.endswith(" train") for line in error["log"])
    assert len(error["log"]) <= 50
    assert f"{job['id']} crashed after" in service.logs()
