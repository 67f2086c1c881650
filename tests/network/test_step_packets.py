"""A training step packet by packet: closed formulas, the flow engine where nothing is sent, and what must hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, HammingMesh, Torus, simulate_step, step_flows, workloads
from orchestrator_network.collectives import Phase, lower
from orchestrator_network.errors import WorkloadError
from orchestrator_network.packet.catalog import load_balancer, transport
from orchestrator_network.packet.engine import run
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.routers import behind_routers
from orchestrator_network.wire import Wire
from tests.network.traffics import data_parallel, operation, tables

MB, US, MS = 10**6, 10**6, 10**9
TREE = FatTree(hosts=16, link_gbps=100)
MESH = HammingMesh(grid_rows=2, grid_columns=2)
TORUS = Torus(sides=(4, 4))


def both(topology, rows_and_groups, **options):
    packet = simulate_step(topology, *rows_and_groups, fidelity="packet", **options)
    return packet, simulate_step(topology, *rows_and_groups, allreduce=options.get("allreduce", "auto"))


def collective(ranks, size_bytes, name="all_reduce"):
    return tables(
        [operation(rank, rank, "collective", collective=name, group=0, bytes=size_bytes) for rank in range(ranks)]
    )


@pytest.mark.parametrize("size_bytes", [MB, 16 * MB])
def test_a_ring_takes_what_its_formula_says(size_bytes):
    """2 (p - 1) steps over two links of 1 us and one switch that stores a packet, within two percent."""
    packet, _ = both(TREE, collective(16, size_bytes), allreduce="ring")
    wire = size_bytes * 4150 / 4086
    closed_ps = 2 * 15 * (2 * US + 4150 * 80 + wire / 16 * 80)
    assert packet.step_ps == pytest.approx(closed_ps, rel=0.02)
    assert packet.step_ps >= packet.bound_ps
    assert packet.communication_ps == packet.exposed_communication_ps == packet.step_ps


def test_recursive_halving_takes_what_its_formula_says():
    """Eight steps of latency and the same bytes."""
    packet, _ = both(TREE, collective(16, 16 * MB), allreduce="halving_doubling")
    closed_ps = 8 * (2 * US + 4150 * 80) + 2 * 15 / 16 * 16 * MB * 4150 / 4086 * 80
    assert packet.step_ps == pytest.approx(closed_ps, rel=0.02)


@pytest.mark.parametrize("topology", [TORUS, MESH])
@pytest.mark.parametrize("algorithm", ["ring", "bidirectional", "two_rings", "torus2d"])
def test_algorithms_on_meshes_are_near_their_flows(topology, algorithm):
    """One direction, two, four ports, and both dimensions: three percent above what flows in lockstep take."""
    packet, flow = both(topology, collective(16, 16 * MB), allreduce=algorithm)
    assert packet.bound_ps < packet.step_ps
    assert 1 <= packet.step_ps / flow.step_ps < 1.03


@pytest.mark.parametrize("name", ["all_to_all", "broadcast", "reduce", "all_gather", "reduce_scatter", "barrier"])
def test_other_collectives_are_near_their_flows(name):
    """No quicker than in lockstep, and at most a tenth slower; an all-to-all, whose flows meet at receivers, a third."""
    packet, flow = both(TREE, collective(16, 2 * MB, name), allreduce="ring")
    assert 1 <= packet.step_ps / flow.step_ps < (1.33 if name == "all_to_all" else 1.1)


def test_computation_alone_equals_the_flow_engine():
    """Chains, one rank at a time, start edges: to the picosecond, with a network or without anything to send."""
    rows = [
        operation(i, i % 4, "compute", duration_ps=(7 + 3 * i) * US, requires=[i - 3] if i > 2 else [])
        for i in range(40)
    ]
    rows[20]["irequires"] = [39]
    packet, flow = both(TREE, tables(rows))
    assert (packet.step_ps, packet.communication_ps) == (flow.step_ps, flow.communication_ps)
    assert packet.timeline == flow.timeline
    assert packet.links["bytes"].to_pylist() == [0] * TREE.network.links
    rows.append(operation(99, 15, "send", peer=14, bytes=1))
    rows.append(operation(100, 14, "recv", peer=15, bytes=1))
    packet, flow = both(TREE, tables(rows))
    assert packet.step_ps == flow.step_ps
    assert packet.timeline == flow.timeline


def test_communication_hides_behind_computation():
    """Four slices of 1 ms, buckets that take 0.8: what is exposed is the last bucket."""
    packet, flow = both(FatTree(hosts=8, link_gbps=100), data_parallel(8, 4, 5 * MB, MS), allreduce="ring")
    assert packet.step_ps_infinite == packet.compute_ps == 4 * MS
    assert packet.exposed_communication_ps == pytest.approx(packet.communication_ps / 4, rel=0.01)
    assert packet.step_ps == pytest.approx(flow.step_ps, rel=0.01)


def test_collectives_of_a_group_run_in_order_or_share():
    """Two that are ready at once: one after the other, or both take as long as both."""
    rows = [
        operation(2 * rank + tag, rank, "collective", collective="all_reduce", group=0, bytes=4 * MB, tag=tag)
        for rank in range(8)
        for tag in range(2)
    ]
    ends = {}
    for in_order in (True, False):
        result = simulate_step(TREE, *tables(rows), fidelity="packet", allreduce="ring", in_order=in_order)
        ends[in_order] = sorted(interval.end_ps for interval in result.timeline)
    assert ends[True][0] == pytest.approx(ends[True][1] / 2, rel=0.01)
    assert ends[False][0] == pytest.approx(ends[False][1], rel=0.05)


def test_messages_arrive_when_alone_and_gate_what_waits_for_them():
    """Compute, send, compute: a message alone takes its formula, and the receiver goes on at that instant."""
    rows = [
        operation(0, 0, "compute", duration_ps=MS),
        operation(1, 0, "send", peer=9, bytes=MB, requires=[0]),
        operation(2, 9, "recv", peer=0, bytes=MB),
        operation(3, 9, "compute", duration_ps=MS, requires=[2]),
    ]
    result = simulate_step(TREE, *tables(rows), fidelity="packet")
    (row,) = result.messages.to_pylist()
    assert row["start_ps"] == MS
    assert row["finish_ps"] - row["start_ps"] == row["ideal_ps"]
    wire = MB + 64 * -(-MB // 4086)
    links = 2 if TREE.network.diameter() == 2 else 4
    assert row["ideal_ps"] == wire * 80 + links * US + (links - 1) * 4150 * 80
    assert result.step_ps == row["finish_ps"] + MS


def test_runs_repeat_to_the_bit():
    """Whoever watches, and in what pieces."""
    traffic = data_parallel(16, 2, MB, MS // 10)
    first, again = (
        simulate_step(TREE, *traffic, fidelity="packet", seed=3, progress=watch)
        for watch in (None, lambda done, total: None)
    )
    assert first.timeline == again.timeline
    assert first.links == again.links


@settings(max_examples=8, deadline=None)
@given(
    topology=st.sampled_from([TREE, TORUS, MESH]),
    slices=st.lists(st.tuples(st.integers(1, 400_000), st.integers(0, 200)), min_size=1, max_size=4),
    allreduce=st.sampled_from(["auto", "ring", "halving_doubling"]),
    in_order=st.booleans(),
    name=st.sampled_from(["nscc", "rccc", "smartt_v1", "constant"]),
)
def test_no_step_beats_its_bound(topology, slices, allreduce, in_order, name):
    """Random buckets behind random slices of computation, on links that all overlap."""
    rows = []
    for rank in range(16):
        for tag, (size, us) in enumerate(slices):
            first = len(rows)
            rows.append(operation(first, rank, "compute", duration_ps=us * US))
            rows.append(
                operation(
                    first + 1,
                    rank,
                    "collective",
                    collective="all_reduce",
                    group=0,
                    bytes=size,
                    tag=tag,
                    requires=[first],
                )
            )
    result = simulate_step(
        topology, *tables(rows), fidelity="packet", allreduce=allreduce, in_order=in_order, transport=name
    )
    assert result.step_ps >= result.bound_ps
    assert result.step_ps >= result.step_ps_infinite
    assert np.all(result.links["utilization"].to_numpy() <= 1 + 1e-9)


def reduced(flows, size, ranks):
    """Run a ring by hand, in any order that its dependencies allow: who has the sum of which chunk at the end."""
    waits = {number: set() for number in range(len(flows.source))}
    for later, earlier in flows.after.tolist():
        waits[later].add(earlier)
    done, order = set(), []
    while len(done) < len(waits):
        ready = [number for number, before in waits.items() if number not in done and before <= done]
        number = max(ready)  # the latest that may go: the most unlike the order in which they were made
        done.add(number)
        order.append(number)
    return order


def test_a_ring_waits_for_what_it_passes_on():
    """In the most unlike order that the dependencies allow, every rank still ends with every chunk reduced by all."""
    ranks = np.arange(5)
    chains = lower("all_reduce", 5000, ranks, TREE, "ring")
    assert [type(part) for part in chains[0]] == [Phase, Phase]
    flows = step_flows.expand(chains, 1)
    order = reduced(flows, 5000, 5)
    has = [[{rank} for _ in range(5)] for rank in range(5)]
    for number in order:
        step, source = divmod(number, 5)
        chunk = (source - step) % 5 if step < 4 else (source + 1 - (step - 4)) % 5
        target = int(flows.target[number])
        has[target][chunk] = has[target][chunk] | has[source][chunk] if step < 4 else has[source][chunk]
    assert all(chunk == set(range(5)) for rank in has for chunk in rank)


def test_too_many_flows_are_refused_by_number():
    """Before anything is made, with what to do about it."""
    topology = FatTree(hosts=512)
    with pytest.raises(WorkloadError, match="this step is 523264 flows, and the most are 200000; .*by ring, is 523264"):
        simulate_step(topology, *collective(512, 512 * MB), fidelity="packet", allreduce="ring")


@pytest.mark.parametrize("topology", [TREE, TORUS])
def test_operations_start_flows_when_the_kernel_would(topology):
    """Sixteen relays of five messages each, as operations and as flows that wait for flows: equal to the picosecond."""
    generator = np.random.default_rng(6)
    rows, plain, after = [], [], []
    for relay in range(16):
        at, received = relay, []
        for tag in range(5):
            to, size = (at + int(generator.integers(1, 16))) % 16, int(generator.integers(1, 150_000))
            number = 2 * len(plain)
            rows.append(operation(number, at, "send", peer=to, bytes=size, tag=number, requires=received))
            rows.append(operation(number + 1, to, "recv", peer=at, bytes=size, tag=number))
            after += [(len(plain), len(plain) - 1)] if tag else []
            plain.append((at, to, size, 0))
            at, received = to, [number + 1]
    messages = simulate_step(topology, *tables(rows), fidelity="packet", seed=4).messages
    load, network = workloads.flows(plain, after), behind_routers(topology.network)
    flows = run(network, load, transport("nscc"), load_balancer("reps"), Options(seed=4)).state.flows
    assert messages["start_ps"].to_pylist() == flows["started"].tolist()
    assert messages["finish_ps"].to_pylist() == flows["arrived"].tolist()


def test_messages_are_never_quicker_than_alone():
    """A hundred of random sizes between random ranks at once, on links that they share."""
    generator = np.random.default_rng(5)
    rows = []
    for tag in range(100):
        source, target = generator.choice(16, 2, replace=False).tolist()
        size = int(generator.integers(0, 100_000))
        rows.append(operation(2 * tag, source, "send", peer=target, bytes=size, tag=tag))
        rows.append(operation(2 * tag + 1, target, "recv", peer=source, bytes=size, tag=tag))
    for topology in (TREE, TORUS, MESH):
        messages = simulate_step(topology, *tables(rows), fidelity="packet").messages
        took = messages["finish_ps"].to_numpy() - messages["start_ps"].to_numpy()
        assert np.all(took >= messages["ideal_ps"].to_numpy())


def test_thresholds_of_links_reach_a_step():
    """An all-to-all on links that stop early takes longer than on those that stop late."""
    late, early = (
        simulate_step(
            TREE, *collective(16, 2 * MB, "all_to_all"), fidelity="packet", transport="constant", lossless="pfc", **said
        )
        for said in ({}, {"stop_packets": 1, "go_packets": 0})
    )
    pauses = [sum(one.links["pause_ps"].to_pylist()) for one in (late, early)]
    assert late.step_ps < early.step_ps
    assert pauses[0] < pauses[1]


def test_packets_need_packets():
    """And what is said of packets needs fidelity packet."""
    with pytest.raises(ValueError, match="transport is given at fidelity `flow`"):
        simulate_step(TREE, *collective(16, MB), transport="nscc")
    with pytest.raises(ValueError, match="packet_bytes"):
        simulate_step(TREE, *collective(16, MB), fidelity="packet", wire=Wire.fluid())
