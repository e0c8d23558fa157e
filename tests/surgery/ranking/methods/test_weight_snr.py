"""The signal-to-noise ratio of weights against its twin, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surgery.errors import ModelUnsupported, ScoresNotFinite
from surgery.models.blocks import find_blocks, units_of
from surgery.ranking.methods import linear_weights, signal_to_noise, weight_snr
from surgery.schemas.enums import Granularity
from tests.support.models.encoders import CONFIGS, tiny
from tests.support.reference.methods import spectrum_ratio


@pytest.mark.parametrize("kind", CONFIGS)
def test_weight_snr_equals_the_twin(kind: str) -> None:
    model = tiny(kind)
    units = units_of(model, find_blocks(model))
    scores = weight_snr(model, units)
    assert scores.units == units
    for unit, value in zip(units, scores.values, strict=True):
        ratios = [
            spectrum_ratio(module.weight.detach().numpy())
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and f"{name}.weight" in unit.members
        ]
        assert value == pytest.approx(np.mean(ratios), rel=1e-9)


def test_weight_snr_leaves_out_what_has_no_matrix() -> None:
    model = tiny("bert")
    units = units_of(model, find_blocks(model), Granularity.TENSOR)
    scores = weight_snr(model, units)
    assert len(scores.units) == len(scores.values) == 3 * 6
    assert all(".dense.weight" in u.name or ".self." in u.name for u in scores.units)
    norms = [unit for unit in units if "LayerNorm" in unit.name]
    with pytest.raises(ModelUnsupported, match="weight_snr"):
        weight_snr(model, norms)


def test_linear_weights_are_the_matrices_of_linears() -> None:
    model = tiny("xlnet")
    units = linear_weights(model, units_of(model, find_blocks(model)))
    names = [name.rpartition("layer.")[2] for unit in units for name in unit.members]
    expected = [f"{n}.ff.layer_{part}.weight" for n in range(3) for part in (1, 2)]
    assert names == expected  # its attention holds three-dimensional tensors of its own
    assert [unit.parameters for unit in units] == [2 * 16 * 24] * 3


def spectrum(values: list[float]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    count = len(values)
    left, right = (
        torch.linalg.qr(torch.randn(count, count, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    return left @ torch.tensor(values, dtype=torch.float64).diag() @ right


def test_signal_is_what_lies_above_the_edge() -> None:
    noise = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
    # Quartiles of these and the two outliers: 1.225 and 1.675, so the edge is 2 · 0.45 / 1.349,
    # below them all.
    assert signal_to_noise(spectrum([*noise, 50.0, 20.0])) == pytest.approx(
        (sum(noise[1:]) + 70) / 1.0, rel=1e-9
    )
    wide = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    # Quartiles 1.75 and 5.25: the edge is 5.189.
    assert signal_to_noise(spectrum(wide)) == pytest.approx(13 / 15, rel=1e-9)
    assert signal_to_noise(spectrum([*wide, 100.0])) > signal_to_noise(spectrum(wide))


def test_signal_to_noise_is_finite_at_the_ends() -> None:
    assert signal_to_noise(torch.zeros(4, 6)) == 0
    assert signal_to_noise(torch.ones(1, 6)) == 0  # one singular value: nothing to compare
    bulk = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]  # the edge is 1.48
    assert signal_to_noise(spectrum(bulk)) == 0
    # All above: the smallest is taken for noise.
    assert signal_to_noise(torch.eye(5)) == pytest.approx(4)
    low_rank = torch.ones(6, 8)  # all others are rounding
    assert np.isfinite(signal_to_noise(low_rank))
    with pytest.raises(ScoresNotFinite):
        signal_to_noise(torch.full((3, 3), float("inf")))
