"""Trials of the allocator: the same jobs and failures under several sets of options, as rows of two tables."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from orchestrator_network.allocation import ASPECT_RATIO, OPTIONS, Allocation, Job, Options, allocate
from orchestrator_network.board_grid import BoardGrid, boards_of, ring_hops
from orchestrator_network.errors import WorkloadError
from orchestrator_network.job_mixes import Mix, draw_jobs

# Boards unless the name says otherwise; ``upper_share``: hops of rings between boards that pass an upper tree level.
TRIALS = pa.schema(
    [
        ("trial", pa.int64()),
        ("options", pa.string()),
        *((name, pa.int64()) for name in ("boards", "working_boards", "wanted_boards", "used_boards")),
        ("utilization", pa.float64()),
        *((name, pa.int64()) for name in ("jobs", "placed", "refused", "moved", "hops", "upper_hops")),
        ("upper_share", pa.float64()),
    ]
)

# One row a job; ``rows`` and ``columns`` are those of the grid that it owns, empty where it was refused.
JOBS = pa.schema(
    [
        ("trial", pa.int64()),
        ("options", pa.string()),
        *((name, pa.int64()) for name in ("job", "wanted_rows", "wanted_columns")),
        ("placed", pa.bool_()),
        *((name, pa.list_(pa.int32())) for name in ("rows", "columns")),
        *((name, pa.int64()) for name in ("hops", "upper_hops")),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The grid of all trials and what fails in each: boards at random, or accelerators, which take their board out."""

    rows: int
    columns: int
    board: int = 2
    radix: int = 64
    failed_boards: int = 0
    failed_accelerators: int = 0

    def __post_init__(self) -> None:
        _ = BoardGrid(rows=self.rows, columns=self.columns, board=self.board, radix=self.radix)
        limits = {"failed_boards": self.boards, "failed_accelerators": self.boards * self.board**2}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise WorkloadError(f"{name} is {getattr(self, name)}; this machine has 0 to {limit} to lose")

    @property
    def boards(self) -> int:
        """All boards."""
        return self.rows * self.columns

    def grid(self, generator: np.random.Generator) -> BoardGrid:
        """Return the grid with fresh failures."""
        lost = generator.choice(self.boards, self.failed_boards, replace=False).tolist()
        broken = generator.choice(self.boards * self.board**2, self.failed_accelerators, replace=False).tolist()
        failed = boards_of((number * self.board**2 for number in lost), columns=self.columns, board=self.board)
        failed |= boards_of(broken, columns=self.columns, board=self.board)
        return BoardGrid(rows=self.rows, columns=self.columns, board=self.board, radix=self.radix, failed=failed)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What arrives: ``given`` jobs in their order, or jobs of a mix that ask for ``load`` of the working boards.

    ``boards``: the largest job of a mix, or the size of ``fixed``.
    """

    mix: Mix | Literal["given"] = "mlaas"
    given: tuple[Job, ...] = ()
    boards: int | None = None
    load: float = 1.0

    def jobs(self, grid: BoardGrid, generator: np.random.Generator) -> list[Job]:
        """Return the jobs of one trial."""
        if self.mix == "given":
            return list(self.given)
        return draw_jobs(
            self.mix,
            generator,
            grid_rows=grid.rows,
            grid_columns=grid.columns,
            demand=round(self.load * grid.working),
            boards=self.boards,
        )


@dataclass(frozen=True, kw_only=True)
class Study:
    """Rows of TRIALS and JOBS, the first trial's allocation and the seconds of all trials, both by label."""

    trials: list[dict[str, Any]] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    first: dict[str, Allocation] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def utilization(self, label: str) -> np.ndarray:
        """Return the utilisation of every trial with these options, float64 [trials]."""
        return np.array([row["utilization"] for row in self.trials if row["options"] == label])

    def means(self, label: str, *columns: str) -> dict[str, float]:
        """Return the mean over trials of these columns with these options."""
        rows = [row for row in self.trials if row["options"] == label]
        return {name: sum(row[name] for row in rows) / len(rows) for name in columns}

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Return the rows as tables."""
        return pa.Table.from_pylist(self.trials, schema=TRIALS), pa.Table.from_pylist(self.jobs, schema=JOBS)


def label_of(names: Sequence[str]) -> str:
    """Return how a set of options is called: its names in the paper's order, or greedy."""
    return "-".join(name for name in OPTIONS if name in names) or "greedy"


def options_of(names: Sequence[str], aspect_ratio: float = ASPECT_RATIO) -> Options:
    """Return the options of these names."""
    return Options(
        transpose="transpose" in names,
        aspect_ratio=aspect_ratio if "aspect_ratio" in names else None,
        sort="sort" in names,
        locality="locality" in names,
        defragment="defragment" in names,
    )


def run_trials(
    machine: Machine,
    demand: Demand,
    option_sets: dict[str, Options],
    *,
    trials: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Study:
    """Allocate the jobs of every trial under every set of options; ``progress`` may raise to stop.

    Trial t draws failures, then jobs, from the generator of (seed, t): alike for all sets, and for any number of trials.
    """
    study = Study(seconds=dict.fromkeys(option_sets, 0.0))
    total, done = trials * len(option_sets), 0
    for trial in range(trials):
        generator = np.random.default_rng([seed, trial])
        grid = machine.grid(generator)
        jobs = demand.jobs(grid, generator)
        for label, options in option_sets.items():
            began_s = time.perf_counter()
            tick = functools.partial(progress, done, total) if progress is not None else None
            found = allocate(grid, jobs, options, tick=tick)
            study.seconds[label] += time.perf_counter() - began_s
            study.first.setdefault(label, found)
            study.trials.append({"trial": trial, "options": label, **_trial_row(found)})
            study.jobs.extend({"trial": trial, "options": label, **row} for row in _job_rows(found))
            done += 1
    if progress is not None:
        progress(done, total)
    return study


def _trial_row(found: Allocation) -> dict[str, Any]:
    hops, upper = found.hops
    return {
        "boards": found.grid.boards,
        "working_boards": found.grid.working,
        "wanted_boards": sum(job.boards for job in found.jobs),
        "used_boards": found.used,
        "utilization": found.utilization,
        "jobs": len(found.jobs),
        "placed": len(found.placed),
        "refused": len(found.refused),
        "moved": found.moved,
        "hops": hops,
        "upper_hops": upper,
        "upper_share": upper / hops if hops else 0.0,
    }


def _job_rows(found: Allocation) -> list[dict[str, Any]]:
    rows = []
    for number, job in enumerate(found.jobs):
        mesh = found.placed.get(number)
        hops, upper = ring_hops(found.grid, mesh) if mesh else (0, 0)
        rows.append(
            {
                "job": number,
                "wanted_rows": job.rows,
                "wanted_columns": job.columns,
                "placed": mesh is not None,
                "rows": mesh.rows if mesh else (),
                "columns": mesh.columns if mesh else (),
                "hops": hops,
                "upper_hops": upper,
            }
        )
    return rows
