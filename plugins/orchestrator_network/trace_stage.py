"""The stage that takes schedules and traces of other tools as training steps."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from orchestrator import Context, StageError, Wired, stage
from orchestrator_network.file_config import READ_WHEN_PLANNED, FileConfig
from orchestrator_storage import Traffic

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class TraceConfig(FileConfig):
    """Which file, and what it leaves open.

    format              goal: a GOAL schedule of LogGOPSim and ATLAHS; chakra: execution traces, a file a rank
    path                of the schedule, or what traces begin with: `run/trace` for `run/trace.0.et`; or their folder
    sha256              of the content, by which results are kept: as `sha256sum` prints it for a schedule; for traces, that of
                        all files one after the other by rank (`cat trace.0.et trace.1.et ... | sha256sum`), then of the groups
    groups              JSON file of the process groups of Chakra; null: the traces name them, or there are none
    serialize           let operations of several processors of a rank take turns, instead of refusing them
    ops_per_s           of an accelerator: the time of Chakra's computations that have none
    memory_bytes_per_s  the same for its loads and stores
    """

    format: Literal["goal", "chakra"] = "goal"
    # As that of the path, its content is in the digest.
    groups: str | None = field(default=None, metadata={"identity": False})
    serialize: bool = False
    ops_per_s: float | None = None
    memory_bytes_per_s: float | None = None

    file: ClassVar[str] = "a GOAL schedule, or what Chakra's traces begin with"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("groups", "ops_per_s", "memory_bytes_per_s"):
            value = getattr(self, name)
            if value is not None and self.format != "chakra":
                raise ValueError(f"{name} is {value}, but format is {self.format}, which has none; leave it out")
            if name != "groups" and value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, it must be above 0")

    def files(self) -> list[Path]:
        """Return what is read, in the order of the digest; raises WorkloadError where there is nothing."""
        if self.format == "goal":
            if not Path(self.path).is_file():
                raise self.error(f"path is {self.path}, where no file is; give that of {self.file}")
            return [Path(self.path)]
        from orchestrator_network.readers.chakra import trace_files

        groups = [] if self.groups is None else [Path(self.groups)]
        for path in groups:
            if not path.is_file():
                raise self.error(f"groups is {path}, where no file is; give that of the process groups, or null")
        return [*trace_files(Path(self.path)), *groups]


def files_there(config: TraceConfig, wired: Wired) -> None:  # noqa: ARG001 - as every check
    """Refuse files that are not there, or hold something else; large ones are read later."""
    files = config.files()
    if sum(path.stat().st_size for path in files) <= READ_WHEN_PLANNED:
        config.compare(_digest(files))


@stage("network.trace", version="1", cites=["doi:10.1145/1851476.1851564", "arXiv:2305.14516"], check=files_there)
def trace(ctx: Context, config: TraceConfig) -> Traffic:
    """Read a GOAL schedule or Chakra traces as a training step, which network.simulate carries at every fidelity."""
    from orchestrator_network.traffic import read_traffic

    try:
        config.compare(_digest(config.files()))
        ranks, (operations, groups) = _step(config)
        step = read_traffic(operations, groups)
    except (ValueError, OSError) as error:
        raise StageError(f"network.trace: {error}") from error
    compute_ps = int(step.compute_ps.max())
    result = ctx.new(Traffic, workload=config.format, devices=ranks, compute_ps=compute_ps)
    Traffic.write(result.path, operations, groups)
    ctx.log_metrics({"devices": ranks, "operations": operations.num_rows, "compute_ms": compute_ps / 1e9})
    return result


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    return digest.hexdigest()


def _step(config: TraceConfig) -> "tuple[int, tuple[pa.Table, pa.Table]]":
    """Return the number of ranks, idle ones too, and what they do."""
    from orchestrator_network.readers.chakra import read_chakra
    from orchestrator_network.readers.goal import read_goal
    from orchestrator_network.readers.steps import chakra_step, goal_step

    if config.format == "goal":
        goal = read_goal(config.path)
        return len(goal.ranks), goal_step(goal, serialize=config.serialize)
    traces = read_chakra(config.path, config.groups)
    return len(traces.ranks), chakra_step(
        traces,
        serialize=config.serialize,
        ops_per_s=config.ops_per_s,
        memory_bytes_per_s=config.memory_bytes_per_s,
    )
