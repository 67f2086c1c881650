"""Fat trees whose tiers differ in speed: what a flow takes alone, what nothing beats, and queues as htsim sizes them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, Wire, simulate, workloads
from orchestrator_network.components import FatTreeBuilder, FatTreeConfig
from orchestrator_network.cost import topology_cost
from orchestrator_network.errors import TopologyError
from orchestrator_network.failed_tree import Failure
from orchestrator_network.packet.catalog import load_balancer, transport
from orchestrator_network.packet.engine import run
from orchestrator_network.packet.fabric import describe
from orchestrator_network.packet.options import Options
from orchestrator_network.readers import from_topo
from orchestrator_network.simulation import packet_bounds
from orchestrator_network.tree_bounds import alone_on_tiers
from tests.network.foreign_files import TOPO_32, written

PAYLOAD, FULL, HEADER = 4086, 4150, 64
# `topologies/test.topo` of htsim: hosts and ToRs at 200 Gb/s, bundles of two at 100 Gb/s to the cores.
MIXED = """\
Nodes 8
Tiers 3
Podsize 4

Tier 0
Downlink_speed_Gbps 200
Radix_Down 2
Radix_Up 2
Downlink_Latency_ns 1000

Tier 1
Downlink_speed_Gbps 200
Radix_Down 2
Radix_Up 4
Downlink_Latency_ns 1000
Bundle 1

Tier 2
Downlink_speed_Gbps 100
Radix_Down 4
Downlink_Latency_ns 1000
Bundle 2
"""


def sent(size, gbps):
    """Whole ps that a packet takes, as the engine counts them."""
    return (size * round(8000 / gbps * 256) + 128) >> 8


def speeds_of(tree, src, dst):
    """The speeds of the links of any shortest path."""
    per_tor = tree.ports.tor_down
    per_pod = per_tor * (tree.ports.agg_down if tree.levels == 3 else tree.hosts)
    top = 0 if src // per_tor == dst // per_tor else 1 if src // per_pod == dst // per_pod else 2
    return [tree.tier_gbps[tier] for tier in (*range(top + 1), *range(top, -1, -1))]


def sizes_of(size):
    """The packets of a message, with headers."""
    count = -(-size // PAYLOAD)
    return [FULL] * (count - 1) + [size - (count - 1) * PAYLOAD + HEADER]


def in_a_row(sizes, speeds):
    """When the last packet has crossed a line of links: packet after packet, link after link."""
    free = [0] * len(speeds)
    for size in sizes:
        there = 0
        for link, gbps in enumerate(speeds):
            free[link] = there = max(there, free[link]) + sent(size, gbps)
    return free[-1]


TREES = {
    "faster": FatTree(hosts=16, tiers=3, link_gbps=(100, 200, 400)),
    "odd": FatTree(hosts=16, tiers=2, radix=8, link_gbps=(56, 150)),
    "one_way_up": FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=(400, 100, 250)),
    "tapered": FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=(100, 400, 800)),
}


@pytest.mark.parametrize("name", sorted(TREES))
@pytest.mark.parametrize("size", [1, PAYLOAD, 12_000, 200_000, 2**20])
def test_a_flow_alone_takes_what_its_links_take(name, size):
    """To the picosecond, near and far, whether the slow links are the hosts' or all that a ToR has."""
    tree = TREES[name]
    for target in (1, tree.ports.tor_down, tree.hosts - 1):
        speeds = speeds_of(tree, 0, target)
        expected = (
            in_a_row(sizes_of(size), speeds) + sum(sent(HEADER, gbps) for gbps in speeds) + 2 * len(speeds) * 10**6
        )
        # ECMP keeps packets on one path, so that none overtakes.
        result = simulate(
            tree,
            workloads.flows([(0, target, size, 0)]),
            fidelity="packet",
            transport="constant",
            load_balancer="ecmp",
            queue_packets=400,
        )
        assert result.flows["finish_ps"][0].as_py() == expected
        assert result.flows["ideal_ps"][0].as_py() == expected
        assert result.summary["bound_us"] == expected / 1e6


