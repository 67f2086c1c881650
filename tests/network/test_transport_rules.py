"""Rules of baseline transports against what their papers ask for, written again from times and counts alone."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator_network import FatTree, simulate, workloads
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.configs import DcqcnConfig, SwiftConfig
from orchestrator_network.packet.transports import roce, swift
from orchestrator_network.packet.transports.base import Fabric
from orchestrator_network.packet.transports.roce import Dcqcn
from orchestrator_network.packet.transports.swift import Swift

US = 1_000_000  # ps
FABRIC = Fabric(rate_bps=100e9, rtt_ps=14 * US, packet_bytes=4150, header_bytes=64, trimming=True, hops=6)


class Sender:
    """A flow of a transport that is told of acknowledgements and losses by hand."""

    def __init__(self, transport):
        self.transport, self.constants = transport, transport.constants(FABRIC)
        window = np.zeros((1, transport.width))
        transport.begin(FABRIC, window)
        self.window, self.event = window[0], np.zeros(at.EVENT_COLUMNS)

    def tell(self, function, now_us, **event):
        self.event[:] = 0
        self.event[at.NOW], self.event[at.RTT] = now_us * US, -1.0
        for name, value in event.items():
            self.event[getattr(at, name)] = value
        function(self.window, self.event, self.constants)

    def acknowledge(self, now_us, **event):
        self.tell(self.transport.on_ack, now_us, BYTES=4150, **event)

    def lose(self, now_us, reason):
        self.tell(self.transport.on_loss, now_us, BYTES=4150, REASON=reason)


def rates_by_the_paper(
    marks_us, looks_us, *, gain=1 / 256, every_us=50.0, timer_us=55.0, steps=5, add=1 / 20, least=1e-3
):
    """Return the rate at the times ``looks_us`` of a flow whose receiver sees marks at ``marks_us`` (Zhu 2015, section 3.1).

    Notifications first, as a list: one at once for a mark if none was sent for 50 us, else one when these are over.
    Then rates: every notification cuts, and starts a timer whose steps follow it in distances of 55 us.
    """
    notified = []
    for mark in marks_us:
        if not notified or mark >= notified[-1] + every_us:
            notified.append(mark)
        elif mark > notified[-1]:
            notified.append(notified[-1] + every_us)  # due later; marks until then belong to it
    events = []
    for when, until in zip(notified, [*notified[1:], looks_us[-1]], strict=True):
        steps_us = np.arange(when + timer_us, until, timer_us)
        events += [(when, 0), *((step_us, number) for number, step_us in enumerate(steps_us, 1))]
    rate = target = alpha = 1.0
    rates = []
    for look in looks_us:
        while events and events[0][0] <= look:
            _, number = events.pop(0)
            if number == 0:
                rate, target, alpha = max(rate * (1 - alpha / 2), least), rate, (1 - gain) * alpha + gain
                continue
            alpha *= 1 - gain
            target = min(target + add, 1.0) if number > steps else target
            rate = (rate + target) / 2
        rates.append(rate)
    return rates


@pytest.mark.parametrize("seed", range(6))
def test_dcqcn_follows_the_notifications_of_the_paper(seed):
    """Acknowledgements about half a microsecond apart, one in some marked, none for a time: the rate after each."""
    draw = np.random.default_rng(seed)
    looks_us = 30 + np.cumsum(draw.uniform(0.2, 0.8, 3000))
    share = np.where((looks_us > 200) & (looks_us < 700), 0.0, (0.5, 0.02, 0.005)[seed % 3])
    marked = draw.random(len(looks_us)) < share
    sender, rates = Sender(Dcqcn()), []
    sender.window[roce.UPDATE_AT] = 1e15  # what the timer does before the first cut is no business of the paper's
    for now, echo in zip(looks_us, marked, strict=True):
        sender.acknowledge(now, ECHO=float(echo))
        rates.append(sender.window[roce.RATE])
    assert min(rates) < 0.3
    assert rates == pytest.approx(rates_by_the_paper(looks_us[marked], looks_us), rel=1e-12)


def test_marks_within_the_time_of_a_cut_cut_once_more_at_its_end():
    """One mark starts it, two within 50 us ask for another cut at their end, and nothing for a third."""
    sender = Sender(Dcqcn())
    for now, echo in ((100, 1), (110, 1), (120, 1), (149, 0)):
        sender.acknowledge(now, ECHO=echo)
    assert sender.window[roce.RATE] == 0.5
    sender.acknowledge(150.5, ECHO=0)
    assert sender.window[roce.RATE] == 0.25
    sender.acknowledge(204, ECHO=0)
    assert sender.window[roce.RATE] == 0.25
    sender.acknowledge(205.5, ECHO=0)  # 55 us after the time at which the second one was due
    assert sender.window[roce.RATE] == pytest.approx((0.25 + 0.5) / 2)


def test_a_flow_that_hears_nothing_comes_back_by_the_clock():
    """Ticks alone, as for a flow whose acknowledgements are far apart: a step is late by a tick at most."""
    transport = Dcqcn(DcqcnConfig(update_us=55.0))
    sender = Sender(transport)
    sender.acknowledge(103, ECHO=1)
    assert transport.tick_ps * roce.TICKS == pytest.approx(55 * US, abs=roce.TICKS)
    ticks_us = np.arange(20, 80) * transport.tick_ps / US
    rose_us = []
    for now in ticks_us[ticks_us > 103]:
        before = sender.window[roce.RATE]
        sender.tell(transport.on_tick, now)
        rose_us += [now] if sender.window[roce.RATE] > before else []
    due_us = 103 + 55 * np.arange(1, len(rose_us) + 1)
    assert len(rose_us) >= 4
    assert np.all((rose_us >= due_us) & (rose_us < due_us + transport.tick_ps / US + 1e-6))


def test_swift_cuts_for_timeouts_as_for_losses_and_at_last_lets_go():
    """Halves once a round trip; the fifth timeout in a row, and not one before, sends the window to its least."""
    sender = Sender(Swift(SwiftConfig(max_cut=0.5, least_window=0.1)))
    first = sender.window[swift.WINDOW]
    sender.lose(3, at.TRIM_LOSS)  # a flow may lose in its first round trip
    assert sender.window[swift.WINDOW] == first / 2
    sender.acknowledge(20, RTT=14 * US)
    kept = sender.window[swift.WINDOW]
    for count in range(1, 5):
        sender.lose(100 * count, at.TIMEOUT_LOSS)
        sender.lose(100 * count + 1, at.TIMEOUT_LOSS)  # lost with the one before
        assert sender.window[swift.WINDOW] == kept / 2**count
    sender.acknowledge(450)
    grown = sender.window[swift.WINDOW]
    for count in range(5, 9):
        sender.lose(100 * count, at.TIMEOUT_LOSS)
    assert sender.window[swift.WINDOW] == grown / 2**4
    sender.lose(900, at.TIMEOUT_LOSS)
    assert sender.window[swift.WINDOW] == 0.1


def test_swift_loses_alike_whenever_it_starts():
    """What a flow does in its first round trip is no matter of the time of day."""
    windows = []
    for start_us in (0, 5000):
        sender = Sender(Swift())
        sender.lose(start_us + 8, at.TRIM_LOSS)
        windows.append(sender.window[swift.WINDOW])
    assert windows[0] == windows[1]


def test_ndp_sends_a_packet_for_a_packet_that_left_the_network():
    """Behind a taper the packets of a flow that wait in ports count: never more are out than were sent unasked."""
    tree = FatTree(hosts=16, tiers=2, radix=8, oversubscription=3, link_gbps=100)
    load = workloads.permutation(16, bytes=1_000_000, seed=3)
    result = simulate(tree, load, transport="ndp", fidelity="packet", seed=3, sample_us=0.5, trace_flows=16)
    table = result.samples.windows
    rtt_ps = 4 * (2 * US + (4150 + 64) * 80)
    unasked = np.ceil(rtt_ps * 12.5e-3 / 4150) * 4150
    in_flight = table["in_flight_bytes"].to_numpy()
    assert in_flight.max() <= unasked
    assert (in_flight > unasked - 4150).sum() > 100
    assert result.summary["trims"] > 20
