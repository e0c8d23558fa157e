"""Fine-tunes on rows with several labels: losses, thresholds, and the checkpoint in a pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from surgery import load
from surgery.data.presets.tasks import metrics_for
from surgery.data.tokens.cache import encode_split
from surgery.data.tokens.dataset import Encoded, TaskData, open_data
from surgery.data.tokens.held_out import held_out_rows
from surgery.errors import TrainingInvalid
from surgery.evaluation.evaluate import predict
from surgery.evaluation.metrics import measure_label_sets
from surgery.evaluation.thresholds import fit_thresholds
from surgery.io.reporter import Quiet
from surgery.models.blocks import model_inputs
from surgery.models.loading import load_model
from surgery.models.source.resolve import local_model
from surgery.models.trainable import layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.schemas.options.training import TrainingSpec, check_training
from surgery.training.loop import finetune
from surgery.training.optimizer import Loss, balanced_presence, loss_for
from tests.support.models.checkpoints import offline
from tests.support.models.encoders import padded_batch, tiny
from tests.support.models.mirror import TINY
from tests.support.rows.ingested import ingested
from tests.support.rows.topics import TOPICS, topic_rows

PROBLEM = Problem.MULTI_LABEL
BASE: dict[str, Any] = {"epochs": 4, "learning_rate": 5e-3, "batch_size": 16, "max_length": 24}


@pytest.mark.parametrize("kind", ["bert", "distilbert", "modernbert"])
def test_the_loss_is_that_of_transformers(kind: str) -> None:
    model = tiny(kind, labels=5, problem=PROBLEM, dtype=torch.float32)
    model.config.problem_type = "multi_label_classification"
    batch = padded_batch([5, 3, 7], labels=5, kind=kind, problem=PROBLEM)
    output = model(**model_inputs(model, batch), labels=batch["labels"])
    loss = Loss(PROBLEM)
    ours = loss.total(output.logits, batch["labels"]) / loss.weight(batch["labels"])
    assert ours.item() == pytest.approx(output.loss.item(), rel=1e-6)


def test_weights_and_smoothing_are_those_of_torch_over_several_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    marks = torch.randint(0, 2, (6, 3), generator=generator).double()
    weights = torch.tensor([2.0, 0.5, 7.0], dtype=torch.float64)
    loss = Loss(PROBLEM, 0.2, weights)
    expected = nn.BCEWithLogitsLoss(pos_weight=weights)(logits, marks * 0.8 + 0.1)
    parts = [loss.total(z, y) for z, y in zip(logits.split(4), marks.split(4), strict=True)]
    whole = sum(loss.weight(part) for part in marks.to(torch.int8).split(4))
    assert float(sum(parts)) / whole == pytest.approx(float(expected))


def test_balanced_weights_are_rows_without_over_rows_with(tmp_path: Path) -> None:
    marks = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [1, 0, 1], [1, 0, 1]], dtype=np.int8)
    assert balanced_presence(marks) == [2 / 3, 1.0, 1.0]
    data = topics(tmp_path)
    encoded = Encoded(
        pad_id=0, ids=np.zeros(5, np.int32), types=None, offsets=np.arange(6), labels=marks,
        whole=np.ones(5, np.int32),
    )  # fmt: skip
    training = TrainingSpec(class_weights="balanced")
    loss = loss_for(training, data.problem, 3, encoded)
    assert loss.weights is not None
    assert loss.weights.tolist() == pytest.approx([2 / 3, 1.0, 1.0])


def topics(tmp_path: Path, train: int = 240, validation: int = 80) -> TaskData:
    report = ingested(tmp_path, topic_rows(train, 0), topic_rows(validation, 1), out="topics")
    metrics = metrics_for(report.problem, report.labels)
    return open_data(tmp_path / "topics", report, metrics)


def run(
    data: TaskData, base: Path, out: Path, form: str = "full", layers: slice = slice(None),
    **training: Any,
) -> FinetuneResult:  # fmt: skip
    options = {**BASE, **training}
    if "learning_rates" in training:
        del options["learning_rate"]
    loaded = load_model(local_model(base), offline(out), data, seed=0)
    spec = FinetuneSpec.model_validate(
        {"model": "m", "dataset": "d", "selection": {"policy": "all"},
         "training": options, "checkpoints": {"form": form}}
    )  # fmt: skip
    return finetune(loaded, data, spec, layers_of_model(loaded)[layers], Quiet(out))


@pytest.mark.slow
def test_a_pipeline_of_transformers_gives_the_measured_metrics(
    tmp_path: Path, real_model: Path
) -> None:
    data = topics(tmp_path, 160, 48)
    options = {"epochs": 2, "learning_rate": 1e-3}
    result = run(data, real_model, tmp_path / "run", layers=slice(2, 4), **options)
    best = result.best
    assert result.primary_metric == "micro_f1"
    assert (best.metrics["micro_f1"] or 0) > 0.9
    assert list(best.thresholds or {}) == TOPICS
    assert all(0 < threshold < 1 for threshold in (best.thresholds or {}).values())
    assert best.thresholds != dict.fromkeys(TOPICS, 0.5)

    folder = tmp_path / "run" / f"checkpoint-{best.step}"
    config = json.loads((folder / "config.json").read_text())
    record = json.loads((folder / "surgery.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(place): name for place, name in enumerate(TOPICS)}
    assert config["label_thresholds"] == record["thresholds"] == best.thresholds
    assert "label_thresholds" in (folder / "README.md").read_text()

    tagger = transformers.pipeline("text-classification", str(folder), top_k=None, device="cpu")
    found = [
        {each["label"]: each["score"] for each in labels}
        for labels in tagger(data.validation["text"][:], batch_size=8, function_to_apply="none")
    ]
    logits = np.array([[row[name] for name in TOPICS] for row in found], dtype=np.float64)
    limits = np.array([config["label_thresholds"][name] for name in TOPICS])
    marks = np.asarray(data.validation["label"][:], dtype=np.int8)
    again = measure_label_sets(logits, marks, limits, data.metrics)
    assert again == pytest.approx(best.metrics, abs=1e-9)


def test_thresholds_come_from_rows_of_train_that_are_not_trained_on(
    tmp_path: Path, mirror: Path
) -> None:
    data = topics(tmp_path)
    result = run(data, mirror / "models" / TINY, tmp_path / "run", form="delta", seed=3, epochs=2)
    fit, judged = held_out_rows(data, 0.1, 3)
    assert len(judged) == 24
    assert result.epochs[-1].step == 2 * -(-len(fit) // 16)

    last = tmp_path / "run" / f"checkpoint-{result.epochs[-1].step}"
    loaded = load_model(local_model(mirror / "models" / TINY), offline(tmp_path), data, seed=0)
    model = load(mirror / "models" / TINY, last)
    encoded = encode_split(data, "train", loaded.tokenizer, 24).select(judged)
    expected = fit_thresholds(predict(model, encoded, torch.device("cpu")), encoded.targets)
    assert list((result.epochs[-1].thresholds or {}).values()) == pytest.approx(expected, abs=1e-5)


def test_no_row_needs_to_be_set_aside(tmp_path: Path, mirror: Path) -> None:
    data = topics(tmp_path)
    result = run(
        data,
        mirror / "models" / TINY,
        tmp_path / "run",
        threshold_share=0.0,
        max_steps=15,
        epochs=1,
    )
    assert result.epochs[-1].step == 15, "all of the 240 rows are trained on"
    assert result.best.thresholds == dict.fromkeys(TOPICS, 0.5)


def test_rows_that_cannot_be_set_aside_and_options_that_do_not_fit(
    tmp_path: Path, mirror: Path
) -> None:
    rows = [{"text": "one text", "labels": topic} for topic in (["a"], ["b"], ["a", "b"], [])] * 3
    report = ingested(tmp_path, rows, topic_rows(0, 0) or rows[:4], out="same")
    data = open_data(tmp_path / "same", report, metrics_for(report.problem, report.labels))
    with pytest.raises(TrainingInvalid, match="threshold_share to 0") as caught:
        run(data, mirror / "models" / TINY, tmp_path / "run")
    assert caught.value.faults[0].pointer == "/training/threshold_share"
    with pytest.raises(TrainingInvalid, match="has no thresholds to fit"):
        check_training(TrainingSpec(threshold_share=0.2), Problem.CLASSIFICATION, ("accuracy",))
    with pytest.raises(TrainingInvalid, match="has 2 weights, the dataset has 4 classes"):
        check_training(TrainingSpec(class_weights=[1, 2]), PROBLEM, ("micro_f1",), classes=4)


def test_a_head_of_one_class_a_row_is_not_taken_for_one_of_several(
    tmp_path: Path, mirror: Path
) -> None:
    """Its outputs were trained for a softmax, even where the labels have the same names."""
    data = topics(tmp_path)
    loaded = load_model(local_model(mirror / "models" / TINY), offline(tmp_path), data, seed=0)
    tokenizer: Any = loaded.tokenizer
    for kind, new in (("single_label_classification", True), ("multi_label_classification", False)):
        model: Any = loaded.model
        model.config.problem_type = kind
        folder = tmp_path / kind
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        again = load_model(local_model(folder), offline(tmp_path), data, seed=0)
        assert bool(again.new) is new


def test_a_rate_is_chosen_on_rows_that_are_trained_on_but_for_the_trials(
    tmp_path: Path, mirror: Path
) -> None:
    data = topics(tmp_path, 60, 20)
    result = run(
        data, mirror / "models" / TINY, tmp_path / "run", learning_rates=[1e-3, 5e-3], epochs=1
    )
    assert [trial.learning_rate for trial in result.learning_rates] == [1e-3, 5e-3]
    assert all(trial.metric is not None for trial in result.learning_rates)
    assert result.epochs[-1].step == -(-54 // 16)
    assert list(result.best.thresholds or {}) == TOPICS
