"""Laws of the packet simulator: what is sent arrives once, queues hold what they may, and nothing beats the bound."""

from __future__ import annotations

import importlib
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import FatTree, Wire, simulate, workloads
from orchestrator_network.errors import TopologyError, WorkloadError
from orchestrator_network.packet import compiled
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.catalog import LOAD_BALANCERS, TRANSPORTS, load_balancer, transport
from orchestrator_network.packet.engine import run
from orchestrator_network.packet.fabric import describe, queue_packets
from orchestrator_network.packet.options import Options
from tests.network.any_flows import FLOW_ROWS, flows_of

MIB = 2**20
SMALL = FatTree(hosts=16, tiers=3, link_gbps=100)
TREE = FatTree(hosts=128, tiers=3, link_gbps=100)
TAPERED = FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100)


def packets(topology, workload, **options):
    return simulate(topology, workload, fidelity="packet", **options)


def test_the_fabric_is_the_published_one():
    """128 hosts at 100 Gb/s, 8:1: round trip, queue and marks as every comparison assumes."""
    fabric = describe(TAPERED.network, packet_bytes=4150, header_bytes=64, trimming=True)
    assert fabric.rtt_ps == 14_022_720
    assert queue_packets(fabric) * 4150 == 178_450
    state = run(TAPERED.network, workloads.flows([(0, 127, 1, 0)]), transport("nscc"), load_balancer("reps"), Options())
    links = state.state.links[128:]
    assert set(links["limit"]) == {178_450}
    assert set(links["mark_from"]) == {37_350}
    assert set(links["mark_all"]) == {145_250}


@pytest.mark.parametrize(("src", "dst"), [(0, 1), (0, 4), (0, 127)])
@pytest.mark.parametrize("size", [1, 4086, 8172, 200_000, 2 * MIB])
@pytest.mark.parametrize("balancer", ["reps", "ecmp"])
def test_one_flow_alone_equals_the_formula(src, dst, size, balancer):
    """To the picosecond: wire bytes, a packet stored at every switch, an acknowledgement back."""
    flow = packets(TREE, workloads.flows([(src, dst, size, 0)]), load_balancer=balancer).flows.to_pylist()[0]
    links = {1: 2, 4: 4, 127: 6}[dst]
    full, last = divmod(size - 1, 4086)
    wire, last = size + 64 * (full + 1), last + 1 + 64
    expected = wire * 80 + links * 1_000_000 + links * (1_000_000 + 64 * 80)
    expected += (links - 1) * (4150 if full else last) * 80
    assert flow["finish_ps"] == expected == flow["ideal_ps"]
    assert flow["retransmissions"] == 0


@pytest.mark.parametrize("balancer", ["oblivious", "ecmp"])
def test_a_short_last_packet_overtakes_on_another_path(balancer):
    """A full packet and one of 65 bytes: sprayed they end when the full one has arrived, on one path after it."""
    load = workloads.flows([(0, 127, 4087, 0)])
    flow = packets(TREE, load, load_balancer=balancer, seed=1).flows.to_pylist()[0]
    sprayed = 6 * (4150 * 80 + 1_000_000) + 6 * (64 * 80 + 1_000_000)
    assert flow["ideal_ps"] == sprayed
    assert flow["finish_ps"] == sprayed + (65 * 80 if balancer == "ecmp" else 0)


@pytest.mark.parametrize("name", sorted(TRANSPORTS))
def test_every_transport_delivers_every_byte_once(name):
    """An incast and a cross flow: receivers count each packet once, and the links carried no less."""
    load = workloads.flows([(i, 0, 300_000, 0) for i in range(1, 9)] + [(0, 15, 300_000, 5_000_000)])
    trace = run(SMALL.network, load, transport(name), load_balancer("reps"), Options(seed=1))
    flows = trace.state.flows
    wire = 300_000 + 64 * 74
    assert flows["got_bytes"].tolist() == [wire] * 9
    assert np.all(flows["arrived"] < flows["finished"])
    assert not trace.state.seen.any()
    into = trace.state.counters["sent_bytes"][trace.state.down]
    assert into[0] >= 8 * wire
    assert into[15] >= wire


