"""Whether the top layers are settled, asked again and again while more rows are scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from surgery.evaluation.statistics import t_probability
from surgery.ranking.scores import Matrix
from surgery.ranking.uncertainty import fewest_holding_half, order_of

FIRST_SAMPLES = 32  # rows of the first look; each further look doubles them
ERROR_RATE = 0.05  # of a whole ranking: all its looks, pairs of layers and numbers k together


@dataclass(frozen=True)
class Look:
    """What a look at the first ``samples`` rows says of the set of the top ``k`` layers."""

    samples: int
    k: int
    p_value: float
    level: float

    @property
    def certain(self) -> bool:
        """Whether these layers may be called the top k."""
        return self.p_value <= self.level


def planned_looks(total: int, world: int = 1) -> list[int]:
    """The number of rows at each look, known beforehand: 32, 64, … up to ``total``.

    Each look adds a row at least for every one of ``world`` processes.
    """
    ends: list[int] = []
    done = 0
    while done < total:
        end = max(FIRST_SAMPLES, 2 * done, world)
        done = end if end + world <= total else total
        ends.append(done)
    return ends


def look(per_sample: Matrix, looks: int) -> Look:
    """Look at the scores of N rows, (N, U), as one of a planned number of looks.

    Each look may err with the same share of ``ERROR_RATE`` (Bonferroni), however few are taken.
    """
    values = per_sample.mean(0)
    shares = values[order_of(values)] / (values.sum() or 1.0)
    k = fewest_holding_half(shares.tolist()) or len(values)
    return Look(len(per_sample), k, top_set_p_value(per_sample, k), ERROR_RATE / looks)


def top_set_p_value(per_sample: Matrix, k: int) -> float:
    """The p value of the claim that each of the top k layers has a larger mean than each other one.

    All k (U − k) paired differences have to be clear, so that the least clear one decides (Berger,
    Technometrics, 1982). It is multiplied by 2 (U − 1), which pays for having chosen k and the set
    by the same rows: sort the layers by their true means; a wrong set, of whatever size, holds one
    of two neighbours in that order and not the other, whose mean is at least as large. There are
    U − 1 pairs of neighbours, and if their means are equal either may be taken for the larger.
    """
    samples, units = per_sample.shape
    if k == units:
        return 0.0  # all layers: nothing is claimed
    if samples < 2:
        return 1.0
    order = order_of(per_sample.mean(0))
    rest = per_sample[:, order[k:]]
    least = min(_least_t(per_sample[:, [place]] - rest) for place in order[:k])
    one_sided = (1 - t_probability(least, samples - 1)) / 2 if least > 0 else 1.0
    return float(min(1.0, 2 * (units - 1) * one_sided))


def _least_t(differences: Matrix) -> float:
    """The smallest t statistic of the means of the columns of a matrix (N, D).

    Squared gradients are skewed, and a negatively skewed difference looks too clear to a t test.
    Hall's cubic transformation ("On the Removal of Skewness by Transformation", Journal of the
    Royal Statistical Society B, 1992) corrects for it; where it would raise t, the plain t is kept.
    """
    samples = len(differences)
    means, spread = differences.mean(0), differences.std(0)
    varies = spread > 0
    standard, ratio = np.zeros_like(differences), np.copysign(np.inf, means)
    ratio[means == 0] = 0
    np.divide(differences - means, spread, out=standard, where=varies)
    np.divide(means, spread * np.sqrt(samples / (samples - 1)), out=ratio, where=varies)
    a, s = (standard**2 * standard).mean(0)[varies], ratio[varies]
    corrected = s + a * s**2 / 3 + a**2 * s**3 / 27 + a / (6 * samples)
    ratio[varies] = np.minimum(s, corrected)
    return float(np.sqrt(samples) * ratio.min())
