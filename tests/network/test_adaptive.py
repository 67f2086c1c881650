"""Switches that choose ports by how full they are: as the plain simulator, by packet and by flowlet, by levels and bytes."""

from __future__ import annotations

import pytest

from orchestrator_network import FatTree, WorkloadError, simulate, workloads
from orchestrator_network.packet import engine
from orchestrator_network.packet.balancing.simple import Adaptive
from orchestrator_network.packet.configs import AdaptiveConfig
from orchestrator_network.packet.transports.credited import NsccRccc
from orchestrator_network.packet.transports.nscc import Nscc
from tests.network.packet_oracle_adaptive import AdaptiveOracle
from tests.network.test_packet_oracle import compare

TREE = FatTree(hosts=16, tiers=3, link_gbps=100)


@pytest.mark.parametrize("transport", [Nscc, NsccRccc])
@pytest.mark.parametrize("load", ["levels", "bytes"])
def test_packets_agree(load, transport):
    """A permutation and an incast beside it, where ports of all levels are met."""
    flows = workloads.permutation(16, bytes=90_000, seed=7)
    rows = [(int(a), int(b), 90_000, 0) for a, b in zip(flows.source, flows.target, strict=True)]
    rows += [(i, 3, 60_000, 2_000_000) for i in (5, 8, 11, 14)]
    compare(TREE, workloads.flows(rows), transport(), Adaptive(AdaptiveConfig(load=load)), seed=31)


@pytest.mark.parametrize("transport", [Nscc, NsccRccc])
def test_flowlets_agree(monkeypatch, transport):
    """Flows whose windows pause them; some of their flowlets move to a port that is less full."""
    moved = []
    to_end = AdaptiveOracle.to_end

    def counting(self):
        done = to_end(self)
        moved.append(self.moved)
        return done

    monkeypatch.setattr(AdaptiveOracle, "to_end", counting)
    rows = [(i, (i + 5) % 16, 200_000, 0) for i in range(16)] + [(i, 6, 80_000, 0) for i in (2, 9, 12, 15)]
    config = AdaptiveConfig(granularity="flowlet", sticky_us=0.5)
    compare(TREE, workloads.flows(rows), transport(), Adaptive(config), seed=32)
    assert transport is not Nscc or sum(moved) > 5


@pytest.mark.parametrize("granularity", ["packet", "flowlet"])
def test_a_port_that_goes_down_is_left(granularity):
    """Its packets and its flowlets go on over others, as the plain simulator has it."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    names, network = tree.network.names, tree.network
    up = [i for i in range(network.links) if (names[network.source[i]], names[network.target[i]])[0].startswith("tor0")]
    up = [i for i in up if network.target[i] >= network.hosts]
    load = workloads.flows([(i, (i + 8) % 16, 150_000, 0) for i in range(16)])
    changes = ((3_000_000, up[0], 0.0), (40_000_000, up[0], 1.0))
    config = AdaptiveConfig(granularity=granularity, sticky_us=2.0)
    compare(tree, load, Nscc(), Adaptive(config), seed=33, changes=changes)


def test_one_flow_in_flowlets_keeps_to_its_path():
    """It never pauses, so nothing overtakes; packet by packet it uses both ways."""
    load = workloads.flows([(0, 15, 2_000_000, 0)])
    used = {}
    for granularity in ("packet", "flowlet"):
        chosen = Adaptive(AdaptiveConfig(granularity=granularity))
        result = simulate(TREE, load, fidelity="packet", load_balancer=chosen, seed=1)
        names = zip(result.links["src"].to_pylist(), result.links["bytes"].to_pylist(), strict=True)
        used[granularity] = sum(name == "tor0" and sent > 1_000_000 for name, sent in names)
    assert used == {"packet": 2, "flowlet": 1}


def test_levels_spread_better_than_bytes():
    """At full bisection, medians of seeds: who looks at bytes sends everything of a moment to one port."""
    means = {}
    for load in ("levels", "bytes"):
        chosen = Adaptive(AdaptiveConfig(load=load))
        flows = workloads.permutation(16, bytes=2**20, seed=42)
        runs = [simulate(TREE, flows, fidelity="packet", load_balancer=chosen, seed=seed) for seed in range(5)]
        means[load] = sorted(run.summary["fct_us"]["mean"] for run in runs)[2]
    assert means["levels"] < means["bytes"]


def test_too_many_flowlets_are_refused(monkeypatch):
    """Before anything is simulated, with both numbers."""
    monkeypatch.setattr(engine, "MOST_FLOWLETS", 100)
    chosen = Adaptive(AdaptiveConfig(granularity="flowlet"))
    with pytest.raises(WorkloadError, match="20 switches remember the ways of 16 flows each, more than 100"):
        simulate(TREE, workloads.permutation(16, bytes=4096, seed=1), fidelity="packet", load_balancer=chosen)


def test_a_pause_of_nothing_is_refused():
    """Such flowlets would be packets."""
    with pytest.raises(ValueError, match="sticky_us is 0, it must be"):
        AdaptiveConfig(sticky_us=0)
