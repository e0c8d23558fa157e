"""The presets whose texts are built, ranked and trained on a tiny encoder with invented rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from surgery.data.presets.tasks import TASKS
from surgery.data.references import materialise, resolve_dataset
from surgery.data.tokens.dataset import TaskData, open_data
from surgery.data.tokens.tokenize import encode
from surgery.evaluation.evaluate import predict
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.loading import LoadedModel, load_model
from surgery.models.source.resolve import local_model
from surgery.models.trainable import layers_of_model
from surgery.ranking.ranking import rank_layers
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.training.loop import finetune
from tests.support.models.mirror import TINY, TINY_LAYERS
from tests.support.rows.presets import SHAPES, put, varied

HELD_OUT = 12


def prepared(name: str, folder: Path, mirror: Path) -> tuple[LoadedModel, TaskData]:
    sources = put(folder, name, varied(name, 36), held=HELD_OUT)
    source = resolve_dataset(name, sources)
    stored, report = materialise(source, sources)
    data = open_data(stored, report, source.metrics)
    model = local_model(mirror / "models" / TINY)
    return load_model(model, Sources((), folder / "cache", offline=True), data, seed=0), data


def trained(loaded: LoadedModel, data: TaskData, out: Path) -> FinetuneResult:
    spec = FinetuneSpec.model_validate({
        "model": "m", "dataset": "d", "selection": {"policy": "all"},
        "training": {"max_steps": 3, "max_length": 48, "batch_size": 8},
    })  # fmt: skip
    return finetune(loaded, data, spec, layers_of_model(loaded), Quiet(out))


@pytest.mark.parametrize("name", SHAPES)
def test_the_preset_is_ranked_and_trained(name: str, tmp_path: Path, mirror: Path) -> None:
    loaded, data = prepared(name, tmp_path, mirror)
    options = RankingOptions.model_validate(
        {"samples": 16, "max_length": 48, "model_prior": False, "bootstrap": 50}
    )
    ranking = rank_layers(loaded, data, options)
    assert len(ranking.layers) == TINY_LAYERS
    assert all(np.isfinite(layer.score) for layer in ranking.layers)
    result = trained(loaded, data, tmp_path / "run")
    assert result.primary_metric == TASKS[name].metrics[0]
    assert set(result.best.metrics) == set(TASKS[name].metrics)


def test_the_metrics_of_a_run_are_those_of_its_questions(tmp_path: Path, mirror: Path) -> None:
    """Counted once more, question by question, from what the trained model says."""
    for name in ("super_glue/multirc", "super_glue/record"):
        loaded, data = prepared(name, tmp_path / name, mirror)
        result = trained(loaded, data, tmp_path / name / "run")
        rows = encode(data.validation, loaded.tokenizer, 48)
        logits = predict(loaded.model, rows, torch.device("cpu"))
        questions: dict[int, list[int]] = {}
        for place, row in enumerate(data.validation):
            questions.setdefault(row["group"], []).append(place)
        assert len(questions) == (HELD_OUT if name.endswith("record") else HELD_OUT // 2)
        if name.endswith("record"):
            margin = logits[:, 1] - logits[:, 0]
            chosen = [max(own, key=lambda place: margin[place]) for own in questions.values()]
            expected = {
                metric: sum(data.validation[place][metric] for place in chosen) / len(chosen)
                for metric in ("f1", "exact_match")
            }
        else:
            said, told = logits.argmax(1).tolist(), data.validation["label"]
            right = [all(said[p] == told[p] for p in own) for own in questions.values()]
            both = sum(s and t for s, t in zip(said, told, strict=True))
            expected = {
                "f1a": 2 * both / (sum(said) + sum(told)),
                "exact_match": sum(right) / len(right),
            }
        assert result.best.metrics == pytest.approx(expected)
