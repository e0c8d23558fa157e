"""Rankings in half precision, beside those in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from surgery.data.tokens.dataset import TaskData
from surgery.errors import ScoresNotFinite
from surgery.gradients.accumulators import Diagonal, Means, Traces
from surgery.gradients.engine import fisher_scores
from surgery.gradients.passes import Objective
from surgery.models.blocks import find_blocks, units_of
from surgery.models.loading import LoadedModel
from surgery.models.numerics import with_precision
from surgery.ranking.ranking import rank_layers
from surgery.ranking.uncertainty import kendall_tau
from surgery.schemas.enums import Method, Precision, Problem, TrainingPrecision
from surgery.schemas.jobs.ranking import RankingOptions, RankingResult
from surgery.schemas.options.training import TrainingSpec
from tests.support.models.checkpoints import loaded_from
from tests.support.models.toys import by_index, rank, sentences, toy_model

SLOW = "fp16 is slow on a CPU"
# Of a score: bfloat16 keeps 8 bits of a number, float16 11.
TOLERANCE = {Precision.BF16: 0.05, Precision.FP16: 0.01}
CASES = [
    (Precision.BF16, {"method": Method.FISHER}),
    pytest.param(Precision.FP16, {"method": Method.FISHER}, marks=pytest.mark.slow),
    (Precision.BF16, {"method": Method.FISHER, "aggregate": "frobenius"}),
    pytest.param(Precision.FP16, {"method": Method.GRADIENT_NORM}, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def real(real_model: Path) -> tuple[LoadedModel, TaskData]:
    """The real encoder, its head warmed up."""
    data = sentences(24)
    loaded = loaded_from(real_model, data)
    warm = RankingOptions(samples=2, bootstrap=0, model_prior=False, head={"warmup_epochs": 5})
    rank_layers(loaded, data, warm)
    return loaded, data


def ranked(real: tuple[LoadedModel, TaskData], **given: object) -> RankingResult:
    loaded, data = real
    options = {"samples": 10, "bootstrap": 0, "head": {"warmup_epochs": 0}, **given}
    if given.get("method") is Method.FISHER:
        options["model_prior"] = False
    return rank_layers(loaded, data, RankingOptions(**options))


@pytest.mark.parametrize(("precision", "given"), CASES)
def test_half_precision_ranks_a_real_encoder_alike(
    real: tuple[LoadedModel, TaskData], precision: Precision, given: dict[str, object]
) -> None:
    loaded, _ = real
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    full, half = ranked(real, **given), ranked(real, **given, precision=precision)
    assert half.precision is precision
    assert half.path == full.path
    slow = [told for told in half.warnings if told.message.startswith(SLOW)]
    assert bool(slow) == (precision is Precision.FP16)  # here scored on the CPU
    assert [told for told in half.warnings if told not in slow] == full.warnings
    np.testing.assert_allclose(by_index(half), by_index(full), rtol=TOLERANCE[precision])
    assert by_index(half) != by_index(full)  # it was another computation
    tau = kendall_tau(by_index(half), by_index(full))
    assert tau is not None
    assert tau >= 0.8  # layers of nearly equal scores may change places
    after = loaded.model.state_dict()
    assert all(value.dtype == after[name].dtype for name, value in before.items())
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_kept_in_float32_or_wider(dtype: torch.dtype) -> None:
    parameters = {"p": torch.nn.Parameter(torch.ones(2, 3, dtype=dtype))}
    traces, diagonal, means = Traces(parameters, {"p": 0}), Diagonal(parameters), Means(parameters)
    inputs, gradients = torch.ones(1, 4, 3, dtype=dtype), torch.ones(1, 4, 2, dtype=dtype) / 8
    for sample in range(1500):  # in bfloat16 a sum of ones ends at 256
        for part in (traces, diagonal, means):
            part.begin([2 * sample])
            part.add_linear("p", inputs, gradients)
    assert traces.matrix().dtype is torch.float64
    assert traces.matrix().sum() == 1500 * 6 / 4
    for part, each in ((diagonal, 0.25), (means, 0.5)):
        assert part.sums["p"].dtype is torch.float32
        assert torch.equal(part.sums["p"], torch.full((2, 3), 1500 * each))


@pytest.mark.parametrize("elementwise", [False, True])
def test_small_gradients_are_not_lost_in_float16(elementwise: bool) -> None:
    """Gradients of 1e-6 are below what float16 holds with all its bits; scaled, they are not."""
    loaded = toy_model(dtype=torch.float32)
    for name, parameter in loaded.head.items():
        if name == "classifier.weight":
            parameter.data.mul_(1e-6)
    aggregate = "frobenius" if elementwise else "trace"
    full = rank(loaded, aggregate=aggregate)
    half = rank(loaded, aggregate=aggregate, precision="fp16")
    assert min(by_index(full)) > 0
    np.testing.assert_allclose(by_index(half), by_index(full), rtol=0.1)


def test_scores_too_large_for_float16_are_refused() -> None:
    loaded = toy_model(dtype=torch.float32)
    for name, parameter in loaded.head.items():
        if name == "classifier.weight":
            parameter.data.mul_(1e4)
    assert all(np.isfinite(by_index(rank(loaded))))
    with pytest.raises(ScoresNotFinite):
        rank(loaded, precision="fp16")


def test_the_engine_takes_a_model_in_half_precision() -> None:
    full, half = (toy_model(dtype=dtype).model for dtype in (torch.float32, torch.bfloat16))
    ids = torch.tensor([[2, 7, 9, 12, 3], [2, 8, 3, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([0, 1])}
    found = []
    for model in (full, half):
        units = units_of(model, find_blocks(model))
        objective = Objective(Problem.CLASSIFICATION)
        found.append(fisher_scores(model, units, [batch], objective, elementwise=True))
    for name, values in found[1].diagonal.items():
        assert values.dtype is torch.float32
        if not name.endswith("key.bias"):  # zero but for rounding
            total = found[0].diagonal[name].sum()
            torch.testing.assert_close(values.sum(), total, rtol=0.15, atol=0)


def test_all_precisions_pass_the_check_of_both_ways() -> None:
    """Rounding is not taken for a wrong formula."""
    for precision in Precision:
        result = rank(toy_model(dtype=torch.float32), precision=precision)
        assert result.path == "batched"
        assert all(told.message.startswith(SLOW) for told in result.warnings)


def test_on_a_cpu_the_precision_left_open_is_float32() -> None:
    """To the last bit what was asked for by name."""
    found, named = rank(), rank(precision="fp32")
    assert found.precision is Precision.FP32
    assert by_index(found) == by_index(named)


def test_a_device_with_bfloat16_uses_it_where_the_precision_is_left_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No such device is at hand here: it is told that this one is."""
    monkeypatch.setattr("surgery.ranking.ranking.has_bfloat16", lambda _: True)
    loaded = toy_model(dtype=torch.float32)
    found, named = rank(loaded), rank(loaded, precision="bf16")
    assert found.precision is Precision.BF16
    assert by_index(found) == by_index(named)
    assert rank(loaded, precision="fp32").precision is Precision.FP32
    # Methods that compute in float32 whatever is asked say so.
    assert rank(loaded, method=Method.WEIGHT_SNR, model_prior=True).precision is Precision.FP32


def test_a_training_says_in_what_it_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert with_precision(TrainingSpec(), cpu).precision is TrainingPrecision.FP32
    monkeypatch.setattr("surgery.models.numerics.has_bfloat16", lambda _: True)
    assert with_precision(TrainingSpec(), cpu).precision is TrainingPrecision.BF16
    named = TrainingSpec(precision="fp32")
    assert with_precision(named, cpu) is named
