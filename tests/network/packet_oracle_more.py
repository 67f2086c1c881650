"""The plain packet simulator with what Ultra Ethernet has beside: other deliveries, link retry, security, BBR, HPCC."""

from __future__ import annotations

from orchestrator_network.packet import layout as at
from tests.network.packet_oracle import Oracle
from tests.network.packet_oracle_pace import Paced
from tests.network.packet_oracle_roce import RoceOracle

TRIES = 8


class MoreOracle(Paced, Oracle):
    """`Oracle` whose wires change bits, whose ports share, and whose receivers remember less or refuse more."""

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        super().__init__(network, workload, control, balancer, options, fabric, order)
        if options.trimming_mode == "spec":
            self.trimmed_bytes = 24
            for link in self.links:
                link.limit = int(link.limit * (1.5 if link.target < self.hosts else 1))
        else:
            self.trimmed_bytes = options.header_bytes - options.security_bytes
        if options.delivery == "rudi":
            self.ack_every = 1
        for flow in self.flows:
            flow.settled, flow.numbered, flow.newest, flow.refused = 0, 0, 0, 0
            flow.told_at = flow.first_sent = 0
            flow.then, flow.last_sent = {}, {}

    # wires and ports

    def takes(self, link, packet):
        once = super().takes(link, packet)
        if not self.options.bit_error_rate:
            return once
        whole = (1 - self.options.bit_error_rate) ** (8 * packet.size)
        bad = int((1 - whole) * 2**31)
        took = once
        for _ in range(TRIES - 1 if self.options.link_retry else 0):
            if link.random.bits() >= bad:
                return took
            link.replays += 1
            took += 2 * link.latency_ps + once
        packet.corrupt = link.random.bits() < bad
        return took

    def arrive(self, link, packet, now):
        if packet.corrupt:
            link.drops += 1
            self.gone(packet, now)
            return
        super().arrive(link, packet, now)

    def victim(self, link, packet):
        return packet if self.options.trimming_mode == "spec" else super().victim(link, packet)

    def next_of(self, link, now):
        if self.options.trimming_mode != "spec" or not (link.high and link.low):
            link.owed = 0
            return super().next_of(link, now)
        share = self.options.high_share
        if link.owed > 0:
            link.owed -= link.low[0].size * share
            return link.low.popleft()
        link.owed += link.high[0].size * (1 - share)
        return link.high.popleft()

    # delivery

    def gone(self, packet, now):
        if self.options.delivery == "uud":
            self.settle(packet.flow, now)

    def settle(self, number, now):
        flow = self.flows[number]
        flow.settled += 1
        if flow.settled == flow.packets:
            flow.arrived = flow.finished = now
            self.release(number, now)
            self.let_go(self.acknowledged[number], now)

    def receive(self, host, packet, now):
        flow = self.flows[packet.flow]
        if self.options.delivery == "uud":
            flow.got_bytes += packet.size
            flow.marks += packet.marked
            self.settle(packet.flow, now)
            return
        if self.options.replay_window and not packet.trimmed:
            if packet.number <= flow.newest - self.options.replay_window:
                flow.refused += 1
                return
            flow.newest = max(flow.newest, packet.number)
        known = packet.psn < flow.expected or packet.psn in flow.beyond
        if self.options.delivery == "rudi" and packet.trimmed and known:
            flow.trims += 1
            self.answer(host, packet, "nack", packet.psn, now, marked=packet.marked)
            return
        super().receive(host, packet, now)

    def acknowledge(self, packet, now):
        flow = self.flows[packet.flow]
        if flow.finished >= 0:
            return
        if self.options.delivery == "rudi":
            waits = packet.psn in flow.flying or packet.psn in flow.lost
            told = flow.told_bytes + (flow.sizes[packet.psn] if waits else 0)
            open_ = (set(flow.flying) | flow.lost) - {packet.psn}
            first = min([flow.next, *open_])
            packet.told = {"cumulative": first, "beyond": {packet.psn}, "received": told}
        if self.control.rated:
            self.rate(packet, flow, now)
        super().acknowledge(packet, now)

    def rate(self, packet, flow, now):
        delivered = max(packet.told["received"], flow.told_bytes)
        valid = packet.psn in flow.flying and flow.tries[packet.psn] == int(packet.resent)
        self.extra = {at.DELIVERED: delivered, at.SPAN: -1, at.BEFORE: -1}
        flow.told_at = now
        if valid:
            before, told_at, first_sent = flow.then[packet.psn]
            sent = flow.flying[packet.psn]
            span = max(sent - first_sent, now - told_at)
            self.extra = {at.DELIVERED: delivered, at.BEFORE: before, at.GAINED: delivered - before, at.SPAN: span}
            flow.first_sent = sent

    # senders

    def may_send(self, number):
        flow = self.flows[number]
        if self.options.delivery == "uud":
            return flow.next < flow.packets
        if not super().may_send(number):
            return False
        return not self.is_held_back(number)

    def send(self, number, now):
        flow, window = self.flows[number], self.window[number]
        idle = window[at.IN_FLIGHT] <= 0
        packet = super().send(number, now)
        if self.options.delivery == "uud":
            flow.flying.clear()
            window[at.IN_FLIGHT] = 0
        self.step_on(number, packet.size, now)
        if self.control.rated:
            if idle:
                flow.told_at = flow.first_sent = now
            flow.then[packet.psn] = (flow.told_bytes, flow.told_at, flow.first_sent)
        flow.numbered += 1
        packet.number = flow.numbered
        return packet

    def timer(self, what, now):
        kind = what >> 32
        if kind != at.RETRANSMIT or self.options.delivery != "uud":
            super().timer(what, now)


class TelemetryOracle(RoceOracle):
    """`RoceOracle` whose switches write down what they see."""

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        super().__init__(network, workload, control, balancer, options, fabric, order)
        for flow in self.flows:
            flow.heard = None

    def leave(self, link, now):
        packet = link.serving
        if packet.kind == "data" and link.source >= self.hosts:
            packet.notes.append((link, link.sent_bytes, now, link.low_bytes - packet.size))
        super().leave(link, now)

    def answer(self, host, packet, kind, base, now, *, marked):
        self.carried = packet.notes
        super().answer(host, packet, kind, base, now, marked=marked)

    def kick(self, host, now):
        if self.links[host].high and not self.links[host].high[-1].notes:
            self.links[host].high[-1].notes = getattr(self, "carried", [])
        super().kick(host, now)

    def acknowledge(self, packet, now):
        flow, number = self.flows[packet.flow], packet.flow
        if flow.finished < 0:
            lowest = max(flow.lowest, packet.told["cumulative"])
            load, over = -1.0, 0.0
            old = flow.heard
            if old is not None and [one[0] for one in old] == [one[0] for one in packet.notes]:
                for (link, sent, when, queue), (_, sent_then, then, queue_then) in zip(packet.notes, old, strict=True):
                    if when > then:
                        rate = (sent - sent_then) * link.ps_per_byte / (when - then)
                        waits = min(queue, queue_then) * link.ps_per_byte / self.window[number, at.BASE_RTT]
                        if rate + waits > load:
                            load, over = rate + waits, when - then
            flow.heard = packet.notes
            self.extra = {
                at.LOWEST: lowest,
                at.NEXT: max(flow.next, packet.told["cumulative"]),
                at.BUSIEST: load,
                at.OVER: over,
            }
        super().acknowledge(packet, now)
