"""What only a GPU has: an allocator with a cap, and memory that a cancelled run must give back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.tokenize import encode
from surgery.errors import OutOfMemory
from surgery.io.reporter import Quiet, Stopped
from surgery.models.blocks import find_blocks, head_parameters
from surgery.models.loading import LoadedModel
from surgery.models.trainable import layers_of_model
from surgery.ranking.sample import Sample
from surgery.schemas.jobs.finetune import FinetuneResult
from surgery.training.loop import finetune
from surgery.training.prefix_cache.store import release_memory
from tests.support.models.sentence_runs import distance, spec_of, weights
from tests.support.models.toys import sentences, toy_data, toy_model

pytestmark = pytest.mark.gpu
ROWS = 512  # in one batch
# Wide enough for a batch's activations to be most of what a step takes.
SIZES = {
    "vocab_size": 50, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
    "intermediate_size": 1024, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def wide() -> LoadedModel:
    """The same start each time."""
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", **SIZES)
    model: nn.Module = AutoModelForSequenceClassification.from_config(config)
    toy = toy_model(dtype=torch.float32)
    return LoadedModel(
        toy.source, model.eval(), toy.tokenizer, find_blocks(model), sorted(head_parameters(model)),
        toy.snapshot,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> TaskData:
    return toy_data(2 * ROWS, 16)


@pytest.fixture
def uncapped(gpu: torch.device) -> Iterator[torch.device]:
    """The cap of a test does not outlive it."""
    yield gpu
    torch.cuda.set_per_process_memory_fraction(1.0, gpu)
    torch.cuda.empty_cache()


def peak(batch_size: int, rows: TaskData, out: Path, device: torch.device) -> int:
    """Bytes that the allocator holds at most while two steps are made in such batches."""
    release_memory()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    loaded = wide()
    tune(loaded, rows, out, batch_size)
    return torch.cuda.max_memory_reserved(device)


def tune(
    loaded: LoadedModel, rows: TaskData, out: Path, batch_size: int, **given: object
) -> FinetuneResult:
    options = {"epochs": 1, "precision": "fp32", "prefix_cache": "off", **given}
    spec = spec_of(batch_size=batch_size, **options)
    return finetune(loaded, rows, spec, layers_of_model(loaded), Quiet(out))


def cap(size: int, device: torch.device) -> None:
    """Let the allocator hold no more."""
    gc.collect()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info(device)
    torch.cuda.set_per_process_memory_fraction(size / total, device)


def test_a_batch_that_does_not_fit_is_halved(
    rows: TaskData, tmp_path: Path, uncapped: torch.device
) -> None:
    small = peak(ROWS // 8, rows, tmp_path / "small", uncapped)
    large = peak(ROWS, rows, tmp_path / "large", uncapped)
    assert large > 2 * small
    roomy = wide()
    tune(roomy, rows, tmp_path / "roomy", ROWS)
    cap((small + large) // 2, uncapped)
    tight = wide()
    result = tune(tight, rows, tmp_path / "tight", ROWS)
    assert any("did not fit into memory" in told.message for told in result.warnings)
    assert distance(weights(roomy), weights(tight)) < 1e-3  # sums in another order
    with pytest.raises(OutOfMemory, match="try batch_size"):
        tune(wide(), rows, tmp_path / "fail", ROWS, out_of_memory="fail")


def test_scoring_halves_its_budget(rows: TaskData, uncapped: torch.device) -> None:
    loaded = wide()
    loaded.model.to(uncapped)
    sample = Sample(encode(rows.train, loaded.tokenizer, 32), uncapped)
    sample.tokens = whole = 32_768

    def score() -> int:
        loaded.model.requires_grad_(True)
        seen = 0
        for batch in sample.batches():
            seen += len(batch.pop("sample"))
            loaded.model(**batch).loss.backward()
            loaded.model.zero_grad()
        return seen

    torch.cuda.reset_peak_memory_stats(uncapped)
    before = torch.cuda.memory_reserved(uncapped)
    assert sample.retry_with_smaller_batches(score) == 2 * ROWS
    assert sample.tokens == whole
    taken = torch.cuda.max_memory_reserved(uncapped)
    cap((before + taken) // 2, uncapped)
    assert sample.retry_with_smaller_batches(score) == 2 * ROWS
    assert sample.tokens < whole


class Cancels(Quiet):
    """Cancels the run at its second step."""

    def step(self, done: int, _total: int | None, unit: str) -> None:
        if unit == "steps" and done == 2:
            raise Stopped(resumable=False)


def cancelled(out: Path) -> None:
    data, loaded = sentences(48), wide()
    layers = layers_of_model(loaded)[2:]
    with pytest.raises(Stopped):
        finetune(loaded, data, spec_of(batch_size=16), layers, Cancels(out))


def test_a_cancelled_run_gives_its_memory_back(tmp_path: Path, gpu: torch.device) -> None:
    cancelled(tmp_path / "first")  # what libraries keep for good is taken here
    release_memory()
    gc.collect()
    before = torch.cuda.memory_allocated(gpu)
    cancelled(tmp_path / "second")
    release_memory()
    gc.collect()
    assert torch.cuda.memory_allocated(gpu) <= before
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved(gpu) - torch.cuda.memory_allocated(gpu) < 64 << 20
