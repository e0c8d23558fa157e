"""Schedules of layers against their papers' definitions, by a slow twin on a tiny encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from surgery.data.tokens.dataset import TaskData
from surgery.data.tokens.tokenize import encode
from surgery.errors import TrainingInvalid
from surgery.io.reporter import Quiet, Stopped
from surgery.models.loading import LoadedModel
from surgery.models.trainable import freeze_all_but, layers_of_model
from surgery.schemas.jobs.finetune import FinetuneSpec
from surgery.schemas.options.layer_schedule import SampledLayers, drawn_at, lowest_chances
from surgery.schemas.options.training import TrainingSpec, total_steps, warmup_steps
from surgery.training.optimizer import rate_factors
from surgery.training.prefix_cache.store import release_memory
from surgery.training.state import TENSORS
from tests.support.models.sentence_runs import BASE, distance, fresh, tuned, weights
from tests.support.models.toys import sentences
from tests.support.reference import training as reference_training

NEVER_TRAINED = "layers_never_trained"
LAYERS = (1, 2, 3)
STEPS_PER_EPOCH = 5  # 40 rows in batches of 8
LISA = {"type": "lisa", "layers": 2, "interval": 3}
CASES: dict[str, dict[str, Any]] = {
    "gradual by epochs": {"layer_schedule": {"type": "gradual", "every_epochs": 1}, "epochs": 3},
    "gradual by steps": {
        "layer_schedule": {"type": "gradual", "every_steps": 4},
        "layer_learning_rate_decay": 0.5,
        "max_grad_norm": 0.01,
    },
    "lisa": {"layer_schedule": LISA},
    "lisa, accumulated": {
        "layer_schedule": {"type": "lisa", "layers": 1, "interval": 2},
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.01,
    },
}


@pytest.fixture(scope="module")
def data() -> TaskData:
    return sentences(48)


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    release_memory()
    yield
    release_memory()


def layers_in(training: TrainingSpec, step: int) -> list[int]:
    """The layers that a step trains, as the papers say; those of LISA are drawn by `drawn_at`."""
    schedule = training.layer_schedule
    assert schedule is not None
    if schedule.type == "lisa":
        return [LAYERS[place] for place in drawn_at(schedule, len(LAYERS), step, training.seed)]
    periods = step // (schedule.every_steps or STEPS_PER_EPOCH * (schedule.every_epochs or 1))
    return list(reversed(LAYERS))[: 1 + periods]


def tensors_of(loaded: LoadedModel, layers: Collection[int]) -> set[str]:
    units = layers_of_model(loaded)
    return {name for index in layers for name in units[index].members}


@pytest.mark.parametrize("case", CASES)
def test_the_run_is_the_obvious_one(
    case: str, mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    training = TrainingSpec(**{**BASE, **CASES[case]})
    theirs, ours = fresh(mirror, data), fresh(mirror, data)
    chosen = [layers_of_model(theirs)[index] for index in LAYERS]
    trained = freeze_all_but(theirs, chosen, [])
    head = trained.keys() - tensors_of(theirs, LAYERS)
    encoded = encode(data.train, theirs.tokenizer, 24)
    steps = total_steps(training, len(encoded))
    schedule = training.layer_schedule

    def renewed(step: int) -> set[str]:
        begins = schedule is not None and schedule.type == "lisa" and step % schedule.interval == 0
        return tensors_of(theirs, LAYERS) if begins else set()

    reference_training.train(
        theirs.model, trained, encoded, training, warmup=warmup_steps(training, steps),
        factors=rate_factors(theirs, trained, chosen, training, None), renewed=renewed,
        active=lambda step: head | tensors_of(theirs, layers_in(training, step)),
    )  # fmt: skip
    result = tuned(ours, data, tmp_path, trained=LAYERS, **CASES[case])
    assert distance(weights(theirs), weights(ours)) < 1e-8
    assert result.frozen_verified
    assert all(parameter.requires_grad for parameter in _trained(ours).values())


def _trained(loaded: LoadedModel) -> dict[str, Tensor]:
    named = dict(loaded.model.named_parameters())
    return {name: named[name] for name in [*tensors_of(loaded, LAYERS), *loaded.head]}


class Watching(Quiet):
    """Notes which blocks and whether the head changed in each step; may ask for an end."""

    def __init__(self, out: Path, loaded: LoadedModel, stop_at: int | None = None) -> None:
        super().__init__(out)
        self.changed: list[set[str]] = []
        self.saved: Path | None = None
        self._loaded, self._before, self._stop_at = loaded, weights(loaded), stop_at

    def step(self, done: int, _total: int | None, unit: str) -> None:
        if unit != "steps":
            return
        now = weights(self._loaded)
        self.changed.append({n for n, each in now.items() if not each.equal(self._before[n])})
        self._before = now
        if done == self._stop_at:
            raise Stopped(resumable=True)

    def state(self, directory: Path, _step: int) -> None:
        self.saved = directory


@pytest.mark.parametrize("case", CASES)
def test_each_step_changes_its_layers_and_no_other(
    case: str, mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    """With dropout, in float32; no tensor of a frozen layer moves by a bit."""
    training = TrainingSpec(**{**BASE, **CASES[case], "warmup_ratio": 0.0})
    loaded = fresh(mirror, data, dropout=True)
    watching = Watching(tmp_path, loaded)
    tuned(loaded, data, tmp_path, report=watching, trained=LAYERS, warmup_ratio=0.0, **CASES[case])
    assert len(watching.changed) >= 2 * STEPS_PER_EPOCH
    for step, changed in enumerate(watching.changed):
        expected = tensors_of(loaded, layers_in(training, step)) | loaded.head.keys()
        # A key's bias has no gradient, and moves by rounding alone.
        assert {n for n in expected ^ changed if not n.endswith("key.bias")} == set(), step
        assert changed <= expected, step


def test_moments_are_those_of_layers_that_train_now(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    """LISA drops those of every layer at the start of an interval; the head keeps its own."""
    loaded = fresh(mirror, data)
    stop = Watching(tmp_path, loaded, stop_at=8)  # intervals begin at 0, 3 and 6
    with pytest.raises(Stopped):
        tuned(loaded, data, tmp_path, report=stop, trained=LAYERS, layer_schedule=LISA)
    assert stop.saved is not None
    saved = load_file(stop.saved / TENSORS)
    counts = Counter(int(value) for name, value in saved.items() if name.endswith(".step"))
    layer = len(tensors_of(loaded, LAYERS[:1]))
    assert counts == {8: len(loaded.head), 2: 2 * layer}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["gradual by steps", "lisa"])
def test_a_run_resumes_at_any_step_to_the_same_weights(
    case: str, mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    whole = fresh(mirror, data, dropout=True)
    options = {**CASES[case], "trained": LAYERS}
    expected = tuned(whole, data, tmp_path / "whole", **options)
    for stop in (1, 3, 4, 5, 6, 8):  # inside and at the ends of intervals and epochs
        release_memory()  # a resumed attempt is another process
        cut, loaded = (fresh(mirror, data, dropout=True) for _ in range(2))
        report = Watching(tmp_path / str(stop), cut, stop_at=stop)
        with pytest.raises(Stopped):
            tuned(cut, data, tmp_path, report=report, **options)
        out = tmp_path / f"{stop}-on"
        result = tuned(loaded, data, out, resume=report.saved, **options)
        assert distance(weights(whole), weights(loaded)) == 0.0, stop
        assert result.epochs == expected.epochs, stop


def test_unfreezing_moves_the_cached_prefix_down(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    options = {**CASES["gradual by epochs"], "epochs": 4, "trained": LAYERS}
    off, cached = fresh(mirror, data, dropout=True), fresh(mirror, data, dropout=True)
    tuned(off, data, tmp_path / "off", prefix_cache="off", **options)
    result = tuned(cached, data, tmp_path / "on", prefix_cache="memory", **options)
    assert distance(weights(off), weights(cached)) < 1e-5
    assert result.prefix is not None
    stages = [(stage.step, stage.mode, stage.layers) for stage in result.prefix.stages]
    assert stages == [(0, "memory", 3), (5, "memory", 2), (10, "memory", 1)]
    assert (result.prefix.layers, result.prefix.mode) == (3, "memory")


def test_a_short_stage_computes_its_prefix(mirror: Path, data: TaskData, tmp_path: Path) -> None:
    """By itself it does not see each row once; the last stage does."""
    result = tuned(
        fresh(mirror, data), data, tmp_path, trained=LAYERS,
        layer_schedule={"type": "gradual", "every_steps": 2},
    )  # fmt: skip
    assert result.prefix is not None
    modes = [(stage.step, stage.mode) for stage in result.prefix.stages]
    assert modes == [(0, "recompute"), (2, "recompute"), (4, "memory")]


def test_lisa_caches_below_the_lowest_layer_that_can_be_drawn(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    off, cached = fresh(mirror, data, dropout=True), fresh(mirror, data, dropout=True)
    options = {"trained": LAYERS, "layer_schedule": {"type": "lisa", "layers": 1, "interval": 2}}
    tuned(off, data, tmp_path / "off", prefix_cache="off", **options)
    result = tuned(cached, data, tmp_path / "on", prefix_cache="memory", **options)
    assert distance(weights(off), weights(cached)) < 1e-5
    assert result.prefix is not None
    assert (result.prefix.mode, result.prefix.layers, result.prefix.stages) == ("memory", 1, [])


def test_embeddings_are_unfrozen_last_and_lisa_always_trains_them(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    changed = {}
    for case in ("gradual by steps", "lisa"):
        loaded = fresh(mirror, data)
        report = Watching(tmp_path / case, loaded)
        tuned(
            loaded, data, tmp_path, report=report, trained=(2, 3), include=["embeddings"],
            warmup_ratio=0.0, **CASES[case] | {"layer_learning_rate_decay": None},
        )  # fmt: skip
        changed[case] = [any("word_embeddings" in n for n in own) for own in report.changed]
    assert changed == {"gradual by steps": [False] * 8 + [True] * 2, "lisa": [True] * 10}


def test_what_the_schedule_freezes_is_proved_unchanged(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    loaded = fresh(mirror, data)

    class Meddling(Quiet):
        def step(self, done: int, _total: int | None, unit: str) -> None:
            if unit == "steps" and done == 2:  # the second layer is frozen up to step 4
                name = layers_of_model(loaded)[2].members[0]
                with torch.no_grad():
                    dict(loaded.model.named_parameters())[name].add_(1e-3)

    with pytest.raises(AssertionError, match="that the schedule had frozen"):
        tuned(
            loaded, data, tmp_path, report=Meddling(tmp_path), trained=LAYERS,
            layer_schedule={"type": "gradual", "every_steps": 4},
        )  # fmt: skip


def test_the_result_says_what_trained_at_once_and_what_never(
    mirror: Path, data: TaskData, tmp_path: Path
) -> None:
    loaded = fresh(mirror, data)
    layer = sum(p.numel() for p in loaded.blocks[0].module.parameters())
    head = sum(p.numel() for p in loaded.head.values())
    gradual = {"type": "gradual", "every_epochs": 1}
    result = tuned(loaded, data, tmp_path, trained=LAYERS, layer_schedule=gradual)
    assert (result.trainable_parameters, result.active_parameters) == (
        3 * layer + head,
        2 * layer + head,
    )
    (told,) = [each.message for each in result.warnings if each.code == NEVER_TRAINED]
    assert "let 1 of the selected layers train in none of the 10 steps" in told
    assert "encoder.layer.1." in told
    assert result.throughput is None
    plain = tuned(fresh(mirror, data), data, tmp_path / "plain", trained=LAYERS)
    assert plain.active_parameters is None
    assert NEVER_TRAINED not in {each.code for each in plain.warnings}


def test_layers_are_drawn_alike_often_and_anew_each_interval() -> None:
    schedule = SampledLayers(type="lisa", layers=2, interval=7)
    draws = [tuple(drawn_at(schedule, 4, 7 * place, 3)) for place in range(3000)]
    assert all(drawn_at(schedule, 4, 7 * 5 + step, 3) == list(draws[5]) for step in range(7))
    counts = Counter(draws)
    assert len(counts) == 6
    assert all(abs(count / 3000 - 1 / 6) < 0.03 for count in counts.values())
    lowest = Counter(draw[0] for draw in draws)
    for place, chance in enumerate(lowest_chances(schedule, 4)):
        assert lowest[place] / 3000 == pytest.approx(chance, abs=0.03)
    assert drawn_at(schedule, 4, 0, 4) != drawn_at(schedule, 4, 0, 3) or draws[1] != draws[0]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"adapter": {"type": "lora"}}, "an adapter trains in place of"),
    ({"selection": {"policy": "head_only"}}, "policy head_only selects none"),
    ({"selection": {"policy": "all"}, "processes": 2}, "several processes"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED)
def test_what_it_does_not_go_with_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FinetuneSpec.model_validate(
            {"model": "m", "dataset": "d", "training": {"layer_schedule": LISA}, **fields}
        )


@pytest.mark.parametrize(
    ("schedule", "words", "pointer"),
    [
        ({"type": "lisa", "layers": 4, "interval": 1}, "draws 4 layers, and 3", "/layers"),
        ({"type": "gradual", "every_epochs": 2}, "from step 11, of 10", ""),
        ({"type": "gradual", "every_steps": 10}, "from step 11, of 10", ""),
    ],
)
def test_schedules_that_do_not_fit_the_run_are_refused(
    schedule: dict[str, Any], words: str, pointer: str, mirror: Path, data: TaskData,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(TrainingInvalid, match=words) as refused:
        tuned(fresh(mirror, data), data, tmp_path, trained=LAYERS, layer_schedule=schedule)
    assert refused.value.faults[0].pointer == f"/training/layer_schedule{pointer}"
