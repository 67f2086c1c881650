"""What a HammingMesh saves: price times communication overhead of another network, over the same of the mesh.

    saving = (usd_other / device) overhead_other / ((usd_mesh / device) overhead_mesh)

The overhead is the time that communication adds to a step. That it is meant, and not the time of the whole step, shows
in the title of the published plot ("Communication Overhead of DNN Workloads"), and in its numbers: for GPT-3 the tree
would have to train 3.3 times as fast as an Hx2Mesh otherwise. Prices are a device's, for machines of unequal size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from orchestrator_network.cost import published_shapes

MESHES = ("hx2mesh", "hx4mesh")
OTHERS = ("fat_tree", "fat_tree_50", "fat_tree_75", "dragonfly", "hyperx", "torus")
_PUBLISHED = {
    ("resnet", "hx2mesh"): (3.72, 2.60, 1.96, 4.22, 2.10, 0.49),
    ("resnet", "hx4mesh"): (7.76, 5.40, 4.06, 8.81, 4.37, 1.01),
    ("gpt3", "hx2mesh"): (1.41, 1.52, 1.41, 2.473, 1.84, 1.87),
    ("gpt3", "hx4mesh"): (1.53, 1.64, 1.53, 2.693, 2.00, 2.033),
    ("gpt3_moe", "hx2mesh"): (0.85, 0.532, 0.43, 0.553, 0.96, 0.497),
    ("gpt3_moe", "hx4mesh"): (2.73, 1.729, 1.41, 1.715, 3.12, 1.61),
    ("cosmoflow", "hx2mesh"): (2.464, 1.71, 1.292, 3.362, 1.73, 1.01),
    ("cosmoflow", "hx4mesh"): (2.971, 2.06, 1.54, 4.04, 2.07, 1.20),
    ("dlrm", "hx2mesh"): (4.00, 3.26, 3.14, 5.15, 1.15, 1.431),
    ("dlrm", "hx4mesh"): (5.60, 4.56, 4.40, 7.26, 1.60, 2.074),
}
WORKLOADS = tuple(dict.fromkeys(workload for workload, _ in _PUBLISHED))

# ``price_ratio`` and ``overhead_ratio`` are the factors of ``saving``; ``published_overhead_ratio`` is the published
# saving over the ratio of the published prices of the small machines. Overheads are of one step, in seconds.
SAVINGS = pa.schema(
    [
        *((name, pa.string()) for name in ("workload", "mesh", "machine")),
        *((name, pa.float64()) for name in ("published_saving", "saving", "difference", "difference_share")),
        *((name, pa.float64()) for name in ("price_ratio", "overhead_ratio", "published_overhead_ratio")),
        *((name, pa.float64()) for name in ("mesh_overhead_s", "machine_overhead_s", "step_s_infinite")),
        *((name, pa.float64()) for name in ("mesh_usd_per_device", "machine_usd_per_device")),
        *((name, pa.int64()) for name in ("mesh_devices", "machine_devices")),
    ]
)


def published_saving(workload: str, mesh: str, machine: str) -> float | None:
    """Return the published saving, None where there is none."""
    if (workload, mesh) not in _PUBLISHED or machine not in OTHERS:
        return None
    return _PUBLISHED[workload, mesh][OTHERS.index(machine)]


def saving_rows(steps: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row of SAVINGS for every workload, mesh and other network in ``steps``.

    ``steps[workload, machine]`` is the row of a simulated step. Known names come first, in the published order. A mesh
    without any overhead saves everything, which is no ratio, so it has no row.
    """
    workloads = _ordered(WORKLOADS, [workload for workload, _ in steps])
    machines = _ordered((*MESHES, *OTHERS), [machine for _, machine in steps])
    return [
        _row(workload, mesh, machine, steps)
        for workload in workloads
        for mesh in MESHES
        for machine in machines
        if machine not in MESHES and {(workload, mesh), (workload, machine)} <= steps.keys()
        if steps[workload, mesh]["exposed_communication_ps"] > 0
    ]


def _ordered(known: Sequence[str], found: Sequence[str]) -> list[str]:
    there = dict.fromkeys(found)
    return [*(name for name in known if name in there), *(name for name in there if name not in known)]


def _row(workload: str, mesh: str, machine: str, steps: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[str, Any]:
    ours, other = steps[workload, mesh], steps[workload, machine]
    usd, other_usd = (step["network_capex_usd"] / step["devices"] for step in (ours, other))
    price_ratio = other_usd / usd
    overhead_ratio = other["exposed_communication_ps"] / ours["exposed_communication_ps"]
    published, saving = published_saving(workload, mesh, machine), price_ratio * overhead_ratio
    prices = {shape.topology: shape.musd for shape in published_shapes() if shape.scale == "small"}
    return {
        "workload": workload,
        "mesh": mesh,
        "machine": machine,
        "published_saving": published,
        "saving": saving,
        "difference": None if published is None else saving - published,
        "difference_share": None if published is None else saving / published - 1,
        "price_ratio": price_ratio,
        "overhead_ratio": overhead_ratio,
        "published_overhead_ratio": None if published is None else published * prices[mesh] / prices[machine],
        "mesh_overhead_s": ours["exposed_communication_ps"] / 1e12,
        "machine_overhead_s": other["exposed_communication_ps"] / 1e12,
        "step_s_infinite": ours["step_ps_infinite"] / 1e12,
        "mesh_usd_per_device": usd,
        "machine_usd_per_device": other_usd,
        "mesh_devices": ours["devices"],
        "machine_devices": other["devices"],
    }


def distances(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how far a workload's savings are from the published ones: the geometric mean of the factors, up or down."""
    logarithms: dict[str, list[float]] = {}
    for row in rows:
        if row["published_saving"] is not None and row["saving"] > 0:
            logarithm = abs(math.log(row["saving"] / row["published_saving"]))
            logarithms.setdefault(row["workload"], []).append(logarithm)
    return {workload: math.exp(sum(found) / len(found)) for workload, found in logarithms.items()}


def saving_table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return the rows as a table."""
    return pa.Table.from_pylist(list(rows), schema=SAVINGS)
