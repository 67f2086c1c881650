"""The machines of the published tables (arXiv:2209.01346, table 2) as topologies, by name and scale."""

from __future__ import annotations

from dataclasses import replace

from orchestrator_network.cost import LINKS_PER_DEVICE
from orchestrator_network.dragonfly import Dragonfly
from orchestrator_network.errors import TopologyError
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.hamming_mesh import HammingMesh
from orchestrator_network.hyperx import HyperX
from orchestrator_network.topology import Topology
from orchestrator_network.torus import Torus

_TAPERS = {"fat_tree": (1, 1024, 16384), "fat_tree_50": (2, 1050, 16422), "fat_tree_75": (4, 1071, 16422)}
_SIDES = {"small": 32, "large": 128}
_MESH_PLANES = LINKS_PER_DEVICE // 4
NAMES = (*_TAPERS, "dragonfly", "hyperx", "hx2mesh", "hx4mesh", "torus")


def published_machine(topology: str, scale: str = "small") -> Topology:
    """Return one of `NAMES`, ``small`` (about 1,024 accelerators) or ``large`` (about 16,384), with 16 links of 400 Gb/s each.

    HammingMeshes split flows evenly, the Dragonfly takes minimal routes; `adaptive` is the other choice.
    """
    if topology not in NAMES or scale not in _SIDES:
        raise TopologyError(f"{topology}/{scale} is not published; take {', '.join(NAMES)}, small or large")
    side = _SIDES[scale]
    if topology in _TAPERS:
        taper, *hosts = _TAPERS[topology]
        return FatTree(hosts=hosts[scale == "large"], oversubscription=taper, radix=64, planes=LINKS_PER_DEVICE)
    if topology == "dragonfly":
        small = Dragonfly(planes=LINKS_PER_DEVICE)
        large = replace(small, hosts_per_router=17, routers_per_group=32, global_links=16, groups=30)
        return small if scale == "small" else large
    if topology == "hyperx":
        return HyperX(rows=side, columns=side, planes=_MESH_PLANES)
    if topology == "torus":
        return Torus(sides=(side, side), planes=_MESH_PLANES)
    board = int(topology[2])
    grid = side // board
    return HammingMesh(board_rows=board, board_columns=board, grid_rows=grid, grid_columns=grid, planes=_MESH_PLANES)
