"""A model measured on other presets than its own, against counts by the names of the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import f1_score, matthews_corrcoef

from surgery.data.presets.tasks import TASKS
from surgery.data.references import materialise, resolve_dataset
from surgery.data.tokens.dataset import TaskData, open_data
from surgery.data.tokens.tokenize import encode
from surgery.errors import DatasetInvalid, DatasetNotFound, SurgeryError
from surgery.evaluation.evaluate import MeasuredSet, evaluate_sets, open_evaluation_sets, predict
from surgery.evaluation.evaluation_sets import find_evaluation_sets, named_metrics
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.loading import LoadedModel, load_model
from surgery.models.source.resolve import local_model
from surgery.models.trainable import layers_of_model
from surgery.schemas.enums import Problem
from surgery.schemas.jobs.finetune import FinetuneResult, FinetuneSpec
from surgery.training.loop import finetune
from tests.support.models.mirror import TINY
from tests.support.rows.nli import nli_rows, put_nli
from tests.support.rows.presets import put_split, varied

LENGTH = 48
CPU = torch.device("cpu")
MNLI = ["entailment", "neutral", "contradiction"]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    put_nli(tmp_path / "mirror")
    return Sources((tmp_path / "mirror",), tmp_path / "cache", offline=True)


def prepared(
    name: str, also: list[str], sources: Sources, models: Path
) -> tuple[LoadedModel, TaskData]:
    source = resolve_dataset(name, sources)
    folder, report = materialise(source, sources)
    data = open_data(folder, report, source.metrics, sources.tokens)
    nowhere = Sources((), sources.cache, offline=True)
    loaded = load_model(local_model(models / "models" / TINY), nowhere, data, seed=3)
    found = find_evaluation_sets(also, name, data.problem, data.labels, sources)
    measured = [MeasuredSet.fetched(source, sources) for source in found]
    opened = open_evaluation_sets(measured, data.labels, loaded.tokenizer, LENGTH, sources)
    _centre(loaded, data)
    return loaded, replace(data, also=opened)


def _centre(loaded: LoadedModel, data: TaskData) -> None:
    """A new head says the same of every row: take the mean of its outputs off."""
    rows = encode(data.validation, loaded.tokenizer, LENGTH)
    mean = torch.from_numpy(predict(loaded.model, rows, CPU).mean(0))
    head = loaded.model.get_parameter("classifier.bias")
    with torch.no_grad():
        head -= mean


def said(loaded: LoadedModel, name: str, labels: list[str], sources: Sources) -> list[str]:
    """The names a model gives the measured rows of a preset, read from its raw file."""
    task = TASKS[name]
    [folder] = sources.mirrors
    path = folder / "datasets" / task.hub / task.config / f"{task.validation}.jsonl"
    raw = Dataset.from_json(str(path), cache_dir=str(sources.cache / "json"))
    table = Dataset.from_dict(
        {"text": raw[task.text], "text_pair": raw[task.text_pair], "label": raw["label"]}
    )
    logits = predict(loaded.model, encode(table, loaded.tokenizer, LENGTH), CPU)
    return [labels[place] for place in logits.argmax(1)]


def told(name: str, count: int = 24) -> list[str]:
    return [TASKS[name].labels[place % len(TASKS[name].labels)] for place in range(count)]


def test_labels_in_another_order_are_matched_by_name(sources: Sources, mirror: Path) -> None:
    loaded, data = prepared("glue/mnli", ["super_glue/cb", "glue/ax"], sources, mirror)
    found = evaluate_sets(loaded.model, data.also, CPU)
    assert list(found) == ["super_glue/cb", "glue/ax"]
    names, truth = said(loaded, "super_glue/cb", MNLI, sources), told("super_glue/cb")
    assert len(set(names)) == 3, "fewer would hide a wrong order"
    assert found["super_glue/cb"] == pytest.approx({
        "accuracy": float(np.mean([a == b for a, b in zip(names, truth, strict=True)])),
        "macro_f1": f1_score(truth, names, average="macro"),
    })  # fmt: skip
    expected = matthews_corrcoef(told("glue/ax"), said(loaded, "glue/ax", MNLI, sources))
    assert found["glue/ax"] == pytest.approx({"matthews_correlation": expected})


def test_the_diagnostics_of_rte_and_a_task_with_its_labels_reversed(
    sources: Sources, mirror: Path
) -> None:
    names = ["super_glue/axb", "super_glue/axg", "glue/wnli"]
    loaded, data = prepared("super_glue/rte", names, sources, mirror)
    found = evaluate_sets(loaded.model, data.also, CPU)
    labels = ["entailment", "not_entailment"]
    assert [own.outputs for own in data.also] == [[0, 1], [0, 1], [1, 0]]
    expected = matthews_corrcoef(
        told("super_glue/axb"), said(loaded, "super_glue/axb", labels, sources)
    )
    assert found["super_glue/axb"] == pytest.approx({"matthews_correlation": expected})
    given = said(loaded, "super_glue/axg", labels, sources)
    right = [a == b for a, b in zip(given, told("super_glue/axg"), strict=True)]
    alike = [given[place] == given[place + 1] for place in range(0, len(given), 2)]
    assert found["super_glue/axg"] == pytest.approx(
        {"accuracy": np.mean(right), "gender_parity": np.mean(alike)}
    )
    given = said(loaded, "glue/wnli", labels, sources)
    right = [a == b for a, b in zip(given, told("glue/wnli"), strict=True)]
    assert found["glue/wnli"] == pytest.approx({"accuracy": np.mean(right)})


class Heard(Quiet):
    """Keeps what was measured."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.told: list[tuple[int, float, Mapping[str, float | None]]] = []

    def metric(self, step: int, epoch: float, values: Mapping[str, float | None]) -> None:
        self.told.append((step, epoch, values))


