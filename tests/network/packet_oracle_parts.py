"""The parts of the plain packet simulator: random numbers, hashing, packets, links and flows."""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

WORD = 2**64 - 1


class Random:
    """xorshift64*."""

    def __init__(self, state):
        self.state = int(state) & WORD

    def bits(self):
        x = self.state
        x ^= x >> 12
        x = (x ^ (x << 25)) & WORD
        x ^= x >> 27
        self.state = x
        return (x * 0x2545F4914F6CDD1D & WORD) >> 33


def states(seed, stream, count):
    drawn = np.random.SeedSequence([seed, stream]).generate_state(count, np.uint64)
    return [int(value) | 1 for value in drawn]


def murmur(flow, entropy, salt):
    x = (flow * 0x9E3779B97F4A7C15 + entropy * 0xC2B2AE3D27D4EB4F & WORD) ^ (salt & WORD)
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD & WORD
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 & WORD
    return x >> 32


@dataclass
class Packet:
    """One packet; ``kind`` is data, ack or nack."""

    flow: int
    psn: int
    kind: str
    size: int
    entropy: int
    target: int
    marked: bool = False
    trimmed: bool = False
    last_hop: bool = False
    resent: bool = False
    asks: bool = False
    told: dict = field(default_factory=dict)
    corrupt: bool = False
    number: int = 0
    notes: list = field(default_factory=list)
    channel: int = 0
    via: int | None = None
    probe: bool = False

    @property
    def is_data(self):
        return self.kind == "data" and not self.trimmed


class Link:
    """An output port and a wire."""

    def __init__(self, number, source, target, rate_bps, latency_ps, random):
        self.number, self.source, self.target = number, source, target
        self.ps_per_byte = 8e12 / rate_bps
        self.latency_ps, self.random = latency_ps, random
        self.low, self.high = deque(), deque()
        self.serving = None
        self.low_bytes = self.high_bytes = 0
        self.replays = self.owed = 0
        self.sent_bytes = self.max_bytes = self.marks = self.trims = self.drops = 0


class Flow:
    """Both halves of the transport of one flow."""

    def __init__(self, source, sink, size_bytes, payload, header):
        self.source, self.sink = source, sink
        self.packets = math.ceil(size_bytes / payload)
        self.sizes = [payload + header] * (self.packets - 1) + [size_bytes - (self.packets - 1) * payload + header]
        self.next = self.lowest = 0
        self.flying, self.lost, self.tries = {}, set(), {}
        self.told_bytes = 0
        self.timer = False
        self.in_ring = False
        self.expected, self.beyond, self.unreported, self.got_bytes, self.owes = 0, set(), 0, 0, False
        self.started = self.arrived = self.finished = -1
        self.retransmissions = self.trims = self.marks = self.timeouts = self.duplicates = 0


class Routing:
    """What switches know: the links of all shortest ways, among which flow and entropy value choose."""

    def route(self, node, packet):
        out = self.shortest(node, packet)
        if len(out) == 1:
            return out[0]
        key = 2 * packet.flow + (0 if packet.kind == "data" else 1)
        return out[murmur(key, packet.entropy, self.salts[node - self.hosts]) * len(out) >> 32]

    def shortest(self, node, packet):
        """Return the links of a switch that are on a shortest way."""
        if (node, packet.target) not in self.ways:
            distance = self.distance_to(packet.target)
            near = [
                link
                for link in self.links
                if link.source == node and distance.get(link.target, math.inf) + link.cost == distance[node]
            ]
            self.ways[node, packet.target] = near
        return self.ways[node, packet.target]

    def distance_to(self, target):
        if target not in self.distances:
            distance, edge = {}, [(0, target)]
            while edge:
                far, node = heapq.heappop(edge)
                if node in distance:
                    continue
                distance[node] = far
                if node == target or node >= self.hosts:
                    edge += [(far + link.cost, link.source) for link in self.links if link.target == node]
                    heapq.heapify(edge)
            self.distances[target] = distance
        return self.distances[target]