@pytest.mark.parametrize("name", sorted(LOAD_BALANCERS))
def test_every_load_balancer_uses_the_paths_that_it_should(name):
    """One entropy value where the path is the flow's or the switch's, all of them where packets are sprayed."""
    result = packets(SMALL, workloads.permutation(16, bytes=600_000, seed=2), load_balancer=name, seed=2)
    used = result.flows["entropies"].to_numpy()
    if name in {"ecmp", "adaptive"}:
        assert set(used) == {1}
    elif name in {"plb", "flowlet"}:
        assert used.max() < 20
    else:
        assert used.min() > 20
    assert result.summary["fct_us"]["max"] >= result.summary["bound_us"]


@settings(max_examples=40, deadline=None)
@given(
    rows=FLOW_ROWS,
    transport_name=st.sampled_from(sorted(TRANSPORTS)),
    balancer_name=st.sampled_from(sorted(LOAD_BALANCERS)),
    losses=st.sampled_from(["trimmed", "sleek", "timeout"]),
    slow=st.integers(0, 16),
    seed=st.integers(0, 10),
)
def test_any_load_arrives_and_never_beats_its_bound(rows, transport_name, balancer_name, losses, slow, seed):
    """Random flows, slow links, trims or drops: every byte once, no queue above its size, no flow too early."""
    load = flows_of(rows)
    result = packets(
        SMALL,
        load,
        transport=transport_name,
        load_balancer=balancer_name,
        trimming=losses == "trimmed",
        loss_recovery="timeout" if losses == "timeout" else "sleek",
        lossless="none",
        slow_links=slow,
        seed=seed,
    )
    flows, links = result.flows.to_pylist(), result.links.to_pylist()
    assert all(flow["slowdown"] >= 1 for flow in flows)
    assert result.summary["end_us"] >= result.summary["bound_us"] * (1 - 1e-12)
    limit = queue_packets(describe(SMALL.network, packet_bytes=4150, header_bytes=64, trimming=True)) * 4150
    assert all(link["max_queue_bytes"] <= limit for link in links)
    assert all(0 <= link["mean_queue_bytes"] <= link["max_queue_bytes"] for link in links)
    assert all(link["utilization"] <= 1 + 1e-9 for link in links)
    if losses == "trimmed":
        assert sum(link["drops"] for link in links) == 0
        assert sum(flow["trims"] for flow in flows) == sum(link["trims"] for link in links)
    if losses != "sleek" and not transport(transport_name).ordered:
        assert sum(flow["retransmissions"] for flow in flows) <= result.summary["trims"] + result.summary["timeouts"]


def test_a_port_with_work_never_rests():
    """Two flows into one host keep its link busy from the first arrival to the last."""
    load = workloads.flows([(1, 0, 80_000, 0), (2, 0, 80_000, 0)])
    trace = run(SMALL.network, load, transport("constant"), load_balancer("ecmp"), Options())
    wire = 80_000 + 64 * 20
    first_ps = 2 * (1_000_000 + 4150 * 80)
    assert trace.state.flows["arrived"].max() == first_ps + (2 * wire - 4150) * 80


def test_runs_repeat_to_the_bit_and_seeds_differ():
    """One seed, one result, however often the loop is interrupted."""
    load = workloads.permutation(16, bytes=400_000, seed=1)
    first = packets(SMALL, load, seed=7).flows
    assert first == packets(SMALL, load, seed=7, progress=lambda done, total: None).flows
    assert first != packets(SMALL, load, seed=8).flows


def test_progress_counts_flows_and_may_stop():
    """What it raises comes through."""
    seen = []
    packets(SMALL, workloads.permutation(16, bytes=MIB, seed=1), progress=lambda *now: seen.append(now))
    assert seen[-1] == (16, 16)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packets(SMALL, workloads.permutation(16, bytes=MIB, seed=1), progress=stop)


@pytest.mark.parametrize("senders", [2, 8, 32])
def test_receiver_credit_shares_one_bottleneck_fairly(senders):
    """Long flows into one host: at least 97 % of its link, each within 5 % of its share."""
    size = 64 * MIB // senders
    result = packets(TREE, workloads.incast(range(64, 64 + senders), 0, size), transport="rccc", seed=1)
    finish = result.flows["finish_ps"].to_numpy()
    assert result.summary["bound_us"] / result.summary["end_us"] >= 0.97
    assert finish.min() / finish.max() > 0.95


