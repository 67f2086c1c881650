"""All-reduces of a training step beside rings: closed formulas, message by message, and what cannot be laid out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator_network import (
    Dragonfly,
    FatTree,
    HammingMesh,
    RailOptimized,
    Tuning,
    Wire,
    lowering,
    simulate,
    simulate_step,
    workloads,
)
from orchestrator_network.collectives import lower
from orchestrator_network.double_tree import DoubleTree, best_pieces
from orchestrator_network.errors import WorkloadError
from orchestrator_network.in_network import reduction
from orchestrator_network.step_flows import expand
from orchestrator_network.step_reduction import chunk_flows, chunk_sizes
from tests.network.traffics import operation, tables

MB, US = 10**6, 10**6
SWITCH = FatTree(hosts=16, link_gbps=100)
SPINE = FatTree(hosts=16, tiers=2, radix=8, link_gbps=100)  # 4 ToRs of 4 hosts, 4 spines
HOP, STORED = 2 * US, 4150 * 80  # two links and the packet that the switch between them stores
BETA = 80 * 4150 / 4086  # ps a byte of payload, headers included


def collective(ranks, size_bytes, name="all_reduce"):
    rows = [operation(rank, rank, "collective", collective=name, group=0, bytes=size_bytes) for rank in range(ranks)]
    return tables(rows)


def step_ps(topology, ranks, size_bytes, algorithm, name="all_reduce", **options):
    return simulate_step(topology, *collective(ranks, size_bytes, name), allreduce=algorithm, **options).step_ps


@pytest.mark.parametrize("ranks", [2, 3, 8, 12, 16])
def test_recursive_doubling_takes_its_formula(ranks):
    """log2(p) exchanges of the whole buffer, two more beside a power of two: exact in a fluid, 1 percent packet by packet."""
    rounds = int(math.log2(ranks)) + 2 * (ranks & (ranks - 1) > 0)
    fluid = step_ps(SWITCH, ranks, 4 * MB, "recursive_doubling", wire=Wire.fluid())
    assert fluid == rounds * (HOP + 4 * MB * 80)
    packet = step_ps(SWITCH, ranks, 4 * MB, "recursive_doubling", fidelity="packet")
    assert packet == pytest.approx(rounds * (HOP + STORED + 4 * MB * BETA), rel=0.01)


@pytest.mark.parametrize(("ranks", "per_server"), [(16, 4), (12, 6), (16, 1), (16, 16)])
def test_a_hierarchical_all_reduce_takes_its_formula(ranks, per_server):
    """Rings of m within servers and of n across, scatter and gather: exact in a fluid, 1 percent packet by packet."""
    m, n, size = per_server, ranks // per_server, 9_600_000
    tuning = Tuning(per_server=per_server)

    def formula(latency_ps, beta):
        return 2 * (m - 1) * (latency_ps + size / m * beta) + 2 * (n - 1) * (latency_ps + size / m / n * beta)

    assert step_ps(SWITCH, ranks, size, "hierarchical", tuning=tuning, wire=Wire.fluid()) == formula(HOP, 80)
    packet = step_ps(SWITCH, ranks, size, "hierarchical", tuning=tuning, fidelity="packet")
    assert packet == pytest.approx(formula(HOP + STORED, BETA), rel=0.01)
    for name in ("reduce_scatter", "all_gather"):
        half = step_ps(SWITCH, ranks, size, "hierarchical", name, tuning=tuning, wire=Wire.fluid())
        assert half == formula(HOP, 80) / 2


def test_servers_come_from_the_topology_and_pay_where_their_links_are_fast():
    """A rail-optimised cluster knows its servers; their switches carry most of the bytes, so it beats the ring.

    Windows are those of the fastest link, so that packet by packet rails lose some payloads to trimming.
    """
    rails = RailOptimized(nodes=4, gpus_per_node=4, link_gbps=100, local_gbps=900)
    found = {name: step_ps(rails, 16, 16 * MB, name, wire=Wire.fluid()) for name in ("ring", "hierarchical")}
    across, within = 2 * 3 * (HOP + 16 * MB / 16 * 80), 2 * 3 * (HOP + 16 * MB / 4 * 80 / 9)
    assert found["hierarchical"] == pytest.approx(across + within, rel=1e-6)
    assert found["hierarchical"] < found["ring"] / 2
    packet = step_ps(rails, 16, 16 * MB, "hierarchical", fidelity="packet")
    assert packet == pytest.approx(across + within, rel=0.17)


@pytest.mark.parametrize("ranks", [2, 7, 16])
@pytest.mark.parametrize("pieces", [1, 8])
def test_a_double_tree_is_that_of_single_messages(ranks, pieces):
    """Packet by packet what the same messages take in a fluid, each a flow of its own.

    Within nine percent: the ports of inner ranks receive from two or three at once, and queue.
    """
    size = 8 * MB
    tuning = Tuning(chunk_bytes=size // 2 // pieces)
    fluid = simulate(SWITCH, workloads.double_binary_tree_allreduce(ranks, size, pieces=pieces))
    arrived_ps = fluid.flows["finish_ps"].to_numpy().max() - HOP - 2 * 64 * 80  # not the last acknowledgement
    packet = step_ps(SWITCH, ranks, size, "double_binary_tree", tuning=tuning, fidelity="packet")
    assert packet == pytest.approx(arrived_ps, rel=0.09)
    flow = step_ps(SWITCH, ranks, size, "double_binary_tree", tuning=tuning)
    assert flow == pytest.approx(arrived_ps, rel=1e-4)  # headers of a piece of a few bytes less


@pytest.mark.parametrize("cross_rail", ["nvlink", "spine"])
@pytest.mark.parametrize("local_gbps", [12.5, 225])
def test_a_double_tree_over_links_of_two_speeds_waits_for_no_round(cross_rail, local_gbps, monkeypatch):
    """Within an eighth of the packets, where rounds in lockstep wait for the slow links and pay for every latency."""
    rails = RailOptimized(
        nodes=4, gpus_per_node=4, link_gbps=25, local_gbps=local_gbps, planes=16, cross_rail=cross_rail
    )
    sizes = (MB // 16, MB, 16 * MB)
    packet, flow = (
        np.array([step_ps(rails, 16, size, "double_binary_tree", fidelity=one, wire=Wire()) for size in sizes])
        for one in ("packet", "flow")
    )
    monkeypatch.setattr(lowering, "MOST_SINGLE", 0)
    rounds = np.array([step_ps(rails, 16, size, "double_binary_tree", wire=Wire()) for size in sizes])
    assert np.abs(flow / packet - 1).max() < 0.13
    assert np.all(rounds > 1.08 * packet)
    assert (rounds / packet).max() > 1.25


@pytest.mark.parametrize("ranks", [4, 16])
def test_a_double_tree_in_lockstep_takes_its_rounds(ranks, monkeypatch):
    """Every round is a latency and as many pieces as the busiest port has, counted here by hand from the messages."""
    monkeypatch.setattr(lowering, "MOST_SINGLE", 0)
    size, pieces = 8 * MB, 8
    tree = DoubleTree(ranks=np.arange(ranks), size_bytes=size, pieces=pieces)
    busiest = [max(np.bincount(ends).max() for ends in pair) for pair in tree.rounds()]
    assert sum(len(pair[0]) for pair in tree.rounds()) == 4 * (ranks - 1) * pieces == len(tree)
    expected = sum(HOP + pieces_at * size / 2 / pieces * 80 for pieces_at in busiest)
    tuning = Tuning(chunk_bytes=size // 2 // pieces)
    assert step_ps(SWITCH, ranks, size, "double_binary_tree", tuning=tuning, wire=Wire.fluid()) == expected
    packet = step_ps(SWITCH, ranks, size, "double_binary_tree", tuning=tuning, fidelity="packet")
    assert packet == pytest.approx(expected, rel=0.12)


def test_many_pieces_bring_a_double_tree_to_twice_its_bytes():
    """2 S beta and little more, where a single piece pays the depth of the trees; by itself it takes many."""
    assert best_pieces(16, 64 * MB, 100e9 / 8, HOP) == 32
    assert best_pieces(16, 2, 100e9 / 8, HOP) == 1
    found = step_ps(SWITCH, 16, 64 * MB, "double_binary_tree", fidelity="packet", wire=Wire())
    one = step_ps(SWITCH, 16, 64 * MB, "double_binary_tree", tuning=Tuning(chunk_bytes=64 * MB))
    assert 1 < found / (2 * 64 * MB * BETA) < 1.25 < one / (2 * 64 * MB * BETA)


@pytest.mark.parametrize("algorithm", ["recursive_doubling", "hierarchical", "double_binary_tree"])
@pytest.mark.parametrize("ranks", [6, 8, 12])
def test_every_rank_ends_with_the_sum_of_all(algorithm, ranks):
    """Carry out the messages by hand on sets of contributions, as late as their dependencies allow."""
    (chain,) = lower("all_reduce", 24_000, np.arange(ranks), SWITCH, algorithm, Tuning(per_server=2, chunk_bytes=4000))
    flows = expand([chain], 1)
    waits = {number: set() for number in range(len(flows))}
    for later, earlier in flows.after.tolist():
        waits[later].add(earlier)
    has, done = [{rank} for rank in range(ranks)], set()
    while len(done) < len(flows):
        number = max(number for number, before in waits.items() if number not in done and before <= done)
        done.add(number)
        # Whole sets whatever part it was: parts that are not there yet would be missing at the end all the same.
        has[int(flows.target[number])] |= has[int(flows.source[number])]
    assert all(parts == set(range(ranks)) for parts in has)
    payload = flows.size_bytes.sum() / 24_000
    expected = {
        "recursive_doubling": {6: 4 * 2 + 2 * 2, 8: 24, 12: 8 * 3 + 4 * 2}[ranks],
        "hierarchical": ranks * (2 * 1 / 2 + 2 * (ranks / 2 - 1) / ranks),
        "double_binary_tree": 2 * (ranks - 1),
    }
    assert payload == pytest.approx(expected[algorithm])


@pytest.mark.parametrize(
    ("tree", "ranks", "depth"),
    [(SWITCH, 16, 1), (SPINE, 16, 2), (SPINE, 4, 1), (FatTree(hosts=16, tiers=3, link_gbps=100), 16, 3)],
)
def test_reduction_in_switches_takes_its_formula(tree, ranks, depth):
    """2 depth L + S / B: exact in a fluid; packet by packet within five percent of it and what chunks add at each switch."""
    fluid = step_ps(tree, ranks, 16 * MB, "in_network", wire=Wire.fluid())
    assert fluid == 2 * depth * US + 16 * MB * 80
    packet = step_ps(tree, ranks, 16 * MB, "in_network", fidelity="packet")
    assert 1 < packet / (2 * depth * US + 16 * MB * BETA) < 1.05 + 0.005 * (2 * depth - 1)
    chunked = step_ps(tree, ranks, 16 * MB, "in_network", tuning=Tuning(chunk_bytes=31 * 4086))
    assert packet == pytest.approx(chunked, rel=0.02)


def test_reduction_in_switches_is_twice_as_quick_as_the_ring():
    """On the same fabric, for large buffers, at both fidelities; for small ones by all the steps of the ring."""
    for fidelity in ("flow", "packet"):
        large, small = (
            [step_ps(SPINE, 16, size, name, fidelity=fidelity) for name in ("ring", "in_network")]
            for size in (16 * MB, 16_000)
        )
        assert large[0] / large[1] == pytest.approx(2 * 15 / 16, rel=0.09)
        assert small[0] / small[1] > 10


@pytest.mark.parametrize(("chunk", "room"), [(40 * 4086, 1), (40 * 4086, 2), (5 * 4086, 3), (5 * 4086, 8)])
def test_a_small_reduction_buffer_costs_what_the_formula_says(chunk, room):
    """Of w chunks: (ceil(K / w) - 1) times what the way around takes beyond w chunks, within three percent."""
    tuning = Tuning(chunk_bytes=chunk, chunks_in_flight=room)
    size = 12 * 40 * 4086
    flow = step_ps(SPINE, 16, size, "in_network", tuning=tuning)
    count, chunk_ps = size // chunk, chunk * BETA
    around = 4 * (US + chunk_ps)
    last = (count - 1) // room * max(around, room * chunk_ps) + (count - 1) % room * chunk_ps
    assert flow == pytest.approx(last + around, rel=1e-6)
    packet = step_ps(SPINE, 16, size, "in_network", tuning=tuning, fidelity="packet")
    # A point stores a packet on either side of it, at every turn where the buffer is too small.
    stored = 2 * 4 * STORED * (-(-count // room) if around > room * chunk_ps else 1)
    assert flow < packet < (flow + stored) * 1.03


def test_switches_never_hold_more_than_their_room():
    """In the order that the flows may have at the soonest: chunk k starts when the sum of chunk k - w is back."""
    part = reduction(SPINE.network, np.arange(16), MB, chunk_bytes=50_000, in_flight=3)
    table, after = chunk_flows(part, SPINE.network, Wire(), 1, 16384)
    each = 2 * len(part.up)
    assert chunk_sizes(part, Wire(), 1) == (50_000, 50_000, 20)
    assert len(table) == 20 * each
    assert table[table[:, 0] == 0, 2].sum() == MB
    waits = {}
    for later, earlier in after.tolist():
        waits.setdefault(later, set()).add(earlier)
    for chunk in range(20):
        for place in range(16):
            number = chunk * each + place
            back = {(chunk - 3) * each + each - 1 - place} if chunk >= 3 else set()
            assert waits.get(number, set()) == back
            assert (table[number, 0], table[(number if chunk < 3 else back.copy().pop()), 0 if chunk < 3 else 1]) == (
                place,
                place,
            )
    up = np.sort(table[:each, 0][:16])
    assert up.tolist() == list(range(16))


def test_every_link_of_the_tree_carries_the_buffer_once_each_way():
    """Bytes on the wire of both fidelities: the sum over the tree, hosts and inner links alike."""
    traffic = collective(16, MB)
    packet = simulate_step(SPINE, *traffic, allreduce="in_network", fidelity="packet")
    part = reduction(SPINE.network, np.arange(16), MB)
    used = np.zeros(SPINE.network.links, bool)
    used[part.up] = used[part.down] = True
    assert len(part.up) == 16 + 4
    carried = packet.links["bytes"].to_numpy()
    assert np.all(carried[~used] == 0)
    assert carried[used] == pytest.approx(MB * 4150 / 4086, rel=0.04)
    flow = simulate_step(SPINE, *traffic, allreduce="in_network")
    assert flow.links["bytes"].to_numpy().sum() == pytest.approx(40 * MB * 4150 / 4086, rel=0.001)


def test_groups_take_roots_of_their_own():
    """Four groups of one rank a ToR, all at once, on four spines: no slower than one of them alone."""
    rows = [
        operation(rank, rank, "collective", collective="all_reduce", group=rank % 4, bytes=4 * MB) for rank in range(16)
    ]
    groups = {group: list(range(group, 16, 4)) for group in range(4)}
    all_at_once = simulate_step(SPINE, *tables(rows, groups), allreduce="in_network", fidelity="packet").step_ps
    roots = {reduction(SPINE.network, np.array(ranks), 1).root for ranks in groups.values()}
    assert len(roots) == 4
    alone = simulate_step(SPINE, *tables(rows[::4], {0: groups[0]}), allreduce="in_network", fidelity="packet").step_ps
    assert all_at_once == pytest.approx(alone, rel=0.01)


def test_a_dragonfly_reduces_over_a_tree_of_routers():
    """Two local links and a global one beside the hosts' own at most, and links that no rank needs carry nothing."""
    machine = Dragonfly(hosts_per_router=2, routers_per_group=4, global_links=2, groups=4, link_gbps=100)
    part = reduction(machine.network, np.arange(32), MB)
    assert part.depth <= 4
    assert sorted(part.child[:32].tolist()) == list(range(32))
    packet = step_ps(machine, 32, 2 * MB, "in_network", fidelity="packet")
    assert packet == pytest.approx(
        step_ps(machine, 32, 2 * MB, "in_network", tuning=Tuning(chunk_bytes=4 * 4086)), rel=0.04
    )