@pytest.mark.parametrize("fidelity", ["flow", "analytic"])
@pytest.mark.parametrize("name", ["faster", "one_way_up", "tapered"])
def test_fluid_flows_take_the_formula(name, fidelity):
    """Full packets: all at the pace of what is slowest, one stored on every other link, a header back."""
    tree, packets = TREES[name], 40
    for target in (1, tree.ports.tor_down, tree.hosts - 1):
        each = [8000 / gbps for gbps in speeds_of(tree, 0, target)]
        expected = packets * FULL * max(each) + FULL * (sum(each) - max(each)) + HEADER * sum(each) + 2e6 * len(each)
        flows = simulate(tree, workloads.flows([(0, target, packets * PAYLOAD, 0)]), fidelity=fidelity).flows
        assert flows["finish_ps"][0].as_py() == round(expected)


def across(sizes, paths, gbps):
    """When all have arrived that take these paths over links of these speeds, the middle ones one a path."""
    at = list(range(len(sizes)))  # at one time in the order of their numbers
    when = [0] * len(sizes)
    for link, speed in enumerate(gbps):
        free = {}
        for packet in sorted(at, key=lambda one: (when[one], one)):
            lane = paths[packet] if 0 < link < len(gbps) - 1 else 0
            free[lane] = when[packet] = max(when[packet], free.get(lane, 0)) + sent(sizes[packet], speed)
    return max(when)


@pytest.mark.parametrize("speeds", [(100, 100), (100, 400), (400, 100), (400, 25), (50, 60)])
@pytest.mark.parametrize("size", [1, 4087, 8172, 8200, 16_000, 20_430, 20_480])
def test_no_way_of_spreading_packets_beats_the_bound(speeds, size):
    """Against all of them, in a tree of two tiers with two spines."""
    tree = FatTree(hosts=12, tiers=2, radix=6, oversubscription=2, link_gbps=speeds)
    assert (tree.ports.tor_down, tree.ports.tor_up) == (4, 2)
    load = workloads.flows([(0, 11, size, 0)])
    path = speeds_of(tree, 0, 11)
    sizes = sizes_of(size)
    best = min(across(sizes, paths, path) for paths in itertools.product(range(2), repeat=len(sizes)))
    least = int(alone_on_tiers(tree, load, Wire(), answered=False)[0]) - 4 * 10**6
    assert 0.9 * best < least <= best
    if speeds[0] <= speeds[1] or size % PAYLOAD == 0:
        assert least == best


@pytest.mark.parametrize("gbps", [100, 150])
def test_on_one_speed_it_is_the_bound_of_all_trees(gbps):
    """The formula of trees of one speed, where a flow has several paths; on one path nothing overtakes, so no less."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=gbps)
    sizes = [1, 100, 4086, 4087, 8200, 12_300, 20_000, 10**6]
    load = workloads.flows([(0, target, size, 0) for size in sizes for target in (1, 2, 15)])
    for answered in (True, False):
        usual = packet_bounds(tree, load, Wire(), answered=answered).alone_ps
        assert alone_on_tiers(tree, load, Wire(), answered=answered).tolist() == usual.tolist()


SPEED = st.sampled_from([25.0, 56.0, 100.0, 150.0, 400.0])


@settings(max_examples=40, deadline=None)
@given(
    speeds=st.tuples(SPEED, SPEED, SPEED),
    rows=st.lists(
        st.tuples(st.integers(0, 15), st.integers(1, 15), st.integers(1, 60_000), st.integers(0, 5_000_000)),
        min_size=1,
        max_size=12,
    ),
    balancer=st.sampled_from(["oblivious", "reps", "adaptive"]),
    delivery=st.sampled_from(["rud", "uud"]),
    failed=st.sampled_from([None, ("TOR", 0, 1), ("AGG", 2, 0), ("CORE", 3, 1)]),
)
def test_no_packet_beats_the_bound(speeds, rows, balancer, delivery, failed):
    """Any speeds, any load, datagrams and failed links too: no flow, and not all of them together."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=speeds)
    load = workloads.flows([(src, (src + step) % 16, size, start) for src, step, size, start in rows])
    if failed is not None:
        tier, switch, link = failed
        load = workloads.Workload(**{**vars(load), "failures": (Failure(tier=tier, switch=switch, link=link),)})
    result = simulate(
        tree, load, fidelity="packet", transport="constant", load_balancer=balancer, delivery=delivery, seed=1
    )
    assert min(result.flows["slowdown"].to_pylist()) >= 1
    assert result.summary["end_us"] >= result.summary["end_bound_us"]


