"""Readers of other simulators' files: one pure function on a path each, and errors that name file, line and rule.

    read_cm, from_cm         htsim connection matrix           -> ConnectionMatrix, Workload
    read_topo, from_topo     htsim fat tree                    -> Shape, FatTree
    read_goal                GOAL text (LogGOPSim, ATLAHS)     -> Goal, which lowers to a Program
    read_chakra              Chakra execution traces           -> Chakra, which lowers to a Program
    read_hpcc_flows          flow file of HPCC and SimAI       -> Workload
    read_hpcc_topology       topology file of the same         -> Network
    from_hpcc                the same                          -> GraphTopology
    goal_step, chakra_step   a schedule, a trace               -> operations and groups of a `Traffic` artifact

Malformed input is a WorkloadError or TopologyError, `file:line: reason`; a file that cannot be opened stays the
OSError that it is. Counts that a file declares are compared with what it holds before anything is allocated.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "read_cm": "cm",
    "from_cm": "cm",
    "read_topo": "topo",
    "from_topo": "topo",
    "read_goal": "goal",
    "read_chakra": "chakra",
    "read_hpcc_flows": "hpcc",
    "read_hpcc_topology": "hpcc",
    "from_hpcc": "hpcc",
    "goal_step": "steps",
    "chakra_step": "steps",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - names are strings, gathered from the table


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
