"""Even splitting over minimal paths, against enumeration of all paths and laws of conservation."""

from collections import defaultdict

import numpy as np
import pytest

from orchestrator_network import FatTree, HammingMesh
from orchestrator_network.errors import WorkloadError
from orchestrator_network.routes import minimal_loads

SMALL = [
    FatTree(hosts=16, tiers=3),
    FatTree(hosts=20, tiers=2, oversubscription=2, radix=8),
    HammingMesh(board_rows=2, board_columns=2, grid_rows=2, grid_columns=3),
    HammingMesh(board_rows=1, board_columns=4, grid_rows=3, grid_columns=2),
    HammingMesh(board_rows=4, board_columns=4, grid_rows=2, grid_columns=1),
    HammingMesh(board_rows=1, board_columns=1, grid_rows=3, grid_columns=4, radix=4),
    HammingMesh(board_rows=3, board_columns=5, grid_rows=2, grid_columns=2),
    HammingMesh(board_rows=2, board_columns=3, grid_rows=4, grid_columns=3, radix=6),
    HammingMesh(board_rows=4, board_columns=4, grid_rows=2, grid_columns=1, wrap=False),
    HammingMesh(board_rows=2, board_columns=5, grid_rows=4, grid_columns=3, radix=6, wrap=False),
    HammingMesh(board_rows=1, board_columns=1, grid_rows=4, grid_columns=3, radix=6, wrap=False),
]


def all_pairs(hosts):
    source, target = np.divmod(np.arange(hosts * hosts), hosts)
    return source[source != target], target[source != target]


def paths_between(network, source, target):
    """Enumerate every path of least route cost as lists of links, by depth-first search with the exact remaining cost."""
    leaving = defaultdict(list)
    for link in range(network.links):
        leaving[int(network.source[link])].append(link)
    cost = {target: 0}
    changed = True
    while changed:  # Bellman and Ford, as slow and plain as it gets
        changed = False
        for link in range(network.links):
            u, v = int(network.source[link]), int(network.target[link])
            if v in cost and cost[v] + int(network.route_cost[link]) < cost.get(u, 10**9):
                cost[u] = cost[v] + int(network.route_cost[link])
                changed = True
    found, open_ = [], [(source, [])]
    while open_:
        node, path = open_.pop()
        if node == target:
            found.append(path)
            continue
        open_ += [
            (int(network.target[link]), [*path, link])
            for link in leaving[node]
            if cost[node] == int(network.route_cost[link]) + cost[int(network.target[link])]
        ]
    return found


@pytest.mark.parametrize("topology", SMALL, ids=lambda topology: f"{topology.name}-{topology.hosts}")
def test_shares_equal_the_enumeration_of_paths(topology):
    """The share of a trunk is the fraction of all minimal paths that use its links; latency and hops are their means."""
    network = topology.network
    pairs = np.random.default_rng(7).permutation(topology.hosts)
    sources, targets = pairs, np.roll(pairs, 1)
    routes = topology.routes(sources, targets)
    shares = routes.share.toarray()
    for flow, (source, target) in enumerate(zip(sources.tolist(), targets.tolist(), strict=True)):
        paths = paths_between(network, source, target)
        expected = np.zeros(len(network.trunk_bps))
        for path in paths:
            for link in path:
                expected[network.trunk[link]] += 1 / len(paths)
        assert shares[flow] == pytest.approx(expected)
        assert routes.hops[flow] == pytest.approx(np.mean([len(path) for path in paths]))
        latency_ps = np.mean([network.latency_ps[path].sum() for path in paths])
        assert routes.latency_ps[flow] == pytest.approx(latency_ps)


@pytest.mark.parametrize("topology", SMALL, ids=lambda topology: f"{topology.name}-{topology.hosts}")
def test_what_enters_a_node_leaves_it(topology):
    """Every flow leaves its source whole, arrives at its target whole, and no node in between keeps or makes traffic."""
    network = topology.network
    sources, targets = all_pairs(topology.hosts)
    shares = topology.routes(sources, targets).share.toarray()
    per_link = (shares / network.trunk_links)[:, network.trunk]
    # Links of one trunk leave different switches of one tier, so whole tiers are compared, as trunks are.
    balance = np.zeros((len(sources), network.nodes))
    for link in range(network.links):
        balance[:, network.source[link]] -= per_link[:, link]
        balance[:, network.target[link]] += per_link[:, link]
    expected = np.zeros_like(balance)
    expected[np.arange(len(sources)), sources] = -1
    expected[np.arange(len(sources)), targets] = 1
    assert balance[:, : topology.hosts] == pytest.approx(expected[:, : topology.hosts], abs=1e-12)
    assert balance.sum(axis=1) == pytest.approx(0, abs=1e-9)
    if isinstance(topology, HammingMesh) and not any("spine" in name for name in network.names):
        assert balance == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("topology", SMALL, ids=lambda topology: f"{topology.name}-{topology.hosts}")
