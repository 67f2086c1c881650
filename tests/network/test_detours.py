"""Routes that are not minimal: against the plain simulator, on traffic that is bad for each, and what never changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import Dragonfly, HyperX, Wire, simulate, simulate_step, workloads
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.packet.balancing.reps import Reps
from orchestrator_network.packet.balancing.simple import Ecmp, Oblivious
from orchestrator_network.packet.routers import behind_routers
from orchestrator_network.packet.transports.nscc import Nscc
from orchestrator_network.packet.transports.simple import Constant
from tests.network.test_packet_oracle import compare
from tests.network.traffics import operation, tables

RULES = ("valiant", "ugal_l", "ugal_g")


def dragonfly(routing="minimal", groups=9):
    """The balanced machine of 2 hosts, 4 routers and 2 global links: one link between every two of its 9 groups."""
    return Dragonfly(
        hosts_per_router=2, routers_per_group=4, global_links=2, groups=groups, link_gbps=100, routing=routing
    )


def to_the_next_group(size):
    """Every host of group i sends to its like in group i + 1: the traffic that minimal routes are worst for."""
    return workloads.flows([(host, (host + 8) % 72, size, 0) for host in range(72)])


def to_another_group():
    """All hosts of a small Dragonfly send to the next group, one after the other."""
    return workloads.flows([(host, (host + 8) % 32, 60_000, 1000 * host) for host in range(32)])


def permutation_and_incast():
    """An incast beside a permutation of a small HyperX, so that queues differ."""
    rows = [(host, (host + 5) % 12, 40_000, 0) for host in range(12)] + [(host, 0, 120_000, 0) for host in range(1, 9)]
    return workloads.flows(rows)


@pytest.mark.parametrize(
    ("machine", "load", "transport", "balancer"),
    [
        *(
            (dragonfly(routing, groups=4), to_another_group(), Nscc, balancer)
            for routing, balancer in [("valiant", Reps), ("ugal_l", Oblivious), ("ugal_g", Ecmp), ("ugal_g", Reps)]
        ),
        # Hosts that forward are areas of their own.
        *(
            (HyperX(rows=3, columns=4, link_gbps=100, routing=routing), permutation_and_incast(), Constant, Oblivious)
            for routing in (*RULES, "dal")
        ),
    ],
)
def test_the_plain_simulator_agrees(machine, load, transport, balancer):
    """Event for event, with marks; every rule detours some."""
    state = compare(machine, load, transport(), balancer(), seed=3)
    assert state.run["detoured"][0] > 20
    assert state.flows["marks"].sum() > 0


def test_dropped_and_trimmed_packets_leave_no_detour_behind():
    """Rows of packets are used again: without trimming, with timeouts, event for event."""
    machine = dragonfly("ugal_g", groups=4)
    load = workloads.flows([(host, 31, 90_000, 0) for host in range(24)])
    state = compare(machine, load, Constant(), Oblivious(), seed=5, trimming=False, loss_recovery="timeout")
    assert state.counters["drops"].sum() > 5


@pytest.mark.parametrize("routing", ["ugal_l", "ugal_g", "dal"])
def test_the_plain_simulator_agrees_where_a_link_goes_down(routing):
    """A port that is down seems full and not empty, until it comes back."""
    machine = HyperX(rows=3, columns=4, link_gbps=100, routing=routing)
    load = workloads.flows([(host, (host + 5) % 12, 60_000, 0) for host in range(12)])
    network = behind_routers(machine.network)
    into = np.flatnonzero((network.target >= network.hosts) & (network.source >= network.hosts))
    changes = tuple(
        (when, int(into[at]), share) for at in (0, 9) for when, share in ((1_000_000, 0.0), (9_000_000, 1.0))
    )
    state = compare(machine, load, Constant(), Oblivious(), seed=6, changes=changes)
    assert state.counters["drops"].sum() > 0


def test_ugal_goes_around_a_link_that_is_down():
    """The one link between two groups: all queues of the way tell, and what minimal routes lose is not lost."""
    machine = dragonfly("ugal_g")
    network = machine.network
    group = (
        np.where(network.source >= 72, (network.source - 72) // 4, -1),
        np.where(network.target >= 72, (network.target - 72) // 4, -1),
    )
    (link,) = np.flatnonzero((group[0] == 0) & (group[1] == 1))
    down = [(0, network.names[network.source[link]], network.names[network.target[link]], 0.0)]
    load = workloads.flows([(0, 8, 100_000, 0)])
    for routing, lost in (("minimal", True), ("ugal_g", False)):
        if lost:
            with pytest.raises(WorkloadError, match="no progress"):
                simulate(dragonfly(routing), load, fidelity="packet", link_changes=down)
        else:
            result = simulate(dragonfly(routing), load, fidelity="packet", link_changes=down)
            assert sum(result.links["drops"].to_pylist()) == 0


def test_valiant_spreads_what_minimal_routes_send_over_one_link():
    """Group to next group: minimal takes what one link needs for eight hosts, Valiant a third of it, UGAL less still."""
    load = to_the_next_group(2**20)
    ends = {
        routing: simulate(dragonfly(routing), load, fidelity="packet").summary["end_us"]
        for routing in ("minimal", *RULES)
    }
    one_link_us = 8 * 2**20 * 4150 / 4086 * 8 / 100e3
    assert ends["minimal"] == pytest.approx(one_link_us, rel=0.1)
    assert ends["valiant"] < ends["minimal"] / 2.5
    assert ends["ugal_g"] < ends["valiant"]
    assert ends["valiant"] < ends["ugal_l"] < ends["minimal"] / 1.5  # links that drop push no queue back to the source
    flow = {routing: simulate(dragonfly(routing), load).summary["end_us"] for routing in ("minimal", "valiant")}
    assert ends["minimal"] == pytest.approx(flow["minimal"], rel=0.1)
    assert flow["valiant"] < ends["valiant"] < 1.3 * flow["valiant"]


def test_where_switches_choose_every_packet_goes_its_own_way():
    """With `adaptive`, whose flows have one entropy value each, one flow sees all areas, and detours are as good as sprayed."""
    one = simulate(
        dragonfly("valiant"), workloads.flows([(0, 8, 400_000, 0)]), fidelity="packet", load_balancer="adaptive"
    )
    rows = one.links.to_pylist()
    out = {row["dst"].split(".")[0] for row in rows if row["bytes"] > 10_000 and row["src"].startswith("group0.")}
    assert out == {"group0", *(f"group{i}" for i in range(2, 9))}
    load = to_the_next_group(2**19)
    ends = {
        (routing, balancer): simulate(
            dragonfly(routing), load, fidelity="packet", load_balancer=balancer
        ).summary["end_us"]
        for routing in ("valiant", "ugal_g")
        for balancer in ("oblivious", "adaptive")
    }  # fmt: skip
    for routing in ("valiant", "ugal_g"):
        assert ends[routing, "adaptive"] < 1.15 * ends[routing, "oblivious"]


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
def test_local_ugal_sees_far_queues_where_links_never_drop(lossless):
    """What cannot go on fills the ports before it up to the source, where its own queues tell (Singh 2005)."""
    load = to_the_next_group(2**20)
    ends = {
        (routing, flow_control): simulate(
            dragonfly(routing), load, fidelity="packet", lossless=flow_control
        ).summary["end_us"]
        for routing in ("valiant", "ugal_l")
        for flow_control in ("none", lossless)
    }  # fmt: skip
    assert ends["ugal_l", lossless] < 0.8 * ends["ugal_l", "none"]
    assert ends["valiant", lossless] == pytest.approx(ends["valiant", "none"], rel=0.1)


def test_uniform_traffic_is_better_off_on_minimal_routes():
    """Valiant pays its bytes twice, nearly: all to all in a fluid, 48 permutations packet by packet; UGAL is no worse."""
    load = workloads.all_to_all(72, 16_000)
    flow = {
        routing: simulate(dragonfly(routing), load, wire=Wire.fluid()).summary["end_us"]
        for routing in ("minimal", "valiant")
    }
    assert flow["valiant"] / flow["minimal"] == pytest.approx(1.75, abs=0.15)
    generator = np.random.default_rng(1)
    pairs = [(at, int(to)) for _ in range(48) for at, to in enumerate(generator.permutation(72)) if at != to]
    many = workloads.flows([(at, to, 32_000, 0) for at, to in pairs])
    ends = {
        routing: simulate(dragonfly(routing), many, fidelity="packet", transport="rccc").summary
        for routing in ("minimal", "valiant", "ugal_g")
    }
    assert ends["valiant"]["end_us"] > 1.4 * ends["minimal"]["end_us"]
    assert ends["ugal_g"]["end_us"] < 1.05 * ends["minimal"]["end_us"]
    assert ends["ugal_g"]["detoured"] < ends["valiant"]["detoured"] / 4


@pytest.mark.parametrize("routing", RULES)
def test_a_flow_alone_takes_the_minimal_way_where_nothing_waits(routing):
    """UGAL sends an idle network's packets as minimal routing does; Valiant never does between groups."""
    load = workloads.flows([(0, 40, 4000, 0)])
    found = simulate(dragonfly(routing), load, fidelity="packet")
    straight = simulate(dragonfly(), load, fidelity="packet")
    if routing == "valiant":
        assert found.summary["detoured"] == 1
        assert found.summary["end_us"] > straight.summary["end_us"]
    else:
        assert found.flows["finish_ps"].to_pylist() == straight.flows["finish_ps"].to_pylist()
    inside = simulate(dragonfly(routing), workloads.flows([(0, 7, 400_000, 0)]), fidelity="packet")
    assert inside.summary["detoured"] == 0


