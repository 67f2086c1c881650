"""How fast a uniform all-to-all is on a topology, up to the largest published machines.

All at once: every ordered pair exchanges the same, and the fullest trunk decides. With L_l what trunk l carries when
every pair exchanges 1 and c_l its capacity, a host of N sends (N - 1) / max_l(L_l / c_l) bits per second. A matrix of all
pairs of 16,384 hosts fills 2 GB, so hosts that a symmetry of the topology maps onto each other have one stand for all.

In steps: N - 1 shifts one after the other, i sends to i + k, and no step starts before the last one is over. A machine
in use lies between the two: messages of different steps overlap, but not all of them.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np
from scipy.optimize import linprog

from orchestrator_network.balance import class_loads, link_classes
from orchestrator_network.dragonfly import Dragonfly
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.hamming_mesh import HammingMesh
from orchestrator_network.hyperx import HyperX
from orchestrator_network.routes import minimal_link_loads, minimal_loads
from orchestrator_network.topology import Topology
from orchestrator_network.torus import Torus

_GOLDEN = (5**0.5 - 1) / 2


def all_to_all_share(topology: Topology) -> float:
    """Return what a uniform all-to-all reaches when all pairs exchange at once, as a share of injection."""
    return share_of(topology, uniform_loads(topology))


def share_of(topology: Topology, loads: np.ndarray) -> float:
    """Return the share of injection at which ``loads`` [trunks] of a uniform all-to-all of 1 a pair can be carried."""
    sent_bps = (topology.hosts - 1) / (loads / topology.network.trunk_bps).max()
    return float(sent_bps / topology.injection_bps)


@singledispatch
def uniform_loads(topology: Topology) -> np.ndarray:
    """Return what every trunk carries when every ordered pair of hosts exchanges 1, float64 [trunks].

    Topologies without a case of their own are asked for the whole matrix of demand, which suits some thousand hosts.
    """
    return topology.loads(np.ones((topology.hosts, topology.hosts)))


@uniform_loads.register
def _(topology: FatTree) -> np.ndarray:
    """A group of n of N hosts sends n (N - n) to the others, and receives as much."""
    host = np.arange(topology.hosts)
    parts = [np.full(2 * topology.hosts, topology.hosts - 1.0)]
    groups = [host // topology.ports.tor_down] if topology.levels > 1 else []
    groups += [groups[0] // topology.tors_per_pod] if topology.levels == 3 else []
    for group in groups:
        size = np.bincount(group).astype(float)
        parts += [size * (topology.hosts - size)] * 2
    return np.concatenate(parts)


@uniform_loads.register
def _(topology: HammingMesh) -> np.ndarray:
    network, on_board = topology.network, topology.board_rows * topology.board_columns
    if not _full_leaves(topology):
        return minimal_loads(network, np.ones((topology.hosts, topology.hosts)))
    loads = class_loads(network, link_classes(topology, network), np.arange(on_board))
    return np.bincount(network.trunk, loads)


def _full_leaves(mesh: HammingMesh) -> bool:
    """Whether permutations of boards reach every board: a leaf with fewer ends than the others is unlike them."""
    ends = (2 * mesh.grid_columns, 2 * mesh.grid_rows)
    return all(end <= mesh.radix or not end % (mesh.radix // 2) for end in ends) and not mesh.radix // 2 % 2


@uniform_loads.register
def _(topology: HyperX) -> np.ndarray:
    return uniform_loads(topology.mesh)


@uniform_loads.register
def _(topology: Torus) -> np.ndarray:
    """All hosts see the same network, and the links of one direction of one dimension are alike."""
    network, hosts = topology.network, topology.hosts
    loads = minimal_link_loads(network, np.zeros(1, np.int64), lambda origins: np.ones((hosts, len(origins))))
    by_trunk = np.bincount(network.trunk, loads).reshape(-1, hosts)
    return np.repeat(by_trunk.sum(axis=1), hosts)


@uniform_loads.register
def _(topology: Dragonfly) -> np.ndarray:
    ends = np.full(2 * topology.hosts, topology.hosts - 1.0)
    between = np.full((topology.routers, topology.routers), float(topology.hosts_per_router) ** 2)
    return np.concatenate([ends, topology.fabric_loads(between)])


def best_mix(first: np.ndarray, second: np.ndarray, capacity_bps: np.ndarray) -> float:
    """Return the part of all traffic that takes routes with loads ``first``, the rest those with ``second``.

    It minimises the fullest trunk, max_l (x first_l + (1 - x) second_l) / c_l: the best case of routing that chooses by
    load between minimal paths and detours (UGAL).
    """
    first, second = first / capacity_bps, second / capacity_bps
    scale = max(first.max(), second.max())
    bounds = np.stack([(first - second) / scale, -np.ones(len(first))], axis=1)
    found = linprog([0, 1], A_ub=bounds, b_ub=-second / scale, bounds=[(0, 1), (0, None)])
    return float(found.x[0])


def stepwise_share(topology: Topology, steps: int, detours: Topology | None = None) -> float:
    """Return what a uniform all-to-all reaches as shifts one after the other, as a share of injection.

    Takes the mean time of ``steps`` shifts out of N - 1, spread evenly by the golden ratio; where ``detours``, the same
    network with other routes, is given, every step takes the best mix of both.
    """
    hosts, capacity_bps = topology.hosts, topology.network.trunk_bps
    source = np.arange(hosts)
    count = min(steps, hosts - 1)
    shifts = (
        1 + np.arange(count) if count == hosts - 1 else 1 + ((np.arange(count) * _GOLDEN) % 1 * (hosts - 1)).astype(int)
    )
    seconds = []
    for shift in shifts.tolist():
        target = (source + shift) % hosts
        loads = np.asarray(topology.routes(source, target).share.sum(axis=0))
        if detours is not None:
            other = np.asarray(detours.routes(source, target).share.sum(axis=0))
            part = best_mix(loads, other, capacity_bps)
            loads = part * loads + (1 - part) * other
        seconds.append((loads / capacity_bps).max())
    return float(1 / np.mean(seconds) / topology.injection_bps)
