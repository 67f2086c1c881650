"""Flows that arrive at random: exponential gaps, uniform pairs of hosts, sizes from a measured distribution.

The distributions are points of the cumulative distribution, joined by straight lines, as the traffic generator of
HPCC publishes and uses them (Li et al. 2019, `traffic_gen` of High-Precision-Congestion-Control): websearch goes back
to DCTCP (Alizadeh et al. 2010), hadoop to Roy et al. (2015), alistorage is Alibaba's storage of 2019.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from orchestrator_network.errors import WorkloadError
from orchestrator_network.workloads import Workload, flows

PS_PER_S = 10**12
_MAX_FLOWS = 20_000_000  # the flows of a workload are arrays in memory

#: Points (bytes, per cent of the flows that are at most so large).
FLOW_SIZES: dict[str, tuple[tuple[float, float], ...]] = {
    "websearch": (
        (0, 0),
        (10_000, 15),
        (20_000, 20),
        (30_000, 30),
        (50_000, 40),
        (80_000, 53),
        (200_000, 60),
        (1_000_000, 70),
        (2_000_000, 80),
        (5_000_000, 90),
        (10_000_000, 97),
        (30_000_000, 100),
    ),
    "hadoop": (
        (0, 0),
        (100, 1),
        (200, 2),
        (300, 5),
        (350, 15),
        (400, 20),
        (500, 30),
        (600, 40),
        (700, 50),
        (1_000, 60),
        (2_000, 67),
        (7_000, 70),
        (30_000, 72),
        (50_000, 82),
        (80_000, 87),
        (120_000, 90),
        (300_000, 95),
        (1_000_000, 97.5),
        (2_000_000, 99),
        (10_000_000, 100),
    ),
    "alistorage": (
        (0, 0),
        (4_000, 22.93),
        (8_000, 69.21),
        (16_000, 80.61),
        (32_000, 90.47),
        (64_000, 93.53),
        (128_000, 96.77),
        (256_000, 97.53),
        (2_000_000, 100),
    ),
}


def poisson(
    n: int,
    *,
    load: float,
    link_gbps: float,
    duration_ps: int,
    sizes: str | Sequence[tuple[float, float]],
    seed: int,
) -> Workload:
    """Return the flows that start within ``duration_ps`` picoseconds among n hosts.

    ``load`` is the mean share of the hosts' links of ``link_gbps`` that they fill; ``sizes`` is a name of
    `FLOW_SIZES` or points (bytes, per cent). Every flow has a uniform source and another uniform host as its target.
    One ``random.Random(seed)`` draws gap, source, target and size of one flow after the other. Raises WorkloadError
    for impossible arguments and when no flow arrives.
    """
    points = _points(sizes)
    gap_ps = mean_gap_ps(n, load, link_gbps, duration_ps, points)
    generator = random.Random(seed)
    rows, now_ps = [], 0.0
    while True:
        now_ps -= math.log(1 - generator.random()) * gap_ps
        if now_ps >= duration_ps:
            break
        source = generator.randrange(n)
        target = (source + generator.randrange(1, n)) % n
        rows.append((source, target, _size(points, 100 * generator.random()), int(now_ps)))
    if not rows:
        raise WorkloadError(
            f"no flow arrives in {duration_ps} ps, one in {gap_ps:.4g} ps is the mean; use a longer time"
        )
    return flows(rows)


def mean_gap_ps(
    n: int, load: float, link_gbps: float, duration_ps: int, sizes: str | Sequence[tuple[float, float]]
) -> float:
    """Return the mean time from one flow to the next, in ps; WorkloadError where that makes more flows than fit."""
    if n < 2:
        raise WorkloadError(f"random arrivals need at least 2 hosts, got {n}")
    for name, value in (("load", load), ("link_gbps", link_gbps), ("duration_ps", duration_ps)):
        if not 0 < value < math.inf:
            raise WorkloadError(f"{name} is {value}, it must be above 0")
    gap_ps = mean_bytes(_points(sizes)) * 8 / (load * n * link_gbps * 1e9) * PS_PER_S
    if duration_ps / gap_ps > _MAX_FLOWS:
        raise WorkloadError(
            f"about {duration_ps / gap_ps:.3g} flows arrive, at most {_MAX_FLOWS} fit; shorten duration_ps"
        )
    return gap_ps


def mean_bytes(points: Sequence[tuple[float, float]]) -> float:
    """Return the mean of a distribution given by points (bytes, per cent), in bytes."""
    return sum((size + larger) / 2 * (more - share) for (size, share), (larger, more) in pairwise(points)) / 100


def _size(points: Sequence[tuple[float, float]], per_cent: float) -> int:
    """Return the size below which ``per_cent`` of the flows are, rounded up to a byte, at least 1."""
    above = min(bisect_right(points, per_cent, key=lambda point: point[1]), len(points) - 1)
    (size, share), (larger, more) = points[above - 1], points[above]
    return max(1, math.ceil(size + (larger - size) * (per_cent - share) / (more - share)))


def _points(sizes: str | Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if isinstance(sizes, str):
        if sizes not in FLOW_SIZES:
            raise WorkloadError(f"sizes `{sizes}` is not one of {', '.join(FLOW_SIZES)}, and no list of points")
        return FLOW_SIZES[sizes]
    points = list(sizes)
    if len(points) < 2 or points[0][1] != 0 or points[-1][1] != 100 or points[0][0] < 0:
        raise WorkloadError("a size distribution has at least 2 points (bytes, per cent), from 0 to 100 per cent")
    for (size, share), (larger, more) in pairwise(points):
        if not (size <= larger < math.inf and share < more):
            raise WorkloadError(f"sizes and shares must rise: after ({size}, {share}) comes ({larger}, {more})")
    if points[-1][0] <= 0:
        raise WorkloadError("all sizes of the distribution are 0")
    return points
