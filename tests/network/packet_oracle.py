"""A slow and obvious packet simulator with the rules of the compiled one, to compare event for event.

It shares with it the congestion controls and load balancers (as plain Python functions) and the order of links, of
which ties and random streams depend. Queues, hosts, transport, routing, hashing, random numbers and the event list
are written again, in the plainest way: two events a hop, lists of packet objects, sets of sequence numbers.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

import numpy as np

from orchestrator_network.packet import layout as at
from tests.network.packet_oracle_parts import Flow, Link, Packet, Random, Routing, states

LEAVES, TIMER, ARRIVES = 0, 1, 2  # the order of what happens at one time


class Oracle(Routing):
    """Run with ``to_end``; ``events`` lists (time, link, flow, psn, kind, size) of every arrival."""

    def __init__(self, network, workload, control, balancer, options, fabric, order):
        self.options, self.network = options, network
        self.hosts = network.hosts
        seeds = states(options.seed, 1, network.links)
        self.links = []
        self.extra, self.trimmed_bytes = {}, options.header_bytes
        queue = math.ceil(fabric.rtt_ps / 1e12 * fabric.rate_bps / 8 / options.packet_bytes)
        for number, original in enumerate(order.tolist()):
            share = options.slow_to if original in options.slow else 1.0
            link = Link(
                number,
                int(network.source[original]),
                int(network.target[original]),
                network.capacity_bps[original] * share,
                int(network.latency_ps[original]),
                Random(seeds[number]),
            )
            link.base, link.up, link.cost = link.ps_per_byte, True, int(network.route_cost[original])
            link.limit = int(queue * options.packet_bytes * share)
            link.mark_from = int(math.ceil(queue * 0.2) * options.packet_bytes * share)
            link.mark_all = int(math.ceil(queue * 0.8) * options.packet_bytes * share)
            self.links.append(link)
        self.salts = states(options.seed, 3, network.nodes - network.hosts)
        drain = queue * options.packet_bytes * 8 / fabric.rate_bps * 1e12
        slowest = max(link.limit * link.ps_per_byte for link in self.links)
        self.rto = 15_000_000 + int(6 * drain if slowest <= 6 * drain else 2 * drain + (fabric.hops - 2) * slowest)
        self.ack_every = options.ack_every_bytes or control.ack_every_bytes
        payload = options.packet_bytes - options.header_bytes
        columns = zip(workload.source.tolist(), workload.target.tolist(), workload.size_bytes.tolist(), strict=True)
        self.flows = [Flow(*row, payload, options.header_bytes) for row in columns]
        self.control, self.constants = control, control.constants(fabric)
        self.window = np.zeros((len(self.flows), control.width))
        control.begin(fabric, self.window)
        self.balancer = balancer
        self.paths = balancer.begin(
            fabric, options.entropies, np.array(states(options.seed, 2, len(self.flows)), np.uint64).view(np.int64)
        )
        self.rings = [deque() for _ in range(self.hosts)]
        self.turns = [0] * self.hosts
        self.waits = [0] * len(self.flows)
        self.successors = [[] for _ in self.flows]
        for later, earlier in workload.after.tolist():
            self.waits[later] += 1
            self.successors[earlier].append(later)
        self.acknowledged = [[] for _ in self.flows]
        for later, earlier in workload.after_acked.tolist():
            self.waits[later] += 1
            self.acknowledged[earlier].append(later)
        self.start_ps = workload.start_ps.tolist()
        self.heap, self.events = [], []
        number = {original: i for i, original in enumerate(order.tolist())}
        self.changes = [(self.links[number[link]], share) for _, link, share in options.changes]
        self.astray = [-1] * len(self.flows)
        for i, (when, _, _) in enumerate(options.changes):
            self.push(when, TIMER, at.CHANGE << 32 | i)
        for flow, waits in enumerate(self.waits):
            if waits == 0:
                self.push(self.start_ps[flow], TIMER, flow)
        self.distances, self.ways = {}, {}

    def push(self, when, kind, number, packet=None):
        heapq.heappush(self.heap, (when, kind, number, len(self.events), id(packet), packet))

    def to_end(self):
        while any(flow.finished < 0 for flow in self.flows):
            when, kind, number, _, _, packet = heapq.heappop(self.heap)
            self.before(when, kind)
            if kind == LEAVES:
                self.leave(self.links[number], when)
            elif kind == TIMER:
                self.timer(number, when)
            else:
                self.events.append((when, number, packet.flow, packet.psn, packet.kind, packet.size))
                self.arrive(self.links[number], packet, when)
        return self

    def before(self, when, kind):
        """Look at the state before an event; for tests that want to."""

    # ports

    def begin(self, link, packet, now):
        link.serving = packet
        link.sent_bytes += packet.size
        self.push(now + self.takes(link, packet), LEAVES, link.number)

    def takes(self, link, packet):
        return round(packet.size * link.ps_per_byte)

    def leave(self, link, now):
        packet, link.serving = link.serving, None
        if link.source >= self.hosts:
            if packet.is_data:
                link.low_bytes -= packet.size
                self.mark(link, packet)
                self.left(packet, now)
            else:
                link.high_bytes -= packet.size
        self.push(now + link.latency_ps, ARRIVES, link.number, packet)
        if link.source < self.hosts:
            following = self.pick(link.source, now)
            if following is not None:
                self.begin(link, following, now)
        else:
            following = self.next_of(link, now)
            if following is not None:
                self.begin(link, following, now)

    def next_of(self, link, now):
        """Take the packet whose turn it is."""
        return link.high.popleft() if link.high else self.next_data(link, now)

    def next_data(self, link, now):
        """Take the data that leaves next, or None."""
        return link.low.popleft() if link.low else None

    def queue(self, link, packet):
        """Return where data waits in a port."""
        return link.low

    def queues(self, link):
        """Return all places where data waits in a port."""
        return [link.low]

    def gone(self, packet, now):
        """Note that a packet was lost."""

    def is_open(self, link, packet, now):
        """Tell whether the other end of a link takes a packet of data, or (None) one of a host."""
        return True

    def left(self, packet, now):
        """Note that data has left a switch."""

    def has_room(self, link, packet):
        return link.low_bytes + packet.size <= link.limit

    def change(self, link, share, now):
        link.up = share > 0
        link.ps_per_byte = link.base / (share or 1.0)
        if link.source < self.hosts:  # who sends knows, and waits
            self.kick(link.source, now)
        if link.up or link.source < self.hosts:
            return
        data = [packet for queue in self.queues(link) for packet in queue]
        link.drops += len(link.high) + len(data)
        for packet in [*data, *link.high]:
            if packet.is_data:
                self.left(packet, now)
            self.gone(packet, now)
        link.high_bytes -= sum(packet.size for packet in link.high)
        link.low_bytes -= sum(packet.size for packet in data)
        link.high.clear()
        for queue in self.queues(link):
            queue.clear()

    def mark(self, link, packet):
        behind = link.low_bytes
        if behind <= link.mark_from:
            return
        share = (behind - link.mark_from) / (link.mark_all - link.mark_from)
        if behind > link.mark_all or link.random.bits() < share * 2**31:
            packet.marked = True
            link.marks += 1

    def enqueue(self, link, packet, now):
        if not link.up:
            link.drops += 1
            self.astray[packet.flow] = now - link.outage
            if packet.is_data:
                self.left(packet, now)
            self.gone(packet, now)
            return
        if packet.is_data:
            if self.has_room(link, packet):
                link.low_bytes += packet.size
                link.max_bytes = max(link.max_bytes, link.low_bytes)
                queue = self.queue(link, packet)
                if link.serving is None and not queue and self.is_open(link, packet, now):
                    self.begin(link, packet, now)
                else:
                    queue.append(packet)
                return
            packet = self.victim(link, packet)
            if not self.options.trimming:
                link.drops += 1
                self.gone(packet, now)
                return
            link.trims += 1
            packet.trimmed, packet.size = True, self.trimmed_bytes
            packet.last_hop = link.target < self.hosts
        if link.high_bytes + packet.size > 2 * link.limit:
            link.drops += 1
            self.gone(packet, now)
            return
        link.high_bytes += packet.size
        if link.serving is None:
            self.begin(link, packet, now)
        else:
            link.high.append(packet)

    def victim(self, link, packet):
        """Choose who is trimmed: the arrival, or the newest data in the port."""
        heads, queue = link.random.bits() < 2**30, self.queue(link, packet)
        if heads and queue and link.low_bytes - queue[-1].size + packet.size <= link.limit:
            newest = queue.pop()
            queue.append(packet)
            link.low_bytes += packet.size - newest.size
            return newest
        return packet

    # switches

    def arrive(self, link, packet, now):
        if link.target >= self.hosts:
            self.enqueue(self.route(link.target, packet), packet, now)
        elif packet.kind == "data":
            self.receive(link.target, packet, now)
        elif packet.kind == "ack":
            self.acknowledge(packet, now)
        else:
            self.reject(packet, now)

    # hosts

    def pick(self, host, now):
        link, ring = self.links[host], self.rings[host]
        if not link.up:
            return None
        if ring and not self.is_open(link, None, now):
            return link.high.popleft() if link.high else None
        if ring and link.high:
            self.turns[host] = (self.turns[host] + 1) % 11
            if self.turns[host] != 0:
                return link.high.popleft()
        while ring:
            number = ring.popleft()
            self.flows[number].in_ring = False
            if self.may_send(number):
                packet = self.send(number, now)
                if self.may_send(number):
                    ring.append(number)
                    self.flows[number].in_ring = True
                return packet
        return link.high.popleft() if link.high else None

    def kick(self, host, now):
        link = self.links[host]
        if link.serving is None:
            packet = self.pick(host, now)
            if packet is not None:
                self.begin(link, packet, now)

    def try_send(self, number, now):
        flow = self.flows[number]
        if not flow.in_ring and self.may_send(number):
            self.rings[flow.source].append(number)
            flow.in_ring = True
            self.kick(flow.source, now)

    def may_send(self, number):
        flow = self.flows[number]
        if flow.lost:
            size = flow.sizes[min(flow.lost)]
        elif flow.next < flow.packets:
            size = flow.sizes[flow.next]
        else:
            return False
        return self.window[number, at.CWND] >= self.window[number, at.IN_FLIGHT] + size

    def send(self, number, now):
        flow, window = self.flows[number], self.window[number]
        resent = bool(flow.lost)
        if resent:
            psn = min(flow.lost)
            flow.lost.remove(psn)
            flow.tries[psn] += 1
            flow.retransmissions += 1
        else:
            psn = flow.next
            flow.next += 1
            flow.tries[psn] = 0
        size = flow.sizes[psn]
        window[at.IN_FLIGHT] += size
        asks = resent or self.asks(number, size)
        flow.flying[psn] = now
        payload = self.options.packet_bytes - self.options.header_bytes
        entropy = self.balancer.choose.py_func(self.paths[number], psn, int(window[at.CWND]) // payload, now)
        if not flow.timer:
            flow.timer = True
            self.push(now + self.rto, TIMER, at.RETRANSMIT << 32 | number)
        return Packet(number, psn, "data", size, int(entropy), flow.sink, resent=resent, asks=asks)

    def asks(self, number, size):
        flow, window = self.flows[number], self.window[number]
        return flow.next == flow.packets or window[at.IN_FLIGHT] + size >= window[at.CWND]

    # receiver

    def receive(self, host, packet, now):
        flow = self.flows[packet.flow]
        known = packet.psn < flow.expected or packet.psn in flow.beyond
        if packet.trimmed:
            flow.trims += 1
            if known:
                self.answer(host, packet, "ack", self.usual_base(packet, flow), now, marked=False)
            else:
                self.answer(host, packet, "nack", packet.psn, now, marked=packet.marked)
            return
        flow.unreported += packet.size
        flow.marks += packet.marked
        if known:
            flow.duplicates += 1
            flow.unreported = 0
            base = packet.psn if packet.marked else self.usual_base(packet, flow)
            self.answer(host, packet, "ack", base, now, marked=packet.marked)
            return
        now_due = packet.marked or flow.got_bytes == 0 or packet.asks
        flow.got_bytes += packet.size
        flow.owes = flow.owes or packet.asks
        now_due |= self.fill(flow, packet.psn)
        if flow.expected == flow.packets:
            flow.arrived = now
            self.release(packet.flow, now)
        if now_due or flow.unreported >= self.ack_every:
            flow.unreported = 0
            base = packet.psn if packet.marked or packet.asks else self.usual_base(packet, flow)
            self.answer(host, packet, "ack", base, now, marked=packet.marked)

    @staticmethod
    def fill(flow, psn):
        """Take a new packet; tell whether this ends a hole that the sender asked about."""
        if psn != flow.expected:
            flow.beyond.add(psn)
            return False
        flow.expected += 1
        while flow.expected in flow.beyond:
            flow.beyond.remove(flow.expected)
            flow.expected += 1
        ended = not flow.beyond and flow.owes
        flow.owes = flow.owes and not ended
        return ended

    def release(self, number, now):
        self.let_go(self.successors[number], now)

    def let_go(self, waiting, now):
        for later in waiting:
            self.waits[later] -= 1
            if self.waits[later] == 0:
                self.push(max(now, self.start_ps[later]), TIMER, later)

    @staticmethod
    def usual_base(packet, flow):
        return max(packet.psn - 63, flow.expected + 1)

    def answer(self, host, packet, kind, base, now, *, marked):
        flow = self.flows[packet.flow]
        reply = Packet(
            packet.flow, packet.psn, kind, self.options.header_bytes, packet.entropy, flow.source,
            marked=marked, last_hop=packet.last_hop, resent=packet.resent,
        )  # fmt: skip
        reply.told = {
            "cumulative": flow.expected,
            "beyond": {psn for psn in flow.beyond if base <= psn < base + 64},
            "received": flow.got_bytes,
            "gaps": len(flow.beyond),
        }
        reply.probe = packet.probe
        self.links[host].high.append(reply)
        self.kick(host, now)

    # sender

    def react(self, function, number, now, arrived, marked, rtt, reason=0.0, at_last_hop=False):
        event = np.zeros(at.EVENT_COLUMNS)
        event[at.NOW], event[at.BYTES], event[at.ECHO], event[at.RTT] = now, arrived, marked, rtt
        event[at.REASON], event[at.AT_LAST_HOP] = reason, at_last_hop
        for column, value in self.extra.items():
            event[column] = value
        function.py_func(self.window[number], event, self.constants)

    def learn(self, number, entropy, verdict, now):
        self.balancer.learn.py_func(self.paths[number], entropy, verdict, now)

    def sample(self, number, packet, now):
        """Return the round trip that an acknowledgement tells of, or -1."""
        flow = self.flows[number]
        if packet.psn in flow.flying and flow.tries[packet.psn] == int(packet.resent):
            return now - flow.flying[packet.psn]
        return -1

    def heard(self, number, packet, now):
        """Take what else an acknowledgement says."""

    def acknowledge(self, packet, now):
        number, flow = packet.flow, self.flows[packet.flow]
        if flow.finished >= 0:
            return
        newly = max(packet.told["received"] - flow.told_bytes, 0)
        flow.told_bytes += newly
        self.window[number, at.IN_FLIGHT] -= newly
        rtt = self.sample(number, packet, now)
        named = set(range(flow.lowest, packet.told["cumulative"])) | packet.told["beyond"]
        for psn in named:
            if psn in flow.lost:
                flow.lost.remove(psn)
                self.window[number, at.IN_FLIGHT] += flow.sizes[psn]
            flow.flying.pop(psn, None)
        flow.lowest = max(flow.lowest, packet.told["cumulative"])
        self.learn(number, packet.entropy, at.CONGESTED if packet.marked else at.GOOD, now)
        self.react(self.control.on_ack, number, now, newly, packet.marked, rtt)
        self.heard(number, packet, now)
        if flow.lowest == flow.packets:
            flow.finished = now
            self.let_go(self.acknowledged[number], now)
        else:
            self.try_send(number, now)

    def reject(self, packet, now):
        number, flow = packet.flow, self.flows[packet.flow]
        if flow.finished >= 0 or packet.psn not in flow.flying:
            return
        size = flow.sizes[packet.psn]
        rtt = now - flow.flying.pop(packet.psn)
        self.react(self.control.on_loss, number, now, size, packet.marked, rtt, at.TRIM_LOSS, packet.last_hop)
        self.window[number, at.IN_FLIGHT] -= size
        flow.lost.add(packet.psn)
        self.try_send(number, now)
        verdict = at.TRIMMED_PATH
        if packet.last_hop:
            verdict = at.CONGESTED if packet.marked else at.GOOD
        self.learn(number, packet.entropy, verdict, now)
        self.try_send(number, now)

    def timer(self, what, now):
        kind, number = divmod(what, 2**32)
        if kind == at.CHANGE:
            link, share = self.changes[number]
            link.outage = now
            self.change(link, share, now)
            return
        flow = self.flows[number]
        if kind == at.START_FLOW:
            flow.started = now
            self.try_send(number, now)
            return
        if flow.finished >= 0:
            flow.timer = False
            return
        due = self.due(flow)
        if due and due[0][0] + self.rto <= now:
            flow.timeouts += 1
            self.learn(number, 0, at.TIMED_OUT, now)
            due = [] if self.give_up(number, due[0][1], now) else self.due(flow)
        flow.timer = bool(due)
        if due:
            self.push(max(due[0][0] + self.rto, now), TIMER, what)

    def due(self, flow):
        """Return when packets that a timer asks for were sent, and which they are, in order."""
        return sorted((sent, psn) for psn, sent in flow.flying.items())

    def give_up(self, number, psn, now):
        """Take a packet that nobody answered for lost; return whether no timer runs until something is sent."""
        flow = self.flows[number]
        del flow.flying[psn]
        self.react(self.control.on_loss, number, now, flow.sizes[psn], False, -1, at.TIMEOUT_LOSS)
        self.window[number, at.IN_FLIGHT] -= flow.sizes[psn]
        flow.lost.add(psn)
        self.try_send(number, now)
        return False
