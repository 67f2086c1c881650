"""The plain simulator with routes that are not minimal: Valiant's, UGAL's choice by own or by all queues, and DAL's."""

from __future__ import annotations

import heapq
import math

from tests.network.packet_oracle import Oracle
from tests.network.packet_oracle_lossless import LosslessOracle
from tests.network.packet_oracle_parts import murmur


def held(link):
    """Return what waits in a port; one that is down is no empty one."""
    return link.low_bytes if link.up else 2**40


class DetourOracle(Oracle):
    """The first switch draws an area for every data packet; ``detoured`` counts those that go there."""

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        self.rule, self.area = network.detours.rule, network.detours.area.tolist()
        super().__init__(network, workload, control, balancer, options, fabric, order)
        self.home = {link.target: link.source for link in self.links if link.target < self.hosts}
        self.area_ways, self.detoured, self.columns = {}, 0, network.detours.columns
        self.deroutes = {}  # of a packet on its way: the dimensions in which it was derouted

    def arrive(self, link, packet, now):
        node = link.target
        if self.rule == "dal":
            if link.source < self.hosts:
                self.deroutes[id(packet)], packet.via = [], None
            if node >= self.hosts and self.area[node] >= 0:
                packet.via = self.next_hop(node, packet)
        elif node >= self.hosts:
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
            better = held(straight[0]) * len(straight) > held(first[0]) * len(first + second)
        else:
            full = self.options.packet_bytes
            costs = [sum(held(link) + full for link in way) for way in (straight, first + second)]
            better = costs[0] > costs[1]
        return via if better else None

    def next_hop(self, node, packet):
        """Return the place of the grid that DAL sends a packet to from another, or None where it is minimal from there."""
        here, there = (divmod(area, self.columns) for area in (self.area[node], self.area[self.home[packet.target]]))
        if packet.kind != "data" or packet.trimmed or here == there:
            return None
        full, key = self.options.packet_bytes, (2 * packet.flow, packet.entropy)
        sides = (max(self.area) // self.columns + 1, self.columns)
        first = murmur(*key, 0x5DEECE66D) % 2  # 0: along a row, where the column changes
        axes = [1 - dimension for dimension in (first, 1 - first)]
        axes = [axis for axis in axes if here[axis] != there[axis]]
        ways = [(self.path(node, packet, self.moved(here, axis, there[axis]))[0], axis) for axis in axes]
        links, axis = min(ways, key=lambda way: sum(held(link) + full for link in way[0]))
        best = sum(held(link) + full for link in links), self.moved(here, axis, there[axis])
        if not any(held(link) for link in links):
            return best[1]
        done, turned = self.deroutes[id(packet)], None
        for axis in axes:
            others = range(sides[axis]) if axis not in done else ()
            start = murmur(*key, 0x5DEECE66E) * sides[axis] >> 32
            for place in [(start + i) % sides[axis] for i in others]:
                if place not in {here[axis], there[axis]}:
                    takes = self.deroute(node, packet, *(self.moved(here, axis, to) for to in (place, there[axis])))
                    if takes < best[0]:
                        best, turned = (takes, self.moved(here, axis, place)), axis
        if turned is not None:
            self.detoured += not done
            done.append(turned)
        return best[1]

    def deroute(self, node, packet, place, aligned):
        """Return queue times hops of the way over a place of a line to the aligned one."""
        links, end = self.path(node, packet, place)
        onward, _ = self.path(end, packet, aligned)
        return 2 * sum(held(link) for link in links) + self.options.packet_bytes * len(links + onward)

    def moved(self, here, axis, place):
        row, column = (place, here[1]) if axis == 0 else (here[0], place)
        return row * self.columns + column

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
