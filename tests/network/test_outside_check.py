"""What somebody who knows the formulas alone checks: odd link speeds, late starts, timeouts, tables, balancers that stray."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest

from orchestrator_network import FatTree, simulate, workloads
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.failed_tree import Failure, without
from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.compiled import choose, learn

TREE = FatTree(hosts=16, tiers=3, link_gbps=100)


@pytest.mark.parametrize("gbps", [56, 60, 90, 150, 240, 300, 450, 600, 700, 2400, 51_200, 102_400])
@pytest.mark.parametrize("size", [100, 4_087, 10**6])
def test_a_flow_alone_takes_what_the_formula_says_at_every_speed(gbps, size):
    """Also where a byte takes no multiple of 1/256 ps: the formula counts as the packets do, whole ps each."""
    result = simulate(
        FatTree(hosts=16, tiers=3, link_gbps=gbps), workloads.flows([(0, 15, size, 0)]), fidelity="packet"
    )
    took = result.flows["finish_ps"][0].as_py()
    packets = math.ceil(size / 4086)
    last = size - (packets - 1) * 4086 + 64
    # Within what rounding each of the packets on each of the links to whole ps, and a byte to 1/256 ps, can be.
    exact = ((packets - 1) * 4150 + last + 5 * 4150 * (packets > 1) + 5 * last * (packets == 1) + 6 * 64) * 8e3 / gbps
    assert took == pytest.approx(exact + 12e6, rel=2e-3)
    assert result.summary["bound_us"] <= result.summary["fct_us"]["max"]
    if size != 4_087:  # a short second packet overtakes
        assert took == result.flows["ideal_ps"][0].as_py()
        assert result.summary["bound_us"] == result.summary["fct_us"]["max"]


@pytest.mark.parametrize(
    "load",
    [
        workloads.poisson(16, load=0.5, link_gbps=100, duration_ps=5 * 10**8, sizes="websearch", seed=1),
        workloads.windowed_all_to_all(16, 10**5, 2),
        workloads.flows([(0, 9, 10**6, 0), (1, 9, 10**6, 30_000_000), (2, 9, 10**6, 60_000_000)]),
    ],
    ids=["poisson", "windows", "late"],
)
def test_no_completion_time_is_below_its_bound(load):
    """Neither that of the longest, nor that of when all are over, where flows start late or wait for others."""
    summary = simulate(TREE, load, fidelity="packet", seed=1).summary
    assert summary["bound_us"] <= summary["fct_us"]["max"]
    assert summary["end_bound_us"] <= summary["end_us"]
    assert summary["bound_us"] <= summary["end_bound_us"]


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
def test_a_bit_error_costs_no_67_ms_on_links_that_never_drop(lossless):
    """Timeouts belong to the transport: RoCE waits as its hardware does, who repeats one packet alone need not."""
    flow = workloads.flows([(0, 15, 2**20, 0)])
    for transport in ("nscc", "nscc+rccc", "smartt_v4", "eqds"):
        summary = simulate(
            TREE, flow, transport=transport, lossless=lossless, fidelity="packet", seed=3, bit_error_rate=3e-8
        ).summary
        assert summary["timeouts"] > 0
        assert summary["fct_us"]["max"] < 1000
    # Who waits behind sixty others is not lost: nothing is sent twice.
    crowd = simulate(
        FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100),
        workloads.incast(range(1, 65), 0, 2**17),
        transport="nscc",
        lossless=lossless,
        fidelity="packet",
    ).summary
    assert crowd["retransmissions"] == crowd["timeouts"] == 0


def test_slow_links_are_slow_in_the_table():
    """A link at a quarter of its speed that is busy all the time says so."""
    tree = FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100)
    links = simulate(tree, workloads.permutation(128, bytes=2**19, seed=1), slow_links=4, fidelity="packet").links
    slow = links.filter(pc.less(links["capacity_bps"], 1e11))
    assert list(zip(slow["src"].to_pylist(), slow["dst"].to_pylist(), strict=True)) == [
        (f"core{core}", f"agg{agg}") for agg in (0, 1) for core in (0, 1)
    ]
    assert max(slow["utilization"].to_pylist()) > 0.8
    assert max(links["utilization"].to_pylist()) <= 1


def test_no_port_holds_more_than_its_capacity_says():
    """On links that pause, a port may hold all that its switch has room for."""
    result = simulate(TREE, workloads.incast(range(15), 15, 2**19), transport="dcqcn", fidelity="packet", sample_us=5.0)
    ports = {row["link"]: row["capacity_bytes"] for row in result.samples.ports.to_pylist()}
    held = result.links["max_queue_bytes"].to_pylist()
    assert all(held[link] <= capacity for link, capacity in ports.items())
    assert max(held) > 178_450


@pytest.mark.parametrize("transport", ["nscc", "dctcp"])
def test_in_order_delivery_hears_of_every_trim_of_what_is_next(transport):
    """A packet that is sent again and trimmed again is asked for again: nobody waits for a timeout where nothing was dropped."""
    summary = simulate(
        TREE,
        workloads.incast(range(8), 15, 2**20),
        transport=transport,
        delivery="rod",
        load_balancer="ecmp",
        fidelity="packet",
    ).summary
    assert summary["drops"] == summary["timeouts"] == 0
    assert summary["fct_us"]["max"] < 2 * summary["bound_us"]


@pytest.mark.parametrize("ranks", [3, 4, 5, 7, 8, 12])
@pytest.mark.parametrize("fidelity", ["packet", "flow"])
def test_recursive_doubling_takes_its_rounds(ranks, fidelity):
    """log2 of the power of two below, and two more for ranks beyond it."""
    size = 4_000_000
    rounds = math.floor(math.log2(ranks)) + (2 if ranks & (ranks - 1) else 0)
    load = workloads.recursive_doubling_allreduce(ranks, size)
    end_us = simulate(FatTree(hosts=ranks, tiers=1, link_gbps=100), load, fidelity=fidelity).summary["end_us"]
    assert end_us == pytest.approx(rounds * (size * 8 / 1e5), rel=0.05)


@choose
def _stray(row, psn, window, now):
    return 64 + psn % 64


@learn
def _nothing(row, entropy, verdict, now):
    pass


class _Stray(Balancer):
    def __init__(self):
        self.choose, self.learn = _stray, _nothing


def test_a_balancer_that_strays_is_named():
    """An entropy value out of range would count as one of another flow, or be written beyond the table."""
    with pytest.raises(WorkloadError, match=r"_Stray chose an entropy value for flow \d+ that is none of 0 to 63"):
        simulate(TREE, workloads.permutation(16, bytes=2**16, seed=1), load_balancer=_Stray(), fidelity="packet")


def test_what_cannot_be_counted_is_refused():
    """Links too slow for the clock, changes to almost nothing, latencies beyond it, flows that wait for one another."""
    one = workloads.flows([(0, 1, 100, 0)])
    with pytest.raises(TopologyError, match=r"a link has 5e\+05 bit/s; packet fidelity takes links of at least"):
        simulate(FatTree(hosts=4, tiers=1, link_gbps=5e-4), one, fidelity="packet")
    with pytest.raises(WorkloadError, match="leaves 1e-06 of the speed of the link from `tor7` to `host15`"):
        simulate(TREE, one, fidelity="packet", link_changes=[(0, "tor7", "host15", 1e-6)])
    with pytest.raises(WorkloadError, match="lower latencies"):
        simulate(FatTree(hosts=16, tiers=3, latency_ps=10**18), one, fidelity="flow")
    with pytest.raises(WorkloadError, match="flows 1 and 2 of `after` wait for one another"):
        workloads.flows([(0, 1, 5, 0)] * 3, [(1, 2), (0, 1), (2, 1)])


def test_shares_of_flows_do_not_depend_on_the_order_of_after():
    """Any number of pairs, however deep: no flow of a chain starts before the one before it has arrived."""
    count = 200
    chain = workloads.flows(
        [(i % 16, (i + 1) % 16, 1000, 0) for i in range(count)], [(i + 1, i) for i in range(count - 1)]
    )
    flows = simulate(TREE, chain, fidelity="packet").flows
    starts, ends = flows["start_ps"].to_numpy(), flows["finish_ps"].to_numpy()
    assert np.all(np.diff(starts) > 0)
    assert np.all(starts[1:] < ends[:-1])


@pytest.mark.parametrize("fidelity", ["packet", "flow", "analytic"])
def test_what_a_switch_takes_adds_up_along_the_path(fidelity):
    """Five switches on the way out and five on the way back, in the time of a flow alone, its bound, and the round trip."""
    flow = workloads.flows([(0, 15, 10**6, 0)])
    plain = simulate(TREE, flow, fidelity=fidelity).summary
    tree = replace(TREE, switch_latency_ps=400_000)
    summary = simulate(tree, flow, fidelity=fidelity).summary
    assert summary["fct_us"]["max"] == pytest.approx(plain["fct_us"]["max"] + 2 * 5 * 0.4, abs=1e-9)
    assert summary["bound_us"] == summary["fct_us"]["max"]
    assert tree.routes(np.array([0, 0, 0]), np.array([1, 3, 15])).latency_ps.tolist() == [2.4e6, 5.2e6, 8e6]
    loss = Failure(tier="TOR", switch=0, link=0)
    assert without(tree, [loss]).routes(np.array([0]), np.array([15])).latency_ps.tolist() == [8e6]


def test_switches_that_take_time_make_windows_and_queues_larger():
    """The bandwidth-delay product of the longest path counts them."""
    slow = replace(TREE, switch_latency_ps=2_000_000)
    short, long = (
        simulate(tree, workloads.incast(range(1, 9), 0, 2**18), fidelity="packet", sample_us=5.0)
        for tree in (TREE, slow)
    )
    room = [min(one.samples.ports["capacity_bytes"].to_pylist()) for one in (short, long)]
    assert room[1] - room[0] == pytest.approx(2 * 5 * 2e-6 * 100e9 / 8, abs=4150)
    for one in (short, long):
        assert one.summary["bound_us"] <= one.summary["fct_us"]["max"] <= 1.15 * one.summary["bound_us"]
    with pytest.raises(TopologyError, match="latencies must be 0 or more"):
        replace(TREE, switch_latency_ps=-1)