@settings(max_examples=12, deadline=None)
@given(
    routing=st.sampled_from(RULES),
    rows=st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 11), st.integers(1, 200_000), st.integers(0, 10**7)).filter(
            lambda row: row[0] != row[1]
        ),
        min_size=1,
        max_size=20,
    ),
    hyperx=st.booleans(),
    balancer=st.sampled_from(["reps", "adaptive", "ecmp", "flowlet"]),
)
def test_everything_arrives_and_nothing_beats_the_bound(routing, rows, hyperx, balancer):
    """Any load, on both topologies; the bound knows the links of hosts and minimal lengths."""
    machine = HyperX(rows=3, columns=4, link_gbps=100, routing=routing) if hyperx else dragonfly(routing)
    result = simulate(machine, workloads.flows(rows), fidelity="packet", load_balancer=balancer)
    assert result.summary["end_us"] >= result.summary["bound_us"]
    assert np.all(result.flows["slowdown"].to_numpy() >= 1)
    assert sum(result.links["drops"].to_pylist()) == 0


def test_valiant_on_a_hyperx_is_the_mean_over_all_other_hosts():
    """Shares, latency and loads, against a sum over every host in between."""
    machine, straight = (
        HyperX(rows=3, columns=4, link_gbps=100, routing=routing) for routing in ("valiant", "minimal")
    )
    source, target = np.array([0, 5, 7]), np.array([7, 6, 0])
    routes = machine.routes(source, target)
    for i, (here, there) in enumerate(zip(source, target, strict=True)):
        between = np.array([host for host in range(12) if host not in {here, there}])
        first = straight.routes(np.full(10, here), between)
        second = straight.routes(between, np.full(10, there))
        expected = (first.share + second.share).toarray().sum(axis=0) / 10
        assert routes.share[[i]].toarray()[0] == pytest.approx(expected)
        assert routes.hops[i] == pytest.approx((first.hops + second.hops).mean())
        assert routes.latency_ps[i] == pytest.approx((first.latency_ps + second.latency_ps).mean())
    demand = np.random.default_rng(1).random((12, 12))
    at, to = np.nonzero(~np.eye(12, dtype=bool))
    assert machine.loads(demand) == pytest.approx(demand[at, to] @ machine.routes(at, to).share)