def test_the_bound_of_all_flows_is_that_of_the_fullest_tier():
    """In closed form: all pods send over their four uplinks, and the last packet still crosses the five other links."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=(100, 100, 50))
    load = workloads.flows([(host, (host + 4) % 16, 100 * PAYLOAD, 0) for host in range(16)])
    sending = 4 * 100 * FULL * 8000 / (4 * 50)
    stored = FULL * (4 * 80 + 160) + HEADER * (4 * 80 + 2 * 160)
    found = simulate(tree, load, fidelity="packet", load_balancer="reps").summary
    assert found["end_bound_us"] == pytest.approx((sending + stored + 12e6) / 1e6)
    assert found["end_us"] >= found["end_bound_us"]
    # Of one speed the formula is that of all trees.
    alike, unlike = (FatTree(hosts=16, tiers=3, link_gbps=gbps) for gbps in (100, (100, 100, 100.0001)))
    near = [packet_bounds(one, load, Wire()).end_ps for one in (alike, unlike)]
    assert near[1] == pytest.approx(near[0], rel=1e-5)


@pytest.mark.parametrize("speeds", [100, (100, 100, 200)])
def test_the_first_at_a_trunk_and_the_last_may_be_of_two_flows(speeds):
    """A packet of 4000 bytes of a far flow comes first to the only uplink of a ToR, full ones of a near flow keep it busy then."""
    tree = FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=speeds)
    load = workloads.flows([(0, 127, 3936, 0), (1, 4, 40 * PAYLOAD, 0)])
    found = simulate(
        tree, load, fidelity="packet", transport="constant", load_balancer="ecmp", queue_packets=500
    ).summary
    assert found["end_us"] == pytest.approx(
        (4000 * 80 + (4000 + 40 * FULL) * 80 + 2 * FULL * 80 + 4 * HEADER * 80 + 8e6) / 1e6
    )
    # 150 bytes less on each of the two links behind the uplink
    assert found["end_us"] - found["end_bound_us"] == pytest.approx(2 * 150 * 80 / 1e6)


def test_datagrams_overtake_too():
    """A full packet and one of 65 bytes, which nobody answers: sprayed they end when the full one has arrived."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    load = workloads.flows([(0, 15, 4087, 0)])
    found = simulate(tree, load, fidelity="packet", load_balancer="oblivious", delivery="uud", seed=0).flows
    assert found["finish_ps"].to_pylist() == found["ideal_ps"].to_pylist() == [6 * (FULL * 80 + 10**6)]


def test_queues_and_windows_are_those_that_htsim_prints(tmp_path):
    """Its own example, `-linkspeed 200000`: round trip 13.0114 us, 327850 bytes in every port, marks from 66400 to 265600, RTO 93.684 us."""
    tree = from_topo(written(tmp_path, MIXED))
    fabric = describe(tree.network, packet_bytes=FULL, header_bytes=HEADER, trimming=True)
    assert (fabric.rtt_ps, fabric.rate_bps) == (13_011_360, 200e9)
    trace = run(tree.network, workloads.flows([(0, 7, 1, 0)]), transport("nscc"), load_balancer("reps"), Options())
    ports = trace.state.links[8:]
    assert set(ports["limit"]) == {327_850}
    assert set(ports["mark_from"]) == {66_400}
    assert set(ports["mark_all"]) == {265_600}
    assert trace.state.run["rto"][0] == 93_684_000


