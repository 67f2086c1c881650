"""Laws of what Ultra Ethernet has beside windows: other deliveries, bit errors and link retry, security, spec trimming."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, Wire, simulate, workloads
from orchestrator_network.packet.catalog import LOAD_BALANCERS, load_balancer, transport
from orchestrator_network.packet.engine import run
from orchestrator_network.packet.fabric import describe, queue_packets
from orchestrator_network.packet.options import Options
from tests.network.any_flows import FLOW_ROWS, flows_of

SMALL = FatTree(hosts=16, tiers=3, link_gbps=100)
WINDOWED = ("nscc", "smartt_v4", "dctcp", "swift", "mprdma", "constant", "bbr")
FULL = 4150  # bytes


def packets(workload, **options):
    return simulate(SMALL, workload, fidelity="packet", **options)


def longest(result, column):
    return max(result.links[column].to_pylist())


@settings(max_examples=30, deadline=None)
@given(
    rows=FLOW_ROWS,
    transport_name=st.sampled_from(WINDOWED),
    balancer_name=st.sampled_from(sorted(LOAD_BALANCERS)),
    delivery=st.sampled_from(["rud", "rod", "rudi"]),
    trimming_mode=st.sampled_from(["htsim", "spec"]),
    errors=st.sampled_from([0.0, 1e-7, 1e-6]),
    link_retry=st.booleans(),
    replay_window=st.sampled_from([0, 3, 100]),
    seed=st.integers(0, 10),
)
def test_reliable_deliveries_deliver_whatever_the_wires_do(
    rows, transport_name, balancer_name, delivery, trimming_mode, errors, link_retry, replay_window, seed
):
    """Changed bits, links that retry, refused packets, trims: every byte arrives, and none too early."""
    load = flows_of(rows)
    security = 28 if replay_window else 0
    result = packets(
        load, transport=transport_name, load_balancer=balancer_name, delivery=delivery, trimming_mode=trimming_mode,
        bit_error_rate=errors, link_retry=link_retry, security_bytes=security, replay_window=replay_window, seed=seed,
    )  # fmt: skip
    assert result.summary["end_us"] >= result.summary["bound_us"] * (1 - 1e-9)
    header = 64 + security
    wire = load.size_bytes + header * -(-load.size_bytes // (FULL - header))
    into = dict.fromkeys(range(16), 0)
    for row in result.links.to_pylist():
        if row["dst"].startswith("host"):
            into[int(row["dst"].removeprefix("host"))] += row["bytes"]
    for host in range(16):
        assert into[host] >= wire[load.target == host].sum()
    if link_retry or errors == 0:
        assert result.summary["drops"] == 0 or result.summary["trims"] > 0


@settings(max_examples=25, deadline=None)
@given(rows=FLOW_ROWS, errors=st.sampled_from([0.0, 1e-6]), seed=st.integers(0, 10))
def test_datagrams_lose_what_is_dropped_and_nothing_else(rows, errors, seed):
    """Sent = arrived + lost, packet by packet; nothing is sent twice, nothing is answered."""
    load = flows_of(rows)
    trace = run(
        SMALL.network,
        load,
        transport("nscc"),
        load_balancer("oblivious"),
        Options(delivery="uud", trimming=False, bit_error_rate=errors, seed=seed),
    )
    result = packets(load, delivery="uud", load_balancer="oblivious", bit_error_rate=errors, seed=seed)
    lost = result.flows["lost"].to_numpy()
    assert lost.sum() == result.summary["drops"] == trace.state.counters["drops"].sum()
    assert result.summary["retransmissions"] == result.summary["trims"] == 0
    sent = trace.state.counters["sent_bytes"][:16]
    wire = load.size_bytes + 64 * -(-load.size_bytes // 4086)
    assert sent.tolist() == [wire[load.source == host].sum() for host in range(16)]
    arrived = trace.state.counters["sent_bytes"][trace.state.down]
    if errors == 0:
        assert arrived.tolist() == [trace.state.flows["got_bytes"][load.target == host].sum() for host in range(16)]


def test_a_datagram_flow_alone_ends_when_its_last_bit_arrives():
    """Nobody answers, so what an acknowledgement takes is no part of it."""
    load = workloads.flows([(0, 15, 500_000, 0)])
    flow = packets(load, delivery="uud", load_balancer="ecmp").flows.to_pylist()[0]
    wire = 500_000 + 64 * math.ceil(500_000 / 4086)
    assert flow["finish_ps"] == wire * 80 + 6 * 1_000_000 + 5 * FULL * 80
    assert flow["lost"] == 0


def test_an_incast_of_datagrams_loses_what_the_last_port_cannot_take():
    """Seven senders on one switch: while they send, one seventh gets through, and at the end a queue more."""
    tree = FatTree(hosts=16, tiers=2, radix=16, link_gbps=100)
    load = workloads.incast(range(1, 8), 0, 4_086_000)
    result = simulate(tree, load, fidelity="packet", delivery="uud", seed=1)
    assert len({row["src"] for row in result.links.to_pylist() if row["drops"] > 0}) == 1
    fabric = describe(tree.network, packet_bytes=FULL, header_bytes=64, trimming=False)
    got = 7 * 1000 - sum(result.flows["lost"].to_pylist())
    assert got == pytest.approx(1000 + queue_packets(fabric), abs=2)


def test_link_retry_hides_bit_errors():
    """A packet is changed on a link with 1 - (1 - rate)^bits: so often the link sends again, and nobody else notices."""
    load, rate = workloads.permutation(16, bytes=1_000_000, seed=3), 1e-7
    clean = packets(load, load_balancer="oblivious", seed=3)
    plain = packets(load, load_balancer="oblivious", bit_error_rate=rate, seed=3)
    retried = packets(load, load_balancer="oblivious", bit_error_rate=rate, link_retry=True, seed=3)
    assert retried.summary["retransmissions"] == retried.summary["drops"] == 0
    assert plain.summary["drops"] > 0
    assert plain.summary["retransmissions"] >= plain.summary["drops"] // 2  # changed acknowledgements need none
    bytes_sent = sum(retried.links["bytes"].to_pylist())
    expected = -math.expm1(8 * bytes_sent * math.log1p(-rate))
    expected = 8 * bytes_sent * rate if expected > 0.999 else expected
    again = retried.summary["link_retries"]
    assert again == pytest.approx(expected, abs=5 * math.sqrt(expected))
    assert clean.summary["fct_us"]["max"] < retried.summary["fct_us"]["max"] < plain.summary["fct_us"]["max"]


def test_security_costs_its_header_and_what_its_window_refuses():
    """A flow alone takes as long as its bytes with 28 more a packet; a window shorter than the disorder refuses some."""
    load = workloads.flows([(0, 15, 2_000_000, 0)])
    flow = packets(load, load_balancer="ecmp", security_bytes=28).flows.to_pylist()[0]
    assert flow["finish_ps"] == flow["ideal_ps"]
    wire = 2_000_000 + 92 * math.ceil(2_000_000 / (FULL - 92))
    ack_ps = 6 * (1_000_000 + 92 * 80)
    assert flow["finish_ps"] == wire * 80 + 6 * 1_000_000 + 5 * FULL * 80 + ack_ps
    crossing = workloads.permutation(16, bytes=500_000, seed=4)
    refused = {}
    for window in (4, 1024):
        result = packets(crossing, load_balancer="oblivious", security_bytes=28, replay_window=window, seed=4)
        refused[window] = result.summary["refused_as_replays"]
        assert result.summary["retransmissions"] >= refused[window] > (0 if window == 4 else -1)
    assert refused[1024] == 0


def test_trimming_by_the_specification_leaves_data_its_share():
    """Headers of an incast take no more than their share of a port while data waits; strict priority gives them all."""
    load = workloads.incast(range(1, 16), 0, 500_000)
    strict = packets(load, transport="constant", seed=5)
    shared = packets(load, transport="constant", seed=5, trimming_mode="spec")
    assert strict.summary["trims"] > 0
    assert shared.summary["trims"] > 0
    last = next(row for row in shared.links.to_pylist() if row["dst"] == "host0")
    assert last["max_queue_bytes"] > 178_450  # half as much again at the last port
    assert last["max_queue_bytes"] <= 1.5 * 178_450


def test_sleek_sends_again_what_timers_would_find_late():
    """Every lost packet once and no more, in an incast that ends sooner than with timers alone."""
    load = workloads.incast(range(1, 16), 0, 2_000_000)
    ended = {}
    for way in ("sleek", "timeout"):
        result = packets(load, load_balancer="oblivious", trimming=False, loss_recovery=way, queue_packets=215, seed=8)
        drops = sum(result.links["drops"].to_pylist())
        assert drops > 100
        assert result.summary["retransmissions"] <= 1.05 * drops
        ended[way] = result.summary["fct_us"]["max"] / result.summary["bound_us"]
    assert ended["sleek"] < 1.02
    assert ended["timeout"] > 1.02


@pytest.mark.parametrize("name", ["hpcc", "bbr"])
def test_one_flow_fills_its_link_and_two_share_it(name):
    """Within 5 % of the line (HPCC aims at 95 % of it), and of half of it each."""
    alone = packets(workloads.flows([(0, 15, 10_000_000, 0)]), transport=name, seed=6).summary
    assert alone["fct_us"]["max"] <= 1.06 * alone["bound_us"]
    both = packets(workloads.flows([(1, 15, 10_000_000, 0), (5, 15, 10_000_000, 0)]), transport=name, seed=6)
    finish = both.flows["finish_ps"].to_numpy()
    assert finish.max() <= 1.06 * both.summary["bound_us"] * 1e6
    assert finish.min() >= 0.9 * finish.max()


def test_hpcc_leaves_no_more_in_the_queue_than_its_steps_up():
    """Eight flows that go up by a packet a round trip leave eight packets behind; two leave less than DCQCN's do."""
    load = workloads.incast(range(4, 12), 0, 10_000_000)
    eight = packets(load, transport="hpcc", seed=7)
    assert longest(eight, "mean_queue_bytes") <= 8 * FULL
    pair = workloads.incast(range(4, 6), 0, 10_000_000)
    hpcc, dcqcn = (packets(pair, transport=name, seed=7) for name in ("hpcc", "dcqcn"))
    assert longest(hpcc, "mean_queue_bytes") < longest(dcqcn, "mean_queue_bytes")
    assert longest(eight, "pause_ps") < longest(packets(load, transport="dcqcn", seed=7), "pause_ps")
    assert hpcc.summary["fct_us"]["max"] < dcqcn.summary["fct_us"]["max"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bit_error_rate": 0.5}, ("bit_error_rate is 0.5", "below 0.0001")),
        ({"trimming_mode": "none"}, ("trimming_mode `none`", "htsim, spec")),
        ({"loss_recovery": "fack", "trimming": False}, ("loss_recovery `fack`", "sleek, timeout")),
        ({"loss_recovery": "timeout"}, ("loss_recovery is timeout", "trimming: false")),
        ({"loss_recovery": "timeout", "fidelity": "flow"}, ("loss_recovery is timeout", "packet")),
        ({"replay_window": -1}, ("replay_window is -1",)),
        ({"security_bytes": -100}, ("header_bytes",)),
        ({"delivery": "uud", "transport": "rccc"}, ("delivery is uud", "nscc")),
        ({"delivery": "rudi", "transport": "dcqcn"}, ("delivery is rudi", "order")),
        ({"bit_error_rate": 1e-6, "fidelity": "flow"}, ("bit_error_rate is 1e-06", "packet")),
        ({"delivery": "uud", "fidelity": "flow"}, ("delivery is uud", "packet")),
        ({"lossless": "pfc", "fidelity": "analytic"}, ("lossless is pfc", "packet")),
        ({"trimming_mode": "spec", "fidelity": "flow"}, ("trimming_mode is spec", "packet")),
        ({"security_bytes": 28, "fidelity": "flow"}, ("security_bytes is 28", "packet")),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=words[0]) as raised:
        simulate(SMALL, workloads.flows([(0, 1, 1000, 0)]), **{"fidelity": "packet"} | options)
    assert all(word in str(raised.value) for word in words)


