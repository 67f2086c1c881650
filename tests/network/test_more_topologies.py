"""Torus, HyperX, Dragonfly and rails: structure and routes against brute force, prices, and what cannot be built."""

from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pytest

from orchestrator_network import (
    Dragonfly,
    GraphTopology,
    HammingMesh,
    HyperX,
    RailOptimized,
    Torus,
    WorkloadError,
    published_shapes,
)
from orchestrator_network.cost import dragonfly_bill
from orchestrator_network.errors import TopologyError
from orchestrator_network.graph_topology import Cable
from orchestrator_network.routes import minimal_loads, minimal_routes
from tests.network.test_routes import all_pairs, paths_between


def fly(hosts, routers, links, groups, **settings):
    return Dragonfly(hosts_per_router=hosts, routers_per_group=routers, global_links=links, groups=groups, **settings)


WEB = GraphTopology(  # a ring of forwarding hosts with chords, a doubled link and a switch of its own speed
    host_names=("a", "b", "c", "d", "e"),
    switch_names=("s", "t"),
    cables=tuple(
        Cable(first=first, second=second, count=count, gbps=gbps, latency_ps=latency)
        for first, second, count, gbps, latency in (
            (0, 1, 1, None, None),
            (1, 2, 2, None, None),
            (2, 3, 1, 100.0, 5),
            (3, 0, 1, None, None),
            (0, 5, 1, None, 7),
            (2, 5, 3, None, None),
            (5, 6, 1, None, None),
            (6, 4, 2, 800.0, None),
        )
    ),
)

MINIMAL = [
    Torus(sides=(4, 4)),
    Torus(sides=(2, 6)),
    Torus(sides=(3, 5), board=1),
    Torus(sides=(3, 2, 4), board=1),
    HyperX(rows=3, columns=4),
    HyperX(rows=2, columns=5, radix=6),
    fly(2, 4, 2, 5),
    fly(1, 3, 2, 3),
    fly(2, 2, 5, 4),
    WEB,
]
RAILS = [
    RailOptimized(nodes=3, gpus_per_node=4),
    RailOptimized(nodes=3, gpus_per_node=4, oversubscription=None),
    RailOptimized(nodes=3, gpus_per_node=4, cross_rail="spine", oversubscription=2),
    RailOptimized(nodes=7, gpus_per_node=2, radix=8),
    RailOptimized(nodes=9, gpus_per_node=2, radix=8, cross_rail="spine", oversubscription=3),
]
VALIANT = [fly(2, 4, 2, 5, routing="valiant"), fly(1, 3, 2, 3, routing="valiant"), fly(1, 4, 1, 4, routing="valiant")]


def called(topology):
    return f"{topology.name}-{topology.hosts}"


def distances(network, start):
    """Breadth-first search, plain."""
    following = {node: [] for node in range(network.nodes)}
    for first, second in zip(network.source.tolist(), network.target.tolist(), strict=True):
        following[first].append(second)
    found, queue = {start: 0}, deque([start])
    while queue:
        node = queue.popleft()
        for other in following[node]:
            if other not in found:
                found[other] = found[node] + 1
                queue.append(other)
    return found


def longest(network):
    """The diameter between hosts; fails where one does not reach all nodes."""
    reach = [distances(network, host) for host in range(network.hosts)]
    assert all(len(found) == network.nodes for found in reach)
    return max(found[host] for found in reach for host in range(network.hosts))


def without(network, dropped):
    """The network without some links, trunks and numbers as before."""
    kept = ~dropped
    columns = ("source", "target", "capacity_bps", "latency_ps", "trunk", "route_cost")
    return replace(network, **{name: getattr(network, name)[kept] for name in columns})


def average(network, paths, trunks):
    """The share of every trunk, the links and the latency of paths taken evenly."""
    share = np.zeros(trunks)
    for path in paths:
        for link in path:
            share[network.trunk[link]] += 1 / len(paths)
    hops = np.mean([len(path) for path in paths])
    return share, hops, np.mean([network.latency_ps[path].sum() for path in paths])


