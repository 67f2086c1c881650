"""Bandwidth of the published machines: the table of `network.bandwidth`, against closed forms, bounds and brute force."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.sparse import block_diag, csr_array, hstack
from scipy.sparse.csgraph import dijkstra

from orchestrator.errors import RecipeError
from orchestrator.testing import run_stage
from orchestrator_network import Dragonfly, FatTree, HammingMesh, HyperX, Torus
from orchestrator_network.all_to_all import all_to_all_share, best_mix, share_of, stepwise_share, uniform_loads
from orchestrator_network.bandwidth import TOLERANCE, all_reduce_share, bandwidth_rows
from orchestrator_network.bandwidth_stage import BandwidthConfig, bandwidth
from orchestrator_network.components import HammingMeshBuilder, Hx4MeshConfig
from orchestrator_network.errors import TopologyError
from orchestrator_network.published_machines import NAMES, published_machine

SMALL = [
    FatTree(hosts=70, oversubscription=2, tiers=2, radix=16),
    FatTree(hosts=60, tiers=3, radix=8),
    HammingMesh(board_rows=3, board_columns=2, grid_rows=3, grid_columns=4),
    HammingMesh(board_rows=2, board_columns=2, grid_rows=8, grid_columns=3, radix=8),
    HammingMesh(board_rows=3, board_columns=3, grid_rows=2, grid_columns=3, routing="balanced"),
    HammingMesh(board_rows=3, board_columns=4, grid_rows=2, grid_columns=3, wrap=False),
    HyperX(rows=6, columns=5),
    Torus(sides=(4, 6)),
    Torus(sides=(3, 4, 2), board=1),
    Dragonfly(hosts_per_router=2, routers_per_group=3, global_links=2, groups=4),
    Dragonfly(hosts_per_router=2, routers_per_group=3, global_links=2, groups=4, routing="valiant"),
]


@pytest.mark.parametrize("topology", SMALL, ids=lambda topology: topology.name)
def test_one_host_of_a_kind_stands_for_all(topology):
    """The loads by symmetry are those of the whole matrix of demand, trunk by trunk."""
    whole = topology.loads(np.ones((topology.hosts, topology.hosts)))
    assert uniform_loads(topology) == pytest.approx(whole)


def test_meshes_without_full_leaves_take_the_whole_matrix():
    """Six boards have twelve ends below leaves of four: full; seven have not, and no board stands for the others."""
    for boards in (6, 7):
        mesh = HammingMesh(board_rows=1, board_columns=2, grid_rows=1, grid_columns=boards, radix=8)
        whole = mesh.loads(np.ones((mesh.hosts, mesh.hosts)))
        assert uniform_loads(mesh) == pytest.approx(whole)


def best_share(topology):
    """The best split of a uniform all-to-all over minimal paths, by a linear program over all of them.

    A flow from s may use a link wherever it lies on a minimal path from s: all such ways to t are minimal.
    """
    network, hosts = topology.network, topology.hosts
    shape = (network.nodes, network.nodes)
    costs = csr_array((network.route_cost.astype(float), (network.source, network.target)), shape=shape)
    distance = dijkstra(costs, indices=np.arange(hosts))
    balance, wanted, owner = [], [], []
    for source in range(hosts):
        used = np.flatnonzero(distance[source, network.source] + network.route_cost == distance[source, network.target])
        number = np.arange(len(used))
        ends = (network.target[used], network.source[used])
        arrives, leaves = (csr_array((np.ones(len(used)), (end, number)), (network.nodes, len(used))) for end in ends)
        demand = np.where(np.arange(network.nodes) < hosts, 1.0, 0.0)
        demand[source] = 1 - hosts
        balance.append(arrives - leaves)
        wanted.append(demand)
        owner.append(network.trunk[used])
    trunk = np.concatenate(owner)
    carried = csr_array((1 / network.trunk_bps[trunk] * 1e9, (trunk, np.arange(len(trunk)))))
    full = csr_array(-np.ones((carried.shape[0], 1)))
    equal = hstack([block_diag(balance), csr_array((hosts * network.nodes, 1))])
    objective = np.append(np.zeros(len(trunk)), 1.0)
    found = linprog(
        objective,
        A_ub=hstack([carried, full]),
        b_ub=np.zeros(carried.shape[0]),
        A_eq=equal,
        b_eq=np.concatenate(wanted),
    )
    return (hosts - 1) / (found.fun / 1e9) / topology.injection_bps


@pytest.mark.parametrize(("board", "wrap"), [(3, True), (3, False), pytest.param(4, True, marks=pytest.mark.slow)])
def test_balanced_splits_are_the_best_that_a_linear_program_finds(board, wrap):
    """Within 2 % from below; an even split is worse than the best on boards of 3 x 3 and more."""
    even = HammingMesh(board_rows=board, board_columns=board, grid_rows=2, grid_columns=2, wrap=wrap)
    balanced = replace(even, routing="balanced")
    best = best_share(even)
    assert all_to_all_share(even) < all_to_all_share(balanced) <= best * (1 + 1e-9)
    assert all_to_all_share(balanced) == pytest.approx(best, rel=0.02)


def test_balanced_routes_are_routes():
    """Flow by flow they add up to the loads; each is carried once, over minimal paths only; a component offers them."""
    assert HammingMeshBuilder(Hx4MeshConfig(routing="balanced")).build(64, 400).routing == "balanced"
    mesh = HammingMesh(board_rows=3, board_columns=3, grid_rows=2, grid_columns=2, routing="balanced")
    even = HammingMesh(board_rows=3, board_columns=3, grid_rows=2, grid_columns=2)
    source, target = np.nonzero(~np.eye(mesh.hosts, dtype=bool))
    routes = mesh.routes(source, target)
    assert np.asarray(routes.share.sum(axis=0)) == pytest.approx(mesh.loads(np.ones((mesh.hosts, mesh.hosts))))
    assert routes.hops == pytest.approx(even.routes(source, target).hops)
    assert mesh.name == "hx3mesh_balanced"
    with pytest.raises(TopologyError, match="must be even or balanced"):
        HammingMesh(routing="adaptive")


@pytest.mark.parametrize(
    "shape",
    [
        {"board_rows": 8, "board_columns": 8, "grid_rows": 2, "grid_columns": 2},
        {"board_rows": 1, "board_columns": 1, "grid_rows": 4, "grid_columns": 5},
        {"board_rows": 2, "board_columns": 5, "grid_rows": 7, "grid_columns": 1, "radix": 8},
        {"board_rows": 3, "board_columns": 3, "grid_rows": 1, "grid_columns": 1},
    ],
    ids=["large boards", "no boards", "partly used leaves", "one board"],
)
def test_balancing_works_on_odd_shapes(shape):
    """Weights stay finite, and the split is no worse than the even one."""
    even, balanced = HammingMesh(**shape), HammingMesh(**shape, routing="balanced")
    assert np.all(np.isfinite(balanced.network.route_weight))
    assert all_to_all_share(balanced) >= all_to_all_share(even) * (1 - 1e-6)


@pytest.mark.parametrize("mesh", [HammingMesh(), published_machine("hx4mesh", "small")], ids=lambda mesh: mesh.name)
def test_no_split_beats_the_ports_at_board_edges(mesh):
    """A pair on other board columns crosses one row network, and one column network on other board rows.

    On a board of a x a that is 1 / (2 a) of injection, and a little more for pairs that share a row or a column.
    """
    board, grid = mesh.board_rows, mesh.grid_rows
    crossings = 2 * (1 - 1 / grid) * mesh.hosts / (mesh.hosts - 1)
    bound = 1 / board / crossings
    balanced = HammingMesh(board_rows=board, board_columns=board, grid_rows=grid, grid_columns=grid, routing="balanced")
    assert all_to_all_share(mesh) <= all_to_all_share(balanced) <= bound
    assert all_to_all_share(balanced) > 0.97 * bound


def test_torus_and_hyperx_reach_their_bounds():
    """2/n of injection through the middle of a torus; 2 of 4 ports of a HyperX, less what stays in its line."""
    for side in (16, 32, 128):
        torus, hyperx = Torus(sides=(side, side)), HyperX(rows=side, columns=side)
        others = 1 - 1 / side**2
        assert all_to_all_share(torus) == pytest.approx(2 / side * others)
        assert all_to_all_share(hyperx) == pytest.approx(1 / 2 * side / (side - 1) * others)


def test_the_best_mix_of_minimal_and_valiant_routes():
    """Uniform traffic needs no detour; a shift by a whole group does, and the best part is that of a search."""
    minimal = Dragonfly(hosts_per_router=4, routers_per_group=8, global_links=4, groups=8)
    valiant = Dragonfly(hosts_per_router=4, routers_per_group=8, global_links=4, groups=8, routing="valiant")
    capacity = minimal.network.trunk_bps
    loads = uniform_loads(minimal), uniform_loads(valiant)
    assert best_mix(*loads, capacity) == pytest.approx(1)
    assert share_of(valiant, loads[1]) < share_of(minimal, loads[0])
    source = np.arange(minimal.hosts)
    target = (source + minimal.hosts // 8) % minimal.hosts
    first, second = (np.asarray(one.routes(source, target).share.sum(axis=0)) for one in (minimal, valiant))
    parts = np.linspace(0, 1, 2001)
    fullest = [((part * first + (1 - part) * second) / capacity).max() for part in parts]
    assert best_mix(first, second, capacity) == pytest.approx(parts[int(np.argmin(fullest))], abs=1e-3)


@pytest.mark.parametrize(
    "topology", [Torus(sides=(4, 6)), HammingMesh(grid_rows=2, grid_columns=3)], ids=["torus", "mesh"]
)
def test_shifts_one_after_the_other(topology):
    """The mean time of all shifts, each as a matrix of demand; slower than all at once. A full tree blocks none."""
    hosts = topology.hosts
    times = []
    for shift in range(1, hosts):
        demand = np.roll(np.eye(hosts), shift, axis=1)
        times.append((topology.loads(demand) / topology.network.trunk_bps).max())
    share = stepwise_share(topology, hosts)
    assert share == pytest.approx(1 / np.mean(times) / topology.injection_bps)
    assert share < all_to_all_share(topology)
    assert stepwise_share(FatTree(hosts=64), 5) == pytest.approx(1)


def test_published_names():
    """All are built with 16 links a device; others are refused with the list."""
    for name in NAMES:
        machine = published_machine(name)
        assert machine.planes * machine.injection_bps == 16 * 400e9
    with pytest.raises(TopologyError, match="hx2mesh"):
        published_machine("hx3mesh")


def test_the_latency_of_rings_explains_the_large_all_reduces():
    """What the notes say: 2 (p - 1) steps of 80 ns beside 4 GiB over two rings, both directions, at 400 Gb/s."""
    steps, seconds_a_step, quarter = 2 * 16383, 80e-9, 2**32 / 4
    ring_s = steps * (seconds_a_step + quarter / 16384 * 8 / 400e9)
    peak_s = 2**32 * 8 / (4 * 400e9 / 2)
    assert peak_s / ring_s == pytest.approx(0.94, abs=0.005)


def check(rows):
    """Every entry outside +-5 % has a reason, and no other has."""
    for row in rows:
        assert row["difference_share"] == pytest.approx(row["share"] / row["published_share"] - 1)
        assert bool(row["note"]) == bool(row["reason"]) == (abs(row["difference_share"]) > TOLERANCE)
        assert row["reason"] != "unknown"
        assert row["quantity"] != "global" or row["share"] >= row["even_share"]


def test_the_small_table():
    """In percent; the published dragonfly lies between its two routings, the published Hx4Mesh between its splits."""
    rows = {(row["topology"], row["quantity"]): row for row in bandwidth_rows(NAMES, ["small"], steps=1)}
    check(rows.values())
    ours = {name: round(100 * rows[name, "global"]["share"], 1) for name in NAMES}
    assert ours == {
        "fat_tree": 100.0,
        "fat_tree_50": 54.5,
        "fat_tree_75": 26.7,
        "dragonfly": 100.0,
        "hyperx": 51.6,
        "hx2mesh": 26.6,
        "hx4mesh": 14.0,
        "torus": 6.2,
    }
    for name in NAMES:
        assert rows[name, "all_reduce"]["share"] == pytest.approx(1, abs=0.002)
    fly, mesh = rows["dragonfly", "global"], rows["hx4mesh", "global"]
    assert fly["detour_share"] < fly["published_share"] < fly["share"]
    assert mesh["even_share"] < mesh["published_share"] < mesh["share"]


@pytest.mark.slow
def test_the_large_table():
    """16 thousand hosts: all the machines in seconds, with reasons."""
    rows = {(row["topology"], row["quantity"]): row for row in bandwidth_rows(NAMES, ["large"])}
    check(rows.values())
    ours = {name: round(100 * rows[name, "global"]["share"], 1) for name in NAMES}
    assert ours["fat_tree_50"] == 52.5
    assert ours["hx2mesh"] == 25.4
    assert ours["hx4mesh"] == 12.7
    assert all(rows[name, "all_reduce"]["share"] == pytest.approx(1, abs=0.001) for name in NAMES)


def test_all_reduces_match_the_closed_formulas():
    """Two rings take a quarter of the bytes each; one ring in both directions on a tree half: S beta 2 (p - 1) / p."""
    for topology in (Torus(sides=(8, 8)), HammingMesh(grid_rows=4, grid_columns=4, planes=4), FatTree(hosts=64)):
        assert all_reduce_share(topology) == pytest.approx(64 / 63)
    assert all_reduce_share(Torus(sides=(8, 8)), 2**20, latency_ps=10**6) < 0.7


def test_the_stage_prints_published_ours_and_difference(tmp_path):
    """A row an entry; facts of both; a figure."""
    run = run_stage(bandwidth, {"topologies": ["hx2mesh", "torus"], "scales": ["small"], "steps": 2}, home=tmp_path)
    rows = run.outputs["result"].read().to_pylist()
    assert [(row["topology"], row["quantity"]) for row in rows] == [
        (name, quantity) for name in ("hx2mesh", "torus") for quantity in ("global", "all_reduce")
    ]
    headline = run.outputs["result"].data()["headline"]
    assert headline[0]["published_percent"] == 25.4
    assert headline[0]["ours_percent"] == pytest.approx(26.64)
    assert headline[0]["difference_percent"] == pytest.approx(4.9)
    assert run.metrics["entries_outside_5_percent"] == 1
    assert {fact["basis"] for fact in run.facts} == {"modelled", "published"}
    assert set(run.figures) == {"bandwidths.svg"}
    assert set(BandwidthConfig().topologies) == set(NAMES)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"topologies": ["hx3mesh"]}, "hx2mesh"),
        ({"scales": []}, "scales is empty"),
        ({"topologies": ["torus", "torus"]}, "list every value once"),
        ({"steps": -1}, "steps is -1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(tmp_path, config, message):
    """With the near match where a name is wrong."""
    with pytest.raises(RecipeError, match=message):
        run_stage(bandwidth, config, home=tmp_path)
