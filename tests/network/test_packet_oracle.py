"""The compiled kernel and the plain simulator agree on every arrival of every packet."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator_network import Dragonfly, FatTree, HammingMesh, HyperX, Torus, workloads
from orchestrator_network.fat_tree_ports import Ports
from orchestrator_network.packet import engine, kernel
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.balancing.reps import Reps
from orchestrator_network.packet.balancing.simple import Ecmp, Oblivious
from orchestrator_network.packet.configs import DcqcnConfig, SwiftConfig
from orchestrator_network.packet.engine import prepare
from orchestrator_network.packet.fabric import describe
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.routers import behind_routers
from orchestrator_network.packet.transports.bbr import Bbr
from orchestrator_network.packet.transports.credited import Eqds, Ndp, NsccRccc, Rccc
from orchestrator_network.packet.transports.hpcc import Hpcc
from orchestrator_network.packet.transports.nscc import Nscc
from orchestrator_network.packet.transports.roce import Dcqcn
from orchestrator_network.packet.transports.simple import Constant
from orchestrator_network.packet.transports.swift import WINDOW, Swift
from orchestrator_network.readers.topo_shape import GivenTree
from tests.network.packet_oracle import Oracle
from tests.network.packet_oracle_adaptive import AdaptiveCreditOracle, AdaptiveOracle
from tests.network.packet_oracle_credit import CreditOracle
from tests.network.packet_oracle_detours import DetourLosslessOracle, DetourOracle
from tests.network.packet_oracle_lossless import LosslessOracle
from tests.network.packet_oracle_more import MoreOracle, TelemetryOracle
from tests.network.packet_oracle_roce import RoceOracle
from tests.network.packet_oracle_sleek import SleekOracle

NAMES = {at.PULL: "pull", at.RTS: "rts", at.DATA: "data", at.ACK: "ack", at.NACK: "nack"}


def compiled_events(state, control, balancer):
    """Step the kernel one event at a time and return the arrivals, as the oracle writes them."""
    events = []
    while True:
        heads, hops = state.links["flight_head"], state.run["hops"][0]
        packets = state.packets[heads]  # a row for every link; what it is for those without a packet does not matter
        why = kernel.step(state, control, balancer, 1)
        if state.run["hops"][0] > hops:
            link = int(state.drain[state.run["drain_at"][0] - 1] & (2**24 - 1))
            packet = packets[link]
            kind = NAMES[int(packet["kind"]) & at.KIND_MASK]
            size = int(packet["size"])
            events.append((int(state.run["clock"][0]), link, int(packet["flow"]), int(packet["psn"]), kind, size))
        if why == kernel.DONE_ALL:
            return events
        if why == kernel.HEAP_LOW:
            state = engine.with_more_timers(state)
            continue
        assert why == kernel.PAUSED


def compare(topology, workload, control, balancer, **options):
    options = Options(**options)
    network = behind_routers(topology.network)
    fabric = describe(
        network, packet_bytes=options.packet_bytes, header_bytes=options.header_bytes, trimming=options.trimming
    )
    state, order = prepare(network, workload, control, balancer, options, fabric)
    beside = ("bit_error_rate", "replay_window")
    simulator = (
        DetourLosslessOracle
        if network.detours is not None and options.lossless != "none"
        else DetourOracle
        if network.detours is not None
        else TelemetryOracle
        if control.telemetry
        else RoceOracle
        if control.ordered
        else MoreOracle
        if control.paced
        or any(getattr(options, name) for name in beside)
        or options.delivery in ("rudi", "uud")
        or options.trimming_mode == "spec"
        else LosslessOracle
        if options.lossless != "none"
        else AdaptiveCreditOracle
        if control.credit and balancer.in_switch
        else CreditOracle
        if control.credit
        else AdaptiveOracle
        if balancer.in_switch
        else SleekOracle
        if not options.trimming and options.loss_recovery == "sleek"
        else Oracle
    )
    oracle = simulator(network, workload, control, balancer, options, fabric, order).to_end()
    ours = compiled_events(state, control, balancer)
    for number, (one, other) in enumerate(zip(ours, oracle.events, strict=False)):
        assert one == other, f"event {number}"
    assert len(ours) == len(oracle.events)
    for name in ("started", "arrived", "finished", "retransmissions", "trims", "marks", "timeouts", "duplicates"):
        assert state.flows[name].tolist() == [getattr(flow, name) for flow in oracle.flows], name
    for name in ("sent_bytes", "max_bytes", "marks", "trims", "drops", "replays"):
        column = state.counters[name][network.hosts :].tolist()
        assert column == [getattr(link, name) for link in oracle.links[network.hosts :]], name
    assert state.astray.tolist() == oracle.astray
    if options.lossless != "none":
        for name in ("held", "most"):
            rows = [getattr(channel, name) for link in oracle.links for channel in link.channels]
            assert state.gates[name].tolist() == rows, name
        assert state.counters["paused_ps"].tolist() == [link.paused_ps for link in oracle.links]
    assert np.array_equal(state.window[:, at.CWND], oracle.window[:, at.CWND])
    return state


TREE = FatTree(hosts=16, tiers=3, oversubscription=1, link_gbps=100)


class OrderedNscc(Nscc):
    """Ultra Ethernet's ordered delivery: the window of NSCC, go-back-N."""

    ordered = True


