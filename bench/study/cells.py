"""The cells of the study: one task, one seed and one way to train, run through the library.

A cell's name is what trains beside the head: ``2``, ``0+5``, ``all``, ``head`` for nothing, or
``lora``. Two policies that choose the same layers share a cell.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from surgeon.demo.agreement import write_csv
from surgery.data.files.source import format_of
from surgery.data.ingest.ingest import ingest
from surgery.data.presets.tasks import metrics_for
from surgery.data.references import materialise, resolve_dataset
from surgery.data.tokens.dataset import TaskData, choose_rows, open_data
from surgery.data.tokens.held_out import judged_on_train
from surgery.data.tokens.tokenize import encode
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.loading import LoadedModel, load_model
from surgery.models.source.resolve import ModelSource
from surgery.models.trainable import layers_of_model
from surgery.ranking.ranking import rank_layers
from surgery.ranking.selection import choose_layers
from surgery.schemas.finetune import FinetuneSpec
from surgery.schemas.ranking import RankingOptions
from surgery.schemas.selection import SelectionSpec
from surgery.training.loop import finetune

AGREEMENT = "agreement"
# From the shortest texts to the longest, so that a study cut short has whole tasks.
TASKS = (
    *(AGREEMENT, "glue/cola", "glue/sst2", "glue/stsb"),
    *("glue/qnli", "glue/mrpc", "glue/rte"),
)
CHOOSERS = ("fisher", "fisher frobenius", "relative_gradient_norm", "tangent")
HEAD, ALL, LORA = "head", "all", "lora"
Json = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """The settings that all cells share."""

    rows: int = 2000
    tokens: int = 50_000
    validation: int = 1000
    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 3e-4
    lora_learning_rate: float = 1e-3
    max_length: int = 128
    samples: int = 500


@dataclass(frozen=True)
class Place:
    """The encoder, and the sources of data."""

    model: ModelSource
    sources: Sources


def opened(task: str, seed: int, setting: Setting, place: Place) -> tuple[LoadedModel, TaskData]:
    """The encoder with a new head, and a task's rows.

    The seed draws the head and the train rows: at most ``rows`` of them, and of ``tokens`` in all,
    so that no task costs much more than another. The validation rows are the same for every seed.
    """
    sources = place.sources
    data = agreement(sources.cache) if task == AGREEMENT else preset(task, sources)
    validation = choose_rows(len(data.validation), setting.validation, 0)
    drawn = np.random.default_rng(seed).permutation(len(data.train))[: setting.rows]
    train, held = data.train.select(drawn), data.validation.select(validation)
    data = replace(data, train=train, validation=held, fingerprint=None)
    loaded = load_model(place.model, sources, data, seed=seed)
    lengths = encode(data.train, loaded.tokenizer, setting.max_length).lengths
    kept = int((np.cumsum(lengths) <= setting.tokens).sum())
    return loaded, replace(data, train=data.train.select(range(kept)))


def preset(task: str, sources: Sources) -> TaskData:
    """The rows of a preset, checked and opened."""
    source = resolve_dataset(task, sources)
    folder, report = materialise(source, sources)
    return open_data(folder, report, source.metrics)


def agreement(cache: Path) -> TaskData:
    """The generated rows of the demo, as a dataset."""
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        train, validation = write_csv(Path(scratch))
        folder = Path(scratch) / "data"
        report = ingest(
            train,
            validation,
            folder,
            train_format=format_of(train.name),
            train_name=train.name,
            validation_format=format_of(validation.name),
            validation_name=validation.name,
        )
        target = cache / AGREEMENT / report.fingerprint.removeprefix("sha256:")
        if not target.is_dir():
            target.parent.mkdir(exist_ok=True)
            shutil.move(folder, target)
    return open_data(target, report, metrics_for(report.problem, report.labels))


def ranking(task: str, seed: int, setting: Setting, place: Place) -> dict[str, list[float]]:
    """Every scoring method's scores of the layers, bottom to top.

    The seed draws the head and the rows that are scored.
    """
    loaded, data = opened(task, seed, setting, place)
    asked = {"samples": setting.samples, "max_length": setting.max_length, "seed": seed}
    asked |= {"head": {"fit": "epochs"}}  # as in the cells of the published study
    asked |= {"bootstrap": 0, "model_prior": False}
    names = [layer.name for layer in layers_of_model(loaded)]
    every = rank_layers(loaded, data, RankingOptions.model_validate({**asked, "method": "all"}))
    assert every.methods is not None
    found = {
        entry.method: [entry.scores[name] for name in names] for entry in every.methods.methods
    }
    loaded, data = opened(task, seed, setting, place)  # anew: the first ranking warmed up the head
    diagonal = rank_layers(
        loaded, data, RankingOptions.model_validate({**asked, "aggregate": "frobenius"})
    )
    scores = {layer.name: layer.score for layer in diagonal.layers}
    return {**found, "fisher frobenius": [scores[name] for name in names]}


def best(scores: Sequence[float], k: int) -> tuple[int, ...]:
    """The k layers with the highest scores, bottom to top; of equal ones the lower layers."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    return tuple(sorted(order[:k].tolist()))


