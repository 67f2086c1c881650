"""Intervals and estimators for accuracies over a few hundred problems."""

from __future__ import annotations

import math
from collections.abc import Sequence

#: The two-sided 95 % quantile of the normal distribution.
Z_95 = 1.959963984540054


def wilson(successes: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion (Wilson 1927); ``(0, 1)`` without observations."""
    if not 0 <= successes <= total:
        raise ValueError(f"successes is {successes} of {total}; it must be between 0 and the total")
    if total == 0:
        return 0.0, 1.0
    share = successes / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Return the unbiased estimate of P(at least one of k is correct) from n samples, 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021 (arXiv:2107.03374), eq. 1.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(
            f"samples {samples}, correct {correct}, k {k}: need 0 <= correct <= samples and 1 <= k <= samples"
        )
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def mean_pass_at_k(correct: Sequence[int], samples: int, k: int) -> float:
    """Return pass@k averaged over problems, given how many of each problem's samples were correct."""
    if not correct:
        raise ValueError("pass@k needs at least one problem")
    return sum(pass_at_k(samples, count, k) for count in correct) / len(correct)
