"""Which workloads so many devices can carry, by arithmetic alone: every rule once, for recipes and for the workloads.

Loads nothing, so that a recipe is refused when it is planned. Every function raises WorkloadError with value, rule and fix.
"""

from __future__ import annotations

from typing import Any

from orchestrator_network.dnn_facts import GPT3, GPT3_MOE, CosmoFlowFacts, DlrmFacts, PipelineFacts, ResNetFacts
from orchestrator_network.errors import WorkloadError

#: Facts of every published workload.
FACTS: dict[str, Any] = {
    "resnet": ResNetFacts(),
    "cosmoflow": CosmoFlowFacts(),
    "gpt3": GPT3,
    "gpt3_moe": GPT3_MOE,
    "dlrm": DlrmFacts(),
}


#: Built-in workloads without settings.
_PLAIN = ("permutation", "tornado", "ring_allreduce", "recursive_doubling_allreduce")


def check_groups(facts: Any) -> None:
    """Refuse devices that make no whole groups of the parallelism of a published workload."""
    multiple = 2
    if isinstance(facts, PipelineFacts):
        multiple = facts.stages * facts.group
    elif isinstance(facts, CosmoFlowFacts):
        multiple = facts.shards
    if facts.devices < 1 or facts.devices % multiple:
        raise WorkloadError(f"{facts.devices} devices do not make whole groups; take a multiple of {multiple}")


def tiled_columns(devices: int, tile: int, columns: int | None) -> int:
    """Return the columns of the grid that tiles of ``tile`` x ``tile`` fill; None: as square as the devices allow."""
    columns = columns or devices // max(n for n in range(1, int(devices**0.5) + 1) if devices % n == 0)
    rows, rest = divmod(devices, columns)
    if tile < 1 or rest or rows % tile or columns % tile:
        raise WorkloadError(
            f"tiles of {tile} x {tile} do not fill {devices} devices in {columns} columns; take a tile that divides "
            "rows and columns"
        )
    return columns


def check_allreduce(ranks: int, size_bytes: int, least_bytes: int) -> None:
    """Refuse an all-reduce of one rank, and one with fewer bytes than messages that share them."""
    if ranks < 2:
        raise WorkloadError(f"an all-reduce needs at least 2 ranks, got {ranks}")
    if size_bytes < least_bytes:
        raise WorkloadError(
            f"an all-reduce over {ranks} ranks needs {least_bytes} bytes, one a message, got {size_bytes}"
        )


def flow_count(name: str, settings: Any, devices: int) -> int | None:
    """Return how many flows a built-in workload has on so many devices; None for those that are drawn or read."""
    power = devices.bit_length() - 1
    if settings is None and name not in _PLAIN:
        return None
    match name:
        case "permutation" | "full_bisection_permutation" | "tornado":
            return devices
        case "incast":
            return int(settings.fan_in)
        case "outcast_incast":
            return int(sum(settings.fan_outs))
        case "all_to_all":
            return devices * (devices - 1)
        case "ring_allreduce":
            return 2 * devices * (devices - 1)
        case "recursive_doubling_allreduce":
            return (power << power) + 2 * (devices - (1 << power))
        case "double_binary_tree_allreduce":
            return 4 * (devices - 1) * int(settings.pieces)
        case "hierarchical_allreduce":
            within = int(settings.per_server)
            return 2 * devices * (within - 1) + 2 * devices * (devices // within - 1)
    return None


def check_traced(wanted: int | tuple[int, ...] | None, flows: int) -> None:
    """Refuse numbers of flows that a workload of so many has not; a number of flows takes as many as there are."""
    stray = [] if wanted is None or isinstance(wanted, int) else [one for one in wanted if not 0 <= one < flows]
    if stray:
        raise WorkloadError(f"trace_flows names flow {min(stray)}, but the workload has flows 0 to {flows - 1}")
