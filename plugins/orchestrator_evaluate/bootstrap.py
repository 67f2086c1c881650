"""Seeded bootstrap over items: percentile and BCa intervals of any statistic, and paired differences on the same items.

A statistic is a function of resampled item numbers: it takes an int array [resamples, n] and returns [resamples] values.
That form lets a ratio of sums (perplexity, USD per solved) resample numerator and denominator together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from orchestrator_evaluate.statistics import Interval, mcnemar_exact, wilson_interval

Statistic = Callable[[Any], Any]
RESAMPLES = 10_000
# Index matrices are drawn in blocks of this many entries, so that 10,000 resamples of long data stay within 32 MB.
BLOCK_ENTRIES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The mean of second - first over the same items, its interval, and McNemar's p-value where both are 0/1 (else None)."""

    delta: float
    low: float
    high: float
    n: int
    p_value: float | None

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def resample(statistic: Statistic, n: int, *, seed: int, resamples: int = RESAMPLES) -> Any:
    """Return the statistic of ``resamples`` draws of n items with replacement, as float64 [resamples]."""
    if n <= 0:
        raise ValueError("no items: a bootstrap needs at least one")
    generator = np.random.default_rng(seed)
    rows = max(1, min(resamples, BLOCK_ENTRIES // n))
    blocks = []
    for start in range(0, resamples, rows):
        indices = generator.integers(0, n, size=(min(rows, resamples - start), n))
        blocks.append(np.asarray(statistic(indices), dtype=np.float64))
    return np.concatenate(blocks)


def quantile(values: Any, share: float) -> float:
    """Return a quantile that tolerates infinite values: linear between neighbours, infinite where a neighbour is."""
    ordered = np.sort(values)
    position = share * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    if not math.isfinite(below) or not math.isfinite(above):
        return float(above)
    return float(below + (position - math.floor(position)) * (above - below))


def percentile_interval(
    statistic: Statistic, n: int, *, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Return the percentile bootstrap interval; an end is infinite where so many resamples are (an empty denominator)."""
    values = resample(statistic, n, seed=seed, resamples=resamples)
    tail = (1 - confidence) / 2
    return Interval(low=quantile(values, tail), high=quantile(values, 1 - tail))


def bca_interval(
    statistic: Statistic, n: int, *, seed: int, confidence: float = 0.95, resamples: int = RESAMPLES
) -> Interval:
    """Return the bias-corrected and accelerated interval (Efron 1987, equations 2.3 and 6.6).

    Falls back to the percentile interval where the correction is undefined: fewer than three items, a constant jackknife,
    or every resample on one side of the estimate.
    """
    values = resample(statistic, n, seed=seed, resamples=resamples)
    items = np.arange(n)
    estimate = float(np.asarray(statistic(items[None, :]))[0])
    tail = (1 - confidence) / 2
    # Ties count half, so that a discrete statistic is not pushed to one side.
    below = (np.count_nonzero(values < estimate) + np.count_nonzero(values <= estimate)) / (2 * len(values))
    jackknife = _leave_one_out(statistic, n) if n >= 3 else np.zeros(n)
    deviations = jackknife.mean() - jackknife
    spread = float(np.sum(deviations**2))
    if not 0 < below < 1 or spread <= 0 or not math.isfinite(spread):
        return Interval(low=quantile(values, tail), high=quantile(values, 1 - tail))
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5)

    def adjusted(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        return normal.cdf(bias + z / (1 - acceleration * z))

    return Interval(low=quantile(values, adjusted(tail)), high=quantile(values, adjusted(1 - tail)))


def _leave_one_out(statistic: Statistic, n: int) -> Any:
    """Return the statistic with each item left out, in blocks of bounded size."""
    rows = max(1, BLOCK_ENTRIES // n)
    blocks = []
    for start in range(0, n, rows):
        left_out = np.arange(start, min(start + rows, n))
        columns = np.arange(n - 1)[None, :]
        blocks.append(np.asarray(statistic(columns + (columns >= left_out[:, None])), dtype=np.float64))
    return np.concatenate(blocks)


def mean_interval(values: Any, *, seed: int, confidence: float = 0.95) -> Interval:
    """Return the BCa interval of the mean of a sequence of numbers, one an item."""
    array = np.asarray(values, dtype=np.float64)
    return bca_interval(lambda indices: array[indices].mean(axis=1), len(array), seed=seed, confidence=confidence)


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, seed: int, confidence: float = 0.95
) -> PairedDifference:
    """Compare two systems on the same items: BCa interval of the mean of second - first.

    Where no item differs, resampling has nothing to vary and would claim certainty; the interval is then the one that n
    equal pairs support: the share of unseen differences is at most Wilson's upper bound of 0 in n, on either side.

    Raises:
        ValueError: the two have different lengths or no items.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) == 0:
        raise ValueError(f"{len(a)} and {len(b)} items: a paired comparison needs the same, at least one, items")
    difference = b - a
    binary = bool(np.isin(a, (0.0, 1.0)).all() and np.isin(b, (0.0, 1.0)).all())
    p_value = mcnemar_exact(int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())) if binary else None
    if not difference.any():
        bound = wilson_interval(0, len(a), confidence).high
        return PairedDifference(delta=0.0, low=-bound, high=bound, n=len(a), p_value=p_value)
    interval = mean_interval(difference, seed=seed, confidence=confidence)
    return PairedDifference(
        delta=float(difference.mean()), low=interval.low, high=interval.high, n=len(a), p_value=p_value
    )
