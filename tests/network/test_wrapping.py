"""Boards whose traffic stays on them: HammingMesh without wrapping, against a rule on its cables, and boards alone."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from orchestrator_network import HammingMesh, Wire, simulate, workloads
from orchestrator_network.all_to_all import all_to_all_share
from orchestrator_network.components import HammingMeshBuilder, Hx4MeshConfig
from tests.network.test_routes import paths_between

SHAPES = [
    {"board_rows": 4, "board_columns": 4, "grid_rows": 2, "grid_columns": 2},
    {"board_rows": 1, "board_columns": 6, "grid_rows": 2, "grid_columns": 3},
    {"board_rows": 3, "board_columns": 5, "grid_rows": 1, "grid_columns": 4, "radix": 6},
]


def without_ways_out(mesh, target):
    """Return the mesh with wrapping, less the cables into row (column) networks on boards of the target's column (row)."""
    network, (row, column) = mesh.network, places(mesh)
    source, hosts = network.source, mesh.hosts
    up = (source < hosts) & (network.target >= hosts)
    into_row = np.array([name.startswith("row") for name in network.names])[network.target]
    at = np.where(source < hosts, source, 0)
    same_column = column[at] // mesh.board_columns == column[target] // mesh.board_columns
    same_row = row[at] // mesh.board_rows == row[target] // mesh.board_rows
    kept = ~(up & np.where(into_row, same_column, same_row))
    return replace(
        network, **{name: getattr(network, name)[kept] for name in ("source", "target", "route_cost", "trunk")}
    )


def places(mesh):
    """Return the row and column of accelerators of every host, from the numbering that the class documents."""
    board, local = np.divmod(np.arange(mesh.hosts), mesh.board_rows * mesh.board_columns)
    (up, along), (down, across) = np.divmod(board, mesh.grid_columns), np.divmod(local, mesh.board_columns)
    return up * mesh.board_rows + down, along * mesh.board_columns + across


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape.values())))
def test_routes_are_the_shortest_that_never_leave_a_board_they_need_not_leave(shape):
    """The rule, cable by cable and with the costs of wrapping; the mesh has costs of its own that must say the same."""
    mesh, wrapping = (HammingMesh(**shape, wrap=wrap) for wrap in (False, True))
    generator = np.random.default_rng(5)
    pairs = [tuple(generator.choice(mesh.hosts, 2, replace=False).tolist()) for _ in range(25)]
    on_board = mesh.board_rows * mesh.board_columns
    pairs += [(0, on_board - 1), (on_board - 1, 0), (0, mesh.board_columns - 1)]
    source, target = np.array(pairs).T
    shares, differ = mesh.routes(source, target).share.toarray(), 0
    for flow, (here, there) in enumerate(pairs):
        barred = without_ways_out(wrapping, there)
        paths = paths_between(barred, here, there)
        expected = np.zeros(len(mesh.network.trunk_bps))
        for path in paths:
            np.add.at(expected, barred.trunk[path], 1 / len(paths))
        assert shares[flow] == pytest.approx(expected)
        differ += min(map(len, paths)) != min(map(len, paths_between(wrapping.network, here, there)))
    assert differ > 0  # wrapping would have taken other ways


def all_inside(mesh, size):
    """All pairs of every board."""
    on_board = mesh.board_rows * mesh.board_columns
    pairs = itertools.permutations(range(on_board), 2)
    boards = range(0, mesh.hosts, on_board)
    return workloads.flows([(first + a, first + b, size, 0) for a, b in pairs for first in boards])


