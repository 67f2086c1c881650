"""The plain simulator with switches that choose ports by how full they are."""

from __future__ import annotations

from tests.network.packet_oracle import Oracle
from tests.network.packet_oracle_credit import CreditOracle


class Adaptive:
    """Every packet, or flowlet, of data takes one of the least full ports; ``moved`` counts flowlets that left theirs."""

    def __init__(self, network, workload, control, balancer, *rest):
        super().__init__(network, workload, control, balancer, *rest)
        self.glances, self.went, self.moved, self.now = {}, {}, 0, 0

    def arrive(self, link, packet, now):
        self.now = now
        super().arrive(link, packet, now)

    def route(self, node, packet):
        out = self.shortest(node, packet)
        if len(out) == 1:
            return out[0]
        if not packet.is_data:
            usual = super().route(node, packet)
            return usual if usual.up else self.least_full(out)
        if self.balancer.sticky_ps == 0:
            return self.least_full(out)
        last, port = self.went.get((node, packet.flow), (0, None))
        if port not in out or not port.up:
            port = self.least_full(out)
        elif self.now - last > self.balancer.sticky_ps and out[0].random.bits() < 2**30:
            other = self.least_full(out)
            if self.fullness(other) < self.fullness(port):
                port = other
                self.moved += 1
        self.went[node, packet.flow] = self.now, port
        return port

    def least_full(self, out):
        """Choose as a reservoir does: the k-th of equals takes the place of the one before with a chance of 1 in k."""
        best, least, equals = None, None, 0
        for link in out:
            if not link.up:
                continue
            full = self.fullness(link)
            if best is None or full < least:
                best, least, equals = link, full, 1
            elif full == least:
                equals += 1
                if out[0].random.bits() * equals < 2**31:
                    best = link
        return best or out[0]

    def fullness(self, link):
        if not self.balancer.by_levels:
            return link.low_bytes
        when, level = self.glances.get(link, (0, 0))
        if self.now - when > 100_000:
            share = (link.low_bytes + link.high_bytes) / link.limit
            level = sum(share >= step for step in (0.05, 0.1, 0.2))
            self.glances[link] = self.now, level
        return level


class AdaptiveOracle(Adaptive, Oracle):
    """With a window."""


class AdaptiveCreditOracle(Adaptive, CreditOracle):
    """With the receiver's credit."""
