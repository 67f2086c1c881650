"""Fat trees and HammingMeshes: counts, degrees, diameters, and the shapes that cannot be built."""

import numpy as np
import pytest

from orchestrator_network import FatTree, HammingMesh
from orchestrator_network.errors import TopologyError
from orchestrator_network.graph import Wiring


def mesh(board, grid, **settings):
    return HammingMesh(board_rows=board, board_columns=board, grid_rows=grid, grid_columns=grid, **settings)


@pytest.mark.parametrize(
    ("topology", "hosts", "diameter"),
    [
        (FatTree(hosts=1024), 1024, 4),
        (FatTree(hosts=1050, oversubscription=2), 1050, 4),
        (FatTree(hosts=1071, oversubscription=4), 1071, 4),
        (mesh(1, 32), 1024, 4),
        (mesh(2, 16), 1024, 4),
        (mesh(4, 8), 1024, 8),
        (FatTree(hosts=128, tiers=3), 128, 6),
        (mesh(2, 34), 4624, None),
    ],
)
def test_small_machines_have_the_published_diameter(topology, hosts, diameter):
    """Breadth-first search over the built graph agrees with the table of published machines."""
    assert topology.hosts == topology.network.hosts == hosts
    if diameter is not None:
        assert topology.network.diameter() == diameter


@pytest.mark.parametrize(
    "tree",
    [
        FatTree(hosts=64),
        FatTree(hosts=1050, oversubscription=2),
        FatTree(hosts=16, tiers=3),
        FatTree(hosts=128, tiers=3, oversubscription=8),
        FatTree(hosts=100, radix=8, tiers=3),
        FatTree(hosts=60, radix=8, tiers=3, oversubscription=2),
    ],
)
def test_links_below_the_top_are_counted_without_building(tree):
    """As many as the graph has, so that a recipe that slows more is refused when it is planned."""
    assert tree.ports.links_from_top(tree.hosts) == len(tree.links_from_top())


def test_a_second_tree_level_adds_four_links_to_the_diameter():
    """A row that needs leaves and a spine takes 4 links instead of 2, and so does a column (published: 8 at 64 x 64)."""
    small = HammingMesh(board_rows=2, board_columns=2, grid_rows=6, grid_columns=6, radix=8)
    assert small.network.diameter() == 8


@pytest.mark.parametrize(("board", "grid"), [(1, 4), (2, 3), (3, 2), (4, 2)])
def test_every_accelerator_of_a_mesh_has_four_ports(board, grid):
    """Traces and edge ports add up to N, E, S and W for every accelerator, and switches see two ends a board."""
    built = mesh(board, grid)
    degree = built.network.degree()
    assert set(degree[: built.hosts]) == {4}
    assert set(degree[built.hosts :]) == {2 * grid}
    assert built.network.nodes == built.hosts + 2 * board * grid
    traces = 2 * board * (board - 1) * grid * grid
    edges = 4 * board * grid * grid
    assert built.network.links == 2 * (traces + edges)


def test_host_ids_are_row_major_by_board_then_place():
    """Board = id // (a b), place = id % (a b), as the published address."""
    built = HammingMesh(board_rows=2, board_columns=3, grid_rows=2, grid_columns=2)
    assert built.hosts_at[0].tolist() == [0, 1, 2, 6, 7, 8]
    assert built.hosts_at[1].tolist() == [3, 4, 5, 9, 10, 11]
    assert built.hosts_at[2, 0] == 12


@pytest.mark.parametrize(
    ("hosts", "oversubscription", "tor", "agg"),
    [(128, 1, (4, 4), (4, 4)), (128, 8, (4, 1), (4, 2)), (1024, 8, (8, 2), (8, 4))],
)
def test_k_ary_trees_taper_as_defined(hosts, oversubscription, tor, agg):
    """8:1 is k/2 : k/8 at the ToR and k/2 : k/4 at the aggregation switch."""
    tree = FatTree(hosts=hosts, tiers=3, oversubscription=oversubscription)
    assert (tree.ports.tor_down, tree.ports.tor_up) == tor
    assert (tree.ports.agg_down, tree.ports.agg_up) == agg


def test_an_8_to_1_tree_has_every_switch_and_link_of_its_definition():
    """128 hosts: 32 ToRs, one aggregation switch a pod, two cores that reach all eight pods."""
    network = FatTree(hosts=128, tiers=3, oversubscription=8).network
    kinds = [name.rstrip("0123456789") for name in network.names]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"host": 128, "tor": 32, "agg": 8, "core": 2}
    assert network.links == 2 * (128 + 32 + 16)
    core = network.names.index("core0")
    assert network.degree()[core] == 8


@pytest.mark.parametrize(("hosts", "taper", "down", "up"), [(1024, 1, 32, 32), (1050, 2, 42, 22), (1071, 4, 51, 13)])
def test_tapered_leaves_split_64_ports_as_published(hosts, taper, down, up):
    """Full, 50 % and 75 % taper: 32/32, 42/22 and 51/13."""
    ports = FatTree(hosts=hosts, oversubscription=taper).ports
    assert (ports.tor_down, ports.tor_up) == (down, up)


def test_tiers_are_as_few_as_fit():
    """64 hosts need one switch, 65 need two tiers, more than 64 leaves need three."""
    assert [FatTree(hosts=hosts).levels for hosts in (2, 64, 65, 2048, 2049, 16384)] == [1, 1, 2, 2, 3, 3]


def test_networks_are_connected_and_duplex():
    """Every link has a reverse of equal capacity, also in partly filled trees."""
    for topology in (FatTree(hosts=100, oversubscription=2, radix=16), FatTree(hosts=70, radix=8), mesh(2, 5, radix=8)):
        network = topology.network
        forward = sorted(zip(network.source.tolist(), network.target.tolist(), strict=True))
        backward = sorted(zip(network.target.tolist(), network.source.tolist(), strict=True))
        assert forward == backward


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FatTree(hosts=1), "at least 2 hosts"),
        (lambda: FatTree(hosts=100, tiers=1), "100 hosts do not fit one switch of 64 ports"),
        (lambda: FatTree(hosts=5000, tiers=2), "use tiers=3"),
        (lambda: FatTree(hosts=100, tiers=3), "use 54 or 128 hosts"),
        (lambda: FatTree(hosts=16, tiers=3, oversubscription=8), "must be whole numbers"),
        (lambda: FatTree(hosts=8, link_gbps=0), "link_gbps must be above 0"),
        (lambda: FatTree(hosts=8, oversubscription=0.5), "at least 1"),
        (lambda: FatTree(hosts=8, tiers=4), "1, 2 or 3 tiers"),
        (lambda: FatTree(hosts=10**6, radix=8), "use a larger radix"),
        (lambda: mesh(2, 0), "positive sides"),
        (lambda: mesh(1, 2000), "use larger boards"),
        (lambda: mesh(2, 2, link_gbps=-1), "link_gbps must be above 0"),
    ],
)
def test_impossible_shapes_are_refused_before_anything_runs(make, message):
    """The error names the value, the rule and what would fit."""
    with pytest.raises(TopologyError, match=message):
        make()


def test_a_disconnected_network_is_refused():
    """Two pairs of hosts without a way from one to the other."""
    wiring = Wiring()
    wiring.cable(np.array([0, 2]), np.array([1, 3]), trunk=np.array([0, 1]), back=np.array([2, 3]), latency_ps=1)
    with pytest.raises(TopologyError, match="disconnected: its hosts fall into 2"):
        wiring.network(4, ("a", "b", "c", "d"), 1e9)
