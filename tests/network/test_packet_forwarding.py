"""Packets over hosts that forward: what one flow takes, what no load beats, and that nothing is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, GraphTopology, HammingMesh, HyperX, Torus, simulate, workloads
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.graph_topology import Cable
from orchestrator_network.packet.catalog import LOAD_BALANCERS, TRANSPORTS, load_balancer, transport
from orchestrator_network.packet.engine import run
from orchestrator_network.packet.fabric import describe
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.routers import behind_routers, real_links
from orchestrator_network.packet_rules import MOST_FORWARDING_HOSTS
from tests.network.any_flows import FLOW_ROWS, flows_of

TORUS = Torus(sides=(4, 4))
MESH = HammingMesh(grid_rows=2, grid_columns=2)
NO_WRAP = HammingMesh(board_rows=1, board_columns=4, grid_rows=1, grid_columns=2, wrap=False)
TOPOLOGIES = [TORUS, MESH, HyperX(rows=4, columns=4), Torus(sides=(2, 4, 2), link_gbps=100)]
TOPOLOGIES += [
    HammingMesh(board_columns=4, grid_rows=2, grid_columns=1),
    Torus(sides=(4, 4), link_gbps=300, latency_ps=0),
]
LINE = GraphTopology(
    host_names=("a", "b", "c"), switch_names=(), cables=(Cable(first=0, second=1), Cable(first=1, second=2))
)


def packets(topology, workload, **options):
    return simulate(topology, workload, fidelity="packet", lossless="none", **options)


def one_path_ps(size, links, link, injection, ejection):
    """Return start to arrival over ``links`` of ``link`` ps a byte and 1 us, by hand: packets follow each other."""
    sizes = [4150] * ((size - 1) // 4086) + [(size - 1) % 4086 + 1 + 64]
    hops = [(injection, 0)] + [(link, 1_000_000)] * links + [(ejection, 0)]
    there = [0] * len(sizes)
    for each, latency in hops:
        free = 0
        for i, packet in enumerate(sizes):
            free = max(free, there[i]) + packet * each
            there[i] = free + latency
    return there[-1]


@pytest.mark.parametrize("size", [1, 4086, 4087, 8172, 100_000])
@pytest.mark.parametrize(("topology", "dst", "links"), [(TORUS, 3, 1), (MESH, 1, 1), (MESH, 4, 2), (NO_WRAP, 3, 3)])
def test_one_flow_on_one_path_equals_the_formula(topology, dst, links, size):
    """To the picosecond: stored once more at either end, at the rate of all four links."""
    load = workloads.flows([(0, dst, size, 0)])
    trace = run(behind_routers(topology.network), load, transport("nscc"), load_balancer("ecmp"), Options())
    arrived, finished = int(trace.state.flows["arrived"][0]), int(trace.state.flows["finished"][0])
    assert arrived == one_path_ps(size, links, 20, 5, 5)
    wire, full, last = size + 64 * -(-size // 4086), min(size + 64, 4150), (size - 1) % 4086 + 65
    formula = full * 5 + wire * 20 + (links - 1) * full * 20 + links * 1_000_000 + last * 5
    assert arrived == formula + (max(0, full * 5 - last * 20) if size > 4086 else 0)
    back = links * (1_000_000 + 64 * 20) + 2 * 64 * 5
    assert arrived + back <= finished < arrived + back + 64 * 20  # an acknowledgement just before may be in its way
    ideal = packets(topology, load, load_balancer="ecmp").flows["ideal_ps"][0].as_py()
    assert finished - full * 20 <= ideal <= finished
    if size in {1, 4086, 8172}:
        assert ideal == finished


def test_two_flows_share_a_link_of_a_line_by_hand():
    """On a - b - c, what comes from a passes b and shares its link to c, which never rests."""
    size, packet = 30 * 4086, 4150 * 20
    result = packets(LINE, workloads.flows([(0, 2, size, 0), (1, 2, size, 0)]), transport="constant")
    busy_from = 4150 * 10  # b injects over two links
    arrived = busy_from + 60 * packet + 1_000_000 + packet
    back = 2 * (1_000_000 + 64 * 20) + 64 * 20 * 2  # to a, whose one link ejects
    ends = result.flows["finish_ps"].to_pylist()
    assert arrived <= max(ends) <= arrived + back + packet
    link = {(row["src"], row["dst"]): row for row in result.links.to_pylist()}
    assert link["b", "c"]["bytes"] == 60 * 4150
    assert link["a", "b"]["bytes"] == 30 * 4150
    assert set(link) == {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}


@pytest.mark.parametrize("topology", [TORUS, MESH])
def test_a_permutation_takes_about_what_flows_say(topology):
    """Never below the bound; with spraying at most half more than an even split over minimal paths."""
    load = workloads.permutation(16, bytes=2_000_000, seed=1)
    flow_us = simulate(topology, load).summary["end_us"]
    for balancer in ("reps", "adaptive"):
        summary = packets(topology, load, load_balancer=balancer).summary
        assert summary["bound_us"] <= summary["end_us"] <= 1.5 * flow_us


def test_all_to_all_loads_a_torus_alike():
    """Sixty-four links are images of each other: each carries the mean but for chance, both dimensions the same."""
    load = workloads.all_to_all(16, 400_000)
    result = packets(TORUS, load, load_balancer="oblivious", transport="constant")
    carried = result.links["bytes"].to_numpy()
    assert len(carried) == 64
    assert np.abs(carried / carried.mean() - 1).max() < 0.15
    names = np.array(TORUS.network.names)
    ends = [np.array([int(name[4:]) for name in names[side]]) for side in (TORUS.network.source, TORUS.network.target)]
    along_rows = carried[ends[0] // 4 == ends[1] // 4].sum()
    assert along_rows == pytest.approx(carried.sum() / 2, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(
    topology=st.sampled_from(TOPOLOGIES),
    rows=FLOW_ROWS,
    transport_name=st.sampled_from(sorted(TRANSPORTS)),
    balancer_name=st.sampled_from(sorted(LOAD_BALANCERS)),
    trimming=st.booleans(),
    seed=st.integers(0, 10),
)
def test_any_load_arrives_and_never_beats_its_bound(topology, rows, transport_name, balancer_name, trimming, seed):
    """Random flows over hosts that forward: no flow too early, no link too full."""
    options = {"transport": transport_name, "load_balancer": balancer_name, "trimming": trimming, "seed": seed}
    result = packets(topology, flows_of(rows), **options)
    assert np.all(result.flows["slowdown"].to_numpy() >= 1)
    assert result.summary["end_us"] >= result.summary["bound_us"]
    assert np.all(result.links["utilization"].to_numpy() <= 1 + 1e-9)
    assert len(result.links) == topology.network.links


@settings(max_examples=15, deadline=None)
@given(topology=st.sampled_from(TOPOLOGIES), rows=FLOW_ROWS, balancer_name=st.sampled_from(sorted(LOAD_BALANCERS)))
def test_bytes_are_conserved(topology, rows, balancer_name):
    """Receivers get every byte once, links carry each over all hops of its path, and no node sends more than it gets."""
    load, network = flows_of(rows), behind_routers(topology.network)
    trace = run(network, load, transport("nscc"), load_balancer(balancer_name), Options(seed=1))
    wire = load.size_bytes + 64 * -(-load.size_bytes // 4086)
    assert trace.state.flows["got_bytes"].tolist() == wire.tolist()
    sent = np.empty(network.links, np.int64)
    sent[trace.order] = trace.state.counters["sent_bytes"]
    hops = np.rint(topology.routes(load.source, load.target).hops).astype(int)
    assert sent[: real_links(network)].sum() >= wire @ hops
    out, into = (np.bincount(end, sent, network.nodes)[16:] for end in (network.source, network.target))
    assert np.all(out <= into)
    inner = np.arange(network.links) >= real_links(network)
    assert np.all(np.bincount(network.target[inner], sent[inner], 16)[load.target] > 0)


@pytest.mark.parametrize("transport_name", sorted(TRANSPORTS))
def test_a_round_trip_shorter_than_a_packet_stops_nobody(transport_name):
    """Small packets between neighbours without latency come back before a full one has left."""
    rows = [(0, 1, 1, 23_789), (0, 2, 18_291, 0), (0, 1, 769, 17), (15, 14, 12_231, 29)]
    load = workloads.flows([*rows, (0, 4, 10_241, 8_726), (0, 4, 15_603, 9_679)])
    for seed in range(3):
        result = packets(TOPOLOGIES[-1], load, transport=transport_name, load_balancer="reps_legacy", seed=seed)
        assert result.summary["end_us"] < 100  # a timer that ends after 18 us finds what a cut window left unreported


def test_every_hop_is_counted_and_no_inner_one():
    """One packet and its acknowledgement over one, two, and four links."""
    for topology, dst, links in ((TORUS, 1, 1), (TORUS, 5, 2), (TORUS, 10, 4), (MESH, 15, 4)):
        result = packets(topology, workloads.flows([(0, dst, 100, 0)]))
        assert result.summary["packet_hops"] == 2 * links, (topology, dst)


def test_the_round_trip_and_rate_are_those_of_the_links():
    """Four links of 100 Gb/s, at most four hops: 1 us and a packet and a header each, and twice the inner links."""
    topology = Torus(sides=(4, 4), link_gbps=100)
    fabric = describe(behind_routers(topology.network), packet_bytes=4150, header_bytes=64, trimming=True)
    assert (fabric.rate_bps, fabric.host_bps, fabric.hops) == (1e11, 4e11, 4)
    assert fabric.rtt_ps == 4 * (2_000_000 + 4214 * 80) + 2 * 4214 * 20


def test_receivers_give_credit_for_all_their_links():
    """Four neighbours send to one host at once, each over a link of its own."""
    load = workloads.flows([(source, 5, 2_000_000, 0) for source in (1, 4, 6, 9)])
    summary = packets(TORUS, load, transport="rccc").summary
    assert summary["bound_us"] <= summary["end_us"] <= 1.1 * summary["bound_us"]


def test_parallel_links_are_used_side_by_side():
    """On a side of two, the link and the one around are two."""
    result = packets(Torus(sides=(2, 2), board=1), workloads.flows([(0, 1, 400_000, 0)]), load_balancer="adaptive")
    used = [row["bytes"] for row in result.links.to_pylist() if (row["src"], row["dst"]) == ("host0", "host1")]
    assert len(used) == 2
    assert min(used) > 0.45 * sum(used)


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
@pytest.mark.parametrize(("topology", "channels"), [(LINE, 1), (TORUS, 2), (MESH, 2)])
def test_links_that_never_drop(topology, channels, lossless):
    """An incast through hosts that forward takes as long as its bytes, without a loss."""
    load = workloads.flows([(source, 2, 400_000, 0) for source in range(topology.hosts) if source != 2])
    summary = simulate(topology, load, transport="constant", fidelity="packet", lossless=lossless).summary
    assert summary["drops"] == summary["trims"] == summary["retransmissions"] == 0
    assert summary["virtual_channels"] == channels
    assert summary["bound_us"] <= summary["end_us"]


def test_too_many_hosts_that_forward_are_refused():
    """Before any table is made; trees have no such limit."""
    with pytest.raises(TopologyError, match=f"4160 hosts forward .* takes {MOST_FORWARDING_HOSTS} such hosts"):
        behind_routers(Torus(sides=(65, 64), board=1).network)
    tree = FatTree(hosts=16, tiers=3).network
    assert behind_routers(tree) is tree


def test_a_link_between_hosts_may_go_down():
    """What waits for it is lost; a flow with another way arrives, one without is named."""
    down = [(2_000_000, "host0", "host1", 0.0)]
    result = packets(TORUS, workloads.flows([(0, 5, 1_000_000, 0)]), link_changes=down, load_balancer="reps")
    assert result.summary["drops"] > 0
    assert result.flows["slowdown"][0].as_py() > 1
    with pytest.raises(WorkloadError, match="flow 0 from host 0 to 1; is every path of it down"):
        packets(TORUS, workloads.flows([(0, 1, 1_000_000, 0)]), link_changes=down)


def test_a_receiver_that_gives_no_idle_credit_is_asked_for_all_that_is_wanted():
    """Three flows of one host over routers that pick the emptiest way: none is left without credit and without a request."""
    topology = Torus(sides=(2, 4, 2), link_gbps=100)
    load = workloads.flows([(1, 0, 73549, 0), (1, 2, 54183, 0), (1, 2, 73549, 0)])
    result = packets(topology, load, transport="ndp", load_balancer="adaptive", trimming=False)
    assert result.summary["fct_us"]["max"] < 2 * result.summary["bound_us"]
