"""The plain packet simulator with links that never drop data: pause frames, or credit."""

from __future__ import annotations

import math

from orchestrator_network.packet import layout as at
from tests.network.packet_oracle import TIMER, Oracle


class LosslessOracle(Oracle):
    """`Oracle` with an account of bytes for every link into a switch."""

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        super().__init__(network, workload, control, balancer, options, fabric, order)
        self.guarded = options.lossless != "none"
        if self.guarded:
            self.rto = 4_096_000 * 2**14
            if control.windowed and options.ack_every_bytes is None:
                self.ack_every = 1
        self.paused = {}
        mtu = options.packet_bytes
        for link in self.links:
            link.held = link.most = 0
            link.closed = link.stopped = False
            link.since = None
            link.paused_ps = 0
            link.room = math.ceil(2 * link.latency_ps / link.ps_per_byte) + (options.stop_packets + 2) * mtu
            guarded = options.lossless == "credit" and link.target >= self.hosts
            link.credit = link.room if guarded else math.inf

    def has_room(self, link, packet):
        return self.guarded or super().has_room(link, packet)

    def is_open(self, link, now):
        opened = not link.closed and link.credit >= self.options.packet_bytes
        if not opened and link.since is None:
            link.since = now
        return opened

    def begin(self, link, packet, now):
        if packet.is_data:
            link.credit -= packet.size
        super().begin(link, packet, now)

    def arrive(self, link, packet, now):
        if self.guarded and link.target >= self.hosts and packet.is_data:
            link.held += packet.size
            link.most = max(link.most, link.held)
            assert link.held <= link.room
            packet.came_over = link
            stop = link.held > self.options.stop_packets * self.options.packet_bytes
            if self.options.lossless == "pfc" and stop and not link.stopped:
                link.stopped = True
                self.push(now + link.latency_ps, TIMER, at.GATE_WORD << 32 | link.number << 1 | 1)
        super().arrive(link, packet, now)

    def left(self, packet, now):
        if not self.guarded:
            return
        link = packet.came_over
        link.held -= packet.size
        if self.options.lossless == "credit":
            self.push(now + link.latency_ps, TIMER, (at.CREDIT_BACK + link.number) << 32 | packet.size)
        elif link.stopped and link.held <= self.options.go_packets * self.options.packet_bytes:
            link.stopped = False
            self.push(now + link.latency_ps, TIMER, at.GATE_WORD << 32 | link.number << 1)

    def timer(self, what, now):
        kind, number = divmod(what, 2**32)
        if kind == at.GATE_WORD:
            link = self.links[number >> 1]
            link.closed = bool(number & 1)
            self.word(link, now)
        elif kind >= at.CREDIT_BACK:
            link = self.links[kind - at.CREDIT_BACK]
            link.credit += number
            self.word(link, now)
        else:
            super().timer(what, now)

    def word(self, link, now):
        if link.closed or link.credit < self.options.packet_bytes:
            return
        if link.since is not None:
            link.paused_ps += now - link.since
            link.since = None
        if link.source < self.hosts:
            self.kick(link.source, now)
        elif link.serving is None and link.low:
            self.begin(link, link.low.popleft(), now)
