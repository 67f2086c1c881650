"""Closed-form statistics of evaluation: intervals of a proportion, clustered errors, exact paired tests, pass@k.

Every function takes plain numbers or sequences, needs nothing but the standard library, and is checked in the tests
against enumeration or scipy. Resampling lives in ``bootstrap``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided interval; ``low <= high``."""

    low: float
    high: float


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion.

    Unlike mean +- 2 SE it stays in [0, 1] and is informative at 0 or n successes (Wilson 1927).

    Raises:
        ValueError: ``n`` is not positive or ``successes`` is outside [0, n].
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: Wilson's interval needs n > 0 and 0 <= successes <= n")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the exact bounds are 0 and 1; the difference of two square roots leaves a rounding error there.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(low=low, high=high)


def mean_and_standard_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error with the n - 1 denominator; the error of one value is nan."""
    n = len(values)
    if n == 0:
        raise ValueError("no values: a mean needs at least one")
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return mean, math.sqrt(variance / n)


def clustered_standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Return the standard error of the mean when values of one cluster (several samples of one problem) depend on each other.

    sqrt(sum over clusters of (sum of residuals)^2) / n, the sandwich estimate without small-sample correction. Where every
    cluster has one value it is the plain error times sqrt((n - 1) / n).
    """
    n = len(values)
    if n == 0 or n != len(clusters):
        raise ValueError(f"{n} values and {len(clusters)} clusters: both need the same, positive, length")
    mean = math.fsum(values) / n
    residuals: defaultdict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster].append(value - mean)
    return math.sqrt(math.fsum(math.fsum(one) ** 2 for one in residuals.values())) / n


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test from the two discordant counts.

    Under the null each discordant pair falls to either side with probability 1/2, so the p-value is twice the smaller
    binomial tail, at most 1.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"discordant counts {only_first} and {only_second} must not be negative")
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, float(2 * tail / 2**n))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Estimate without bias the probability that at least one of ``k`` samples is right, from ``correct`` of ``samples``.

    1 - C(n - c, k) / C(n, k) (Chen et al. 2021, equation 1).
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(
            f"pass@{k} from {correct} right of {samples}: needs 0 <= correct <= samples and 1 <= k <= samples"
        )
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def minimum_items(difference_sd: float, effect: float) -> int:
    """Return how many paired items detect a mean difference ``effect`` with 80 % power at the 5 % level: 7.85 sd^2 / effect^2."""
    if effect == 0:
        raise ValueError("an effect of 0 cannot be detected with any number of items")
    z = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
    return math.ceil((z * difference_sd / effect) ** 2)