@pytest.mark.parametrize("balancer", [Reps, Ecmp, Oblivious])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_permutation_agrees(balancer, seed):
    compare(TREE, workloads.permutation(16, bytes=60_000, seed=seed), Nscc(), balancer(), seed=seed)


def test_an_incast_with_trims_agrees():
    """Fifteen senders overrun the last port at once."""
    state = compare(TREE, workloads.incast(range(1, 16), 0, 80_000), Nscc(), Reps(), seed=3)
    assert state.flows["trims"].sum() > 50
    assert state.flows["marks"].sum() > 50


def test_an_incast_with_drops_and_timeouts_agrees():
    """Without trimming only the timer finds what was lost."""
    load = workloads.incast(range(1, 9), 0, 170_000)
    state = compare(TREE, load, Nscc(), Oblivious(), seed=4, trimming=False, loss_recovery="timeout")
    assert state.counters["drops"].sum() > 5
    assert state.flows["timeouts"].sum() > 5


@pytest.mark.parametrize(
    ("senders", "size_bytes", "balancer", "left_alone"),
    [(8, 170_000, Reps, False), (3, 900_000, Oblivious, True)],
)
def test_losses_that_are_looked_for_agree(senders, size_bytes, balancer, left_alone, monkeypatch):
    """What arrived out of order, and probes, tell of drops; timers fire in the midst of it in the second case."""
    left = []
    give_up = SleekOracle.give_up

    def watched(oracle, number, psn, now):
        left.append(oracle.flows[number].recovering and oracle.flows[number].tries[psn] > 0)
        return give_up(oracle, number, psn, now)

    monkeypatch.setattr(SleekOracle, "give_up", watched)
    load = workloads.incast(range(1, senders + 1), 0, size_bytes)
    state = compare(TREE, load, Nscc(), balancer(), seed=4, trimming=False)
    assert state.counters["drops"].sum() > 50
    assert state.recovery["number"].sum() > 0
    assert any(left) == left_alone


def test_losses_behind_a_taper_agree():
    """A permutation with constant windows: drops on many paths, probes that are dropped, too."""
    tree = FatTree(hosts=16, tiers=2, radix=6, oversubscription=2, link_gbps=100)
    load = workloads.permutation(16, bytes=900_000, seed=3)
    state = compare(tree, load, Constant(), Oblivious(), seed=5, trimming=False)
    assert state.recovery["number"].sum() > 2
    assert state.flows["retransmissions"].sum() > 50