@pytest.mark.parametrize("topology", MINIMAL, ids=called)
def test_minimal_shares_equal_the_enumeration_of_paths(topology):
    """The share of a trunk is the fraction of all cheapest paths over its links; latency and hops are their means."""
    network, trunks = topology.network, len(topology.network.trunk_bps)
    sources, targets = all_pairs(topology.hosts)
    some = np.random.default_rng(7).permutation(len(sources))[:60]
    routes = topology.routes(sources[some], targets[some])
    for flow, (source, target) in enumerate(zip(sources[some].tolist(), targets[some].tolist(), strict=True)):
        share, hops, latency = average(network, paths_between(network, source, target), trunks)
        assert routes.share.toarray()[flow] == pytest.approx(share)
        assert routes.hops[flow] == pytest.approx(hops)
        assert routes.latency_ps[flow] == pytest.approx(latency)


@pytest.mark.parametrize("topology", RAILS, ids=called)
def test_rail_routes_are_the_shortest_of_their_kind(topology):
    """By NVLink to the rail and then along it, or rail to rail by the spine; never through another server's GPU."""
    network, trunks, g = topology.network, len(topology.network.trunk_bps), topology.gpus_per_node
    inside = (network.capacity_bps == topology.local_gbps * 1e9).copy()
    sources, targets = all_pairs(topology.hosts)
    routes = topology.routes(sources, targets)
    some = np.random.default_rng(7).permutation(len(sources))[:60]
    for flow, source, target in zip(some.tolist(), sources[some].tolist(), targets[some].tolist(), strict=True):
        if source // g == target // g:
            legs = [(source, target, ~inside)]
        elif topology.cross_rail == "spine":
            legs = [(source, target, inside)]
        else:
            relay = source // g * g + target % g
            legs = [(source, relay, ~inside), (relay, target, inside)]
        share, hops, latency = np.zeros(trunks), 0.0, 0.0
        for start, end, dropped in legs:
            if start != end:
                part = without(network, dropped)
                found = average(part, paths_between(part, start, end), trunks)
                share, hops, latency = share + found[0], hops + found[1], latency + found[2]
        assert routes.share.toarray()[flow] == pytest.approx(share)
        assert (routes.hops[flow], routes.latency_ps[flow]) == pytest.approx((hops, latency))


@pytest.mark.parametrize("topology", VALIANT, ids=called)
def test_valiant_shares_equal_the_enumeration_over_intermediate_groups(topology):
    """To every third group by the cheapest paths to any of its routers, evenly, and minimally on from where they end."""
    fabric, trunks = topology.fabric, len(topology.fabric.trunk_bps)
    sources, targets = all_pairs(topology.routers)
    ends = [side * topology.hosts_per_router for side in (sources, targets)]
    routes = topology.routes(*ends)
    for flow, (source, target) in list(enumerate(zip(sources.tolist(), targets.tolist(), strict=True)))[::7]:
        first, last = source // topology.routers_per_group, target // topology.routers_per_group
        share = np.zeros(trunks)
        if first == last:
            share += average(fabric, paths_between(fabric, source, target), trunks)[0]
        between = [] if first == last else sorted(set(range(topology.groups)) - {first, last})
        for group in between:
            members = range(group * topology.routers_per_group, (group + 1) * topology.routers_per_group)
            entries = [(path, at) for at in members for path in paths_between(fabric, source, at)]
            cost = [int(fabric.route_cost[path].sum()) for path, _ in entries]
            cheapest = [entry for entry, price in zip(entries, cost, strict=True) if price == min(cost)]
            for path, at in cheapest:
                part = (
                    average(fabric, [path], trunks)[0] + average(fabric, paths_between(fabric, at, target), trunks)[0]
                )
                share += part / len(cheapest) / len(between)
        assert routes.share.toarray()[flow, 2 * topology.hosts :] == pytest.approx(share)
        assert routes.hops[flow] == pytest.approx(2 + share.sum())


@pytest.mark.parametrize("topology", MINIMAL + RAILS + VALIANT, ids=called)
def test_what_enters_a_node_leaves_it(topology):
    """Every flow leaves its source whole and reaches its target whole; no other node keeps or makes traffic."""
    network = topology.network
    sources, targets = all_pairs(topology.hosts)
    routes = topology.routes(sources, targets)
    per_link = (routes.share.toarray() / network.trunk_links)[:, network.trunk]
    balance = np.zeros((network.nodes, len(sources)))
    np.add.at(balance, network.source, -per_link.T)
    np.add.at(balance, network.target, per_link.T)
    flow = np.arange(len(sources))
    balance[sources, flow] += 1
    balance[targets, flow] -= 1
    assert balance == pytest.approx(0, abs=1e-12)
    assert routes.hops == pytest.approx(per_link.sum(axis=1))


