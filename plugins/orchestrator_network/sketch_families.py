"""Drawings of the families: trees in levels, meshes and tori as grids, a Dragonfly on a circle."""

from __future__ import annotations

import math

import numpy as np

from orchestrator_network.dragonfly import Dragonfly
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.hamming_mesh import HammingMesh
from orchestrator_network.hyperx import HyperX
from orchestrator_network.sketch import MOST_HOSTS, MOST_WIDE, Sketch, chunks, joined, of_unknown, spread
from orchestrator_network.topology import Topology
from orchestrator_network.torus import Torus

_MOST_SWITCHES = 48  # of a level above the ToRs, with a mark of their own
_MOST_CORES = 16
_MOST_LINES = 600  # between two levels
_MOST_A_SIDE = 24  # of a grid
_MOST_ROUTERS = 200
_BUS = 0.32  # from accelerators to the network of their row


def sketch(topology: Topology) -> Sketch:
    """Return where the nodes and links of one plane go."""
    if isinstance(topology, FatTree):
        return _tree(topology)
    if isinstance(topology, HyperX):
        return _mesh(topology.mesh)
    if isinstance(topology, HammingMesh):
        return _mesh(topology)
    if isinstance(topology, Torus):
        return _torus(topology)
    if isinstance(topology, Dragonfly):
        return _dragonfly(topology)
    return of_unknown(topology.network)


