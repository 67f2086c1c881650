"""Perplexities of the same documents, and their ratio, with bootstrap intervals over documents.

A perplexity is exp(sum of losses / sum of tokens) and the ratio of two on the same documents exp(sum of differences /
sum of tokens): both are monotone functions of a ratio of sums, whose interval is found by resampling documents with
bias correction and acceleration (Efron 1987, equations 2.3 and 6.6) and mapped. Differences of the same documents vary
far less than the documents themselves, so that a ratio is known much better than either perplexity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

RESAMPLES = 10_000
_BLOCK_ENTRIES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with the ends of its 95 % interval; both are None where one document says nothing of how they vary."""

    value: float
    low: float | None = None
    high: float | None = None


def perplexity(losses: Any, tokens: Any, *, seed: int = 0) -> Estimate:
    """Return exp(sum losses / sum tokens); losses are negative log likelihoods in nats, one a document."""
    return _mapped(rate(losses, tokens, seed=seed))


def perplexity_ratio(losses: Any, reference_losses: Any, tokens: Any, *, seed: int = 0) -> Estimate:
    """Return the perplexity over that of the reference on the same documents, paired document by document."""
    difference = np.asarray(losses, dtype=np.float64) - np.asarray(reference_losses, dtype=np.float64)
    return _mapped(rate(difference, tokens, seed=seed))


def rate(amounts: Any, units: Any, *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Return sum(amounts) / sum(units) over documents with its BCa interval.

    Where every document has the same rate resampling has nothing to vary, and the interval is the value itself.
    """
    above, below = np.asarray(amounts, dtype=np.float64), np.asarray(units, dtype=np.float64)
    if above.shape != below.shape or above.ndim != 1 or not len(above) or not (below > 0).all():
        raise ValueError(f"{above.shape} amounts and {below.shape} units: give one each, above 0 units, a document")
    value = float(above.sum() / below.sum())
    n = len(above)
    if n < 2:
        return Estimate(value=value)
    drawn = _resample(above, below, seed)
    tail = (1 - confidence) / 2
    shares = (tail, 1 - tail)
    smaller = (np.count_nonzero(drawn < value) + np.count_nonzero(drawn <= value)) / (2 * len(drawn))
    left_out = (above.sum() - above) / (below.sum() - below)
    deviations = left_out.mean() - left_out
    spread = float(np.sum(deviations**2))
    if n >= 3 and 0 < smaller < 1 and spread > 0:
        normal = NormalDist()
        bias = normal.inv_cdf(smaller)
        acceleration = float(np.sum(deviations**3)) / (6 * spread**1.5)
        places = [bias + normal.inv_cdf(share) for share in shares]
        shares = tuple(normal.cdf(bias + z / (1 - acceleration * z)) for z in places)  # type: ignore[assignment]
    low, high = np.quantile(drawn, shares)
    return Estimate(value=value, low=float(low), high=float(high))


def _resample(above: Any, below: Any, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    n = len(above)
    rows = max(1, min(RESAMPLES, _BLOCK_ENTRIES // n))
    drawn = []
    for start in range(0, RESAMPLES, rows):
        places = generator.integers(0, n, size=(min(rows, RESAMPLES - start), n))
        drawn.append(above[places].sum(axis=1) / below[places].sum(axis=1))
    return np.concatenate(drawn)


def _mapped(found: Estimate) -> Estimate:
    low, high = (None if end is None else _exp(end) for end in (found.low, found.high))
    return Estimate(value=_exp(found.value), low=low, high=high)


def _exp(exponent: float) -> float:
    return math.exp(exponent) if exponent < 709 else math.inf
