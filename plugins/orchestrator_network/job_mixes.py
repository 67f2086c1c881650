"""Mixes of jobs that fill a machine: how many boards each asks for, drawn from a named distribution.

    mlaas     discrete power law, P(n) proportional to n^-1.5 for n from 1 to the largest job: many small jobs, while
              most boards go to large ones, as in traces of shared machine-learning clusters. An approximation from
              memory of the job sizes of Alibaba's MLaaS cluster (Weng et al., NSDI 2022), not its trace
    uniform   every size from 1 to the largest job alike
    fixed     one size only

The largest job of a mix is an eighth of the boards where nothing else is said. A job asks for a mesh: a size that has no
shape within the grid whose sides differ by at most a factor of two is raised to the next size that has one, so that no
job asks for 1 x 13 boards because 13 is prime.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from orchestrator_network.allocation import Job
from orchestrator_network.errors import WorkloadError

Mix = Literal["mlaas", "uniform", "fixed"]
EXPONENT = 1.5
SQUARE_WITHIN = 2
_MISSES = 100  # sizes drawn in vain before the rest of the demand is left unasked for


def squarest(boards: int) -> Job:
    """Return the job of that many boards whose sides are nearest to one another, the longer one along a row."""
    if boards < 1:
        raise WorkloadError(f"a job asks for at least 1 board, got {boards}")
    rows = next(side for side in range(math.isqrt(boards), 0, -1) if boards % side == 0)
    return Job(rows=rows, columns=boards // rows)


@functools.cache
def shaped(boards: int, grid_rows: int, grid_columns: int) -> Job | None:
    """Return the smallest, then squarest, job of at least that many boards within 2 : 1 that fits, or None if none does."""
    for size in range(boards, grid_rows * grid_columns + 1):
        for side in range(math.isqrt(size), 0, -1):
            other = size // side
            if side * other != size or other > SQUARE_WITHIN * side:
                continue
            for rows, columns in ((side, other), (other, side)):
                if rows <= grid_rows and columns <= grid_columns:
                    return Job(rows=rows, columns=columns)
    return None


def largest_job(grid_rows: int, grid_columns: int) -> int:
    """Return the default size of the largest job: an eighth of the boards, at least 1."""
    return max(1, grid_rows * grid_columns // 8)


def draw_jobs(
    mix: Mix,
    generator: np.random.Generator,
    *,
    grid_rows: int,
    grid_columns: int,
    demand: int,
    boards: int | None = None,
) -> list[Job]:
    """Draw jobs until they ask for ``demand`` boards together, in the order of arrival.

    ``boards``: the largest job of a mix, the only size of ``fixed``. A job that would ask for more than is left is drawn
    again, so the last jobs are smaller than the mix; what no drawn size fills stays unasked for. Raises WorkloadError for
    a size that the grid cannot hold.
    """
    limit = largest_job(grid_rows, grid_columns) if boards is None else boards
    if not 1 <= limit <= grid_rows * grid_columns:
        raise WorkloadError(
            f"a job of {limit} boards does not fit {grid_rows} x {grid_columns} boards; use 1 to {grid_rows * grid_columns}"
        )
    jobs: list[Job] = []
    left, misses = demand, 0
    for size in _sizes(mix, generator, limit):
        if left <= 0 or misses == _MISSES:
            break
        job = shaped(size, grid_rows, grid_columns) or squarest(size)
        if job.boards > left:
            misses += 1
            continue
        jobs.append(job)
        left, misses = left - job.boards, 0
    return jobs


def _sizes(mix: Mix, generator: np.random.Generator, limit: int) -> Iterator[int]:
    """Yield sizes in boards without end, drawn in blocks."""
    sizes = np.arange(1, limit + 1)
    weights = {"mlaas": sizes**-EXPONENT, "uniform": np.ones(limit), "fixed": (sizes == limit).astype(float)}[mix]
    while True:
        yield from generator.choice(sizes, size=256, p=weights / weights.sum()).tolist()
