"""Rows of packets never run out: hosts that send many packets before anybody looks, on long, fast and tiny-packet links."""

from __future__ import annotations

import pytest

from orchestrator_network import FatTree, Wire, WorkloadError, simulate, workloads
from orchestrator_network.packet import engine, kernel
from orchestrator_network.packet.balancing.reps import Reps
from orchestrator_network.packet.engine import prepare
from orchestrator_network.packet.fabric import describe
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.routers import behind_routers
from orchestrator_network.packet.transports.nscc import Nscc
from tests.network.test_packet_oracle import compare


@pytest.mark.parametrize(
    ("gbps", "latency_ps", "packet_bytes", "size_bytes"),
    [
        (400, 12_000_000, 4150, 2**20),
        (400, 50_000_000, 4150, 2**20),
        (800, 5_000_000, 128, 2**17),
        (400, 1_000_000, 256, 2**18),
        (100, 2_000_000_000, 256, 2**19),
    ],
)
def test_a_small_pool_and_a_large_one_give_the_same(monkeypatch, gbps, latency_ps, packet_bytes, size_bytes):
    """Many packets leave a host within one latency; rows that are free are never used up, however few there are."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=gbps, latency_ps=latency_ps)
    load = workloads.permutation(16, bytes=size_bytes, seed=1)
    said = {"fidelity": "packet", "wire": Wire(packet_bytes=packet_bytes), "seed": 1}
    step, least = kernel.step, []

    def watching(state, *rest):
        why = step(state, *rest)
        least.append(int(state.run["free_packets"][0]))
        return why

    monkeypatch.setattr(kernel, "step", watching)
    few = simulate(tree, load, **said)
    assert min(least) >= 0
    monkeypatch.setattr(engine, "SPARE_PACKETS", 1 << 20)
    many = simulate(tree, load, **said)
    assert few.flows.equals(many.flows)
    assert few.summary["fct_us"]["max"] < 2 * few.summary["bound_us"]
    assert few.summary["timeouts"] == 0


def test_many_tiny_flows_of_one_host_agree():
    """Three hundred flows of a few bytes leave before the first arrives; as the plain simulator, whose memory grows."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=100, latency_ps=4_000_000)
    load = workloads.flows([(0, 1 + i % 15, 1 + i % 3, 0) for i in range(600)])
    state = compare(tree, load, Nscc(), Reps(), seed=2)
    assert state.run["spare_packets"][0] > 64 + 300


def test_what_one_event_may_take_is_what_a_host_has():
    """Few packets in all need few rows, whatever the links."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=800, latency_ps=100_000_000)
    network = behind_routers(tree.network)
    fabric = describe(network, packet_bytes=4150, header_bytes=64, trimming=True)
    state, _ = prepare(network, workloads.flows([(0, 5, 8000, 0)]), Nscc(), Reps(), Options(), fabric)
    assert state.run["spare_packets"][0] == 64 + 2


def test_a_link_that_comes_back_late_is_waited_for():
    """Rates tell the time often, and pauses of a fifth of a second are long; nothing is given up before its timers."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    down = [(1, "tor0", "host0", 0.0), (100_000_000, "tor0", "host0", 1.0)]
    load = workloads.flows([(1 + i % 15, 0, 4000, 0) for i in range(200)])
    result = simulate(tree, load, transport="dcqcn", fidelity="packet", link_changes=down)
    assert 67_000 < result.summary["end_us"] < 140_000
    down = [(1, "tor0", "host0", 0.0), (200_000_000_000, "tor0", "host0", 1.0)]
    load = workloads.flows([(i, 0, 4000, 0) for i in range(1, 16)])
    result = simulate(tree, load, transport="nscc", fidelity="packet", link_changes=down)
    assert result.summary["end_us"] > 200_000


def test_products_that_no_window_holds_are_refused():
    """Before anything is simulated, with what to change."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=5e5, latency_ps=1_000_000_000)
    with pytest.raises(
        WorkloadError, match="bandwidth-delay product of the longest path is .* shorter or slower links"
    ):
        simulate(tree, workloads.flows([(0, 5, 8000, 0)]), fidelity="packet", queue_packets=1)
