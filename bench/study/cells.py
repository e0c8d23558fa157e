"""The cells of the study: one task, one seed and one way to train, run through the library.

A cell's name is what trains beside the head: ``2``, ``0+5``, ``all``, ``head`` for nothing,
``lora``, a schedule of layers, or ``search`` for what a search chooses. Two policies that choose
the same layers share a cell. Each cell trains at the best of a few learning rates, which is chosen
on a part of train that is set aside.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.study.tasks import open_task, with_rows
from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.tokenize import encode
from surgery.io.reporter import Quiet
from surgery.io.sources import Sources
from surgery.models.loading import LoadedModel, load_model
from surgery.models.source.resolve import ModelSource
from surgery.models.trainable import layers_of_model
from surgery.ranking.ranking import rank_layers
from surgery.ranking.selection import choose_layers
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.jobs.ranking import RankingOptions
from surgery.schemas.jobs.search import SearchSpec
from surgery.training.loop import finetune
from surgery.training.search.search import search_layers

HEAD, ALL, LORA, SEARCH = "head", "all", "lora", "search"
DECAY, GRADUAL, LISA = "all, rates decaying", "all, unfreezing", "all, LISA"
MINUS_SHUFFLED, FROBENIUS = "fisher minus shuffled", "fisher frobenius"
CHOOSERS = (
    *("fisher", FROBENIUS, MINUS_SHUFFLED, "gradient_norm", "relative_gradient_norm", "snip"),
    *("weight_snr", "cls_similarity", "tangent"),
)
RANDOM_PAIRS = 5
Json = dict[str, Any]


KINDS = {
    "some layers": "layer_rates",
    "all layers": "all_rates",
    "LoRA": "lora_rates",
    "the head alone": "head_rates",
}
"""Kind of cell → the setting with its learning rates."""


def kind_of(arm: str) -> str:
    """Which of `KINDS` a cell is; a search has tried the rates of some layers."""
    if arm in {ALL, DECAY, GRADUAL, LISA}:
        return "all layers"
    return {LORA: "LoRA", HEAD: "the head alone"}.get(arm, "some layers")


@dataclass(frozen=True)
class Setting:
    """The settings that all cells share."""

    encoder: str = "minilm"
    precision: str = "fp32"
    rows: int = 1500
    tokens: int = 20_000
    validation: int = 500
    epochs: int = 3
    batch_size: int = 16
    max_length: int = 96
    samples: int = 128
    layer_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    all_rates: tuple[float, ...] = (3e-5, 1e-4, 3e-4)
    lora_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    head_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)

    def rates(self, arm: str) -> list[float]:
        """The learning rates that a cell chooses from."""
        return list(getattr(self, KINDS[kind_of(arm)]))


@dataclass(frozen=True)
class Place:
    """The encoder, the sources of data and the device."""

    model: ModelSource
    sources: Sources
    device: torch.device


def opened(task: str, seed: int, setting: Setting, place: Place) -> tuple[LoadedModel, TaskData]:
    """The encoder with a new head, and a task's rows.

    The seed draws the head and the train rows: at most ``rows`` of them, and of ``tokens`` in all,
    so that no task costs much more than another. The validation rows are the same for every seed.
    """
    data = with_rows(open_task(task, place.sources), setting.rows, setting.validation, seed)
    loaded = load_model(place.model, place.sources, data, seed=seed, device=place.device)
    lengths = encode(data.train, loaded.tokenizer, setting.max_length).lengths
    kept = int((np.cumsum(lengths) <= setting.tokens).sum())
    return loaded, replace(data, train=data.train.select(range(kept)))


def ranking(task: str, seed: int, setting: Setting, place: Place) -> dict[str, list[float]]:
    """Every scoring method's scores of the layers, bottom to top.

    The seed draws the head and the rows that are scored.
    """
    variants: dict[str, Json] = {
        "": {"method": "all"},
        FROBENIUS: {"aggregate": "frobenius"},
        MINUS_SHUFFLED: {"minus": "shuffled"},
    }
    asked = {"samples": setting.samples, "max_length": setting.max_length, "seed": seed}
    asked |= {"bootstrap": 0, "model_prior": False}
    found: dict[str, list[float]] = {}
    for name, options in variants.items():
        loaded, data = opened(task, seed, setting, place)  # anew: a ranking trains the head
        names = [layer.name for layer in layers_of_model(loaded)]
        result = rank_layers(loaded, data, RankingOptions.model_validate({**asked, **options}))
        if result.methods is not None:
            each = {entry.method: entry.scores for entry in result.methods.methods}
        else:
            each = {name: {layer.name: layer.score for layer in result.layers}}
        found |= {method: [scores[name] for name in names] for method, scores in each.items()}
    return found


def best(scores: Sequence[float], k: int) -> tuple[int, ...]:
    """The k layers with the highest scores, bottom to top; of equal ones the lower layers."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    return tuple(sorted(order[:k].tolist()))