def test_a_topo_of_several_speeds_is_a_tree(tmp_path):
    """Link by link the speed of its tier; taper and price are those of bandwidth, and all fidelities carry it."""
    tree = from_topo(written(tmp_path, MIXED))
    network = tree.network
    kinds = {}
    for source, target, bps in zip(network.source, network.target, network.capacity_bps, strict=True):
        kinds.setdefault(tuple(sorted(network.names[end].rstrip("0123456789") for end in (source, target))), set()).add(
            bps
        )
    assert kinds == {("host", "tor"): {2e11}, ("agg", "tor"): {2e11}, ("agg", "core"): {1e11}}
    assert (tree.taper, tree.injection_bps, tree.link_bps) == (1, 2e11, 1e11)
    assert tree.bought_gbps == (16 * 200 + 16 * 100) / 32  # 8 cables at hosts, 8 above the ToRs, 16 to the cores
    cost = topology_cost(tree, link_gbps=400.0)
    assert cost["network_capex_usd"] == pytest.approx(cost["published_usd"] * 150 / 400)
    load = workloads.permutation(8, bytes=2**18, seed=1)
    for fidelity in ("packet", "flow", "analytic"):
        assert simulate(tree, load, fidelity=fidelity).summary["flows"] == 8
    slower = from_topo(written(tmp_path, TOPO_32.replace("Gbps 100\nRadix_Down 4", "Gbps 50\nRadix_Down 4"), "slower"))
    assert (slower.taper, slower.name) == (8, "fat_tree_8to1")


def test_tiers_share_what_their_links_have():
    """Fluid: four senders below one ToR with four uplinks take as long as the slower of both needs."""
    load = workloads.flows([(host, host + 4, 10**6, 0) for host in range(4)])
    for speeds, gbps in (((100, 25), 25), ((100, 400), 100), ((100, 100), 100)):
        tree = FatTree(hosts=16, tiers=2, radix=8, link_gbps=speeds, latency_ps=0)
        assert simulate(tree, load, wire=Wire.fluid()).summary["end_us"] == pytest.approx(8000 / gbps)


def test_equal_speeds_are_one_speed():
    """Network, name and results as of one number; a list is a tuple."""
    one, three = (FatTree(hosts=16, tiers=3, link_gbps=gbps) for gbps in (100, [100, 100, 100]))
    assert three.link_gbps == (100, 100, 100)
    assert (one.name, one.bought_gbps, one.taper) == (three.name, three.bought_gbps, three.taper)
    assert np.array_equal(one.network.capacity_bps, three.network.capacity_bps)
    load = workloads.permutation(16, bytes=2**18, seed=2)
    for fidelity in ("packet", "flow"):
        flows = [simulate(tree, load, fidelity=fidelity).flows for tree in (one, three)]
        assert flows[0].equals(flows[1])


@pytest.mark.parametrize(
    ("speeds", "message"),
    [
        ((100, 200), r"link_gbps has 2 speeds, \(100, 200\), and the tree 3 tiers; give one a tier"),
        ((100, 0, 100), "link_gbps must be above 0"),
        ((), "link_gbps has no speed; give one number, or one a tier"),
    ],
)
def test_speeds_that_are_no_tiers_are_refused(speeds, message):
    """The values, the rule, and what to give."""
    with pytest.raises(TopologyError, match=message):
        FatTree(hosts=16, tiers=3, link_gbps=speeds)


def test_a_recipe_names_the_speeds_of_tiers():
    """Over that of hosts' links, as many as there are tiers; what is none is refused before anything is built."""
    config = FatTreeConfig(tiers=3, radix=None, tier_speeds=(1, 2, 4))
    built = FatTreeBuilder(config).build(16, 100, planes=1)
    assert built == FatTree(hosts=16, tiers=3, link_gbps=(100, 200, 400))
    with pytest.raises(TopologyError, match=r"tier_speeds is \[1, 2, 4\], and a tree of 16 hosts has 1 tiers"):
        FatTreeConfig(tier_speeds=(1, 2, 4)).shape(16)
    for speeds in ((), (2, 1), (1, 0), (1, float("inf"))):
        with pytest.raises(ValueError, match="1 first and all above 0"):
            FatTreeConfig(tier_speeds=speeds)
