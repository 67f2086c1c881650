"""The last message of an all-to-all: what many sources at a time say is what one rank after the other does, to the bit."""

import numpy as np
import pytest

from orchestrator_network import Dragonfly, FatTree, GraphTopology, HammingMesh, HyperX, RailOptimized, Torus
from orchestrator_network import lowering as lowering_module
from orchestrator_network.failed_tree import Failure, without
from orchestrator_network.graph_topology import Cable
from orchestrator_network.lowering import CollectiveLowering
from orchestrator_network.program import ProgramBuilder
from orchestrator_network.wire import CountedWire, Wire

TREE = FatTree(hosts=40, tiers=3, radix=6, oversubscription=2, switch_latency_ps=37)
TOPOLOGIES = [
    FatTree(hosts=20, radix=64),
    FatTree(hosts=30, radix=8),
    TREE,
    without(TREE, [Failure(tier="TOR", switch=3, link=0), Failure(tier="TOR", switch=5, link=1)]),
    HammingMesh(board_rows=2, board_columns=3, grid_rows=3, grid_columns=2),
    HammingMesh(board_rows=4, board_columns=4, grid_rows=2, grid_columns=3, radix=4),
    HammingMesh(board_rows=3, board_columns=3, grid_rows=2, grid_columns=2, routing="balanced"),
    HyperX(rows=3, columns=7, radix=8),
    HyperX(rows=3, columns=4, routing="valiant"),
    Torus(sides=(4, 6), latency_ps=12_345),
    Torus(sides=(4, 2, 5)),
    Dragonfly(hosts_per_router=2, routers_per_group=4, global_links=1, groups=5),
    Dragonfly(hosts_per_router=1, routers_per_group=3, global_links=2, groups=4, routing="valiant"),
    RailOptimized(nodes=5, gpus_per_node=4, radix=4 * 3),
    RailOptimized(nodes=5, gpus_per_node=2, radix=6, cross_rail="spine"),
    GraphTopology(
        host_names=tuple(f"h{i}" for i in range(6)),
        switch_names=("a", "b"),
        cables=(
            *(Cable(first=i, second=6 + i // 4, latency_ps=i) for i in range(6)),
            Cable(first=6, second=7, gbps=90.0),
        ),
    ),
]


def called(topology):
    return f"{topology.name}-{topology.hosts}"


def one_after_the_other(topology, wire, ranks):
    """Return the routes from the first of the ranks whose last message arrives last, rank by rank."""
    found, longest_ps = None, -1
    for rank in ranks:
        routes = topology.routes(np.full(len(ranks) - 1, rank), ranks[ranks != rank])
        arrival_ps = int(wire.arrival_ps(routes, float(wire.packet_bytes * 8), topology.link_bps).max())
        if arrival_ps > longest_ps:
            found, longest_ps = routes, arrival_ps
    return found


def all_pairs(ranks):
    source, target = np.repeat(ranks, len(ranks)), np.tile(ranks, len(ranks))
    return source[source != target], target[source != target]


@pytest.mark.parametrize("pairs", [1, 100, 1 << 18])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=called)
def test_the_farthest_rank_is_that_of_the_slow_loop(topology, pairs, monkeypatch):
    """Over all hosts, some of them and in any order, whatever number of pairs is looked at together."""
    monkeypatch.setattr(lowering_module, "_PAIRS", pairs)
    generator = np.random.default_rng(topology.hosts)
    everyone = np.arange(topology.hosts)
    some = generator.permutation(topology.hosts)[: topology.hosts // 2]
    for wire in (Wire(packet_bytes=8192, header_bytes=0), Wire(), CountedWire(link_bps=topology.link_bps)):
        for ranks in (everyone, some, everyone[1:3]):
            fast = CollectiveLowering(
                ProgramBuilder(len(topology.network.trunk_bps)), topology, wire, "auto"
            )._farthest(ranks)
            slow = one_after_the_other(topology, wire, ranks)
            for name in ("latency_ps", "hops", "stored_ps", "paced_ps"):
                assert np.array_equal(getattr(fast, name), getattr(slow, name)), name
            assert np.array_equal(fast.share.toarray(), slow.share.toarray())


@pytest.mark.parametrize("topology", [one for one in TOPOLOGIES if hasattr(one, "spans")], ids=called)
def test_spans_are_those_of_routes_to_the_bit(topology):
    """Latency and hops of every pair, also when some were asked for before."""
    for ranks in (np.arange(topology.hosts)[::3], np.arange(topology.hosts)):
        spans, routes = topology.spans(*all_pairs(ranks)), topology.routes(*all_pairs(ranks))
        assert spans.latency_ps.tobytes() == routes.latency_ps.tobytes()
        assert spans.hops.tobytes() == routes.hops.tobytes()
        assert spans.stored_ps is routes.stored_ps is None


def test_topologies_of_one_speed_know_their_spans():
    """Those of many thousand hosts are not asked rank by rank."""
    assert {type(one).__name__ for one in TOPOLOGIES if hasattr(one, "spans")} == {
        *("FatTree", "FailedTree", "HammingMesh", "HyperX", "Torus", "Dragonfly"),
    }