def trained(loaded: LoadedModel, data: TaskData, report: Quiet) -> FinetuneResult:
    spec = FinetuneSpec.model_validate({
        "model": "m", "dataset": "d", "selection": {"policy": "all"},
        "training": {"epochs": 2, "max_length": LENGTH, "batch_size": 16, "learning_rate": 1e-3},
    })  # fmt: skip
    return finetune(loaded, data, spec, layers_of_model(loaded), report)


def test_each_evaluation_measures_them_and_training_stays_the_same(
    sources: Sources, mirror: Path, tmp_path: Path
) -> None:
    loaded, data = prepared("glue/mnli", ["glue/mnli_mismatched", "glue/ax"], sources, mirror)
    heard = Heard(tmp_path / "also")
    result = trained(loaded, data, heard)
    assert [sorted(entry.also) for entry in result.epochs] == [
        ["glue/ax", "glue/mnli_mismatched"]
    ] * 2
    assert result.epochs[-1].also == evaluate_sets(loaded.model, data.also, CPU)
    name = "glue/ax:matthews_correlation"
    assert [(at, values[name]) for at, _, values in heard.told if name in values] == [
        (entry.step, entry.also["glue/ax"]["matthews_correlation"]) for entry in result.epochs
    ]
    alone, data = prepared("glue/mnli", [], sources, mirror)
    plain = trained(alone, data, Heard(tmp_path / "alone"))
    assert [entry.metrics for entry in plain.epochs] == [entry.metrics for entry in result.epochs]
    assert [entry.also for entry in plain.epochs] == [{}, {}]
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, alone.model.state_dict()[name]), name


def test_metrics_are_named_after_their_preset() -> None:
    measured = {"super_glue/axg": {"accuracy": 0.5, "gender_parity": None}}
    assert named_metrics(measured) == {
        "super_glue/axg:accuracy": 0.5, "super_glue/axg:gender_parity": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "place", "words"),
    [
        (["super_glue/rte"], 0, "labels of super_glue/rte are entailment, not_entailment and"),
        (["glue/ax", "glue/stsb"], 1, "is not in the mirror"),
        (["glue/axe"], 0, "did you mean 'glue/ax'"),
        (["glue/mnli"], 0, "the dataset itself"),
        (["glue/ax", "super_glue/cb", "glue/ax"], 2, "named twice"),
    ],
)
def test_what_does_not_fit_is_refused_at_its_place(
    names: list[str], place: int, words: str, sources: Sources
) -> None:
    with pytest.raises(SurgeryError, match=words) as caught:
        find_evaluation_sets(names, "glue/mnli", Problem.CLASSIFICATION, MNLI, sources)
    assert isinstance(caught.value, DatasetInvalid | DatasetNotFound)
    assert {fault.pointer for fault in caught.value.faults} == {f"/also_evaluate/{place}"}


def test_another_problem_and_unknown_labels_are_refused(sources: Sources, tmp_path: Path) -> None:
    rows = [{"sentence1": f"a {n}", "sentence2": "b", "label": n / 4} for n in range(6)]
    put_split(tmp_path / "mirror", "glue/stsb", "validation", rows)
    with pytest.raises(DatasetInvalid, match="problem regression and the dataset of classif"):
        find_evaluation_sets(["glue/stsb"], "d", Problem.CLASSIFICATION, ["a", "b"], sources)
    with pytest.raises(DatasetInvalid, match=r"give dataset\.labels"):
        find_evaluation_sets(["glue/ax"], "d", Problem.CLASSIFICATION, None, sources)
    [found] = find_evaluation_sets(["glue/stsb"], "d", Problem.REGRESSION, (), sources)
    assert found.metrics == ("pearson", "spearman", "rmse", "mae")


def test_hidden_labels_are_told_before_a_job_begins(sources: Sources, tmp_path: Path) -> None:
    rows = [{**row, "label": -1} for row in nli_rows("glue/ax", 6, seed=0)]
    put_split(tmp_path / "mirror", "glue/ax", "test", rows)
    with pytest.raises(DatasetInvalid, match=r"put a copy .*glue/ax/test\.jsonl"):
        find_evaluation_sets(["glue/ax"], "d", Problem.CLASSIFICATION, MNLI, sources)


def test_pairs_are_needed_for_parity(sources: Sources, mirror: Path, tmp_path: Path) -> None:
    rows = [{**row, "idx": place + 1} for place, row in enumerate(nli_rows("super_glue/axg", 6, 0))]
    put_split(tmp_path / "mirror", "super_glue/axg", "test", rows)
    loaded, data = prepared("super_glue/rte", ["super_glue/axg"], sources, mirror)
    found = evaluate_sets(loaded.model, data.also, CPU)["super_glue/axg"]
    assert found["gender_parity"] is None
    assert found["accuracy"] is not None


def test_questions_of_several_rows_are_measured_whole(
    sources: Sources, mirror: Path, tmp_path: Path
) -> None:
    """MultiRC after WiC: their labels have the same names."""
    put_split(tmp_path / "mirror", "super_glue/wic", "train", varied("super_glue/wic", 20))
    put_split(tmp_path / "mirror", "super_glue/wic", "validation", varied("super_glue/wic", 8))
    put_split(
        tmp_path / "mirror", "super_glue/multirc", "validation", varied("super_glue/multirc", 8)
    )
    loaded, data = prepared("super_glue/wic", ["super_glue/multirc"], sources, mirror)
    found = evaluate_sets(loaded.model, data.also, CPU)["super_glue/multirc"]
    assert list(found) == ["f1a", "exact_match"]
    assert found["exact_match"] in {n / 4 for n in range(5)}
