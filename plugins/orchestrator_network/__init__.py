"""Network simulation for machine-learning systems: topologies, workloads, prices, and step times.

    from orchestrator_network import FatTree, HammingMesh, simulate, workloads
    tree = FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100)
    result = simulate(tree, workloads.permutation(128, bytes=2**21, seed=42))

Names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "FatTree": "fat_tree",
    "HammingMesh": "hamming_mesh",
    "Torus": "torus",
    "HyperX": "hyperx",
    "Dragonfly": "dragonfly",
    "RailOptimized": "rail_optimized",
    "GraphTopology": "graph_topology",
    "Wire": "wire",
    "Prices": "cost",
    "topology_cost": "cost",
    "published_shapes": "cost",
    "simulate": "simulation",
    "Result": "simulation",
    "simulate_step": "step",
    "Tuning": "tuning",
    "Workload": "workloads",
    "Failure": "failed_tree",
    "BoardGrid": "board_grid",
    "Job": "allocation",
    "allocate": "allocation",
    "TopologyError": "errors",
    "WorkloadError": "errors",
}
_MODULES = ("workloads", "collectives", "cost", "allocation", "job_mixes", "readers")

__all__ = [*_HOMES, *_MODULES]  # noqa: PLE0604 - names are strings, gathered from the two tables


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
