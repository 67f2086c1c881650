"""Where packets could wait for one another in a circle on links that never drop, and virtual channels that keep them from it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import Dragonfly, FatTree, GraphTopology, HammingMesh, HyperX, Torus, simulate, workloads
from orchestrator_network.deadlock import Channels, circle, stuck, untie
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.graph_topology import Cable
from orchestrator_network.packet import engine
from orchestrator_network.packet.fabric import describe, wire_up
from orchestrator_network.packet.routers import behind_routers

SAFE = [
    FatTree(hosts=16, tiers=3, link_gbps=100),
    FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100),
    FatTree(hosts=16, tiers=2, radix=8, oversubscription=3, link_gbps=100),
]
UNSAFE = [
    Torus(sides=(2, 2), link_gbps=100),
    Torus(sides=(4, 4), link_gbps=100),
    HyperX(rows=3, columns=3),
    HammingMesh(grid_rows=2, grid_columns=2),
    Dragonfly(groups=5, routers_per_group=4, hosts_per_router=2, global_links=1),
]


def prepared(topology):
    network = behind_routers(topology.network)
    fabric = describe(network, packet_bytes=4150, header_bytes=64, trimming=True)
    return network, wire_up(network, fabric, slow=np.zeros(0, np.int64), slow_to=1.0, seed=0)


def waits_on_all_paths(network):
    """Walk every cheapest path between two hosts, link by link, and note which link follows which."""
    links = range(network.links)
    out = [[link for link in links if network.source[link] == node] for node in range(network.nodes)]
    follows = set()
    for goal in range(network.hosts):
        left = {goal: 0.0}
        edge = [goal]
        while edge:
            node = min(edge, key=left.get)
            edge.remove(node)
            for link in links:
                before = network.source[link]
                cost = left[node] + network.route_cost[link]
                if network.target[link] == node and (before >= network.hosts or before != goal):
                    if node < network.hosts and node != goal:
                        continue  # hosts pass nothing on
                    if cost < left.get(before, np.inf):
                        left[before] = cost
                        edge.append(before)

        def near(node, left=left):
            return [
                link
                for link in out[node]
                if network.target[link] in left
                and np.isclose(left[node], left[network.target[link]] + network.route_cost[link])
            ]

        for node in range(network.hosts, network.nodes):
            for link in near(node) if node in left else []:
                follows |= {
                    (link, after) for after in near(network.target[link]) if network.target[link] >= network.hosts
                }
    return follows


def has_circle(follows):
    """Remove links that wait for nobody until none is left, or those that wait in circles are."""
    waiting = {link: {after for before, after in follows if before == link} for link, _ in follows}
    while free := [link for link, after in waiting.items() if not after & waiting.keys()]:
        for link in free:
            del waiting[link]
    return bool(waiting)


@pytest.mark.parametrize("topology", [*SAFE[::2], *UNSAFE], ids=lambda one: one.name)
def test_circles_are_found_where_a_walk_over_all_paths_finds_them(topology):
    network, wiring = prepared(topology)
    expected = has_circle(waits_on_all_paths(network))
    assert expected == (topology in UNSAFE)
    assert (len(stuck(network, wiring)) > 0) == expected


def follows_in_channels(network, wiring, channels):
    """Walk every route of a run link by link with its channel; return what follows what, and check the channels."""
    hosts, follows = network.hosts, set()
    ranks, areas = channels.ranks.tolist(), 0 if network.detours is None else int(network.detours.area.max()) + 1
    source, target = network.source[wiring.order], network.target[wiring.order]

    def ways(switch, column):
        entry = int(wiring.routes[switch, column])
        return wiring.ports[(entry >> 12) : (entry >> 12) + (entry & 0xFFF)].tolist()

    columns = wiring.routes.shape[1]
    for goal in range(columns - areas):
        # A packet is on its way to the goal, or to an area first: (link, channel, column).
        edge, seen = [], set()
        for first in (goal, *range(columns - areas, columns)):
            edge += [(link, 0, first) for switch in range(network.nodes - hosts) for link in ways(switch, first)]
        while edge:
            link, channel, column = edge.pop()
            if (link, channel, column) in seen:
                continue
            seen.add((link, channel, column))
            assert channel < channels.per_link
            switch = int(target[link]) - hosts
            onward = goal if not ways(switch, column) else column
            for after in ways(switch, onward):
                assert source[after] == target[link]
                phase, rank = divmod(ranks[after], 1 << 20)
                phase_before, rank_before = divmod(ranks[link], 1 << 20)
                keeps = phase == phase_before and rank > rank_before
                after_channel = 0 if phase > phase_before else channel if keeps else channel + 1
                follows.add(((link, channel), (after, after_channel)))
                edge.append((after, after_channel, onward))
    return follows


CHANNELS = [
    (Torus(sides=(5, 4), board=1), 2),
    (Torus(sides=(3, 4, 4), board=1), 2),
    (HyperX(rows=4, columns=3), 2),
    (HyperX(rows=3, columns=3, routing="valiant"), 4),
    (HammingMesh(grid_rows=3, grid_columns=2), 2),
    (HammingMesh(board_rows=3, board_columns=4, grid_rows=2, grid_columns=2), 3),
    (HammingMesh(board_rows=1, board_columns=3, grid_rows=3, grid_columns=3, radix=4), 3),
    (HammingMesh(board_rows=3, board_columns=4, grid_rows=2, grid_columns=2, wrap=False), 3),
    (Dragonfly(groups=5, routers_per_group=4, hosts_per_router=2, global_links=1), 2),
    (Dragonfly(groups=5, routers_per_group=4, hosts_per_router=1, global_links=1, routing="ugal_g"), 3),
]


@pytest.mark.parametrize(("topology", "count"), CHANNELS, ids=lambda one: getattr(one, "name", ""))
def test_channels_of_known_networks_are_as_few_as_their_rules_say(topology, count):
    """Dateline, turn model, a channel a group: and nothing waits in a circle, by a walk over all routes."""
    network, wiring = prepared(topology)
    wiring, channels = untie(network, wiring)
    assert channels.per_link == count
    assert not has_circle(follows_in_channels(network, wiring, channels))


@pytest.mark.parametrize("topology", [CHANNELS[0][0], CHANNELS[5][0]], ids=lambda one: one.name)
def test_without_an_order_of_its_own_a_network_takes_more_channels(topology):
    network, wiring = prepared(topology)
    plain = replace(network, channel_order=None)
    up_down, channels = untie(plain, wiring)
    assert channels.per_link > untie(network, wiring)[1].per_link
    assert not has_circle(follows_in_channels(plain, up_down, channels))


@st.composite
def graphs(draw):
    """Connected graphs of hosts that forward, switches, and parallel links."""
    hosts, switches = draw(st.integers(2, 7)), draw(st.integers(0, 5))
    nodes = hosts + switches
    pairs = [(draw(st.integers(0, node - 1)), node) for node in range(1, nodes)]
    some = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)).filter(lambda pair: pair[0] < pair[1])
    pairs += draw(st.lists(some, max_size=8))
    names = tuple(f"n{i}" for i in range(nodes))
    cables = tuple(Cable(first=first, second=second) for first, second in pairs)
    return GraphTopology(host_names=names[:hosts], switch_names=names[hosts:], cables=cables, link_gbps=100)


@settings(max_examples=40, deadline=None)
@given(topology=graphs(), lossless=st.sampled_from(["pfc", "credit"]), seed=st.integers(0, 5))
def test_any_graph_carries_everything_to_everybody(topology, lossless, seed):
    """Memories of one packet and what is on its way, all pairs at once."""
    network, wiring = prepared(topology)
    if len(stuck(network, wiring)):
        assert not has_circle(follows_in_channels(network, *untie(network, wiring)))
    load = workloads.flows([(a, b, 30_000, 0) for a, b in itertools.permutations(range(topology.hosts), 2)])
    result = simulate(
        topology, load, lossless=lossless, stop_packets=1, transport="constant", load_balancer="oblivious",
        fidelity="packet", seed=seed,
    )  # fmt: skip
    assert result.summary["drops"] == result.summary["retransmissions"] == 0
    assert result.summary["end_us"] >= result.summary["bound_us"]


def test_circle_of_pairs():
    assert circle(np.array([[0, 1], [1, 2], [2, 0], [3, 0]]), 5).tolist() == [0, 1, 2]
    assert circle(np.array([[0, 1], [1, 2], [3, 1]]), 4).tolist() == []
    assert circle(np.array([[2, 2]]), 3).tolist() == [2]


def around(topology):
    """Three flows a host, far enough to fill every circle."""
    hosts = topology.hosts
    return workloads.flows(
        [(i, (i + k) % hosts, 100_000, 0) for i in range(hosts) for k in (hosts // 2 - 1, 3, hosts // 3)]
    )


DEADLOCKS = [
    (Torus(sides=(8, 8), link_gbps=100), "pfc"),
    (HammingMesh(board_rows=4, board_columns=4, grid_rows=2, grid_columns=2, link_gbps=100), "pfc"),
    (Dragonfly(groups=9, routers_per_group=4, hosts_per_router=2, global_links=2, link_gbps=100), "credit"),
]


@pytest.mark.parametrize(("topology", "lossless"), DEADLOCKS, ids=lambda one: getattr(one, "name", one))
def test_with_one_channel_the_network_stops_for_ever(topology, lossless, monkeypatch):
    """The danger is there: the same load that channels carry to its end stands still without them."""
    settings = {"lossless": lossless, "stop_packets": 1, "transport": "constant", "load_balancer": "oblivious"}
    result = simulate(topology, around(topology), fidelity="packet", **settings)
    assert result.summary["virtual_channels"] > 1
    assert result.summary["drops"] == result.summary["retransmissions"] == 0
    one = Channels(1, np.zeros(1, np.int32))
    monkeypatch.setattr(engine, "untie", lambda network, wiring: (wiring, one))
    with pytest.raises(WorkloadError, match="no progress"):
        simulate(topology, around(topology), fidelity="packet", **settings)


def test_more_channels_than_packets_can_name_are_refused():
    """A torus of 32 x 32 without the order of its own."""
    network, wiring = prepared(Torus(sides=(32, 32)))
    with pytest.raises(TopologyError, match=r"would need 1[0-9] virtual channels .* 8 apart; set lossless to `none`"):
        untie(replace(network, channel_order=None), wiring)


def test_a_tree_of_many_roots_carries_everything_to_everybody():
    """The proof in the small: all pairs at once through switches that can hold five packets a link."""
    load = workloads.flows([(a, b, 20_000, 0) for a, b in itertools.permutations(range(16), 2)])
    result = simulate(SAFE[0], load, lossless="pfc", transport="constant", load_balancer="oblivious", fidelity="packet")
    assert result.summary["drops"] == 0
    assert len(result.flows) == 240