def test_the_wire_of_security_is_the_sum_of_both():
    result = packets(workloads.flows([(0, 15, 2_000_000, 0)]), security_bytes=28, load_balancer="ecmp")
    by_hand = simulate(
        SMALL,
        workloads.flows([(0, 15, 2_000_000, 0)]),
        wire=Wire(header_bytes=92),
        fidelity="packet",
        load_balancer="ecmp",
    )
    assert np.array_equal(result.flows["finish_ps"].to_numpy(), by_hand.flows["finish_ps"].to_numpy())


@pytest.mark.parametrize("name", ["rccc", "nscc+rccc", "eqds", "ndp"])
@pytest.mark.parametrize("trimming", [True, False])
def test_grants_that_are_lost_are_asked_for(name, trimming):
    """The last link back to the sender is down for 30 us, from several moments on: whatever was lost, the flow ends."""
    for at_us in (9, 21, 33, 45, 57):
        changes = [(at_us * 10**6, "tor0", "host0", 0.0), ((at_us + 30) * 10**6, "tor0", "host0", 1.0)]
        load = workloads.flows([(0, 9, 2**20, 0)])
        result = packets(load, transport=name, trimming=trimming, link_changes=changes, seed=1)
        assert result.summary["end_us"] > at_us + 30
        assert result.flows["packets"].to_pylist() == [-(-(2**20) // (FULL - 64))]


def test_bit_errors_do_not_starve_senders_of_credit():
    """Grants are lost in the midst of everything else, with SLEEK."""
    load = workloads.flows([(0, 9, 2**20, 0), (6, 9, 2**20, 0)])
    result = packets(load, transport="nscc+rccc", trimming=False, bit_error_rate=1e-5, seed=1)
    assert result.summary["retransmissions"] > 10
