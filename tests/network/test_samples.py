"""Looking at a packet run from time to time changes nothing, and sees what the plain simulator holds at that time."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator_network import FatTree, WorkloadError, simulate, workloads
from orchestrator_network.packet import engine
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.balancing.reps import Reps
from orchestrator_network.packet.engine import prepare
from orchestrator_network.packet.fabric import describe
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.sampling import Sampler
from orchestrator_network.packet.transports.nscc import Nscc
from orchestrator_network.samples import PORTS, QUEUES, RECEIVED, WINDOWS, goodput_bps
from tests.network.packet_oracle import TIMER, Oracle
from tests.network.packet_oracle_lossless import LosslessOracle

TREE = FatTree(hosts=16, tiers=3, link_gbps=100)
DOWN = [(9_000_000, "agg0", "tor0", 0.0), (160_000_000, "agg0", "tor0", 1.0)]


@pytest.mark.parametrize(
    ("sample_us", "options"),
    [
        (0.05, {"transport": "nscc"}),
        (0.37, {"transport": "nscc", "link_changes": DOWN, "slow_links": 2}),
        (0.11, {"transport": "dcqcn"}),
        (0.11, {"transport": "eqds", "trimming": False}),
    ],
)
def test_a_run_with_samples_is_the_same_to_the_bit(sample_us, options):
    """Flows, links, and every count of the summary; also where links wait, fail, or drop."""
    load = workloads.flows([(i, i % 4, 90_000, 0) for i in range(4, 16)])
    plain = simulate(TREE, load, fidelity="packet", seed=3, **options)
    seen = simulate(TREE, load, fidelity="packet", seed=3, sample_us=sample_us, trace_flows=3, **options)
    assert plain.flows.equals(seen.flows)
    assert plain.links.equals(seen.links)
    for name in ("events", "packet_hops", "end_us", "trims", "marks", "drops", "timeouts"):
        assert plain.summary[name] == seen.summary[name]
    assert plain.samples is None
    assert len(seen.samples.received) > 100


def sampled(load, *, every_ps, oracle=Oracle, most_samples=4000, **options):
    """Return the sampler of a run, and (what ports hold, payload received, window of flow 0) of the plain simulator."""
    network, control, balancer, options = TREE.network, Nscc(), Reps(), Options(**options)
    sampler = Sampler(network, np.arange(1), every_ps, most_samples=most_samples)
    engine.run(network, load, control, balancer, options, sampler=sampler)
    fabric = describe(network, packet_bytes=4150, header_bytes=64, trimming=options.trimming)
    _, order = prepare(network, load, control, balancer, options, fabric)
    seen = []

    class Watched(oracle):
        def before(self, when, kind):
            while len(seen) < len(sampler.times_ps) - 1 and (when, kind) >= (sampler.times_ps[len(seen)], TIMER):
                held = np.zeros(network.links, np.int64)
                held[order] = [link.low_bytes for link in self.links]
                got = sum(flow.got_bytes - 64 * (flow.expected + len(flow.beyond)) for flow in self.flows)
                seen.append((held[sampler.links], got, self.window[0, at.CWND]))

    Watched(network, load, control, balancer, options, fabric, order).to_end()
    return sampler, seen


@pytest.mark.parametrize(
    ("oracle", "lossless"), [(Oracle, "none"), (LosslessOracle, "pfc"), (LosslessOracle, "credit")]
)
def test_samples_are_what_the_plain_simulator_holds_at_that_time(oracle, lossless):
    """Every port of a switch at every sample, of an incast that is trimmed or waits, although ports are looked at late."""
    load = workloads.flows([(i, i % 2, 90_000, 1000 * i) for i in range(2, 16)])
    sampler, seen = sampled(load, every_ps=333_000, oracle=oracle, lossless=lossless, seed=4)
    assert len(seen) == len(sampler.times_ps) - 1 > 100
    queues = np.stack(sampler.queues[:-1])
    assert np.array_equal(queues, [held for held, _, _ in seen])
    assert queues.max() > 50_000
    assert sampler.received[:-1] == [got for _, got, _ in seen]
    assert [window[0, 0] for window in sampler.windows[:-1]] == [cwnd for _, _, cwnd in seen]


def test_the_wait_for_a_timeout_is_sampled_too():
    """Where data is dropped and nothing moves until a timer, samples repeat what the plain simulator holds meanwhile."""
    load = workloads.flows([(i, 0, 60_000, 0) for i in range(2, 16)])
    sampler, seen = sampled(load, every_ps=500_000, trimming=False, loss_recovery="timeout", seed=4)
    assert len(seen) == len(sampler.times_ps) - 1
    assert np.array_equal(np.stack(sampler.queues[:-1]), [held for held, _, _ in seen])
    assert sampler.received[:-1] == [got for _, got, _ in seen]
    idle = [held.sum() == 0 and got < 14 * 60_000 for held, got, _ in seen[40:]]
    assert sum(idle) > 20


def test_too_many_samples_double_the_interval():
    """Those that stay are the multiples of the new interval, and hold what they held."""
    load = workloads.permutation(16, bytes=60_000, seed=1)
    every, _ = sampled(load, every_ps=100_000, seed=1)
    few, _ = sampled(load, every_ps=100_000, seed=1, most_samples=16)
    assert few.every_ps > every.every_ps == 100_000
    assert len(few.times_ps) <= 17
    assert np.all(np.diff(few.times_ps[:-1]) == few.every_ps)
    kept = [every.times_ps.index(when) for when in few.times_ps]
    assert np.array_equal(np.stack(few.queues), np.stack(every.queues)[kept])
    assert few.received == [every.received[place] for place in kept]


def test_one_flow_arrives_as_the_formula_says():
    """A packet of 4150 bytes every 332 ns after the first has crossed six links; the window is the tables' to read."""
    load = workloads.flows([(0, 15, 40 * 4086, 0)])
    samples = simulate(TREE, load, fidelity="packet", sample_us=1, trace_flows=(0,)).samples
    assert [table.schema for table in (samples.queues, samples.windows, samples.received, samples.ports)] == [
        QUEUES,
        WINDOWS,
        RECEIVED,
        PORTS,
    ]
    times, received = (samples.received[name].to_numpy() for name in RECEIVED.names)
    first = 6 * (4150 * 80 + 1_000_000)
    arrived = np.clip((times - 1 - first) // (4150 * 80) + 1, 0, 40)
    assert received.tolist() == (4086 * arrived).tolist()
    assert received[-1] == 40 * 4086
    assert samples.windows["received_bytes"].to_pylist() == received.tolist()
    assert samples.windows["in_flight_bytes"].to_pylist()[-1] == 0
    assert set(samples.queues["queue_bytes"].to_pylist()) == {4150}  # nothing waits, the packet in service counts
    _, rate = goodput_bps(samples.received)
    assert rate.max() <= 100e9 * 4086 / 4150 * (1 + 332 / 1000)
    assert samples.bdp_bytes == int((6 * (4150 * 80 + 1e6) + 6 * (64 * 80 + 1e6)) / 1e12 * 100e9 / 8)


def test_ports_say_what_they_hold_and_a_transport_without_window_has_none():
    """Capacity and marks of slow links are a quarter; receivers that give credit do not ask the last port for marks."""
    load = workloads.permutation(16, bytes=20_000, seed=2)
    samples = simulate(
        TREE, load, transport="rccc", fidelity="packet", slow_links=1, sample_us="auto", trace_flows=2
    ).samples
    ports = samples.ports.to_pylist()
    assert len(ports) == 80
    most = max(port["capacity_bytes"] for port in ports)
    assert sorted({port["capacity_bytes"] for port in ports}) == [most // 4, most]
    assert sum(port["mark_from_bytes"] is None for port in ports) == 16
    assert samples.windows["cwnd_bytes"].null_count == samples.windows.num_rows > 0
    assert set(samples.windows["flow"].to_pylist()) == {0, 15}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_us": 0}, "sample_us is 0, it must be above 0"),
        ({"trace_flows": 0}, "trace_flows is 0, it must be 1 to 256"),
        ({"trace_flows": (16,)}, "names flow 16, but the workload has flows 0 to 15"),
        ({"trace_flows": ()}, "names 0 flows"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(options, message):
    """Before anything is simulated."""
    load = workloads.permutation(16, bytes=20_000, seed=2)
    with pytest.raises(WorkloadError, match=message):
        simulate(TREE, load, fidelity="packet", **options)
    with pytest.raises(ValueError, match="only fidelity `packet` has queues"):
        simulate(TREE, load, fidelity="flow", sample_us="auto")


def test_a_run_with_samples_reports_as_often(monkeypatch):
    """Progress is told, and cancelling possible, after as many events as without samples."""
    monkeypatch.setattr(engine, "SLICE", 200)
    load, told = workloads.permutation(16, bytes=60_000, seed=2), {}
    for sample_us in (None, 0.05):
        reports = told.setdefault(sample_us, [])
        simulate(
            TREE, load, fidelity="packet", sample_us=sample_us, progress=lambda done, _, to=reports: to.append(done)
        )
    assert told[None] == told[0.05]
    assert len(told[None]) > 3


def test_a_run_that_is_stuck_says_so_with_samples_too(monkeypatch):
    """The only way to the receiver is down for good; slices are short, as a timeout is a long time."""
    monkeypatch.setattr(engine, "SLICE", 100)
    load = workloads.flows([(1, 0, 20_000, 0)])
    with pytest.raises(WorkloadError, match="make no progress any more"):
        simulate(TREE, load, fidelity="packet", link_changes=[(0, "tor0", "host0", 0.0)], sample_us="auto")
