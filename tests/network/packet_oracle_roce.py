"""The plain packet simulator with go-back-N and senders that keep a pace."""

from __future__ import annotations

from orchestrator_network.packet import layout as at
from tests.network.packet_oracle import TIMER
from tests.network.packet_oracle_lossless import LosslessOracle
from tests.network.packet_oracle_pace import Paced
from tests.network.packet_oracle_parts import Packet


class RoceOracle(Paced, LosslessOracle):
    """`LosslessOracle` where receivers take packets in order only, and senders go back to what is missing."""

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        super().__init__(network, workload, control, balancer, options, fabric, order)
        for flow in self.flows:
            flow.furthest = 0
            flow.sent = {}
            flow.asked = False

    def may_send(self, number):
        flow = self.flows[number]
        if flow.next >= flow.packets:
            return False
        window = self.window[number]
        if self.control.windowed and window[at.CWND] < window[at.IN_FLIGHT] + flow.sizes[flow.next]:
            return False
        return not self.is_held_back(number)

    def asks(self, number, size):
        flow, window = self.flows[number], self.window[number]
        full = self.control.windowed and window[at.IN_FLIGHT] + size >= window[at.CWND]
        return flow.next == flow.packets or full

    def send(self, number, now):
        flow, window = self.flows[number], self.window[number]
        psn = flow.next
        flow.next += 1
        again = psn < flow.furthest
        flow.furthest = max(flow.furthest, flow.next)
        flow.retransmissions += again
        flow.tries[psn] = flow.tries[psn] + 1 if again else 0
        size = flow.sizes[psn]
        window[at.IN_FLIGHT] += size
        asks = self.asks(number, size)
        flow.flying[psn] = flow.sent[psn] = now
        self.step_on(number, size, now)
        payload = self.options.packet_bytes - self.options.header_bytes
        entropy = self.balancer.choose.py_func(self.paths[number], psn, int(window[at.CWND]) // payload, now)
        if not flow.timer:
            flow.timer = True
            self.push(now + self.rto, TIMER, at.RETRANSMIT << 32 | number)
        return Packet(number, psn, "data", size, int(entropy), flow.sink, resent=again, asks=asks)

    def receive(self, host, packet, now):
        flow = self.flows[packet.flow]
        if packet.psn > flow.expected or (packet.trimmed and packet.psn == flow.expected):
            flow.trims += packet.trimmed
            if not flow.asked or (packet.trimmed and packet.psn == flow.expected):
                flow.asked = True
                self.answer(host, packet, "nack", flow.expected + 1, now, marked=packet.marked)
            return
        if packet.psn == flow.expected:
            flow.asked = False
        super().receive(host, packet, now)

    def go_back(self, number):
        flow = self.flows[number]
        for psn in [psn for psn in flow.flying if psn >= flow.lowest]:
            del flow.flying[psn]
            self.window[number, at.IN_FLIGHT] -= flow.sizes[psn]
        flow.next = flow.lowest

    def acknowledge(self, packet, now):
        flow = self.flows[packet.flow]
        if flow.finished < 0:
            flow.next = max(flow.next, packet.told["cumulative"])
            newly = max(packet.told["received"] - flow.told_bytes, 0)
            arrived = [psn for psn in flow.flying if psn < packet.told["cumulative"]]
            # The parent takes off what is new; here what was in flight counts, packet by packet.
            self.window[packet.flow, at.IN_FLIGHT] += newly - sum(flow.sizes[psn] for psn in arrived)
        super().acknowledge(packet, now)

    def reject(self, packet, now):
        number, flow = packet.flow, self.flows[packet.flow]
        missing = packet.told["cumulative"]
        if flow.finished >= 0 or missing < flow.lowest:
            return
        newly = max(packet.told["received"] - flow.told_bytes, 0)
        flow.told_bytes += newly
        for psn in range(flow.lowest, missing):
            if flow.flying.pop(psn, None) is not None:
                self.window[number, at.IN_FLIGHT] -= flow.sizes[psn]
        flow.lowest = missing
        flow.next = max(flow.next, missing)
        self.go_back(number)
        size = flow.sizes[missing]
        took = max(now - flow.sent[missing], self.window[number, at.BASE_RTT])
        self.react(self.control.on_loss, number, now, size, packet.marked, took, at.TRIM_LOSS, packet.last_hop)
        self.learn(number, packet.entropy, at.TRIMMED_PATH, now)
        self.try_send(number, now)

    def timer(self, what, now):
        kind, number = divmod(what, 2**32)
        if kind == at.TICK:
            if self.flows[number].finished < 0:
                self.react(self.control.on_tick, number, now, 0, False, -1)
                self.push(now + self.control.tick_ps, TIMER, what)
                self.try_send(number, now)
        elif kind == at.RETRANSMIT:
            self.time_out(number, what, now)
        else:
            if kind == at.START_FLOW and self.control.tick_ps:
                self.push(now + self.control.tick_ps, TIMER, at.TICK << 32 | number)
            super().timer(what, now)

    def time_out(self, number, what, now):
        flow = self.flows[number]
        if flow.finished >= 0:
            flow.timer = False
            return
        due = sorted((sent, psn) for psn, sent in flow.flying.items())
        if due and due[0][0] + self.rto <= now:
            flow.timeouts += 1
            self.learn(number, 0, at.TIMED_OUT, now)
            self.react(self.control.on_loss, number, now, flow.sizes[due[0][1]], False, -1, at.TIMEOUT_LOSS)
            self.go_back(number)
            self.try_send(number, now)
            due = sorted((sent, psn) for psn, sent in flow.flying.items())
        flow.timer = bool(due)
        if due:
            self.push(max(due[0][0] + self.rto, now), TIMER, what)