def test_slow_links_and_small_packets_agree():
    """Links of a quarter of the speed, packets of 1500 bytes, acknowledgements for every packet."""
    load = workloads.permutation(16, bytes=50_000, seed=5)
    slow = tuple(
        np.flatnonzero(np.char.startswith(np.array(TREE.network.names)[TREE.network.source], "core"))[:6].tolist()
    )
    compare(TREE, load, Nscc(), Reps(), seed=5, slow=slow, packet_bytes=1500, ack_every_bytes=1)


def test_flows_that_wait_for_others_agree():
    """Chains and joins, on a tapered tree, many flows a host, odd sizes, late starts."""
    tree = FatTree(hosts=16, tiers=2, radix=8, oversubscription=3, link_gbps=400)
    rows = [(i % 16, (i * 7 + 3) % 16, 1 + 4086 * (i % 5) + 17 * i, 250_000 * (i % 4)) for i in range(48)]
    rows = [row for row in rows if row[0] != row[1]]
    after = [(i, i - 9) for i in range(9, len(rows))] + [(i, i - 4) for i in range(20, len(rows), 3)]
    acked = [(i, i - 11) for i in range(11, len(rows), 2)]
    state = compare(tree, workloads.flows(rows, after, acked), Nscc(), Reps(), seed=6)
    for pairs, when in ((after, "arrived"), (acked, "finished")):
        for later, earlier in pairs:
            assert state.flows["started"][later] >= state.flows[when][earlier]
    datagrams = workloads.flows([(0, 9, 9000, 0), (9, 0, 9000, 0)], [], [(1, 0)])
    state = compare(TREE, datagrams, Nscc(), Reps(), seed=6, delivery="uud", trimming=False)
    assert state.flows["started"][1] == state.flows["arrived"][0]


@pytest.mark.parametrize("latency_ps", [0, 123_456])
def test_wires_without_latency_agree(latency_ps):
    """A packet then arrives in the instant in which it has left."""
    tree = FatTree(hosts=16, tiers=3, link_gbps=100, latency_ps=latency_ps)
    compare(tree, workloads.permutation(16, bytes=30_000, seed=7), Nscc(), Reps(), seed=7)


@pytest.mark.parametrize("transport", [Rccc, NsccRccc, Ndp, Eqds])
def test_receiver_credit_agrees(transport):
    """An incast that is trimmed, and a permutation over a taper, where receivers adapt their rate."""
    state = compare(TREE, workloads.incast(range(1, 9), 0, 70_000), transport(), Reps(), seed=8)
    assert state.flows["trims"].sum() > 10
    tree = FatTree(hosts=16, tiers=2, radix=8, oversubscription=3, link_gbps=100)
    load = workloads.permutation(16, bytes=90_000, seed=9)
    state = compare(tree, load, transport(), Oblivious(), seed=9, taper=3.0)
    if transport is Rccc:
        assert state.pacers["rate"].min() < 1


@pytest.mark.parametrize("balancer", [Reps, Oblivious])
def test_links_that_change_agree(balancer):
    """One goes down with a full queue and comes back, one turns slow: drops, timeouts, frozen paths."""
    names, network = np.array(TREE.network.names), TREE.network
    into = np.flatnonzero((names[network.target] == "tor0") & (network.source >= network.hosts))
    changes = ((9_000_000, int(into[0]), 0.0), (160_000_000, int(into[0]), 1.0), (9_000_000, int(into[1]), 0.5))
    load = workloads.flows([(i, i % 4, 90_000, 0) for i in range(4, 12)])
    state = compare(TREE, load, Nscc(), balancer(), seed=10, changes=changes)
    assert state.counters["drops"].sum() > 5
    assert state.flows["timeouts"].sum() > 0


