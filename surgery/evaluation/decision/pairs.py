"""Whether one arm is better than another: beyond the seeds, and beyond the validation rows."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist, fmean, variance

from surgery.evaluation.statistics import normal_p_value, t_p_value, t_probability, t_quantile
from surgery.schemas.decision import Needed

ERROR_RATE = 0.05  # of a whole decision
POWER = 0.8  # with which `Needed` tells a difference
MOST_SEEDS = 200
MOST_TIMES_THE_ROWS = 1000
NORMAL_FROM = 200  # degrees of freedom from which on Student's t is taken for normal


@dataclass(frozen=True)
class Pair:
    """Two arms: their differences by seed, and the standard error that the rows give these.

    All seeds are measured on the same rows, so the rows' error does not shrink with more seeds.
    """

    differences: Sequence[float]
    rows_error: float

    @cached_property
    def mean(self) -> float:
        """The mean difference."""
        return fmean(self.differences)

    @cached_property
    def spread(self) -> float:
        """The variance of the difference from seed to seed."""
        return variance(self.differences)

    def p_value(self) -> float | None:
        """The two-sided p value of no difference; None for fewer than two seeds.

        It is the larger one of two: of a t test over the seeds, which supposes nothing of the rows,
        and of a test with the error of both, whose degrees of freedom are Satterthwaite's
        (Biometrics Bulletin, 1946). A spread that is small by luck so decides nothing alone.
        """
        over_seeds = t_p_value(self.differences)
        if over_seeds is None:
            return None
        count = len(self.differences)
        error = _error(self.spread / count, self.rows_error)
        freedom = _freedom(self.spread / count, self.rows_error, count)
        return max(over_seeds, _p_value(self.mean, error, freedom))


def _error(seeds: float, rows_error: float) -> float:
    return math.sqrt(seeds + rows_error**2)


def _freedom(seeds: float, rows_error: float, count: int) -> int:
    """The degrees of freedom of a variance of two parts, of which the rows' is known."""
    if seeds == 0:
        return NORMAL_FROM
    ratio = (seeds + rows_error**2) / seeds
    return min(NORMAL_FROM, int((count - 1) * min(ratio, NORMAL_FROM) ** 2))


def _p_value(mean: float, error: float, freedom: int) -> float:
    if error == 0 or freedom >= NORMAL_FROM:
        return normal_p_value(mean, error)
    return max(0.0, 1 - t_probability(abs(mean) / error, freedom))


def adjusted(p_value: float, arms: int) -> float:
    """A p value of the best of so many arms against another one, for having chosen it by the data.

    A winner has to be better than every other arm, so the least clear p value decides, without a
    further price (Berger, Technometrics, 1982). Of k equal arms, each would have to beat another
    one, with half of the two-sided p value: together k / 2 of it. As any arm that is as good as the
    best is beaten by one of k - 1 others, this price also covers calling such an arm worse.
    """
    return min(1.0, p_value * arms / 2)


def needed(pair: Pair, arms: int, rows: int | None) -> Needed | None:
    """What would tell the pair apart, if the measured difference is the true one."""
    if len(pair.differences) < 2 or pair.mean <= 0:
        return None
    level = ERROR_RATE / (arms / 2)
    seeds, times = _enough_seeds(pair, level, pair.rows_error), _enough_rows(pair, level)
    together = seeds is None and times is None
    if together:
        seeds, times = _both(pair, level)
    if seeds is None and times is None:
        return None
    count = None if times is None or rows is None else math.ceil(times * rows)
    return Needed(seeds=seeds, validation_rows=count, together=together)


def _seen(pair: Pair, level: float, count: int, rows_error: float) -> bool:
    """Whether so many seeds with such an error of the rows would show the difference."""
    beyond = NormalDist().inv_cdf(POWER)
    seeds = pair.spread / count
    error, freedom = _error(seeds, rows_error), _freedom(seeds, rows_error, count)
    alone = (_quantile(level, count - 1) + beyond) * math.sqrt(seeds)
    return pair.mean >= max(alone, (_quantile(level, freedom) + beyond) * error)


@lru_cache(maxsize=4096)
def _quantile(level: float, freedom: int) -> float:
    if freedom >= NORMAL_FROM:
        return NormalDist().inv_cdf(1 - level / 2)
    return t_quantile(freedom, 1 - level)


def _enough_seeds(pair: Pair, level: float, rows_error: float) -> int | None:
    """The fewest seeds that would do with such an error of the rows."""
    counts = range(len(pair.differences) + 1, MOST_SEEDS + 1)
    place = bisect_left(counts, True, key=lambda count: _seen(pair, level, count, rows_error))
    return counts[place] if place < len(counts) else None


def _enough_rows(pair: Pair, level: float) -> float | None:
    """How many times the present rows would do, to a tenth."""
    times = [1.1**step for step in range(1, math.ceil(math.log(MOST_TIMES_THE_ROWS, 1.1)))]
    count = len(pair.differences)

    def enough(more: float) -> bool:
        return _seen(pair, level, count, pair.rows_error / math.sqrt(more))

    place = bisect_left(times, True, key=enough)
    return times[place] if place < len(times) else None


def _both(pair: Pair, level: float) -> tuple[int | None, float | None]:
    """Seeds and times the rows, of which each brings half of the error that is allowed."""
    sure = _quantile(level, NORMAL_FROM) + NormalDist().inv_cdf(POWER)
    times = 2 * (pair.rows_error * sure / pair.mean) ** 2
    if not 1 <= times <= MOST_TIMES_THE_ROWS:
        return None, None
    seeds = _enough_seeds(pair, level, pair.rows_error / math.sqrt(times))
    return (None, None) if seeds is None else (seeds, times)
