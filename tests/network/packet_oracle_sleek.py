"""The plain packet simulator whose senders look for losses themselves (SLEEK), where ports drop and nothing is trimmed."""

from __future__ import annotations

from orchestrator_network.packet import layout as at
from tests.network.packet_oracle import TIMER, Oracle
from tests.network.packet_oracle_parts import Packet


class SleekOracle(Oracle):
    """`Oracle` with probes, and with recovery of what lies below many packets that arrived."""

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        super().__init__(network, workload, control, balancer, options, fabric, order)
        self.low_delay = fabric.rtt_ps  # the target of the transports without trimming
        self.payload = options.packet_bytes - options.header_bytes
        self.probes = self.recoveries = 0
        for flow in self.flows:
            flow.recovering, flow.until, flow.resent = False, 0, 0
            flow.probe_at, flow.probed_at, flow.probe = None, None, 0
            flow.untimed = set()

    # receiver

    def receive(self, host, packet, now):
        if packet.probe:
            flow = self.flows[packet.flow]
            self.answer(host, packet, "ack", self.usual_base(packet, flow), now, marked=packet.marked)
            return
        super().receive(host, packet, now)

    # sender

    def may_send(self, number):
        flow = self.flows[number]
        return (flow.recovering and bool(flow.lost)) or super().may_send(number)

    def send(self, number, now):
        packet = super().send(number, now)
        self.flows[number].untimed.discard(packet.psn)
        return packet

    def waited(self, number, packet, now):
        """Return how long a probe waited, or None if the answer is not to the last one."""
        flow = self.flows[number]
        if packet.psn != flow.probe:
            return None
        return max(now - flow.probed_at - self.window[number, at.BASE_RTT], 0)

    def sample(self, number, packet, now):
        if not packet.probe:
            return super().sample(number, packet, now)
        waited = self.waited(number, packet, now)
        return -1 if waited is None else waited + self.window[number, at.BASE_RTT]

    def heard(self, number, packet, now):
        flow, cumulative = self.flows[number], packet.told["cumulative"]
        base = int(self.window[number, at.BASE_RTT])
        if flow.next < flow.packets:
            self.probe_at(number, now + 3 * base)
        elif cumulative < flow.next:
            self.probe_at(number, now + base + self.low_delay)
        else:
            flow.probe_at = None
        if packet.probe:
            waited = self.waited(number, packet, now)
            if waited is not None and waited < self.low_delay:
                flow.recovering, flow.until, flow.resent = True, flow.next, cumulative
                self.recoveries += 1
        self.recover(number, cumulative, packet.told["gaps"])

    def recover(self, number, cumulative, gaps):
        flow = self.flows[number]
        window = int(self.window[number, at.CWND])
        if flow.recovering and cumulative >= flow.until:
            flow.recovering = False
        if not flow.recovering:
            enough = max(min(int(1.5 * window), int(self.window[number, at.MAX_CWND])), 5 * self.payload)
            if gaps < enough // self.payload:
                return
            if not flow.lost:
                flow.recovering, flow.until = True, flow.next
                self.recoveries += 1
        missing = [psn for psn in sorted(flow.flying) if cumulative <= psn < cumulative + window // self.payload]
        for psn in missing:
            if flow.resent <= psn < flow.until:
                del flow.flying[psn]
                self.window[number, at.IN_FLIGHT] -= flow.sizes[psn]
                flow.lost.add(psn)
                flow.resent = psn + 1

    def probe_at(self, number, when):
        self.flows[number].probe_at = when
        self.push(when, TIMER, at.PROBE_TIME << 32 | number)

    def timer(self, what, now):
        kind, number = divmod(what, 2**32)
        if kind != at.PROBE_TIME:
            super().timer(what, now)
            return
        flow = self.flows[number]
        if flow.finished >= 0 or flow.probe_at != now:
            return
        flow.probe += 1
        flow.probed_at = now
        self.probes += 1
        window = self.window[number]
        entropy = self.balancer.choose.py_func(self.paths[number], flow.next, int(window[at.CWND]) // self.payload, now)
        header = self.options.header_bytes
        packet = Packet(number, flow.probe, "data", header, int(entropy), flow.sink, probe=True)
        self.probe_at(number, now + 5 * int(window[at.BASE_RTT]))
        self.links[flow.source].high.append(packet)
        self.kick(flow.source, now)

    def due(self, flow):
        return [(sent, psn) for sent, psn in super().due(flow) if psn not in flow.untimed]

    def give_up(self, number, psn, now):
        flow = self.flows[number]
        if not flow.recovering:
            return super().give_up(number, psn, now)
        flow.untimed.add(psn)
        if flow.tries[psn] == 0:
            return False
        flow.resent = psn
        return True