def host_changes(network, *wanted):
    """Changes of links at hosts: (us, from, to, share)."""
    places = {name: place for place, name in enumerate(network.names)}
    for at_us, first, second, share in wanted:
        (link,) = np.flatnonzero((network.source == places[first]) & (network.target == places[second]))
        yield int(at_us * 1e6), int(link), share


@pytest.mark.parametrize(
    ("transport", "lossless", "ack_every"),
    [
        (Nscc, "none", None),
        (Dcqcn, "pfc", 1),
        (Constant, "credit", 1),
        (OrderedNscc, "none", None),
        (Ndp, "none", None),
        (NsccRccc, "none", None),
        (Bbr, "none", None),
    ],
)
def test_links_at_hosts_that_change_agree(transport, lossless, ack_every):
    """A sender waits, a receiver keeps its acknowledgements, one sends slowly, and what comes to a host whose ToR lost it is lost."""
    load = workloads.flows([(i, i % 4, 120_000, 1000 * i) for i in range(4, 12)] + [(2, 4, 90_000, 0)])
    # A timer asks for credit again, which the plain simulator does not, so senders that need it are back before.
    back_us = 70 if transport.credit else 140
    changes = host_changes(
        TREE.network,
        *((5, "host4", "tor2", 0.0), (back_us, "host4", "tor2", 1.0)),
        *((3, "host5", "tor2", 0.25), (20, "host5", "tor2", 0.5)),
        *((9, "host3", "tor1", 0.0), (60, "host3", "tor1", 1.0)),
        *(() if transport.credit else ((6, "tor0", "host1", 0.0), (90, "tor0", "host1", 1.0))),
    )
    state = compare(
        TREE,
        load,
        transport(),
        Oblivious(),
        seed=22,
        lossless=lossless,
        ack_every_bytes=ack_every,
        changes=tuple(changes),
    )
    for found in (state.counters["drops"], state.flows["retransmissions"]):
        assert (found.sum() == 0) == bool(transport.credit)
    assert state.flows["finished"][0] > back_us * 10**6


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
@pytest.mark.parametrize("balancer", [Ecmp, Oblivious])
def test_links_that_never_drop_agree(lossless, balancer):
    """An incast and what has to wait behind it, in small buffers; one link goes down and loses what it holds."""
    load = workloads.flows([(i, i % 2, 90_000, 1000 * i) for i in range(2, 16)] + [(15, 14, 50_000, 0)])
    state = compare(
        TREE, load, Constant(), balancer(), seed=11, lossless=lossless, stop_packets=4, go_packets=2, ack_every_bytes=1
    )
    assert state.counters["drops"].sum() == state.flows["trims"].sum() == 0
    assert state.gates["held"].sum() == 0
    assert state.counters["paused_ps"].max() > 5_000_000
    tree = FatTree(hosts=16, tiers=2, radix=8, oversubscription=3, link_gbps=100)
    load = workloads.permutation(16, bytes=90_000, seed=12)
    into = np.flatnonzero((tree.network.target >= 16) & (tree.network.source >= 16))
    down = ((9_000_000, int(into[0]), 0.0), (11_000_000, int(into[0]), 1.0))
    state = compare(
        tree, load, Nscc(), balancer(), seed=12, lossless=lossless, stop_packets=3, go_packets=0, changes=down
    )
    assert state.counters["drops"].sum() > 0


