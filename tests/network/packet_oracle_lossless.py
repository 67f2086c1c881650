"""The plain packet simulator with links that never drop data: pause frames, or credit, and virtual channels."""

from __future__ import annotations

import math
from collections import deque

from orchestrator_network.packet import layout as at
from tests.network.packet_oracle import TIMER, Oracle


class Channel:
    """What a link knows of one of its virtual channels."""

    def __init__(self, link, number, room, credit):
        self.link, self.number, self.room, self.credit = link, number, room, credit
        self.queue = deque()
        self.held = self.most = 0
        self.closed = self.stopped = self.waiting = False


class LosslessOracle(Oracle):
    """`Oracle` with an account of bytes for every channel of every link into a switch."""

    ordered = phased = False

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        super().__init__(network, workload, control, balancer, options, fabric, order)
        self.guarded = options.lossless != "none"
        if self.guarded:
            if control.ordered or control.lossless != "none":
                self.rto = 4_096_000 * 2**14
            else:
                crowd = max(workload.target.tolist().count(host) for host in set(workload.target.tolist()))
                drain = (self.rto - 15_000_000) / 6
                self.rto = 15_000_000 + int(max(6 * fabric.hops, 2 * crowd) * drain)
            if control.windowed and options.ack_every_bytes is None:
                self.ack_every = 1
        if self.guarded and network.channel_order is not None:
            for link, original in zip(self.links, order.tolist(), strict=True):
                link.phase = int(network.channel_order.phase[original])
                link.rank = int(network.channel_order.rank[original])
            self.ordered = True
            self.phased = network.detours is None and not self.does_fall()
        self.count = self.count_channels() if self.ordered else 1
        mtu = options.packet_bytes
        for link in self.links:
            link.since, link.paused_ps, link.turn = None, 0, 0
            room = math.ceil(2 * link.latency_ps / link.ps_per_byte) + (options.stop_packets + 2) * mtu
            credit = room if options.lossless == "credit" and link.target >= self.hosts else math.inf
            link.channels = [Channel(link, link.number * self.count + i, room, credit) for i in range(self.count)]

    # channels

    def route(self, node, packet):
        if self.ordered:
            self.near(node, packet.target)
        return super().route(node, packet)

    def near(self, node, target):
        """Return the links that lead to a host, of several those of the least phase, and have `route` use them."""
        if (node, target) not in self.ways:
            distance = self.distance_to(target)
            self.ways[node, target] = self.first_phases(node, distance)
        return self.ways[node, target]

    def first_phases(self, node, distance):
        far = math.inf
        near = [
            link
            for link in self.links
            if link.source == node and distance.get(link.target, far) + link.cost == distance.get(node, far) < far
        ]
        inner = [link for link in near if link.target >= self.hosts]
        least = min((link.phase for link in inner), default=0)
        return [link for link in near if link.target < self.hosts or link.phase == least]

    def all_ways(self):
        switches = range(self.hosts, self.network.nodes)
        for target in range(self.hosts):
            yield {node: [link for link in self.near(node, target) if link.target >= self.hosts] for node in switches}

    def does_fall(self):
        return any(
            after.phase < link.phase for out in self.all_ways() for ways in out.values() for link in ways
            for after in out[link.target]
        )  # fmt: skip

    def count_channels(self):
        return 1 + max(self.highest_of(out) for out in self.all_ways())

    def highest_of(self, out):
        """Walk every route: from every switch, link by link, with its channel."""
        seen, edge = set(), [(link, 0) for ways in out.values() for link in ways]
        while edge:
            link, channel = edge.pop()
            if (link, channel) not in seen:
                seen.add((link, channel))
                edge += [(after, self.channel_after(channel, link, after)) for after in out[link.target]]
        return max((channel for _, channel in seen), default=0)

    def channel_after(self, channel, before, after):
        if not self.ordered or before.source < self.hosts or after.target < self.hosts:
            return 0
        if self.phased and after.phase > before.phase:
            return 0
        return channel if after.rank > before.rank else channel + 1

    # ports

    def has_room(self, link, packet):
        return self.guarded or super().has_room(link, packet)

    def queue(self, link, packet):
        return link.channels[packet.channel].queue

    def queues(self, link):
        return [channel.queue for channel in link.channels]

    def next_data(self, link, now):
        for channel in link.channels:
            if channel.queue and not self.takes_data(channel):
                self.note_wait(channel, now)
        turns = link.channels[link.turn :] + link.channels[: link.turn]
        for channel in turns:
            if channel.queue and self.takes_data(channel):
                link.turn = (link.channels.index(channel) + 1) % self.count
                return channel.queue.popleft()
        return None

    def takes_data(self, channel):
        return not channel.closed and channel.credit >= self.options.packet_bytes

    def is_open(self, link, packet, now):
        channel = link.channels[0 if packet is None else packet.channel]
        opened = self.takes_data(channel)
        if not opened:
            self.note_wait(channel, now)
        return opened

    def note_wait(self, channel, now):
        if not any(other.waiting for other in channel.link.channels):
            channel.link.since = now
        channel.waiting = True

    def begin(self, link, packet, now):
        if packet.is_data:
            link.channels[packet.channel].credit -= packet.size
        super().begin(link, packet, now)

    def arrive(self, link, packet, now):
        if self.guarded and link.target >= self.hosts and packet.is_data:
            channel = link.channels[packet.channel]
            channel.held += packet.size
            channel.most = max(channel.most, channel.held)
            assert channel.held <= channel.room
            packet.came_over = channel
            stop = channel.held > self.options.stop_packets * self.options.packet_bytes
            if self.options.lossless == "pfc" and stop and not channel.stopped:
                channel.stopped = True
                self.push(now + link.latency_ps, TIMER, at.GATE_WORD << 32 | channel.number << 1 | 1)
        super().arrive(link, packet, now)

    def enqueue(self, link, packet, now):
        if self.guarded and packet.is_data:
            packet.channel = self.channel_after(packet.channel, packet.came_over.link, link)
        super().enqueue(link, packet, now)

    def left(self, packet, now):
        if not self.guarded:
            return
        channel = packet.came_over
        channel.held -= packet.size
        due = now + channel.link.latency_ps
        if self.options.lossless == "credit":
            self.push(due, TIMER, (at.CREDIT_BACK + channel.number) << 32 | packet.size)
        elif channel.stopped and channel.held <= self.options.go_packets * self.options.packet_bytes:
            channel.stopped = False
            self.push(due, TIMER, at.GATE_WORD << 32 | channel.number << 1)

    def timer(self, what, now):
        kind, number = divmod(what, 2**32)
        if kind == at.GATE_WORD:
            channel = self.channel(number >> 1)
            channel.closed = bool(number & 1)
            self.word(channel, now)
        elif kind >= at.CREDIT_BACK:
            channel = self.channel(kind - at.CREDIT_BACK)
            channel.credit += number
            self.word(channel, now)
        else:
            super().timer(what, now)

    def channel(self, number):
        return self.links[number // self.count].channels[number % self.count]

    def word(self, channel, now):
        if not self.takes_data(channel):
            return
        link = channel.link
        if channel.waiting:
            channel.waiting = False
            if not any(other.waiting for other in link.channels):
                link.paused_ps += now - link.since
        if link.source < self.hosts:
            self.kick(link.source, now)
        elif link.serving is None:
            packet = self.next_data(link, now)
            if packet is not None:
                self.begin(link, packet, now)