@pytest.mark.parametrize("topology", MINIMAL + RAILS + VALIANT, ids=called)
def test_loads_are_the_sum_of_routes(topology):
    """A demand matrix at once equals all its flows one by one, and the diagonal does not count."""
    sources, targets = all_pairs(topology.hosts)
    demand = np.random.default_rng(3).integers(0, 5, (topology.hosts, topology.hosts)).astype(float)
    expected = demand[sources, targets] @ topology.routes(sources, targets).share
    assert topology.loads(demand) == pytest.approx(expected)
    if topology in MINIMAL:
        assert minimal_loads(topology.network, demand) == pytest.approx(expected)
        some = slice(0, None, 1 + len(sources) // 200)
        general = minimal_routes(topology.network, sources[some], targets[some])
        assert general.share.toarray() == pytest.approx(topology.routes(sources[some], targets[some]).share.toarray())


@pytest.mark.parametrize("topology", [MINIMAL[0], MINIMAL[4], MINIMAL[6], VALIANT[0], RAILS[0], WEB], ids=called)
def test_flows_that_cannot_be_are_refused_and_no_flow_is_none(topology):
    """Unknown hosts and flows to oneself are named; an empty set of flows has empty routes."""
    for sources, targets, message in (([0], [99], "target 99 is not a host"), ([3], [3], "to itself")):
        with pytest.raises(WorkloadError, match=message):
            topology.routes(np.array(sources), np.array(targets))
    nothing = np.zeros(0, np.int64)
    assert topology.routes(nothing, nothing).share.shape == (0, len(topology.network.trunk_bps))


@pytest.mark.parametrize("sides", [(4, 6), (2, 2), (3, 3), (4, 3, 2), (5, 4)])
def test_a_torus_has_two_ports_a_dimension_and_half_of_every_side_as_diameter(sides):
    """Degrees, links and diameter by counting; a step changes one coordinate by one, around the end as well."""
    torus = Torus(sides=sides, board=1)
    network = torus.network
    assert set(network.degree().tolist()) == {2 * len(sides)}
    assert network.links == 2 * len(sides) * torus.hosts
    assert longest(network) == sum(side // 2 for side in sides)
    step = np.abs(np.stack(np.unravel_index(network.target, sides)) - np.stack(np.unravel_index(network.source, sides)))
    around = np.minimum(step, np.array(sides)[:, None] - step)
    assert set(around.sum(axis=0).tolist()) == {1}


def test_rings_along_a_torus_use_single_links():
    """The grid of all hosts keeps neighbours one link apart; that of a 3D torus is a cycle and a line."""
    for torus in (Torus(sides=(4, 6)), Torus(sides=(4, 2, 3))):
        grid = torus.grid(np.arange(torus.hosts))
        for axis in (0, 1):
            assert set(torus.routes(grid.ravel(), np.roll(grid, -1, axis=axis).ravel()).hops.tolist()) == {1}
    torus = Torus(sides=(4, 4, 4))
    assert torus.grid(np.arange(16)).tolist() == np.arange(16).reshape(4, 4).tolist()
    assert torus.grid(np.arange(4)).shape == (1, 4)
    assert torus.grid(np.arange(15)) is None


def test_a_hyperx_is_the_mesh_of_single_accelerators():
    """Same graph, routes and bill as the HammingMesh of 1 x 1 boards; two links to a row or column, four across."""
    hyperx, mesh = HyperX(rows=3, columns=5), HammingMesh(board_rows=1, board_columns=1, grid_rows=3, grid_columns=5)
    assert hyperx.network.links == mesh.network.links == 2 * 4 * 15
    assert longest(hyperx.network) == 4
    assert {distances(hyperx.network, 0)[host] for host in range(1, 5)} == {2}
    assert hyperx.bill() == mesh.bill()
    assert hyperx.grid(np.arange(15)).shape == (3, 5)


@pytest.mark.parametrize("shape", [(2, 4, 2, 5), (1, 4, 1, 5), (2, 3, 3, 4), (1, 2, 7, 3), (8, 16, 8, 8)])
def test_a_dragonfly_joins_routers_and_groups_pair_by_pair(shape):
    """One link between any two routers of a group, equally many between any two groups, no router over its ports."""
    dragonfly = fly(*shape)
    p, a, h, g = shape
    fabric = dragonfly.fabric
    group = np.arange(dragonfly.routers) // a
    ends = Counter(zip(fabric.source.tolist(), fabric.target.tolist(), strict=True))
    local = {pair: count for pair, count in ends.items() if group[pair[0]] == group[pair[1]]}
    assert local == {(u, v): 1 for u in range(a * g) for v in range(a * g) if u != v and group[u] == group[v]}
    far = Counter()
    for (u, v), count in ends.items():
        far[group[u], group[v]] += count if group[u] != group[v] else 0
    assert {far[u, v] for u in range(g) for v in range(g) if u != v} == {a * h // (g - 1)}
    degree = dragonfly.network.degree()[dragonfly.hosts :]
    assert degree.max() <= p + a - 1 + h
    assert degree.sum() == a * g * (p + a - 1) + g * (g - 1) * (a * h // (g - 1))
    if dragonfly.hosts < 100:
        assert 4 <= longest(dragonfly.network) <= 5


def test_every_router_of_the_small_published_dragonfly_reaches_every_group_itself():
    """18 links between any two groups of 16 routers: three links beyond the hosts' own are never needed."""
    small = Dragonfly()
    a = small.routers_per_group
    far = small.fabric.route_cost > 1
    reached = set(zip(small.fabric.source[far].tolist(), (small.fabric.target[far] // a).tolist(), strict=True))
    assert len(reached) == small.routers * (small.groups - 1)
    assert small.network.diameter() == 4


def test_rails_join_the_same_gpu_of_every_server():
    """GPU i of a unit's servers share leaf i; a leaf has one link to every spine; the taper is at the leaf."""
    rails = RailOptimized(nodes=9, gpus_per_node=2, radix=8, oversubscription=3)
    network, names = rails.network, rails.network.names
    assert (rails.nodes_per_unit, rails.units, rails.leaves, rails.uplinks) == (6, 2, 4, 2)
    for first, second in zip(network.source.tolist(), network.target.tolist(), strict=True):
        if "gpu" in names[first] and "rail" in names[second]:
            assert names[first].split("gpu")[1] == names[second].split("rail")[1]
            assert (first // 2) // 6 == int(names[second][len("unit")])
    assert network.links == 2 * (18 + 18 + 4 * 2)
    assert set(network.degree()[: rails.hosts].tolist()) == {2}
    assert set(network.degree()[-2:].tolist()) == {4}
    assert longest(network) == 4
    fast = network.capacity_bps > rails.link_bps
    assert fast.sum() == 36
    assert rails.grid(np.array([2, 3, 6, 7])).tolist() == [[2, 3], [6, 7]]
    assert rails.grid(np.array([2, 3, 6])) is None


@pytest.mark.parametrize(
    ("name", "scale", "topology"),
    [
        ("torus", "small", Torus(planes=4)),
        ("torus", "large", Torus(sides=(128, 128), planes=4)),
        ("hyperx", "small", HyperX(planes=4)),
        ("hyperx", "large", HyperX(rows=128, columns=128, planes=4)),
        ("dragonfly", "small", Dragonfly(planes=16)),
        ("dragonfly", "large", fly(17, 32, 16, 30, planes=16)),
    ],
)
def test_bills_are_those_of_the_published_machines(name, scale, topology):
    """The same pieces as the published table, and its total to 0.1 M$ (small) and 1 M$ (large)."""
    shape = next(one for one in published_shapes() if (one.topology, one.scale) == (name, scale))
    assert topology.hosts == shape.devices
    assert topology.bill() == shape.bill
    assert topology.bill().usd() / 1e6 == pytest.approx(shape.musd, abs=0.1 if scale == "small" else 1.0)


def test_bills_count_the_cables_of_the_graph():
    """Where nothing is shared, a switch a node and a cable a duplex link; links inside servers and boards are free."""
    dragonfly = fly(2, 4, 1, 5, radix=6)
    bill = dragonfly.bill()
    assert bill.switches == dragonfly.routers
    assert bill.dac_cables + bill.aoc_cables == dragonfly.network.links / 2
    rails = RailOptimized(nodes=8, gpus_per_node=4, radix=16, planes=2)
    assert rails.bill().switches == 2 * (4 + 4 * 8 / 16)
    assert (rails.bill().dac_cables, rails.bill().aoc_cables) == (2 * 32, 2 * 4 * 8)
    assert Torus(sides=(4, 4), board=1).bill().aoc_cables == 32
    assert Torus(sides=(4, 4, 4)).bill().aoc_cables == 64 + 64
    assert WEB.bill().switches == 2
    assert (WEB.bill().dac_cables, WEB.bill().aoc_cables) == (11, 1)


def test_an_odd_router_has_a_switch_of_its_own():
    """Three routers, two a switch: one of three local links is inside; all three in one switch: none is bought."""
    assert dragonfly_bill(4, 3, 1, 1, radix=8).dac_cables == 4 * 3 + 4 * 2
    assert dragonfly_bill(4, 3, 1, 1, radix=64).dac_cables == 4 * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Torus(sides=(4,)), "2 or 3 sides of at least 2, got"),
        (lambda: Torus(sides=(4, 1)), "2 or 3 sides"),
        (lambda: Torus(sides=(4, 5)), "boards of 2 x 2 do not tile 4 x 5 accelerators; use .* board=1"),
        (lambda: Torus(link_gbps=0), "link_gbps must be above 0"),
        (lambda: Torus(planes=0), "planes must be at least 1"),
        (lambda: HyperX(rows=0), "positive rows and columns"),
        (lambda: HyperX(rows=2000), "2000 accelerators is too long: .* join 1024"),
        (lambda: HyperX(rows=3, columns=3, radix=7), "even number of ports"),
        (lambda: fly(0, 4, 2, 5), "hosts_per_router must be at least 1, got 0"),
        (lambda: fly(2, 4, 2, 1), "at least 2 groups, got 1"),
        (lambda: fly(2, 4, 1, 6), "6 groups cannot all be joined: .* 4 x 1 global ports for 5 others"),
        (lambda: fly(20, 32, 16, 9), "needs 67 ports .*, the switch has 64"),
        (lambda: Dragonfly(routing="adaptive"), "`adaptive`, it must be one of minimal, valiant"),
        (lambda: fly(2, 4, 2, 2, routing="valiant"), "needs a third group"),
        (lambda: RailOptimized(nodes=0), "at least 2 hosts, got 0 servers"),
        (lambda: RailOptimized(nodes=4, local_gbps=0), "local_gbps must be above 0"),
        (lambda: RailOptimized(nodes=4, cross_rail="pcie"), "`pcie`, it must be nvlink or spine"),
        (lambda: RailOptimized(nodes=4, oversubscription=0.5), "oversubscription must be at least 1"),
        (lambda: RailOptimized(nodes=100, oversubscription=None), "100 servers do not fit rails of one 64-port"),
        (lambda: RailOptimized(nodes=4, oversubscription=None, cross_rail="spine"), "there is no spine"),
        (lambda: RailOptimized(nodes=1000), "need 256 leaves of 32 ports down, a spine has 64 ports"),
        (lambda: RailOptimized(nodes=4, radix=5), "even number of ports"),
    ],
)
def test_impossible_shapes_are_refused_before_anything_runs(make, message):
    """The error names the value, the rule and what would fit."""
    with pytest.raises(TopologyError, match=message):
        make()


@pytest.mark.parametrize("topology", [*MINIMAL[:1], *MINIMAL[4:5], *MINIMAL[6:7], *RAILS[:1], WEB], ids=called)
def test_latency_can_be_changed_alone(topology):
    """Same trunks and capacities; links of a file that state a latency keep it."""
    slow = topology.with_latency(9)
    assert slow.network.capacity_bps.tolist() == topology.network.capacity_bps.tolist()
    expected = {9, 5, 7} if topology is WEB else {9}
    assert set(slow.network.latency_ps.tolist()) == expected
    assert slow.link_bps == topology.link_bps > 0
    assert slow.injection_bps == topology.injection_bps >= topology.link_bps
