"""The stages about published workloads: the traffic of their steps, and what networks cost for the time that they take."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from orchestrator import Context, StageError, Wired, stage
from orchestrator_network.workload_rules import FACTS, check_groups, tiled_columns
from orchestrator_storage import Table, Traffic

SOURCE = "plot data of arXiv:2209.01346"


@dataclass(frozen=True, kw_only=True)
class WorkloadTrafficConfig:
    """Which training step, and where its ranks run.

    workload  the published model
    devices   in whole groups of the model's parallelism; null: 1,024, and 1,536 for GPT-3
    tile      consecutive ranks run on tiles of so many devices a side of a grid that is numbered row by row, as a torus and
              a HyperX are; 1: on consecutive devices
    columns   of that grid; null: as square as the devices allow
    order     of the ranks of a GPT-3 pipeline: the shards of a stage side by side, or its stages
    """

    workload: Literal["resnet", "cosmoflow", "gpt3", "gpt3_moe", "dlrm"] = "resnet"
    devices: int | None = None
    tile: int = 1
    columns: int | None = None
    order: Literal["shards_first", "stages_first"] = "shards_first"

    def __post_init__(self) -> None:
        for name in ("devices", "columns"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, it must be at least 1, or null")
        if self.tile < 1:
            raise ValueError(f"tile is {self.tile}, it must be at least 1; 1 numbers devices row by row")
        if self.order == "stages_first" and (self.tile > 1 or not self.workload.startswith("gpt3")):
            raise ValueError("order: stages_first is for gpt3 and gpt3_moe, without tiles; leave it out")
        facts = FACTS[self.workload] if self.devices is None else replace(FACTS[self.workload], devices=self.devices)
        check_groups(facts)
        if self.tile > 1:
            tiled_columns(facts.devices, self.tile, self.columns)
        elif self.columns is not None:
            raise ValueError(
                f"columns is {self.columns}, but tile is 1, which lays no grid; set tile, or leave columns out"
            )


@stage("network.workload_traffic", version="1", cites=["arXiv:2209.01346"])
def workload_traffic(ctx: Context, config: WorkloadTrafficConfig) -> Traffic:
    """Write down one training step of a published workload: what every device computes and sends, and in which order."""
    from orchestrator_network.dnn_facts import GPT3, GPT3_MOE
    from orchestrator_network.dnn_workloads import workload_step
    from orchestrator_network.placement import stages_first, tiled
    from orchestrator_network.traffic import read_traffic

    try:
        step = workload_step(config.workload, config.devices)
        if config.order == "stages_first":
            facts = GPT3 if config.workload == "gpt3" else GPT3_MOE
            step = stages_first(step, facts.stages, facts.group)
        if config.tile > 1:
            step = tiled(step, config.tile, config.columns)
    except ValueError as error:
        raise StageError(f"network.workload_traffic, {config.workload}: {error}") from error
    compute_ps = int(read_traffic(step.operations, step.groups).compute_ps.max())
    result = ctx.new(Traffic, workload=config.workload, devices=step.devices, compute_ps=compute_ps, **step.about)
    Traffic.write(result.path, step.operations, step.groups)
    ctx.log_metrics({"devices": step.devices, "operations": step.operations.num_rows, "compute_ms": compute_ps / 1e9})
    return result


@dataclass(frozen=True, kw_only=True)
class CostSavingConfig:
    """Which axes of the simulated steps tell what.

    workload_axis  the model that is trained
    machine_axis   the network that it is trained on
    """

    workload_axis: str = "workload"
    machine_axis: str = "machine"


def axes_told(config: CostSavingConfig, wired: Wired) -> None:
    """Refuse steps whose coordinates do not tell the workload and the machine."""
    seen: dict[tuple[Any, Any], str] = {}
    for label, coordinates in wired.get("steps", {}).items():
        for axis in (config.workload_axis, config.machine_axis):
            if axis not in coordinates:
                raise ValueError(
                    f"{label} has no axis {axis}, it has {', '.join(coordinates) or 'none'}; set workload_axis and machine_axis"
                )
        key = (coordinates[config.workload_axis], coordinates[config.machine_axis])
        if key in seen:
            raise ValueError(
                f"{seen[key]} and {label} are both {key[0]} on {key[1]}; a saving compares one step each: wire those of one value "
                "of the other axes"
            )
        seen[key] = label


@stage("network.cost_saving", version="1", cites=["arXiv:2209.01346"], check=axes_told)
def cost_saving(ctx: Context, config: CostSavingConfig, steps: dict[str, Table]) -> Table:
    """Compare HammingMeshes with other networks: price times communication overhead of theirs, over that of the mesh."""
    from orchestrator_network.cost_saving import distances, saving_rows, saving_table
    from orchestrator_network.saving_figures import draw_savings

    found: dict[tuple[str, str], dict[str, Any]] = {}
    for label, coordinates in ctx.axes("steps").items():
        key = (str(coordinates[config.workload_axis]), str(coordinates[config.machine_axis]))
        row = steps[label].read().to_pylist()[0]
        if "exposed_communication_ps" not in row:
            raise StageError(
                f"network.cost_saving: {label} is the result of flows, not of a training step",
                "wire results of network.simulate with an input traffic",
            )
        found[key] = row
    rows = saving_rows(found)
    if not rows:
        raise StageError(
            "network.cost_saving: no workload was simulated on hx2mesh or hx4mesh and on another network; "
            f"got {', '.join(sorted({machine for _, machine in found})) or 'nothing'}"
        )
    factors = distances(rows)
    ctx.log_metrics({f"saving.{row['workload']}.{row['mesh']}.{row['machine']}": row["saving"] for row in rows})
    ctx.log_metrics({f"typical_factor_to_published.{name}": factor for name, factor in factors.items()})
    for row in rows:
        name = f"{row['workload']}: {row['machine']} over {row['mesh']}"
        ctx.fact("relative_cost_saving", row["saving"], "1", "modelled", hardware=name, source="network.cost_saving")
        if row["published_saving"] is not None:
            published = row["published_saving"]
            ctx.fact("relative_cost_saving", published, "1", "published", hardware=name, source=SOURCE)
    ctx.log_figure("cost_saving", draw_savings(rows))
    return ctx.table(saving_table(rows), data={"headline": [_headline(row) for row in rows]})


def _headline(row: dict[str, Any]) -> dict[str, Any]:
    published = row["published_saving"]
    return {
        "variant": f"{row['workload']}/{row['mesh']}/{row['machine']}",
        "published_saving": published,
        "our_saving": round(row["saving"], 3),
        "difference_percent": None if published is None else round(100 * row["difference_share"], 1),
    }
