"""Links of several speeds: what is exact for a flow alone, what nothing beats, and ways that costs do not tell apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import Dragonfly, FatTree, Wire, simulate, workloads
from orchestrator_network.graph_topology import Cable, GraphTopology
from orchestrator_network.rail_optimized import RailOptimized

PAYLOAD, FULL, HEADER = 4086, 4150, 64


def line(*gbps, beside=None):
    """Two hosts with switches between them, links of these speeds; ``beside``: a third host at the first switch."""
    switches = len(gbps) - 1
    hosts = 2 if beside is None else 3
    places = [0, *range(hosts, hosts + switches), 1]
    cables = [
        Cable(first=one, second=other, gbps=speed) for one, other, speed in zip(places, places[1:], gbps, strict=False)
    ]
    if beside is not None:
        cables.append(Cable(first=2, second=hosts, gbps=beside))
    return GraphTopology(
        host_names=tuple(f"h{i}" for i in range(hosts)),
        switch_names=tuple(f"s{i}" for i in range(switches)),
        cables=tuple(cables),
    )


@pytest.mark.parametrize("gbps", [(100, 25, 100), (25, 100, 50), (100, 100, 10), (400, 10, 40, 100)])
@pytest.mark.parametrize("packets", [1, 2, 40])
def test_a_flow_alone_takes_what_its_links_take(gbps, packets):
    """The slowest link carries all of it, every other one stores a packet: equal at every fidelity, and to the formula."""
    topology, load = line(*gbps), workloads.flows([(0, 1, packets * PAYLOAD, 0)])
    each = [8000 / speed for speed in gbps]
    expected = packets * FULL * max(each) + FULL * (sum(each) - max(each)) + HEADER * sum(each) + 2e6 * len(gbps)
    for fidelity in ("packet", "flow", "analytic"):
        room = {"queue_packets": 64} if fidelity == "packet" else {}  # the window is that of the fastest link
        flows = simulate(topology, load, fidelity=fidelity, transport="constant", **room).flows
        assert flows["finish_ps"][0].as_py() == round(expected)
        assert flows["ideal_ps"][0].as_py() == round(expected)


def test_a_slow_link_elsewhere_changes_nothing():
    """Not for the flow, not for its bound."""
    load = workloads.flows([(0, 1, 2**20, 0)])
    for fidelity in ("packet", "flow"):
        alone, beside = (
            simulate(line(100, 100, 100, beside=slow), load, fidelity=fidelity).summary for slow in (100, 1)
        )
        assert beside["bound_us"] <= alone["bound_us"]
        assert beside["bound_us"] == pytest.approx(alone["bound_us"], rel=1e-2)
        if fidelity == "flow":
            assert beside["fct_us"] == alone["fct_us"]


SPEED = st.sampled_from([10.0, 25.0, 40.0, 100.0])


@settings(max_examples=40, deadline=None)
@given(
    hosts=st.lists(st.tuples(st.integers(0, 3), SPEED), min_size=3, max_size=8),
    ring=st.lists(SPEED, min_size=4, max_size=4),
    across=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), SPEED), max_size=3),
    rows=st.lists(
        st.tuples(st.integers(0, 7), st.integers(1, 7), st.integers(1, 60_000), st.integers(0, 5_000_000)),
        min_size=1,
        max_size=12,
    ),
    balancer=st.sampled_from(["oblivious", "reps", "adaptive"]),
)
def test_no_packet_beats_the_bound(hosts, ring, across, rows, balancer):
    """On random graphs with random speeds, for every flow and for all of them."""
    count = len(hosts)
    cables = [Cable(first=i, second=count + at, gbps=speed) for i, (at, speed) in enumerate(hosts)]
    cables += [Cable(first=count + i, second=count + (i + 1) % 4, gbps=speed) for i, speed in enumerate(ring)]
    cables += [Cable(first=count + at, second=count + (at + step) % 4, gbps=speed) for at, step, speed in across]
    topology = GraphTopology(
        host_names=tuple(f"h{i}" for i in range(count)),
        switch_names=tuple("abcd"),
        cables=tuple(cables),
        latency_ps=500_000,
    )
    pairs = [(src % count, (src + step) % count, size, start) for src, step, size, start in rows]
    load = workloads.flows([row for row in pairs if row[0] != row[1]] or [(0, 1, 1000, 0)])
    result = simulate(topology, load, fidelity="packet", transport="constant", load_balancer=balancer, seed=1)
    assert min(result.flows["slowdown"].to_pylist()) >= 1
    assert result.summary["end_us"] >= result.summary["bound_us"]


@pytest.mark.parametrize("balancer", ["reps", "oblivious", "adaptive"])
@pytest.mark.parametrize("cross_rail", ["nvlink", "spine"])
def test_packets_cross_rails_as_flows_do(cross_rail, balancer):
    """Over the own server, or over the spine: bytes of no other link, and no flow is sooner than its bound."""
    topology = RailOptimized(nodes=9, gpus_per_node=4, link_gbps=100, local_gbps=900, cross_rail=cross_rail, radix=16)
    load = workloads.flows([(gpu, 4 * node, 2**18, 0) for node in range(1, 9) for gpu in range(4)])
    result = simulate(topology, load, fidelity="packet", load_balancer=balancer)
    assert min(result.flows["slowdown"].to_pylist()) >= 1
    assert result.summary["end_us"] >= result.summary["bound_us"]
    names = topology.network.names
    local = [f"node{i}.switch" for i in range(9)]
    assert set(local) <= set(names)
    busy = [row for row in result.links.to_pylist() if row["bytes"] > 100_000]
    inside = {row["src"].partition(".")[0] for row in busy if row["dst"] in local}
    if cross_rail == "nvlink":
        assert inside == {"node0"}
        assert {row["dst"] for row in busy if row["src"].startswith("node0.gpu") and "rail" in row["dst"]} == {
            "unit0.rail0"
        }
    else:
        assert inside == set()
        assert len({row["dst"] for row in busy if row["src"].startswith("node0.gpu")}) == 4


def test_rails_without_a_spine_run_packet_by_packet():
    """Where there is no taper to speak of."""
    topology = RailOptimized(nodes=4, gpus_per_node=4, link_gbps=100, oversubscription=None)
    result = simulate(topology, workloads.permutation(16, bytes=2**18, seed=1), fidelity="packet")
    assert result.summary["end_us"] >= result.summary["bound_us"]
    assert min(result.flows["slowdown"].to_pylist()) >= 1


def test_ports_hold_the_product_of_their_own_rate():
    """A slow port marks and trims where a network of its speed does, whatever is fast elsewhere."""
    load = workloads.flows([(0, 1, 2**20, 0)])
    mixed = simulate(line(100, 10, 100), load, fidelity="packet", transport="constant")
    queue = {row["src"]: row["max_queue_bytes"] for row in mixed.links.to_pylist()}
    rtt_ps = 6e6 + (FULL + HEADER) * (80 + 80 + 800)
    assert queue["s0"] <= np.ceil(rtt_ps / 1e12 * 10e9 / 8 / FULL) * FULL
    assert mixed.links["trims"].to_numpy().sum() > 0


TREE = FatTree(hosts=16, tiers=3, radix=None, link_gbps=100)


def test_the_switch_does_not_choose_a_port_that_is_down():
    """It holds nothing, and is not empty but dead: neither data nor acknowledgements are lost there."""
    load = workloads.permutation(16, bytes=2**20, seed=4)
    down = [(0, "agg0", "core0", 0.0), (3_000_000_000, "agg0", "core0", 1.0)]
    found = {
        balancer: simulate(TREE, load, fidelity="packet", load_balancer=balancer, link_changes=down)
        for balancer in ("adaptive", "oblivious")
    }
    drops = {name: int(result.links["drops"].to_numpy().sum()) for name, result in found.items()}
    assert 20 * drops["adaptive"] < drops["oblivious"]
    assert found["adaptive"].summary["end_us"] < 1000  # the port comes back at 3000
    assert found["adaptive"].summary["end_us"] < found["oblivious"].summary["end_us"]


FLAP = [(20_000_000, end, other, 0.0) for end, other in (("host0", "tor0"), ("tor0", "host0"))]
BACK = [(400_000_000, end, other, 1.0) for _, end, other, _ in FLAP]


@pytest.mark.parametrize("transport", ["nscc", "rccc", "smartt_v4", "dcqcn", "bbr"])
@pytest.mark.parametrize("pair", [(0, 15), (15, 0)])
def test_a_host_whose_cable_flaps_goes_on(transport, pair):
    """Both directions of it, at the sender or the receiver: what was lost is sent again, and the flow ends soon after."""
    load = workloads.flows([(*pair, 2**20, 0)])
    calm, flap = (
        simulate(TREE, load, fidelity="packet", transport=transport, lossless="none", link_changes=changes)
        for changes in ([], FLAP + BACK)
    )
    assert calm.summary["drops"] == 0 < flap.summary["drops"]
    assert flap.summary["timeouts"] > 0
    assert 400 < flap.summary["end_us"] < 400 + 6 * calm.summary["end_us"]
    carried = {(row["src"], row["dst"]): row["bytes"] for row in flap.links.to_pylist()}
    assert carried[f"host{pair[0]}", f"tor{pair[0] // 2}"] > 2**20


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_slow_cable_of_a_host_is_slow(share):
    """It is as one of that speed: all of the message leaves at it."""
    load = workloads.flows([(0, 15, 100 * PAYLOAD, 1)])
    slow = [(0, "host0", "tor0", share)]
    flow = simulate(TREE, load, fidelity="packet", transport="constant", link_changes=slow).flows.to_pylist()[0]
    assert flow["finish_ps"] - 1 == 100 * FULL * 80 / share + 5 * FULL * 80 + 12e6 + 6 * HEADER * 80


@pytest.mark.parametrize("transport", ["nscc", "rccc", "dcqcn"])
@pytest.mark.parametrize("cable", [("host0", "tor0"), ("tor0", "host0")])
def test_a_host_that_stays_cut_off_is_an_error(cable, transport):
    """It names the flow and asks for its path."""
    load = workloads.flows([(0, 15, 2**18, 0), (4, 9, 2**18, 0)])
    with pytest.raises(
        ValueError, match=r"1 flows make no progress .* flow 0 from host 0 to 15; is every path of it down"
    ):
        simulate(TREE, load, fidelity="packet", transport=transport, link_changes=[(1_000_000, *cable, 0.0)])


def test_queues_and_marks_can_be_set():
    """Ports hold as many packets as asked for, and mark between these shares of them."""
    load = workloads.incast(range(4, 12), 0, 500_000)
    usual = simulate(TREE, load, fidelity="packet", transport="constant")
    small = simulate(TREE, load, fidelity="packet", transport="constant", queue_packets=8)
    assert small.links["max_queue_bytes"].to_numpy().max() == 8 * FULL < usual.links["max_queue_bytes"].to_numpy().max()
    marked = simulate(TREE, load, fidelity="packet", transport="constant", ecn_percent=(0, 0))
    never = simulate(TREE, load, fidelity="packet", transport="constant", ecn_percent=(300, 300))
    marks = [int(one.flows["marks"].to_numpy().sum()) for one in (never, usual, marked)]
    assert marks[0] == 0 < marks[1] < marks[2]
    for wrong, message in (
        ({"queue_packets": 0}, "queue_packets is 0"),
        ({"ecn_percent": (80, 20)}, "ecn_percent is 80 and 20"),
        ({"queue_packets": 8, "fidelity": "flow"}, "queue_packets is 8, but only fidelity `packet`"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate(TREE, load, **{"fidelity": "packet"} | wrong)


def test_the_mean_under_fair_sharing_stands_beside_every_run():
    """That of fidelity flow; of three flows through one link with shares of a third it is known."""
    load = workloads.incast([4, 8, 12], 0, 100 * PAYLOAD)
    wire = Wire(packet_bytes=FULL, header_bytes=HEADER)
    packet = simulate(TREE, load, fidelity="packet", wire=wire).summary
    flow = simulate(TREE, load, fidelity="flow", wire=wire).summary
    assert packet["max_min_mean_us"] == pytest.approx(flow["max_min_mean_us"])
    assert flow["max_min_mean_us"] == flow["fct_us"]["mean"]
    assert flow["max_min_mean_us"] == pytest.approx(
        (3 * 100 * FULL * 80 + 5 * FULL * 80 + 12e6 + 6 * HEADER * 80) / 1e6
    )
    assert flow["packet_hops"] is None
    assert simulate(TREE, load, fidelity="analytic").summary["max_min_mean_us"] is None


def test_reps_does_not_freeze_where_full_ports_drop():
    """A timeout then says that a queue was full, not that a path failed."""
    from orchestrator_network.packet.balancing.reps import FROZEN, TRIMMED, Reps, learn_reps
    from orchestrator_network.packet.layout import TIMED_OUT
    from orchestrator_network.packet.transports.base import Fabric

    for trimming in (True, False):
        fabric = Fabric(rate_bps=1e11, rtt_ps=10**7, packet_bytes=FULL, header_bytes=HEADER, trimming=trimming, hops=6)
        (row,) = Reps().begin(fabric, 64, np.array([1]))
        assert row[TRIMMED] == trimming
        learn_reps(row, 3, TIMED_OUT, 10**6)
        assert row[FROZEN] == trimming


def test_speeds_that_a_packet_rounds_stay_above_the_bound():
    """A byte takes 1.1111 ps at 7,200 Gb/s, and the kernel counts in 256ths."""
    topology = RailOptimized(nodes=2, gpus_per_node=2, local_gbps=7200)
    for size in (PAYLOAD, 2**26):
        result = simulate(topology, workloads.flows([(0, 1, size, 0)]), fidelity="packet", transport="constant")
        assert result.flows["slowdown"][0].as_py() >= 1
        assert result.summary["end_us"] >= result.summary["bound_us"]


def test_datagrams_that_are_lost_are_no_sooner_than_they_are_sent():
    """They need not arrive, so the bound counts what leaves the sources."""
    load = workloads.incast(range(4, 12), 0, 2_000_000)
    result = simulate(TREE, load, fidelity="packet", delivery="uud")
    assert result.flows["lost"].to_numpy().sum() > 0
    assert min(result.flows["slowdown"].to_pylist()) >= 1
    assert result.summary["end_us"] >= result.summary["bound_us"] > 100


def test_the_round_trip_is_that_of_the_ways_that_packets_take():
    """A slow direct cable is the shortest route, however quick two others are."""
    from orchestrator_network.packet.fabric import describe

    cables = [Cable(first=0, second=2), Cable(first=1, second=3), Cable(first=2, second=3, gbps=1.0)]
    cables += [Cable(first=2, second=4), Cable(first=4, second=3)]
    topology = GraphTopology(host_names=("a", "b"), switch_names=("s", "t", "u"), cables=tuple(cables), link_gbps=100)
    fabric = describe(topology.network, packet_bytes=FULL, header_bytes=HEADER, trimming=True)
    assert fabric.rtt_ps == 6_000_000 + (FULL + HEADER) * (80 + 8000 + 80)
    assert fabric.hops == 3


@pytest.mark.parametrize("queue_packets", [1, 2])
def test_a_slow_port_of_one_packet_still_takes_packets(queue_packets):
    """A quarter of a packet would be none at all."""
    load = workloads.permutation(16, bytes=100_000, seed=1)
    result = simulate(TREE, load, fidelity="packet", slow_links=16, queue_packets=queue_packets)
    assert result.summary["end_us"] >= result.summary["bound_us"]


def row_of_switches(switches):
    """Return switches in a line, with a host each."""
    ends = range(switches)
    return GraphTopology(
        host_names=tuple(f"host{i}" for i in ends),
        switch_names=tuple(f"switch{i}" for i in ends),
        cables=(
            *(Cable(first=i, second=switches + i) for i in ends),
            *(Cable(first=switches + i, second=switches + i + 1) for i in range(switches - 1)),
        ),
        link_gbps=100,
    )


def test_bounds_know_that_a_link_is_early_for_one_flow_and_late_for_another():
    """Packets of the one that begins far away pass when those of the other are through: no latency beside a link counts."""
    load = workloads.flows([(2, 5, 40_860, 0), (0, 3, 40_860, 0)])
    summary = simulate(row_of_switches(6), load, fidelity="packet").summary
    assert 0.9 * summary["end_us"] < summary["end_bound_us"] <= summary["end_us"]


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 17), st.integers(1, 17), st.integers(1, 300_000)), min_size=1, max_size=20),
    shape=st.sampled_from([(3, 2, 2, 3), (3, 3, 1, 2), (1, 6, 1, 3), (2, 3, 2, 3)]),
    seed=st.integers(0, 9),
)
def test_no_run_over_minimal_routes_of_a_dragonfly_beats_its_bound(rows, shape, seed):
    """Packets choose among parallel and equal ways as they like, and not in the proportions of an even split."""
    hosts, routers, links, groups = shape
    network = Dragonfly(
        hosts_per_router=hosts, routers_per_group=routers, global_links=links, groups=groups, link_gbps=25
    )
    load = workloads.flows((src, (src + step) % 18, size, 0) for src, step, size in rows)
    for balancer in ("ecmp", "oblivious"):
        options = {"transport": "constant", "load_balancer": balancer, "seed": seed}
        summary = simulate(network, load, fidelity="packet", **options).summary
        assert summary["end_us"] >= summary["end_bound_us"] * (1 - 1e-12)


@pytest.mark.parametrize("fidelity", ["packet", "flow"])
def test_rerouting_is_known_where_a_link_went_down(fidelity):
    """Nothing is sent to it before, nothing when it is back; without such a link, and in flows, there is no such time."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    load = workloads.permutation(16, bytes=500_000, seed=3)
    assert simulate(tree, load, fidelity=fidelity).summary.get("reroute_us") is None
    if fidelity == "flow":
        return
    down = [(20_000_000, "core0", "agg0", 0.0), (45_000_000, "core0", "agg0", 1.0)]
    found = simulate(tree, load, fidelity="packet", load_balancer="oblivious", link_changes=down).summary
    assert 0 < found["reroute_us"] < 25
    assert 20 < found["reroute_max_us"] < 25
    slow = [(20_000_000, "core0", "agg0", 0.5)]
    assert simulate(tree, load, fidelity="packet", link_changes=slow).summary["reroute_us"] is None
    late = [(10**12, "core0", "agg0", 0.0)]
    assert simulate(tree, load, fidelity="packet", link_changes=late).summary["reroute_max_us"] == 0


