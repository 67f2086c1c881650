"""Laws of links that never drop, and of delivery in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, simulate, workloads
from orchestrator_network.packet.catalog import LOAD_BALANCERS, TRANSPORTS, load_balancer, transport
from orchestrator_network.packet.engine import run
from orchestrator_network.packet.options import Options
from tests.network.any_flows import FLOW_ROWS, flows_of

SMALL = FatTree(hosts=16, tiers=3, link_gbps=100)
TAPERED = FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100)


@settings(max_examples=15, deadline=None)
@given(
    rows=FLOW_ROWS,
    transport_name=st.sampled_from(sorted(TRANSPORTS)),
    balancer_name=st.sampled_from(sorted(LOAD_BALANCERS)),
    lossless=st.sampled_from(["pfc", "credit"]),
    stop=st.integers(0, 20),
    seed=st.integers(0, 10),
)
def test_any_load_arrives_without_a_loss_and_without_a_deadlock(
    rows, transport_name, balancer_name, lossless, stop, seed
):
    """However small the memory of a switch: no drop, no trim, no account above its room, every byte once."""
    load = flows_of(rows)
    options = Options(lossless=lossless, stop_packets=stop, go_packets=stop * 3 // 4, seed=seed)
    trace = run(SMALL.network, load, transport(transport_name), load_balancer(balancer_name), options)
    state = trace.state
    assert state.counters["drops"].sum() == state.counters["trims"].sum() == 0
    assert np.all(state.gates["most"] <= state.gates["room"])
    assert np.all(state.gates["held"] >= 0)
    wire = load.size_bytes + 64 * -(-load.size_bytes // 4086)
    assert state.flows["got_bytes"].tolist() == wire.tolist()


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
def test_an_incast_without_losses_takes_as_long_as_its_bytes(lossless):
    """Sixty-four senders fill the last link from the first arrival on, and nothing is sent twice."""
    load = workloads.incast(range(1, 65), 0, 2**18)
    result = simulate(TAPERED, load, transport="constant", lossless=lossless, fidelity="packet")
    summary = result.summary
    assert summary["retransmissions"] == summary["trims"] == summary["drops"] == 0
    assert summary["bound_us"] <= summary["fct_us"]["max"] <= 1.01 * summary["bound_us"]
    assert max(result.links["pause_ps"].to_pylist()) > 0


def test_a_paused_link_holds_up_flows_that_go_elsewhere():
    """Head-of-line blocking: a flow to an idle neighbour of an incast's target waits with pauses, and not with trims."""
    rows = [(i, 0, 1_000_000, 0) for i in range(4, 15)] + [(15, 1, 500_000, 100_000_000)]
    slowdown = {}
    for lossless in ("none", "pfc", "credit"):
        result = simulate(SMALL, workloads.flows(rows), lossless=lossless, fidelity="packet")
        slowdown[lossless] = result.flows["slowdown"][-1].as_py()
    assert slowdown["none"] < 1.5
    assert min(slowdown["pfc"], slowdown["credit"]) > 3


def test_dcqcn_brings_pauses_down():
    """Rates that react keep the queues of an incast short, so that switches have to say stop less often."""
    load = workloads.incast(range(1, 33), 0, 2**21)
    steady = simulate(TAPERED, load, transport="constant", lossless="pfc", load_balancer="ecmp", fidelity="packet")
    dcqcn = simulate(TAPERED, load, transport="dcqcn", fidelity="packet")
    paused = [sum(result.links["pause_ps"].to_pylist()) for result in (steady, dcqcn)]
    assert paused[1] < paused[0] / 3
    assert dcqcn.summary["retransmissions"] == 0
    # 32 flows that all halve every 50 us leave the last hop idle for a while; htsim's DCQCN takes 1.58 times the bound.
    assert dcqcn.summary["fct_us"]["max"] == pytest.approx(1.58 * dcqcn.summary["bound_us"], rel=0.05)


def test_ordered_delivery_pays_for_packets_that_overtake():
    """Spraying without a loss: unordered delivery sends nothing twice, ordered delivery does."""
    load = workloads.permutation(16, bytes=400_000, seed=1)
    sent_again = {}
    for delivery in ("rud", "rod"):
        result = simulate(
            SMALL, load, transport="nscc", load_balancer="oblivious", delivery=delivery, lossless="credit",
            fidelity="packet",
        )  # fmt: skip
        sent_again[delivery] = result.summary["retransmissions"]
    assert sent_again["rud"] == 0
    assert sent_again["rod"] > 50


def test_policies_that_do_not_fit_are_refused():
    load = workloads.flows([(0, 1, 1000, 0)])
    with pytest.raises(ValueError, match="lossless `xon` is not one of none, pfc, credit"):
        simulate(SMALL, load, lossless="xon", fidelity="packet")
    with pytest.raises(ValueError, match="delivery is rod, but the receivers of transport rccc"):
        simulate(SMALL, load, transport="rccc", delivery="rod", fidelity="packet")
    with pytest.raises(ValueError, match="stop_packets"):
        Options(lossless="pfc", stop_packets=3, go_packets=4)
    with pytest.raises(ValueError, match="go_packets is 3, it must be 0 or more and below stop_packets, 3"):
        simulate(SMALL, load, lossless="pfc", stop_packets=3, go_packets=3, fidelity="packet")
    with pytest.raises(ValueError, match="go_packets is 0, but only fidelity `packet`"):
        simulate(SMALL, load, go_packets=0)