def mesh_loads(rows, columns):
    """Return what all pairs of a plain mesh put on its links, split evenly over shortest paths: by listing all of them."""
    loads = {}
    at = list(itertools.product(range(rows), range(columns)))
    for (r, c), (to_r, to_c) in itertools.permutations(at, 2):
        steps = ["r"] * abs(to_r - r) + ["c"] * abs(to_c - c)
        orders = set(itertools.permutations(steps))
        for order in orders:
            here = (r, c)
            for step in order:
                there = (
                    (here[0] + (1 if to_r > r else -1), here[1])
                    if step == "r"
                    else (here[0], here[1] + (1 if to_c > c else -1))
                )
                loads[here, there] = loads.get((here, there), 0) + 1 / len(orders)
                here = there
    return loads


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (2, 3), (1, 5)])
def test_traffic_of_boards_takes_what_their_traces_take(rows, columns):
    """All to all on every board at once, in a fluid: the fullest trace of one board decides; with wrapping it is quicker."""
    mesh = HammingMesh(board_rows=rows, board_columns=columns, grid_rows=2, grid_columns=2, link_gbps=100, wrap=False)
    loads = mesh_loads(rows, columns)
    load = all_inside(mesh, 100_000)
    ends = {wrap: simulate(replace(mesh, wrap=wrap, latency_ps=0), load, wire=Wire.fluid()) for wrap in (False, True)}
    fullest_us = max(loads.values()) * 100_000 * 8 / 100e3
    demand = np.zeros((mesh.hosts, mesh.hosts))
    demand[load.source, load.target] = 1
    network = mesh.network
    carried = mesh.loads(demand)[network.trunk]
    trace = (network.source < mesh.hosts) & (network.target < mesh.hosts)
    assert np.all(carried[~trace] == 0)
    place = [tuple(map(int, divmod(host % (rows * columns), columns))) for host in range(mesh.hosts)]
    expected = [loads[place[a], place[b]] for a, b in zip(network.source[trace], network.target[trace], strict=True)]
    assert carried[trace] == pytest.approx(expected)
    assert ends[False].summary["bound_us"] == pytest.approx(fullest_us, rel=1e-6)
    assert ends[True].summary["bound_us"] < fullest_us * (1 if max(rows, columns) > 3 else 1 + 1e-6)


@pytest.mark.parametrize("lossless", ["none", "pfc", "credit"])
def test_no_packet_of_a_board_leaves_it(lossless):
    """Packet by packet, with every kind of link: row and column networks carry nothing, and with wrapping they do."""
    mesh = HammingMesh(board_rows=4, board_columns=4, grid_rows=2, grid_columns=2, link_gbps=100, wrap=False)
    load = all_inside(mesh, 8_000)
    for wrap in (False, True):
        result = simulate(replace(mesh, wrap=wrap), load, fidelity="packet", transport="constant", lossless=lossless)
        rows = result.links.to_pylist()
        outside = sum(row["bytes"] for row in rows if "leaf" in row["src"] + row["dst"])
        assert (outside > 0) == wrap
        assert result.summary["end_us"] >= result.summary["bound_us"]
        assert result.summary["drops"] == 0


def test_other_traffic_is_as_before():
    """Flows between boards of other rows and columns take the ways that they take with wrapping."""
    mesh, wrapping = (HammingMesh(board_rows=3, board_columns=4, grid_rows=3, grid_columns=3, wrap=w) for w in (0, 1))
    row, column = places(mesh)
    source, target = np.nonzero((row[:, None] // 3 != row // 3) & (column[:, None] // 4 != column // 4))
    ours, theirs = mesh.routes(source, target), wrapping.routes(source, target)
    assert abs(ours.share - theirs.share).max() == 0
    assert np.array_equal(ours.latency_ps, theirs.latency_ps)


def test_it_is_chosen_by_name():
    """In a recipe, with either split; the name of the topology tells."""
    built = HammingMeshBuilder(Hx4MeshConfig(wrap=False, routing="balanced")).build(64, 400.0)
    assert (built.wrap, built.name) == (False, "hx4mesh_balanced_no_wrap")
    assert HammingMesh().name == "hx2mesh"
    # Board edges, which a uniform all-to-all fills, are spared what wraps.
    assert all_to_all_share(built) > 1.1 * all_to_all_share(replace(built, wrap=True))