def _tree(tree: FatTree) -> Sketch:
    """Hosts, ToRs, aggregation switches and cores, one above the other."""
    ports, pods = tree.ports, tree.pods
    aggs = tree.aggs_per_pod
    cores = tree.network.nodes - tree.hosts - tree.tors - pods * aggs
    tor = np.arange(tree.tors)
    notes, tor_group = [], tor
    if tree.tors > MOST_WIDE:
        tor_group, each = chunks(tree.tors, MOST_WIDE)
        notes.append(f"{each} ToRs a mark")
    host_group = np.arange(tree.hosts)
    if tree.hosts > MOST_HOSTS:
        host_group = tor_group[host_group // ports.tor_down]
        notes.append(f"{tree.hosts // (int(tor_group.max()) + 1)} hosts a mark")
    agg_group = np.arange(pods * aggs)
    if len(agg_group) > _MOST_SWITCHES:
        of_pod, each = chunks(pods, MOST_WIDE)
        agg_group = of_pod[agg_group // aggs]
        notes.append(f"{each * aggs} aggregation switches a mark")
    core_group = np.arange(cores)
    if cores > _MOST_SWITCHES or cores * tree.tors > _MOST_LINES:
        core_group, each = chunks(cores, _MOST_CORES)
        notes.append(f"{each} {'cores' if tree.levels == 3 else 'spines'} a mark")
    names = [
        "hosts",
        "ToRs" if tree.levels > 1 else "switch",
        *(["aggregation"] if aggs else []),
        *(["cores" if aggs else "spines"] if cores else []),
    ]
    groups = [host_group, tor_group, *([agg_group] if aggs else []), *([core_group] if cores else [])]
    place = np.concatenate(
        [np.column_stack([spread(group), np.full(len(group), float(height))]) for height, group in enumerate(groups)]
    )
    labels = tuple((0.0, float(height), name) for height, name in enumerate(names))
    return joined(tree.network, place, size=(9.0, 1.6 + 1.2 * len(names)), labels=labels, notes=tuple(notes))


def _mesh(mesh: HammingMesh) -> Sketch:
    """Boards on a grid; the network of a row is a line below its accelerators, that of a column one to their right."""
    network = mesh.network
    fold = -(-max(mesh.rows, mesh.columns) // _MOST_A_SIDE)
    row, column = np.divmod(np.argsort(mesh.hosts_at, axis=None), mesh.columns)
    between = 0.35 if fold == 1 else 0.0
    y = -(row // fold + between * (mesh.board_rows > 1) * (row // mesh.board_rows))
    x = column // fold + between * (mesh.board_columns > 1) * (column // mesh.board_columns)
    rows_y, columns_x = y[mesh.hosts_at[:, 0]] - _BUS, x[mesh.hosts_at[0]] + _BUS
    bars = [((float(x.min()), float(at)), (float(x.max() + _BUS), float(at))) for at in rows_y]
    bars += [((float(at), float(y.min() - _BUS)), (float(at), float(y.max()))) for at in columns_x]
    place = np.zeros((network.nodes, 2))
    place[: mesh.hosts] = np.column_stack([x, y])
    # Switches are named row3.leaf0, column5.spine; the number of the bar of a network follows.
    names = [name.partition(".")[0] for name in network.names[mesh.hosts :]]
    bar = [int(name[3:]) if name.startswith("row") else mesh.rows + int(name[6:]) for name in names]
    place[mesh.hosts :] = np.array([bars[number][0] for number in bar])
    start, end = _mesh_ends(mesh, place, np.array(bar), np.array(bars))
    notes = ["long lines: row and column networks"]
    notes += [f"{fold} x {fold} accelerators a mark"] if fold > 1 else []
    return Sketch(
        place=place,
        start=start,
        end=end,
        drawn=np.arange(network.nodes) < mesh.hosts,
        size=_grid_size(x, y),
        bars=tuple(dict.fromkeys(bars)),
        boxes=_boards(mesh, place) if fold == 1 and mesh.board_rows * mesh.board_columns > 1 else (),
        notes=tuple(notes),
        square=True,
    )


def _mesh_ends(
    mesh: HammingMesh, place: np.ndarray, bar: np.ndarray, bars: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the lines of all links: traces, stubs from accelerators to bars, and uplinks, which are bars.

    ``bar`` int64 [switches], ``bars`` float64 [bars, 2 ends, 2].
    """
    network = mesh.network
    first, second = np.minimum(network.source, network.target), np.maximum(network.source, network.target)
    start, end = place[first], place[second]
    stub = np.flatnonzero((first < mesh.hosts) & (second >= mesh.hosts))
    of = bar[second[stub] - mesh.hosts]
    in_row = of < mesh.rows
    slant = start[stub] + 0.14
    end[stub, 0] = np.where(in_row, slant[:, 0], bars[of, 0, 0])
    end[stub, 1] = np.where(in_row, bars[of, 0, 1], slant[:, 1])
    uplink = np.flatnonzero(first >= mesh.hosts)
    of = bar[second[uplink] - mesh.hosts]
    start[uplink], end[uplink] = bars[of, 0], bars[of, 1]
    return start, end


def _boards(mesh: HammingMesh, place: np.ndarray) -> tuple[tuple[tuple[float, float], tuple[float, float]], ...]:
    """Return a frame around the accelerators of every board, whose numbers follow each other."""
    boards = place[: mesh.hosts].reshape(-1, mesh.board_rows * mesh.board_columns, 2)
    low, high = boards.min(axis=1) - 0.22, boards.max(axis=1) + 0.22
    return tuple(((a, b), (c, d)) for (a, b), (c, d) in zip(low.tolist(), high.tolist(), strict=True))


def _grid_size(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the size of a figure in which a cell is square and neither side too long or too short."""
    wide, high = float(np.ptp(x)) + 1, float(np.ptp(y)) + 1
    cell = min(7.5 / max(wide, high), 0.9)
    return max(wide * cell, 3.5) + 1.6, max(high * cell, 2.0) + 1.0


def _torus(torus: Torus) -> Sketch:
    """Draw a grid, one a layer beside each other in three dimensions; links around the edge are stubs at both of its ends."""
    network = torus.network
    sides = torus.sides
    at = np.stack(np.unravel_index(np.arange(torus.hosts), sides), axis=1)
    fold = -(-max(sides[:2]) // _MOST_A_SIDE)
    layer = at[:, 2] if len(sides) == 3 else np.zeros(torus.hosts, int)
    across = math.ceil(math.sqrt(int(layer.max()) + 1))
    wide, high = -(-sides[1] // fold) + 1.5, -(-sides[0] // fold) + 1.5
    x = at[:, 1] // fold + (layer % across) * wide
    y = -(at[:, 0] // fold) - (layer // across) * high
    place = np.column_stack([x, y]).astype(float)
    start, end = place[network.source], place[network.target].copy()
    step = at[network.target] - at[network.source]
    axis = np.abs(step).argmax(axis=1)
    moved = step[np.arange(network.links), axis]
    # In a side of 2 both links of a pair are neighbours; elsewhere a long step is the way around.
    around = np.abs(moved) > 1
    forward = np.where(around, -np.sign(moved), np.sign(moved)).astype(float)
    for dimension, way in enumerate(((0.0, -1.0), (1.0, 0.0), (0.7, 0.7))[: len(sides)]):
        stub = (axis == dimension) & (around | (dimension == 2))
        end[stub] = start[stub] + 0.42 * forward[stub, None] * np.array(way)
    notes = ["stubs at the edge: links around"] + (["slanted stubs: to the next layer"] if len(sides) == 3 else [])
    notes += [f"{fold} x {fold} accelerators a mark"] if fold > 1 else []
    above: tuple[tuple[float, float, str], ...] = ()
    if len(sides) == 3:
        above = tuple(
            (float(x[layer == number].min()), float(y[layer == number].max()) + 0.6, f"layer {number}")
            for number in range(sides[2])
        )
    drawn = np.ones(network.nodes, bool)
    size = _grid_size(x, y)
    return Sketch(
        place=place, start=start, end=end, drawn=drawn, size=size, notes=tuple(notes), square=True, above=above
    )


def _dragonfly(fly: Dragonfly) -> Sketch:
    """Groups on a circle, the routers of a group on a small one, hosts outside of their router."""
    network, a = fly.network, fly.routers_per_group
    group = np.arange(fly.routers) // a
    turn = 2 * np.pi * (np.arange(fly.groups) / fly.groups) + np.pi / 2
    centre = np.column_stack([np.cos(turn), np.sin(turn)])
    router = centre[group]
    notes = [f"{fly.hosts_per_router} hosts a small mark"]
    if fly.routers > _MOST_ROUTERS:
        host, beyond = 1.1 * router, 1.24
        notes = [f"a group of {a} routers a mark, its {a * fly.hosts_per_router} hosts a small one"]
    else:
        inner = 2 * np.pi * np.arange(fly.routers) / a + turn[group] + np.pi / a
        radius = 0.75 * min(np.sin(np.pi / fly.groups), 0.5)
        ring = np.column_stack([np.cos(inner), np.sin(inner)])
        router, host, beyond = router + radius * ring, router + 1.3 * radius * ring, 1.12 + 1.3 * radius
    place = np.concatenate([host[np.arange(fly.hosts) // fly.hosts_per_router], router])
    above = tuple((float(beyond * cx), float(beyond * cy), f"group {number}") for number, (cx, cy) in enumerate(centre))
    return joined(network, place, size=(8.0, 7.0), above=above, notes=tuple(notes), square=True)