def test_loads_are_the_sum_of_routes(topology):
    """Backward accumulation over a demand matrix equals adding up all flows one by one."""
    sources, targets = all_pairs(topology.hosts)
    demand = np.random.default_rng(3).integers(0, 5, (topology.hosts, topology.hosts)).astype(float)
    expected = demand[sources, targets] @ topology.routes(sources, targets).share
    assert topology.loads(demand) == pytest.approx(expected)
    assert minimal_loads(topology.network, demand) == pytest.approx(expected)


def test_traffic_wraps_around_a_board_where_that_is_shorter():
    """On a row of four the ends are 3 traces or one switch apart: all goes by the switch. Shorter ways go by traces."""
    mesh = HammingMesh(board_rows=1, board_columns=4, grid_rows=1, grid_columns=2)
    network = mesh.network
    through_switch = (network.source >= mesh.hosts) | (network.target >= mesh.hosts)
    routes = mesh.routes(np.array([0, 1, 0]), np.array([3, 2, 2]))
    on_switch = routes.share.toarray()[:, network.trunk[through_switch]].sum(axis=1)
    assert on_switch[0] == pytest.approx(2)
    assert on_switch[1] == 0
    # From 0 to 2: two traces, or the switch to 3 and one trace back, which is as long: across the board.
    assert on_switch[2] == 0


@pytest.mark.parametrize(("board", "share"), [(1, 0.5), (2, 0.25), (4, 0.125)])
def test_alltoall_bandwidth_of_a_mesh_is_one_over_twice_the_board(board, share):
    """Uniform traffic crosses board edges twice on average, so its share of injection tends to 1 / (2a)."""
    side = 16
    mesh = HammingMesh(
        board_rows=board, board_columns=board, grid_rows=side // board, grid_columns=side // board, link_gbps=1
    )
    loads = mesh.loads(np.ones((mesh.hosts, mesh.hosts)))
    sent_bps = (mesh.hosts - 1) / (loads / mesh.network.trunk_bps).max()
    # Even splitting is not optimal inside large boards, and small grids keep more traffic at home.
    assert sent_bps / mesh.injection_bps == pytest.approx(share, rel=0.25)


@pytest.mark.parametrize(
    ("sources", "targets", "message"), [([0], [99], "target 99 is not a host"), ([4], [4], "to itself")]
)
def test_flows_that_cannot_be_are_refused(sources, targets, message):
    """Unknown hosts and flows to oneself are named."""
    for topology in (SMALL[0], SMALL[2]):
        with pytest.raises(WorkloadError, match=message):
            topology.routes(np.array(sources), np.array(targets))


@pytest.mark.parametrize(
    ("topology", "published", "tolerance"),
    [
        (FatTree(hosts=1024), 0.999, 0.05),
        # Traffic that stays below its leaf needs no uplink: 22/42 and 13/51 of injection, and a little more.
        (FatTree(hosts=1050, oversubscription=2), 0.512, 0.07),
        (FatTree(hosts=1071, oversubscription=4), 0.257, 0.05),
        (HammingMesh(grid_rows=16, grid_columns=16), 0.254, 0.05),
        # Splitting evenly is not optimal across a board of 4 x 4; the published value uses adaptive routing.
        (HammingMesh(board_rows=4, board_columns=4, grid_rows=8, grid_columns=8), 0.113, 0.10),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_alltoall_bandwidth_of_small_machines_is_near_the_published_one(topology, published, tolerance):
    """Share of injection that a uniform all-to-all reaches on the machines of about 1,024 accelerators."""
    loads = topology.loads(np.ones((topology.hosts, topology.hosts)))
    sent_bps = (topology.hosts - 1) / (loads / topology.network.trunk_bps).max()
    assert sent_bps / topology.injection_bps == pytest.approx(published, rel=tolerance)