def chosen_by(scores: dict[str, list[float]], seed: int) -> dict[str, tuple[int, ...]]:
    """Policy → the two layers that it trains."""
    layers = len(scores["fisher"])
    pairs = {f"top-2 {method}": best(scores[method], 2) for method in CHOOSERS}
    pairs["bottom-2 fisher"] = best([-score for score in scores["fisher"]], 2)
    drawn = np.random.default_rng((seed, layers)).choice(layers, 2, replace=False)
    return {
        **pairs,
        "first-2": (0, 1),
        "last-2": (layers - 2, layers - 1),
        "random-2": tuple(sorted(drawn.tolist())),
    }


def arm_of(layers: Sequence[int]) -> str:
    """The name of the cell that trains these layers."""
    return "+".join(map(str, layers))


def arms(scores: dict[str, list[float]], seed: int) -> list[str]:
    """Every way to train one task with one seed, each once."""
    singles = [arm_of([layer]) for layer in range(len(scores["fisher"]))]
    pairs = [arm_of(pair) for pair in chosen_by(scores, seed).values()]
    return list(dict.fromkeys([HEAD, *singles, *pairs, ALL, LORA]))


def train(
    task: str, seed: int, arm: str, setting: Setting, place: Place, held_out: float = 0.0
) -> Json:
    """Train one cell and measure it at its end, not at its best: nothing is chosen by validation.

    The seed draws the train rows, the head, the batches and dropout. With ``held_out`` that share
    of the train rows is measured on in place of the validation rows, and not trained on.
    """
    loaded, data = opened(task, seed, setting, place)
    if held_out:
        data = judged_on_train(data, held_out, seed)
    spec = FinetuneSpec.model_validate(_request(arm, seed, setting, len(data.train)))
    layers = choose_layers(spec.selection, layers_of_model(loaded))
    with tempfile.TemporaryDirectory(prefix="study-") as scratch:
        result = finetune(loaded, data, spec, layers, Quiet(Path(scratch) / "out"))
    last = result.epochs[-1]
    return {
        "metric": result.primary_metric,
        "value": last.metrics[result.primary_metric],
        "metrics": last.metrics,
        "noise": last.noise,
        "train_loss": last.train_loss,
        "trainable": result.trainable_parameters,
        "train_rows": len(data.train),
        "validation_rows": len(data.validation),
        "seconds": result.seconds,
    }


def _request(arm: str, seed: int, setting: Setting, rows: int) -> Json:
    steps = -(-rows // setting.batch_size) * setting.epochs
    training = {
        "epochs": setting.epochs,
        "batch_size": setting.batch_size,
        "seed": seed,
        "learning_rate": setting.lora_learning_rate if arm == LORA else setting.learning_rate,
        "max_length": setting.max_length,
        "evaluate_every_steps": steps,
        "head": {"warmup_epochs": 0},
    }
    asked = {"model": "local", "dataset": "local", "training": training}
    if arm == LORA:
        return {**asked, "adapter": {"type": "lora"}}
    return {**asked, "selection": _selection(arm).model_dump(exclude_unset=True)}


def _selection(arm: str) -> SelectionSpec:
    if arm in {HEAD, ALL}:
        return SelectionSpec.model_validate({"policy": "head_only" if arm == HEAD else "all"})
    layers = [int(layer) for layer in arm.split("+")]
    return SelectionSpec.model_validate({"policy": "layers", "layers": layers})


def as_json(setting: Setting) -> Json:
    """The settings as JSON; every line of the results contains them."""
    return asdict(setting)
