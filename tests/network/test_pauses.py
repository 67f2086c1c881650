"""Victims of pauses: which links flows take, and who waits for congestion that is none of its own."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator_network import FatTree, Torus, simulate, workloads
from orchestrator_network.packet.balancing.reps import Reps
from orchestrator_network.packet.balancing.simple import Ecmp, Oblivious
from orchestrator_network.packet.engine import prepare
from orchestrator_network.packet.fabric import describe
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.routers import behind_routers
from orchestrator_network.packet.transports.nscc import Nscc
from orchestrator_network.pauses import links_used
from tests.network.test_packet_oracle import compiled_events

TREE = FatTree(hosts=16, tiers=3, link_gbps=100)


@pytest.mark.parametrize("topology", [TREE, Torus(sides=(4, 4), link_gbps=100)])
@pytest.mark.parametrize("balancer", [Ecmp, Oblivious, Reps])
def test_links_are_those_over_which_packets_came(topology, balancer):
    """Every arrival of data of a run, link by link."""
    load = workloads.flows([(i, (5 * i + 3) % 16, 120_000, 0) for i in range(16) if (5 * i + 3) % 16 != i])
    options, network = Options(lossless="pfc", seed=3), behind_routers(topology.network)
    fabric = describe(network, packet_bytes=4150, header_bytes=64, trimming=True)
    transport, chosen = Nscc(), balancer()
    state, _ = prepare(network, load, transport, chosen, options, fabric)
    events = compiled_events(state, transport, chosen)
    came = np.zeros((len(load), network.links), bool)
    for _, link, flow, _, kind, _ in events:
        came[flow, link] |= kind == "data"
    assert np.array_equal(links_used(state), came)


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
def test_who_crosses_a_paused_port_and_no_full_one_is_a_victim(lossless):
    """An incast to host 0 pauses the ports above it: a flow to its idle neighbour waits, one between other pods does not."""
    rows = [(i, 0, 2_000_000, 0) for i in (4, 5, 8, 9, 12)] + [
        (13, 1, 500_000, 0),
        (6, 10, 500_000, 0),
        (2, 3, 500_000, 0),
    ]
    said = {
        "fidelity": "packet",
        "transport": "constant",
        "load_balancer": "ecmp",
        "lossless": lossless,
        "stop_packets": 8,
    }
    result = simulate(TREE, workloads.flows(rows), seed=1, **said)
    victims, slowdown = (result.flows[name].to_numpy() for name in ("victim", "slowdown"))
    assert not victims[:5].any()  # they fill the port to host 0 themselves
    assert victims[5]
    assert slowdown[5] > 2
    assert not victims[7]  # within a pair of neighbours that nobody else is below
    assert result.summary["victim_flows"] == victims.sum()
    assert result.summary["victim_slowdown"] == pytest.approx(np.median(slowdown[victims]))
    assert result.summary["paused_links"] == sum(one > 0 for one in result.links["pause_ps"].to_pylist()) > 0


def test_nothing_is_said_where_it_is_not_known():
    """Switches that choose leave no trace of paths; links that drop have no pauses."""
    load = workloads.incast(range(1, 9), 0, 200_000)
    said = {"fidelity": "packet", "transport": "nscc", "seed": 1}
    chosen = simulate(TREE, load, load_balancer="adaptive", lossless="pfc", **said)
    assert chosen.summary["victim_flows"] is None
    assert "victim" not in chosen.flows.schema.names
    assert "paused_links" not in simulate(TREE, load, **said).summary
