"""The plain simulator with routes that are not minimal: Valiant's, and UGAL's choice by own or by all queues."""

from __future__ import annotations

import heapq
import math

from tests.network.packet_oracle import Oracle
from tests.network.packet_oracle_lossless import LosslessOracle
from tests.network.packet_oracle_parts import murmur


class DetourOracle(Oracle):
    """The first switch draws an area for every data packet; ``detoured`` counts those that go there."""

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        self.rule, self.area = network.detours.rule, network.detours.area.tolist()
        super().__init__(network, workload, control, balancer, options, fabric, order)
        self.home = {link.target: link.source for link in self.links if link.target < self.hosts}
        self.area_ways, self.detoured = {}, 0

    def arrive(self, link, packet, now):
        node = link.target
        if node >= self.hosts:
            if link.source < self.hosts:
                packet.via = self.choose(node, packet)
                self.detoured += packet.via is not None
            elif packet.via == self.area[node]:
                packet.via = None
        super().arrive(link, packet, now)

    def choose(self, node, packet):
        here, there = self.area[node], self.area[self.home[packet.target]]
        others = sorted(set(self.area) - {-1, here, there})
        if packet.kind != "data" or here == there or not others:
            return None
        via = others[murmur(2 * packet.flow, packet.entropy, 0x5DEECE66D) * len(others) >> 32]
        if self.rule == "valiant":
            return via
        straight, _ = self.path(node, packet, None)
        first, between = self.path(node, packet, via)
        second, _ = self.path(between, packet, None)
        if self.rule == "ugal_l":
            better = straight[0].low_bytes * len(straight) > first[0].low_bytes * len(first + second)
        else:
            full = self.options.packet_bytes
            costs = [sum(link.low_bytes + full for link in way) for way in (straight, first + second)]
            better = costs[0] > costs[1]
        return via if better else None

    def path(self, node, packet, via):
        """Return the links between switches on the way to an area, or to the target's switch, and where they end."""
        links = []
        while not (node == self.home[packet.target] if via is None else self.area[node] == via):
            links.append(self.way(node, packet, via))
            node = links[-1].target
        return links, node

    def route(self, node, packet):
        return self.way(node, packet, packet.via)

    def way(self, node, packet, via):
        if via is None:
            return super().route(node, packet)
        if (node, via) not in self.area_ways:
            distance = self.to_area(via)
            self.area_ways[node, via] = [
                link
                for link in self.links
                if link.source == node and distance.get(link.target, math.inf) + link.cost == distance[node]
            ]
        out = self.area_ways[node, via]
        key = 2 * packet.flow + (0 if packet.kind == "data" else 1)
        return out[murmur(key, packet.entropy, self.salts[node - self.hosts]) * len(out) >> 32]

    def to_area(self, via):
        distance, edge = {}, [(0, node) for node, area in enumerate(self.area) if area == via]
        while edge:
            far, node = heapq.heappop(edge)
            if node not in distance:
                distance[node] = far
                for link in self.links:
                    if link.target == node and link.source >= self.hosts:
                        heapq.heappush(edge, (far + link.cost, link.source))
        return distance


class DetourLosslessOracle(DetourOracle, LosslessOracle):
    """`DetourOracle` on links that never drop: at its area, a packet may need a channel more."""

    def count_channels(self):
        switches, highest = range(self.hosts, self.network.nodes), 0
        for via in range(max(self.area) + 1):
            distance = self.to_area(via)
            out = {node: self.first_phases(node, distance) if self.area[node] != via else [] for node in switches}
            highest = max(highest, self.highest_of(out))
        return super().count_channels() + highest + 1