@pytest.mark.parametrize(
    ("transport", "size_bytes", "seed", "slow"),
    [
        ("constant", 150_000, 2, ("core0", "agg0")),
        ("rccc", 80_000, 12, ("core0", "agg0")),
        ("constant", 30_000, 10, ("tor0", "agg0")),
    ],
)
def test_no_link_is_busier_than_it_can_be(transport, size_bytes, seed, slow):
    """A slow port still sends a copy of what has arrived when the last flow ends; only what has left by then counts."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    load = workloads.permutation(16, bytes=size_bytes, seed=seed)
    result = simulate(tree, load, fidelity="packet", transport=transport, seed=seed, link_changes=[(0, *slow, 0.02)])
    (row,) = [row for row in result.links.to_pylist() if (row["src"], row["dst"]) == slow]
    could_bytes = 0.02 * row["capacity_bps"] / 8 * result.summary["end_us"] / 1e6
    assert row["bytes"] > could_bytes
    assert 0.95 < row["utilization"] / 0.02 <= 1


def test_rerouting_is_that_of_the_longest_outage():
    """A later, shorter one does not hide it, and who says twice that a link is down takes it down once."""
    tree = FatTree(hosts=16, tiers=2, radix=8, link_gbps=100)
    load = workloads.flows([(0, 8, 2**22, 0)])

    def longest_us(*changes):
        down = [(us * 10**6, "tor0", "core0", share) for us, share in changes]
        said = {"fidelity": "packet", "load_balancer": "oblivious", "seed": 1, "link_changes": down}
        return simulate(tree, load, **said).summary["reroute_max_us"]

    once = longest_us((10, 0), (160, 1))
    assert 100 < once <= 150
    assert longest_us((10, 0), (160, 1), (200, 0), (205, 1)) == once
    assert longest_us((10, 0), (50, 0), (160, 1)) == once