def chosen_by(scores: dict[str, list[float]], task: str) -> dict[str, tuple[int, ...]]:
    """Policy → the two layers that it trains. The random ones are the task's, for all seeds."""
    layers = len(scores["fisher"])
    pairs = {f"top-2 {method}": best(scores[method], 2) for method in CHOOSERS}
    pairs["bottom-2 fisher"] = best([-score for score in scores["fisher"]], 2)
    pairs |= {"first-2": (0, 1), "middle-2": (layers // 2 - 1, layers // 2)}
    pairs["last-2"] = (layers - 2, layers - 1)
    every = list(combinations(range(layers), 2))
    generator = np.random.default_rng([*task.encode()])
    for number, place in enumerate(generator.permutation(len(every))[:RANDOM_PAIRS]):
        pairs[f"random-2 {number}"] = every[place]
    return pairs


def arm_of(layers: Sequence[int]) -> str:
    """The name of the cell that trains these layers."""
    return "+".join(map(str, layers))


def arms(scores: dict[str, list[float]], task: str) -> list[str]:
    """Every way to train one task with these scores, each once; a search comes last."""
    layers = len(scores["fisher"])
    singles = [(layer,) for layer in range(layers)]
    pairs = chosen_by(scores, task).values()
    names = [HEAD, ALL, LORA, *map(arm_of, singles), *map(arm_of, pairs)]
    return [*dict.fromkeys(names), DECAY, GRADUAL, LISA, SEARCH]


def train(
    task: str, seed: int, arm: str, setting: Setting, place: Place, rate: float | None = None
) -> Json:
    """Train one cell, and measure it at its end, not at its best.

    The seed draws the train rows, the head, the rows that judge the rates, the batches and dropout.
    ``rate`` is the learning rate; without one, the best of the cell's rates.
    """
    loaded, data = opened(task, seed, setting, place)
    training = _training(seed, setting, len(data.train))
    training |= _schedule(arm, training["evaluate_every_steps"], len(loaded.blocks))
    if rate is None:
        training["learning_rates"] = setting.rates(arm)
    else:
        training["learning_rate"] = rate
    if arm == LORA:
        return _trained(loaded, data, {"adapter": {"type": "lora"}, "training": training})
    return _trained(loaded, data, {"selection": _selection(arm), "training": training})


def search(task: str, seed: int, setting: Setting, place: Place) -> Json:
    """Search for layers and a rate with the default budget, and train what was found."""
    loaded, data = opened(task, seed, setting, place)
    training = _training(seed, setting, len(data.train))
    del training["evaluate_every_steps"]
    spec = SearchSpec.model_validate(
        {
            "model": "local",
            "dataset": "local",
            "training": training,
            "seed": seed,
            "learning_rates": list(setting.layer_rates),
        }
    )
    found = search_layers(loaded, data, spec)
    indices = {layer.name: layer.index for layer in layers_of_model(loaded)}
    layers = [indices[name] for name in found.layers]
    loaded, data = opened(task, seed, setting, place)
    selection = {"policy": "layers", "layers": layers}
    training = _training(seed, setting, len(data.train))
    training["learning_rate"] = found.learning_rate
    cell = _trained(loaded, data, {"selection": selection, "training": training})
    told = found.model_dump(include={"winner", "stopped", "cost", "gain_over_all", "looks"})
    fisher = [found.scores["fisher"][name] for name in indices]
    told["share"] = found.cost.share
    return {**cell, "layers": layers, "fisher": fisher, "search": told}


def _trained(loaded: LoadedModel, data: TaskData, asked: Json) -> Json:
    spec = FinetuneSpec.model_validate({"model": "local", "dataset": "local", **asked})
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
        "learning_rate": result.learning_rate,
        "trainable": result.trainable_parameters,
        "train_rows": len(data.train),
        "validation_rows": len(data.validation),
        "seconds": result.seconds,
    }


def _schedule(arm: str, steps: int, depth: int) -> Json:
    """When layers train, in the arms that say so.

    Unfreezing reaches the lowest layer halfway; LISA trains two layers at a time.
    """
    if arm == GRADUAL:
        period = max(1, steps // (2 * depth))
        return {"layer_schedule": {"type": "gradual", "every_steps": period}}
    if arm == LISA:
        return {"layer_schedule": {"type": "lisa", "layers": 2, "interval": 10}}
    return {"layer_learning_rate_decay": 0.8} if arm == DECAY else {}


def _training(seed: int, setting: Setting, rows: int) -> Json:
    steps = -(-rows // setting.batch_size) * setting.epochs
    return {
        "epochs": setting.epochs,
        "batch_size": setting.batch_size,
        "seed": seed,
        "max_length": setting.max_length,
        "precision": setting.precision,
        "evaluate_every_steps": steps,
    }


def _selection(arm: str) -> Json:
    if arm == HEAD:
        return {"policy": "head_only"}
    if kind_of(arm) == "all layers":
        return {"policy": "all"}
    return {"policy": "layers", "layers": [int(layer) for layer in arm.split("+")]}


def as_json(setting: Setting) -> Json:
    """The settings as JSON has them; every line of the results contains them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(setting).items()}
