"""The stages about a machine as a whole: what its network costs, and how well jobs share its boards."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from orchestrator import Context, StageError, stage
from orchestrator_network.allocation import ASPECT_RATIO, Job
from orchestrator_network.board_grid import BoardGrid
from orchestrator_network.cost import PUBLISHED_LINK_GBPS, Prices
from orchestrator_storage import Table

Option = Literal["transpose", "aspect_ratio", "sort", "locality", "defragment"]
Shape = Literal["fat_tree", "fat_tree_50", "fat_tree_75", "dragonfly", "hyperx", "hx2mesh", "hx4mesh", "torus"]
Scale = Literal["small", "large"]
LADDER: tuple[tuple[Option, ...], ...] = (
    (),
    ("transpose",),
    ("transpose", "aspect_ratio"),
    ("transpose", "aspect_ratio", "sort"),
    ("transpose", "aspect_ratio", "sort", "locality"),
    ("transpose", "aspect_ratio", "sort", "locality", "defragment"),
)


@dataclass(frozen=True, kw_only=True)
class AllocateConfig:
    """Which grid of boards, which jobs, and what the allocator may do.

    grid_rows, grid_columns  of boards
    board                boards are so many accelerators a side
    radix                ports of a switch
    failed_boards        that every trial fails at random
    failed_accelerators  that every trial fails at random; one takes its board out
    mix                  job sizes follow mlaas (power law), uniform, fixed, or are given in `jobs`
    jobs                 each a number of boards, or [rows, columns]
    largest_job_boards   the largest job of a mix, the size of fixed; null: an eighth of the boards
    load                 boards asked for over working boards
    options              sets to compare, each a list of options; [] is the plain greedy search
    aspect_ratio         the most that a job's shape may be stretched to, long side over short, with that option
    trials               random mixes and failures
    """

    grid_rows: int = 64
    grid_columns: int = 64
    board: int = 2
    radix: int = 64
    failed_boards: int = 0
    failed_accelerators: int = 0
    mix: Literal["mlaas", "uniform", "fixed", "given"] = "mlaas"
    jobs: tuple[int | tuple[int, int], ...] = ()
    largest_job_boards: int | None = None
    load: float = 1.0
    options: tuple[tuple[Option, ...], ...] = LADDER
    aspect_ratio: float = ASPECT_RATIO
    trials: int = 50

    def __post_init__(self) -> None:
        boards = BoardGrid(rows=self.grid_rows, columns=self.grid_columns, board=self.board, radix=self.radix).boards
        accelerators = boards * self.board**2
        for name, value, low, high in (
            ("failed_boards", self.failed_boards, 0, boards),
            ("failed_accelerators", self.failed_accelerators, 0, accelerators),
            ("largest_job_boards", self.largest_job_boards, 1, boards),
            ("trials", self.trials, 1, math.inf),
            ("aspect_ratio", self.aspect_ratio, 1, math.inf),
        ):
            if value is not None and not (low <= value <= high and math.isfinite(value)):
                raise ValueError(
                    f"{name} is {value}, it must be {low} to {high}"
                    if high < math.inf
                    else f"{name} is {value}, it must be at least {low}"
                )
        if not 0 < self.load <= 1000:
            raise ValueError(
                f"load is {self.load:g}; it must be above 0 and at most 1000; 1 asks for all working boards"
            )
        self._check_options()
        self._check_jobs(boards)

    def _check_options(self) -> None:
        if not self.options:
            raise ValueError("options is empty; list at least one set, [] for the plain greedy search")
        for names in self.options:
            if len(set(names)) < len(names):
                raise ValueError(f"options {list(names)} names an option twice; write it once")
        sets = [frozenset(names) for names in self.options]
        again = next((names for place, names in enumerate(sets) if names in sets[:place]), None)
        if again is not None:
            raise ValueError(f"options lists the set {sorted(again)} twice; leave one out")

    def _check_jobs(self, boards: int) -> None:
        if (self.mix == "given") != bool(self.jobs):
            raise ValueError(
                "mix is given, so list jobs: boards, or [rows, columns]"
                if not self.jobs
                else f"jobs are listed, but mix is {self.mix}; set mix: given, or leave jobs out"
            )
        for place, job in enumerate(self.jobs):
            sides = (job,) if isinstance(job, int) else job
            if min(sides) < 1 or math.prod(sides) > boards:
                raise ValueError(f"jobs[{place}] is {job}; a job asks for 1 to {boards} boards on this grid")


class AllocateOutputs(NamedTuple):
    """``result``: a row a trial and set of options; ``jobs``: a row a job, with the rows and columns that it owns."""

    result: Table
    jobs: Table


@stage("network.allocate", version="2", cites=["arXiv:2209.01346"], seeded=True)
def allocate(ctx: Context, config: AllocateConfig) -> AllocateOutputs:
    """Place jobs on the boards of a HammingMesh, some failed: share of working boards in use, jobs refused and moved."""
    import numpy as np

    from orchestrator_network.allocation_trials import Demand, Machine, label_of, options_of, run_trials
    from orchestrator_network.machine_figures import draw_grid, draw_utilizations

    def progress(done: int, total: int) -> None:
        ctx.check_cancelled()
        ctx.progress(done, total, "allocations")

    machine = Machine(
        rows=config.grid_rows,
        columns=config.grid_columns,
        board=config.board,
        radix=config.radix,
        failed_boards=config.failed_boards,
        failed_accelerators=config.failed_accelerators,
    )
    option_sets = {label_of(names): options_of(names, config.aspect_ratio) for names in config.options}
    try:
        demand = Demand(mix=config.mix, given=_given(config), boards=config.largest_job_boards, load=config.load)
        study = run_trials(machine, demand, option_sets, trials=config.trials, seed=ctx.seed, progress=progress)
    except ValueError as error:
        raise StageError(f"network.allocate on {config.grid_rows} x {config.grid_columns} boards: {error}") from error
    samples = {label: study.utilization(label) for label in option_sets}
    quantiles = {label: np.quantile(values, [0.5, 0.05]).tolist() for label, values in samples.items()}
    last = list(option_sets)[-1]
    metrics = {"utilization_p50": quantiles[last][0], "utilization_p5": quantiles[last][1]}
    for label, (median, low) in quantiles.items():
        metrics |= {f"utilization_p50.{label}": median, f"utilization_p5.{label}": low}
        ctx.fact("allocate_s", study.seconds[label], "s", "measured", phase="allocate", n=config.trials, source=label)
    ctx.log_metrics(metrics)
    title = f"{config.grid_rows} x {config.grid_columns} boards of {config.board} x {config.board}, mix {config.mix}"
    ctx.log_figure("utilization", draw_utilizations(samples, title))
    ctx.log_figure("allocated_grid", draw_grid(study.first[last], f"trial 0, {last}"))
    result, jobs = study.tables()
    headline = [
        {
            "variant": label,
            "utilization_p50": quantiles[label][0],
            "utilization_p5": quantiles[label][1],
            **study.means(label, "refused", "moved", "upper_share"),
        }
        for label in option_sets
    ]
    return AllocateOutputs(result=ctx.table(result, data={"headline": headline}), jobs=ctx.table(jobs, "jobs"))


def _given(config: AllocateConfig) -> tuple[Job, ...]:
    from orchestrator_network.job_mixes import squarest

    return tuple(squarest(job) if isinstance(job, int) else Job(rows=job[0], columns=job[1]) for job in config.jobs)


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """Which of the published machines, at which prices.

    topologies  of the published table
    scales      small (about 1,000 accelerators) and large (about 16,000)
    link_gbps   a row for each speed, priced in proportion to it
    prices      of a switch and of cables
    """

    topologies: tuple[Shape, ...] = (
        "fat_tree",
        "fat_tree_50",
        "fat_tree_75",
        "dragonfly",
        "hyperx",
        "hx2mesh",
        "hx4mesh",
        "torus",
    )
    scales: tuple[Scale, ...] = ("small", "large")
    link_gbps: tuple[float, ...] = (PUBLISHED_LINK_GBPS,)
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        for name in ("topologies", "scales", "link_gbps"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} is empty; list at least one, or leave it out for the default")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} is {list(values)}; list every value once")
        if not all(0 < one < 1e9 for one in self.link_gbps):
            raise ValueError(f"link_gbps is {list(self.link_gbps)}; every speed must be above 0 and below 1e9")


@stage("network.cost", version="1", cites=["arXiv:2209.01346"])
def cost(ctx: Context, config: CostConfig) -> Table:
    """Price the networks of the published machines from their switches and cables, beside the published totals."""
    from orchestrator_network.cost_table import cost_rows, machine_table
    from orchestrator_network.machine_figures import draw_costs

    rows = cost_rows(config.topologies, config.scales, config.prices, config.link_gbps)
    first = [row for row in rows if row["link_gbps"] == config.link_gbps[0]]
    ctx.log_metrics(
        {
            "machines": len(first),
            "largest_difference_musd": max(abs(row["difference_usd"]) for row in first) / 1e6,
            "largest_difference_share": max(abs(row["difference_share"]) for row in first),
        }
    )
    source = f"prices: {config.prices.source}; {PUBLISHED_LINK_GBPS:g} Gb/s links"
    for row in first:
        name = f"{row['topology']}/{row['scale']}"
        ctx.fact("network_usd", row["usd"], "USD", "modelled", hardware=name, source=source)
        ctx.fact(
            "network_usd", row["published_usd"], "USD", "published", hardware=name, source="arXiv:2209.01346, table 2"
        )
    ctx.log_figure("network_cost", draw_costs(first))
    return ctx.table(machine_table(rows), data={"headline": [_headline(row) for row in first]})


def _headline(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "variant": f"{row['topology']}/{row['scale']}",
        "published_musd": row["published_usd"] / 1e6,
        "recomputed_musd": row["usd"] / 1e6,
        "difference_musd": row["difference_usd"] / 1e6,
        "usd_per_device": row["usd_per_device"],
    }