@pytest.mark.parametrize("senders", [2, 8, 32])
def test_nscc_fills_one_bottleneck(senders):
    """Long flows into one host: at least 97 % of its link."""
    size = 64 * MIB // senders
    result = packets(TREE, workloads.incast(range(64, 64 + senders), 0, size), transport="nscc", seed=1)
    assert result.summary["bound_us"] / result.summary["end_us"] >= 0.97


@pytest.mark.parametrize("name", ["nscc", "rccc"])
def test_an_incast_ends_within_four_percent_of_its_bound(name):
    """32 senders of 2 MiB; median over seeds."""
    load = workloads.incast(range(64, 96), 0, 2 * MIB)
    gaps = []
    for seed in range(3):
        summary = packets(TREE, load, transport=name, seed=seed).summary
        gaps.append(summary["fct_us"]["max"] / summary["bound_us"])
    assert 1 <= statistics.median(gaps) <= 1.04


def test_reps_keeps_a_permutation_near_its_bound_and_ecmp_does_not():
    """Full bisection, 2 MiB: REPS ends within 1.35 of the bound, one path a flow far beyond."""
    load = workloads.permutation(128, bytes=2 * MIB, seed=42)
    gap = {}
    for name in ("reps", "ecmp"):
        ends = [packets(TREE, load, load_balancer=name, seed=seed).summary for seed in range(3)]
        gap[name] = statistics.median(end["fct_us"]["max"] / end["bound_us"] for end in ends)
    assert gap["reps"] <= 1.35
    assert gap["ecmp"] > 2


def test_reps_beats_spraying_where_links_are_slow():
    """Eight links from cores down have a quarter of their speed."""
    load = workloads.permutation(128, bytes=2 * MIB, seed=42)
    worst = {}
    for name in ("reps", "oblivious"):
        ends = [packets(TREE, load, load_balancer=name, slow_links=8, seed=seed).summary for seed in range(3)]
        worst[name] = statistics.median(end["fct_us"]["max"] for end in ends)
    assert worst["reps"] < worst["oblivious"]


def test_reps_leaves_a_dead_link_sooner_than_spraying():
    """A core port dies under a permutation and stays dead; its packets are lost, not trimmed."""
    load = workloads.permutation(128, bytes=2 * MIB, seed=42)
    dead = [(20_000_000, "core0", "agg0", 0.0), (20_000_000, "core4", "agg1", 0.0)]
    worst = {}
    for name in ("reps", "oblivious"):
        ends = [packets(TREE, load, load_balancer=name, link_changes=dead, seed=seed) for seed in range(3)]
        assert all(end.summary["drops"] > 0 for end in ends)
        worst[name] = statistics.median(end.summary["fct_us"]["max"] for end in ends)
    assert worst["reps"] < worst["oblivious"]


def test_a_flapping_link_delays_and_loses_nothing():
    """Down and up again, several times; every byte arrives."""
    flaps = [(at * 30_000_000, "core0", "agg0", share) for at, share in enumerate([0.0, 1.0, 0.0, 1.0, 0.5, 1.0], 1)]
    result = packets(SMALL, workloads.permutation(16, bytes=MIB, seed=3), link_changes=flaps)
    assert result.summary["drops"] > 0
    assert np.all(result.flows["slowdown"].to_numpy() >= 1)


def test_a_flow_whose_every_path_is_down_is_named():
    """Not an endless run."""
    cut = [(1_000_000, "tor0", "host0", 0.0)]
    with pytest.raises(WorkloadError, match="flow 0 from host 1 to 0; is every path of it down"):
        packets(SMALL, workloads.flows([(1, 0, MIB, 0)]), link_changes=cut)


def test_slow_links_are_counted_from_the_first_aggregation_switch():
    """Every core link of agg 0, then of agg 1; the direction down."""
    links = TREE.links_from_top()
    names = np.array(TREE.network.names)
    ends = [(names[TREE.network.source[i]], names[TREE.network.target[i]]) for i in links[:6]]
    assert [target for _, target in ends] == ["agg0"] * 4 + ["agg1"] * 2
    assert all(source.startswith("core") for source, _ in ends)