@pytest.mark.parametrize("lossless", ["pfc", "credit"])
@pytest.mark.parametrize(
    ("topology", "channels"),
    [
        (Torus(sides=(4, 4), link_gbps=100), 2),
        (HyperX(rows=4, columns=4, link_gbps=100), 2),
        (HyperX(rows=3, columns=3, link_gbps=100, routing="ugal_l"), 4),
        (HammingMesh(board_rows=4, board_columns=3, grid_rows=2, grid_columns=2, link_gbps=100), 3),
        (HammingMesh(board_rows=2, board_columns=4, grid_rows=2, grid_columns=2, link_gbps=100, wrap=False), 3),
        (Dragonfly(groups=4, routers_per_group=3, hosts_per_router=2, global_links=1, link_gbps=100), 2),
        (Dragonfly(groups=4, routers_per_group=3, hosts_per_router=1, global_links=1, routing="valiant"), 3),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_virtual_channels_agree(topology, channels, lossless):
    """Flows around everything into small memories, an incast among them; a link goes down and comes back."""
    hosts = topology.hosts
    rows = [(i, (5 * i + 3) % hosts, 60_000 + 997 * i, 100_000 * (i % 3)) for i in range(hosts)]
    rows = [row for row in rows if row[0] != row[1]] + [(i, 6, 70_000, 0) for i in (0, 1, 2, 4, 7, 8)]
    network = behind_routers(topology.network)
    into = np.flatnonzero((network.target >= network.hosts) & (network.source >= network.hosts))
    changes = ((9_000_000, int(into[0]), 0.0), (12_000_000, int(into[0]), 1.0))
    state = compare(
        topology, workloads.flows(rows), Constant(), Oblivious(), seed=21, lossless=lossless, stop_packets=2,
        go_packets=1, ack_every_bytes=1, changes=changes,
    )  # fmt: skip
    assert state.run["channels"][0] == channels
    assert state.counters["paused_ps"].max() > 0
    used = state.gates["most"].reshape(-1, channels)[network.hosts :]
    assert np.all(used.max(axis=0) > 0)  # every channel carried something


@pytest.mark.parametrize("balancer", [Ecmp, Oblivious])
@pytest.mark.parametrize(("transport", "lossless"), [(Dcqcn, "pfc"), (Dcqcn, "none"), (OrderedNscc, "none")])
def test_go_back_n_agrees(balancer, transport, lossless):
    """An incast of flows with a rate or a window, on links that wait, drop or trim; packets overtake each other."""
    load = workloads.flows([(i, i % 2, 120_000, 1000 * i) for i in range(2, 10)] + [(15, 14, 50_000, 0)])
    control = transport(DcqcnConfig(update_us=7.0, cut_every_us=5.0, gain=0.25)) if transport is Dcqcn else transport()
    state = compare(
        TREE, load, control, balancer(), seed=13, lossless=lossless, ack_every_bytes=1, trimming=transport is not Dcqcn
    )
    if balancer is Oblivious or lossless == "none":
        assert state.flows["retransmissions"].sum() > 10


@pytest.mark.parametrize("link_retry", [False, True])
def test_wires_that_change_bits_agree(link_retry):
    """One packet in thirty is changed on a link: it is lost and sent again by its host, or again by the link."""
    load = workloads.permutation(16, bytes=60_000, seed=14)
    state = compare(TREE, load, Nscc(), Reps(), seed=14, bit_error_rate=1e-6, link_retry=link_retry)
    replays, drops = state.counters["replays"].sum(), state.counters["drops"].sum()
    assert (replays > 20 and drops == 0) if link_retry else (replays == 0 and drops > 20)
    assert (state.flows["timeouts"].sum() == 0) == link_retry


def test_trimming_by_the_specification_agrees():
    """Arrivals are trimmed, to 24 bytes, and control has a share of busy ports."""
    load = workloads.flows([(i, i % 2, 80_000, 0) for i in range(2, 16)] + [(0, 8, 80_000, 0), (1, 9, 80_000, 0)])
    for share in (0.25, 0.5):
        state = compare(TREE, load, Nscc(), Reps(), seed=15, trimming_mode="spec", high_share=share)
        assert state.flows["trims"].sum() > 50


@pytest.mark.parametrize("delivery", ["rudi", "uud"])
def test_receivers_that_remember_nothing_agree(delivery):
    """An incast with losses: every packet answered by itself, or not at all."""
    load = workloads.flows([(i, i % 2, 70_000, 500 * i) for i in range(2, 16)], [(5, 1), (6, 2)])
    state = compare(TREE, load, Nscc(), Oblivious(), seed=16, delivery=delivery, trimming=delivery == "rudi")
    if delivery == "uud":
        assert state.counters["drops"].sum() > 10
        assert state.flows["got_bytes"].sum() < (load.size_bytes + 18 * 64).sum()
    else:
        assert state.flows["trims"].sum() > 20


@pytest.mark.parametrize("window", [4, 64])
def test_security_agrees(window):
    """Packets that others overtook by more than the window are refused."""
    load = workloads.permutation(16, bytes=120_000, seed=17)
    state = compare(
        TREE, load, Nscc(), Oblivious(), seed=17, header_bytes=92, security_bytes=28, replay_window=window, entropies=16
    )
    assert (state.secure["refused"].sum() > 5) == (window == 4)


def test_bbr_agrees():
    """Flows through start-up, draining and probing, with losses on the way."""
    load = workloads.flows([(i, i % 2, 600_000, 1000 * i) for i in range(2, 6)])
    state = compare(TREE, load, Bbr(), Oblivious(), seed=18)
    assert state.flows["trims"].sum() > 10


def test_windows_below_a_packet_agree():
    """Two flows a host to one host, so that Swift has a packet go less than once a round trip."""
    load = workloads.flows([(i, 0, 40_000, 500 * n) for n in range(2) for i in range(1, 16)])
    state = compare(TREE, load, Swift(SwiftConfig(base_target_us=1.0, max_cut=0.9)), Oblivious(), seed=20)
    assert (state.window[:, WINDOW] < 1).any()


def test_hpcc_agrees():
    """An incast over ports that write down their load."""
    load = workloads.flows([(i, i % 2, 150_000, 1000 * i) for i in range(2, 8)] + [(15, 14, 50_000, 0)])
    compare(TREE, load, Hpcc(), Ecmp(), seed=19, lossless="pfc")


@pytest.mark.parametrize("balancer", [Reps, Oblivious])
def test_bundles_and_tiers_of_several_speeds_agree(balancer):
    """Two cables between two switches, both ways up and down, and those of hosts, ToRs and cores at other speeds."""
    ports = Ports(tor_down=2, tor_up=4, agg_down=4, agg_up=4, core=8, agg_bundle=2, core_bundle=2)
    topology = GivenTree(hosts=16, tiers=3, link_gbps=(100, 80, 50), given=ports)
    load = workloads.flows([(i, (7 * i + 4) % 16, 60_000, 1000 * i) for i in range(16)] + [(9, 2, 50_000, 0)])
    state = compare(topology, load, Nscc(), balancer(), seed=23)
    assert (state.counters["sent_bytes"] > 0).mean() > 0.9


def test_timers_wait_for_slow_tiers():
    """Ports of a tenth of the hosts' speed, full: nothing but what was trimmed is sent again."""
    topology = FatTree(hosts=16, tiers=3, link_gbps=(100, 10, 10))
    load = workloads.permutation(16, bytes=300_000, seed=24)
    state = compare(topology, load, Nscc(), Oblivious(), seed=24)
    assert state.flows["trims"].sum() > 20
    assert state.flows["timeouts"].sum() == 0


@pytest.mark.parametrize("balancer", [Ecmp, Reps, Oblivious])
@pytest.mark.parametrize("topology", [HammingMesh(grid_rows=2, grid_columns=2), Torus(sides=(4, 4), link_gbps=100)])
def test_hosts_that_forward_agree(topology, balancer):
    """Flows that cross each other at routers, odd sizes, an incast among them; route costs of traces and cables."""
    rows = [(i, (5 * i + 3) % 16, 30_000 + 997 * i, 100_000 * (i % 3)) for i in range(16)]
    rows = [row for row in rows if row[0] != row[1]] + [(i, 6, 40_000, 0) for i in (0, 1, 2, 9, 15)]
    compare(topology, workloads.flows(rows), Nscc(), balancer(), seed=14)
