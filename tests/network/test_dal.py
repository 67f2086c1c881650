"""Routing DAL on a HyperX: what packets may do, what it is worth, and that nothing waits in a circle."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import Dragonfly, HyperX, simulate, workloads
from orchestrator_network.components import HyperXBuilder, HyperXConfig
from orchestrator_network.deadlock import untie
from orchestrator_network.errors import TopologyError
from orchestrator_network.packet.balancing.simple import Oblivious
from orchestrator_network.packet.engine import prepare
from orchestrator_network.packet.fabric import describe
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.routers import behind_routers
from orchestrator_network.packet.transports.simple import Constant
from tests.network.test_deadlock import has_circle, prepared
from tests.network.test_packet_oracle import compare, compiled_events


def hyperx(side=8, routing="dal", **more):
    return HyperX(rows=side, columns=side, link_gbps=100, routing=routing, **more)


def transpose(side, size):
    """(i, j) to (j, i): every minimal way turns at (i, i) or at (j, j), so the diagonal carries it all."""
    pairs = [(i * side + j, j * side + i) for i, j in itertools.permutations(range(side), 2)]
    return workloads.flows([(source, target, size, 0) for source, target in pairs])


def turns(machine, load, **options):
    """Return, for every packet of data of a run, the accelerators that it went over, by the events of the kernel."""
    network, options = behind_routers(machine.network), Options(**options)
    fabric = describe(network, packet_bytes=4150, header_bytes=64, trimming=True)
    control, balancer = Constant(), Oblivious()
    state, order = prepare(network, load, control, balancer, options, fabric)
    target, area = network.target[order], network.detours.area
    went = defaultdict(list)
    for _, link, flow, psn, kind, _ in compiled_events(state, control, balancer):
        if kind == "data" and area[target[link]] >= 0:
            went[flow, psn].append(int(area[target[link]]))
    assert state.run["detoured"][0] > 0
    assert state.flows["retransmissions"].sum() == state.counters["drops"].sum() == 0
    return went


@pytest.mark.parametrize("machine", [hyperx(5), HyperX(rows=3, columns=6, link_gbps=100, radix=6, routing="dal")])
@pytest.mark.parametrize("lossless", ["none", "pfc", "credit"])
def test_no_packet_is_derouted_twice_in_a_dimension(machine, lossless):
    """Only in dimensions that are not aligned, once at most each, then straight to the target; in both on some ways."""
    pairs = [(i, (7 * i + 3) % machine.hosts, 150_000, 0) for i in range(machine.hosts)]
    pairs += [(i, 0, 60_000, 0) for i in range(1, machine.hosts)]
    load = workloads.flows([row for row in pairs if row[0] != row[1]])
    most = 0
    for (flow, _), areas in turns(
        machine, load, lossless=lossless, queue_packets=500 if lossless == "none" else None
    ).items():
        at = [divmod(area, machine.columns) for area in areas]
        goal = divmod(int(load.target[flow]), machine.columns)
        assert at[0] == divmod(int(load.source[flow]), machine.columns)
        assert at[-1] == goal
        moves = [0, 0]
        for here, there in itertools.pairwise(at):
            (axis,) = [axis for axis in (0, 1) if here[axis] != there[axis]]
            assert here[axis] != goal[axis]
            moves[axis] += 1
        assert max(moves) <= 2
        most = max(most, sum(moves))
    assert most == 4


@pytest.mark.parametrize(("balancer", "transport"), [("reps", "nscc"), ("oblivious", "rccc"), ("adaptive", "nscc")])
def test_a_transpose_goes_around_the_diagonal(balancer, transport):
    """Far quicker than minimal ways, and quicker than Valiant's, which cross two lines more and not one."""
    load = transpose(8, 2**19)
    ends = {
        routing: simulate(
            hyperx(routing=routing), load, fidelity="packet", load_balancer=balancer, transport=transport
        ).summary["end_us"]
        for routing in ("minimal", "valiant", "dal")
    }
    assert ends["dal"] < 0.7 * ends["minimal"]
    assert ends["dal"] < 0.95 * ends["valiant"]