@pytest.mark.parametrize(
    ("topology", "algorithm", "options", "message"),
    [
        (SWITCH, "hierarchical", {}, "goes server by server, and fat_tree has none; say per_server"),
        (SWITCH, "hierarchical", {"tuning": Tuning(per_server=5)}, "server 3 holds 1 of them, server 0 5"),
        (HammingMesh(grid_rows=2, grid_columns=2), "in_network", {}, "host 0 has 4 links; use another all-reduce"),
        (SWITCH, "in_network", {"fidelity": "packet", "transport": "rccc"}, "use a transport without receiver credit"),
        (
            SWITCH,
            "double_binary_tree",
            {"fidelity": "packet", "tuning": Tuning(chunk_bytes=100)},
            "larger chunk_bytes of trees",
        ),
        (
            SWITCH,
            "double_binary_tree",
            {"tuning": Tuning(chunk_bytes=1)},
            "is 30000000 messages, and the most are 1000000",
        ),
        (SWITCH, "in_network", {"fidelity": "packet", "tuning": Tuning(chunk_bytes=1)}, "this step is 32000000 flows"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(topology, algorithm, options, message):
    """With the value and what to do."""
    with pytest.raises(WorkloadError, match=message):
        step_ps(topology, 16, MB, algorithm, **options)


@pytest.mark.parametrize("fields", [{"per_server": 0}, {"chunk_bytes": -1}, {"chunks_in_flight": 2}])
def test_impossible_tunings_are_refused(fields):
    """By name."""
    with pytest.raises(ValueError, match=next(iter(fields))):
        Tuning(**fields)


@pytest.mark.parametrize("name", ["reduce_scatter", "all_gather", "broadcast", "reduce", "barrier", "all_to_all"])
@pytest.mark.parametrize("algorithm", ["recursive_doubling", "double_binary_tree", "in_network"])
def test_other_collectives_go_on_beside_them(algorithm, name):
    """As rings, or for recursive doubling as halving does."""
    beside = "halving_doubling" if algorithm == "recursive_doubling" else "ring"
    assert step_ps(SWITCH, 16, MB, algorithm, name) == step_ps(SWITCH, 16, MB, beside, name)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ["recursive_doubling", "double_binary_tree", "hierarchical", "in_network"])
def test_buffers_of_a_byte_or_two_arrive(algorithm, size):
    """At both fidelities."""
    for fidelity in ("flow", "packet"):
        assert step_ps(SWITCH, 6, size, algorithm, tuning=Tuning(per_server=2), fidelity=fidelity) > 2 * US
