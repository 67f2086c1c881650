"""The credit of receivers, for the plain simulator."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from orchestrator_network.packet import layout as at
from tests.network.packet_oracle import TIMER, Oracle
from tests.network.packet_oracle_parts import Packet, Random, states

QUANTUM = 256


class CreditOracle(Oracle):
    """An oracle whose senders need credit (and a window too where the transport says so)."""

    def __init__(self, network, workload, transport, balancer, options, fabric, order):
        credit = transport.credit
        fabric = replace(fabric, credited=True)
        super().__init__(network, workload, transport, balancer, options, fabric, order)
        self.windowed, self.rtt_ps = transport.windowed, fabric.rtt_ps
        self.most = int(credit.first_window_bdp * fabric.bdp_bytes)
        self.grant, self.whole = credit.packets * 4096 // QUANTUM, credit.whole
        self.idle_credit = credit.idle
        self.quantum_ps = int(8 * QUANTUM * 1e12 / fabric.rate_bps / credit.rate)
        self.tapered = credit.adapts_to_taper and not transport.windowed and options.taper > 1
        self.least_rate = max(0.9 / options.taper, 0.01)
        for link in self.links:
            if link.target < self.hosts:
                link.mark_from = link.mark_all = 2**40
        for flow in self.flows:
            flow.credit, flow.pulled, flow.speculating, flow.asked_at = self.most, 0, True, 0
            flow.granted, flow.wanted, flow.pull_entropy = 0, 0, 0
        self.active = [deque() for _ in range(self.hosts)]
        self.idle = [deque() for _ in range(self.hosts)]
        self.running = [False] * self.hosts
        self.rate, self.congestion, self.increases = [1.0] * self.hosts, [0.0] * self.hosts, [0] * self.hosts
        self.seen = [{"received": 0, "marked": 0, "last": 0, "before": 0} for _ in range(self.hosts)]
        self.randoms = [Random(state) for state in states(options.seed, 4, self.hosts)]
        if self.tapered:
            for host in range(self.hosts):
                draw = self.randoms[host].state & 0xFFFF
                self.push(int(self.rtt_ps * (1 + draw / 65536)), TIMER, at.TAPER << 32 | host)

    def arrive(self, link, packet, now):
        if link.target < self.hosts and packet.kind in {"pull", "rts"}:
            number, flow = packet.flow, self.flows[packet.flow]
            if packet.kind == "rts":
                self.want(link.target, number, packet.told["target"], True, now)
            elif flow.finished < 0:
                self.stop_speculating(flow)
                if packet.told["granted"] > flow.pulled:
                    flow.credit = min(flow.credit + (packet.told["granted"] - flow.pulled) * QUANTUM, self.most)
                    flow.pulled = packet.told["granted"]
                self.try_send(number, now)
            return
        super().arrive(link, packet, now)

    # sender

    def may_send(self, number):
        flow = self.flows[number]
        if flow.credit <= 0 or not (flow.lost or flow.next < flow.packets):
            return False
        return not self.windowed or super().may_send(number)

    def asks(self, number, size):
        flow = self.flows[number]
        if flow.next == flow.packets or flow.credit <= size:
            return True
        return self.windowed and self.window[number, at.IN_FLIGHT] + size >= self.window[number, at.CWND]

    def send(self, number, now):
        packet = super().send(number, now)
        flow = self.flows[number]
        flow.credit -= packet.size
        packet.told = {"target": self.pull_target(number, len(self.rings[flow.source]))}
        return packet

    def pull_target(self, number, competing):
        flow = self.flows[number]
        full = self.options.packet_bytes
        unsent = sum(flow.sizes[flow.next :])
        wanted = unsent + len(flow.lost) * full
        if self.windowed:
            wanted = min(wanted, int(self.window[number, at.CWND]) + full)
        wanted = min(wanted, self.most) - flow.credit
        if flow.speculating and unsent:
            wanted = max(wanted, full)
        if competing and self.idle_credit:
            wanted = int(wanted / (competing + 1))
        return flow.pulled - (-wanted // QUANTUM)

    @staticmethod
    def stop_speculating(flow):
        if flow.speculating:
            flow.speculating = False
            flow.credit = min(flow.credit, 0)

    def react(self, function, number, *rest, **options):
        super().react(function, number, *rest, **options)
        self.stop_speculating(self.flows[number])

    # receiver

    def receive(self, host, packet, now):
        flow, seen = self.flows[packet.flow], self.seen[host]
        known = packet.psn < flow.expected or packet.psn in flow.beyond
        seen["received"] += 1
        if packet.trimmed:
            seen["last" if packet.last_hop else "before"] += 1
        else:
            seen["marked"] += packet.marked
        if not (packet.trimmed and known):
            self.want(host, packet.flow, packet.told["target"], packet.trimmed, now)
        super().receive(host, packet, now)

    def want(self, host, number, target, trimmed, now):
        flow = self.flows[number]
        news = target > flow.wanted
        flow.wanted = max(flow.wanted, target)
        if (news or trimmed) and number not in self.active[host]:
            self.active[host].append(number)
            if not self.running[host]:
                self.running[host] = True
                self.push(now, TIMER, at.PACE << 32 | host)

    def timer(self, what, now):
        kind, host = divmod(what, 2**32)
        if kind == at.PACE:
            self.pace(host, now)
        elif kind == at.TAPER:
            self.adapt(host, now)
        else:
            super().timer(what, now)

    def pace(self, host, now):
        if self.active[host]:
            number = self.active[host].popleft()
            flow = self.flows[number]
            before = flow.granted
            most = before + self.grant if self.whole else flow.wanted
            flow.granted = max(min(before + self.grant, most), before)
            if flow.wanted > flow.granted:
                self.active[host].append(number)
            elif self.idle_credit and number not in self.idle[host]:
                self.idle[host].append(number)
            quanta = flow.granted - before or 4
        elif self.idle[host]:
            number = self.idle[host].popleft()
            flow = self.flows[number]
            flow.granted += self.grant
            quanta = self.grant
            if 0 <= flow.granted - flow.wanted < self.most // QUANTUM:
                self.idle[host].append(number)
        else:
            self.running[host] = False
            return
        flow.pull_entropy = (flow.pull_entropy + 1) % 128
        pull = Packet(number, 0, "pull", self.options.header_bytes, flow.pull_entropy, flow.source)
        pull.told = {"granted": flow.granted}
        self.links[host].high.append(pull)
        self.kick(host, now)
        self.push(now + int(self.quantum_ps / self.rate[host]) * quanta, TIMER, at.PACE << 32 | host)

    def adapt(self, host, now):
        seen = self.seen[host]
        whole = seen["received"] - seen["last"] - seen["before"]
        fraction = seen["marked"] / whole if whole else 0.0
        decrease = False
        if seen["before"]:
            self.rate[host] -= seen["before"] / seen["received"]
            decrease = True
        self.congestion[host] = self.congestion[host] * 0.5 + 0.5 * fraction
        if self.congestion[host] > 0.3:
            self.rate[host] *= 1 - (self.congestion[host] - 0.3) * 0.5
            decrease = True
        if decrease:
            self.increases[host] = 0
        else:
            self.rate[host] += 0.01 if seen["marked"] else 0.01 * 2.0 ** self.increases[host]
            self.increases[host] = min(self.increases[host] + 1, 20)
        self.rate[host] = min(max(self.rate[host], self.least_rate), 1.0)
        self.seen[host] = dict.fromkeys(seen, 0)
        draw = self.randoms[host].bits() / 2**31
        self.push(now + int((0.75 + draw / 2) * 1.5 * self.rtt_ps), TIMER, at.TAPER << 32 | host)