def test_a_step_takes_detours_too():
    """An all-to-all between two groups, packet by packet; flows know Valiant, and UGAL not."""
    pair = tables(
        [operation(rank, rank, "collective", collective="all_to_all", group=0, bytes=800_000) for rank in range(16)]
    )
    ends = {
        routing: simulate_step(dragonfly(routing), *pair, fidelity="packet").step_ps
        for routing in ("minimal", "ugal_g")
    }
    assert ends["ugal_g"] < ends["minimal"] / 1.5
    with pytest.raises(TopologyError, match="routing ugal_g chooses packet by packet, by queues"):
        simulate_step(dragonfly("ugal_g"), *pair)


def test_what_does_not_go_with_detours_is_refused():
    """Queues where there are none, circles, too few groups, unknown names."""
    load = workloads.flows([(0, 40, 4000, 0)])
    for fidelity in ("flow", "analytic"):
        with pytest.raises(TopologyError, match="routing ugal_l chooses packet by packet"):
            simulate(dragonfly("ugal_l"), load, fidelity=fidelity)
    with pytest.raises(TopologyError, match="routing ugal_g needs a third group"):
        dragonfly("ugal_g", groups=2)
    for kind in (Dragonfly, HyperX):
        with pytest.raises(
            TopologyError, match="routing is `ugal`, it must be one of minimal, valiant, ugal_l, ugal_g"
        ):
            kind(routing="ugal")
    with pytest.raises(TopologyError, match="needs a third accelerator"):
        HyperX(rows=1, columns=2, routing="valiant")