@pytest.mark.parametrize(
    ("topology", "options", "message"),
    [
        (SMALL, {"transport": "nsccc"}, "did you mean `nscc`"),
        (SMALL, {"load_balancer": "repps"}, "did you mean `reps`"),
        (SMALL, {"slow_links": 17}, "has 16 links from its top tier"),
        (SMALL, {"load_balancer": "oblivious", "entropies": 48}, "power of 2"),
        (SMALL, {"wire": Wire.fluid()}, "packet_bytes"),
        (SMALL, {"entropies": 0}, "entropies is 0, it must be 1 to 65536"),
        (SMALL, {"entropies": 65_537}, "entropies is 65537"),
        (SMALL, {"wire": Wire(packet_bytes=70_000)}, "below 65536 bytes"),
        (SMALL, {"wire": Wire(header_bytes=0)}, "headers from 1 byte on"),
        (
            SMALL.with_latency(3_000_000_000),
            {},
            "a link has a latency of 3000000000 ps; packet fidelity takes at most 2147483647",
        ),
        (SMALL, {"link_changes": [(0, "core0", "agg9", 0.0)]}, "no link leads from `core0` to `agg9`"),
        (SMALL, {"link_changes": [(0, "core0", "agg0", 2.0)]}, "shares 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused_before_it_starts(topology, options, message):
    """Unknown names with the nearest known one; counts with the limit."""
    with pytest.raises((ValueError, TopologyError, WorkloadError), match=message):
        packets(topology, workloads.permutation(16, bytes=1000, seed=0), **options)


def test_the_tables_have_the_columns_of_every_fidelity():
    """One schema, whatever the fidelity; what flows do not know is null."""
    load = workloads.permutation(16, bytes=1000, seed=0)
    by_packet, by_flow = packets(SMALL, load), simulate(SMALL, load)
    assert by_packet.flows.schema == by_flow.flows.schema
    assert by_packet.links.schema == by_flow.links.schema
    assert by_flow.flows["trims"].null_count == 16


def test_the_events_are_what_the_layout_says():
    """Records are whole cache lines, or a whole part of one."""
    for record in (at.LINK, at.COUNTER, at.PACKET, at.FLOW):
        assert record.itemsize in {32, 64, 128}, record


def test_a_short_packet_between_others_does_not_beat_the_bound():
    """A rate keeps the last packet of a flow back until another flow has passed, and it is not stored as a full one."""
    load = workloads.flows([(1, 2, 4149, 0), (1, 3, 3049, 0)])
    summary = packets(SMALL, load, transport="dcqcn", lossless="none").summary
    assert summary["end_us"] >= summary["bound_us"]


def test_what_waits_at_the_end_is_held_until_then():
    """Go-back-N leaves copies in the ports when the last flow is over; a mean is no less than 0 for it."""
    load = workloads.flows([(0, 1, 1, 0), (0, 4, 53_119, 0)])
    options = {"transport": "dcqcn", "load_balancer": "bitmap", "trimming": False, "lossless": "none", "slow_links": 5}
    links = packets(SMALL, load, **options).links.to_pylist()
    assert all(0 <= link["mean_queue_bytes"] <= link["max_queue_bytes"] for link in links)


def test_modules_that_are_left_out_of_the_cache_key_compile_nothing():
    folder = Path(compiled.__file__).parent
    words = ("@compiled", "@inner", "@inlined", "@react", "@choose", "@learn", "njit")
    for name in compiled.INTERPRETED:
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        assert not any(word in text for word in words), name


def test_code_of_another_package_belongs_to_all_its_sources(tmp_path, monkeypatch):
    """A helper in another module that changes is compiled anew with what calls it."""
    package = tmp_path / "other_transport"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("STEP = 1.0\n")
    (package / "control.py").write_text("from other_transport.helper import STEP\n\n\ndef on_ack():\n    return STEP\n")
    monkeypatch.syspath_prepend(tmp_path)
    control = importlib.import_module("other_transport.control")
    sources = compiled.author_sources(control.on_ack)
    assert [path.name for path in sources] == ["__init__.py", "control.py", "helper.py"]
    before = compiled.cache_folder(True, sources)
    (package / "helper.py").write_text("STEP = 100.0\n")
    compiled.cache_folder.cache_clear()
    assert compiled.cache_folder(True, sources) != before
    assert compiled.author_sources(compiled.cache_folder.__wrapped__) == ()
    for name in ("other_transport", "other_transport.helper", "other_transport.control"):
        monkeypatch.delitem(sys.modules, name)
