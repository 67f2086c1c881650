"""Links that never drop are refused where packets could wait for one another in a circle, and only there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from orchestrator_network import Dragonfly, FatTree, HammingMesh, HyperX, Torus, simulate, workloads
from orchestrator_network.deadlock import circle, refuse_circles
from orchestrator_network.errors import TopologyError
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
    if expected:
        with pytest.raises(TopologyError, match="circle.*set lossless to `none`"):
            refuse_circles(network, wiring.order, wiring.routes, wiring.ports)
    else:
        refuse_circles(network, wiring.order, wiring.routes, wiring.ports)


def test_circle_of_pairs():
    assert circle(np.array([[0, 1], [1, 2], [2, 0], [3, 0]]), 5).tolist() == [0, 1, 2]
    assert circle(np.array([[0, 1], [1, 2], [3, 1]]), 4).tolist() == []
    assert circle(np.array([[2, 2]]), 3).tolist() == [2]


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
def test_a_run_is_refused_before_it_starts(lossless):
    load = workloads.flows([(0, 2, 100_000, 0)])
    for topology in UNSAFE:
        with pytest.raises(TopologyError, match="circle"):
            simulate(topology, load, lossless=lossless, fidelity="packet")


def test_a_tree_of_many_roots_carries_everything_to_everybody():
    """The proof in the small: all pairs at once through switches that can hold five packets a link."""
    load = workloads.flows([(a, b, 20_000, 0) for a, b in itertools.permutations(range(16), 2)])
    result = simulate(SAFE[0], load, lossless="pfc", transport="constant", load_balancer="oblivious", fidelity="packet")
    assert result.summary["drops"] == 0
    assert len(result.flows) == 240