@pytest.mark.parametrize("lossless", ["none", "pfc", "credit"])
def test_uniform_traffic_is_no_worse_off_than_on_minimal_routes(lossless):
    """Permutations all at once, and one that shifts rows and columns, for which minimal ways are all that it needs."""
    generator = np.random.default_rng(1)
    pairs = [(at, int(to)) for _ in range(24) for at, to in enumerate(generator.permutation(64)) if at != to]
    uniform = workloads.flows([(at, to, 32_000, 0) for at, to in pairs])
    shift = workloads.flows([(at, (at // 8 + 1) % 8 * 8 + (at + 1) % 8, 500_000, 0) for at in range(64)])
    for load in (uniform, shift):
        ends = {
            routing: simulate(hyperx(routing=routing), load, fidelity="packet", lossless=lossless).summary["end_us"]
            for routing in ("minimal", "dal")
        }
        assert ends["dal"] < 1.02 * ends["minimal"]


def test_a_flow_alone_is_never_derouted():
    """Where nothing waits the least loaded next hop is an aligned one: to the picosecond as on minimal routes."""
    for target in (5, 40, 63):
        load = workloads.flows([(0, target, 4000, 0)])
        found, straight = (simulate(hyperx(routing=one), load, fidelity="packet") for one in ("dal", "minimal"))
        assert found.summary["detoured"] == 0
        assert found.flows["finish_ps"].to_pylist() == straight.flows["finish_ps"].to_pylist()


def next_places(machine, at, goal, done):
    """Yield the places that a packet may go to next, and in which dimensions it was derouted then."""
    here, there, sides = divmod(at, machine.columns), divmod(goal, machine.columns), (machine.rows, machine.columns)
    for axis in [axis for axis in (0, 1) if here[axis] != there[axis]]:
        for place in {there[axis]} if axis in done else set(range(sides[axis])) - {here[axis]}:
            area = place * machine.columns + here[1] if axis == 0 else here[0] * machine.columns + place
            yield area, done if place == there[axis] else done | {axis}


def walks(machine, wiring, channels, network):
    """Go over all that packets may do, place by place and link by link; return which (link, channel) follows which."""
    hosts, ranks = network.hosts, channels.ranks.tolist()
    areas, target = network.detours.area, network.target[wiring.order]
    router = {int(areas[node]): node - hosts for node in range(hosts, network.nodes) if areas[node] >= 0}
    first, follows = wiring.routes.shape[1] - machine.hosts, set()

    def ways(switch, area):
        """Return all ways from a switch to an area, as lists of links."""
        entry = int(wiring.routes[switch, first + area])
        if entry == 0:
            return [[]]
        ports = wiring.ports[(entry >> 12) : (entry >> 12) + (entry & 0xFFF)].tolist()
        return [[port, *rest] for port in ports for rest in ways(int(target[port]) - hosts, area)]

    for goal in range(machine.hosts):
        edge, seen = [(source, None, 0, frozenset()) for source in range(machine.hosts)], set()
        while edge:
            at, link, channel, done = edge.pop()
            if (at, link, channel, done) in seen:
                continue
            seen.add((at, link, channel, done))
            for area, turned in next_places(machine, at, goal, done):
                for way in ways(router[at], area):
                    before, number = link, channel
                    for after in way:
                        if before is not None:
                            came = before, number
                            number += ranks[after] <= ranks[before]
                            follows.add((came, (after, number)))
                        assert number < channels.per_link
                        before = after
                    edge.append((area, before, number, turned))
    return follows


@pytest.mark.parametrize(
    ("machine", "used"),
    [
        (HyperX(rows=3, columns=4, routing="dal"), 4),
        (HyperX(rows=1, columns=5, routing="dal"), 2),
        (HyperX(rows=3, columns=4, radix=6, routing="dal"), 4),
    ],
    ids=["grid", "line", "trees"],
)
def test_nothing_waits_in_a_circle(machine, used):
    """A channel for every hop, two in a dimension: over all that DAL may do. With one channel there are circles."""
    network, wiring = prepared(machine)
    wiring, channels = untie(network, wiring)
    assert channels.per_link == 4
    follows = walks(machine, wiring, channels, network)
    assert not has_circle(follows)
    assert has_circle({(before[0], after[0]) for before, after in follows})
    assert {channel for _, (_, channel) in follows} == set(range(used))


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
def test_memories_of_one_packet_carry_everything(lossless):
    """Far more than they hold: a transpose, and everybody to the diagonal that it turns at."""
    pairs = [(a, b) for a in range(16) for b in range(0, 16, 5) if a != b]
    pairs += [(4 * i + j, 4 * j + i) for i, j in itertools.permutations(range(4), 2)]
    load = workloads.flows([(a, b, 150_000, 0) for a, b in pairs])
    result = simulate(
        hyperx(4), load, fidelity="packet", lossless=lossless, stop_packets=1, transport="constant",
        load_balancer="oblivious",
    )  # fmt: skip
    assert result.summary["virtual_channels"] == 4
    assert result.summary["drops"] == result.summary["retransmissions"] == 0
    assert result.summary["detoured"] > 100


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
def test_the_plain_simulator_agrees_on_links_that_never_drop(lossless):
    """Event for event, in four channels, and on lines that are trees."""
    for machine in (HyperX(rows=3, columns=4, link_gbps=100, routing="dal"), hyperx(4, radix=6)):
        rows = [(i, (5 * i + 3) % machine.hosts, 60_000 + 997 * i, 0) for i in range(machine.hosts)]
        rows = [row for row in rows if row[0] != row[1]] + [(i, 6, 70_000, 0) for i in (0, 1, 2, 4, 7, 8)]
        state = compare(
            machine, workloads.flows(rows), Constant(), Oblivious(), seed=21, lossless=lossless, stop_packets=2,
            go_packets=1, ack_every_bytes=1,
        )  # fmt: skip
        assert state.run["channels"][0] == 4
        assert state.run["detoured"][0] > 20


@settings(max_examples=10, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 11), st.integers(1, 200_000), st.integers(0, 10**7)).filter(
            lambda row: row[0] != row[1]
        ),
        min_size=1,
        max_size=20,
    ),
    shape=st.sampled_from([(3, 4), (1, 12), (12, 1), (2, 6)]),
    balancer=st.sampled_from(["reps", "adaptive", "ecmp", "flowlet"]),
)
def test_everything_arrives_and_nothing_beats_the_bound(rows, shape, balancer):
    machine = HyperX(rows=shape[0], columns=shape[1], link_gbps=100, routing="dal")
    result = simulate(machine, workloads.flows(rows), fidelity="packet", load_balancer=balancer)
    assert result.summary["end_us"] >= result.summary["bound_us"]
    assert np.all(result.flows["slowdown"].to_numpy() >= 1)
    assert sum(result.links["drops"].to_pylist()) == 0


def test_packets_keep_away_from_a_link_that_is_down():
    """A port that is down holds nothing, and is no way for it: nothing is lost, and hashed minimal ways lose some."""
    load = workloads.flows([(0, 5, 400_000, 0)])
    down = [(0.0, "row0.leaf0", "host1", 0.0)]
    drops = {}
    for routing in ("minimal", "dal"):
        result = simulate(hyperx(4, routing), load, fidelity="packet", load_balancer="oblivious", link_changes=down)
        drops[routing] = sum(result.links["drops"].to_pylist())
    assert drops["dal"] == 0 < drops["minimal"]


def test_what_it_does_not_go_with_is_refused():
    """Queues where there are none, networks that are no grid; a recipe chooses it by name."""
    for fidelity in ("flow", "analytic"):
        with pytest.raises(TopologyError, match="routing dal chooses packet by packet"):
            simulate(hyperx(), transpose(8, 1000), fidelity=fidelity)
    with pytest.raises(TopologyError, match="routing is `dal`, it must be one of minimal, valiant, ugal_l, ugal_g$"):
        Dragonfly(routing="dal")
    assert HyperXBuilder(HyperXConfig(routing="dal")).build(16, 100.0).name == "hyperx_dal"
