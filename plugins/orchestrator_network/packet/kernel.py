"""The event loop: one event for every packet that arrives at the end of a link, and the timers between them.

At one time a packet that has left a port comes first, then timers by number, then arrivals by link.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
from numba import types

from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.bits import path_hash
from orchestrator_network.packet.calendar import LINK_BITS, next_timer, refill, schedule, take_timer
from orchestrator_network.packet.compiled import CHOOSE, LEARN, REACT, compile_now, first_time, inlined, inner
from orchestrator_network.packet.credit import adapt_to_taper, pace, take_pull, want
from orchestrator_network.packet.layout import (
    ACK,
    DATA,
    EMPTY,
    KIND_MASK,
    NACK,
    NEVER,
    PACE,
    PULL,
    RETRANSMIT,
    START_FLOW,
    TAPER,
)
from orchestrator_network.packet.nic import Choose, free_packet, serve_host
from orchestrator_network.packet.ports import arrive, change, draw_port, is_data, serve
from orchestrator_network.packet.prefetch import prefetch
from orchestrator_network.packet.receiver import receive
from orchestrator_network.packet.sender import Learn, React, acknowledge, reject, start_flow, time_out
from orchestrator_network.packet.state import State, blank
from orchestrator_network.packet.transports.base import Transport

# Why the loop came back.
DONE_ALL, PAUSED, POOL_LOW, STUCK = 0, 1, 2, 3
#: The loop stops for a larger pool with fewer free rows than this; an event takes one at most, per flow and timer.
SPARE_PACKETS = 64
LINK_MASK = (1 << LINK_BITS) - 1


@inner
def emptiest(s: State, first: int, count: int, now: int) -> int:
    """Return the port that holds the least data, a random one of equals."""
    best, least, equals = EMPTY, NEVER, 0
    for i in range(first, first + count):
        port = s.ports[i]
        serve(s, port, now)
        held = s.links[port].low_bytes
        if held < least:
            best, least, equals = port, held, 1
        elif held == least:
            equals += 1
            if (draw_port(s, s.ports[first]) * equals) >> 31 == 0:
                best = port
    return best


@inlined
def out_port(s: State, node: int, packet: int, now: int) -> int:
    """Return the port of a switch that a packet takes: the flow and its entropy value decide among equals."""
    target = s.packets[packet].target
    switch = node - s.run[0].hosts
    entry = s.routes[switch, s.group[target]]
    count = entry & 0xFFF
    if count == 0:
        return s.down[target]
    first = entry >> 12
    if count == 1:
        return s.ports[first]
    if s.run[0].adaptive != 0 and is_data(s, packet):
        return emptiest(s, first, count, now)
    # Both directions of a flow are routed independently.
    flow = 2 * s.packets[packet].flow + (0 if s.packets[packet].kind & KIND_MASK == DATA else 1)
    drawn = path_hash(flow, s.packets[packet].entropy, s.salt[switch])
    return s.ports[first + ((drawn * count) >> 32)]


@inlined
def deliver(s: State, on_ack: React, on_loss: React, choose: Choose, learn: Learn, link: int, now: int) -> None:
    """Let the first packet in flight on a link arrive."""
    hosts = s.run[0].hosts
    if link < hosts:
        serve_host(s, choose, link, now)
    else:
        serve(s, link, now)
    packet = s.links[link].flight_head
    following = s.packets[packet].next
    s.links[link].flight_head = following
    if following >= 0:
        schedule(s.run, s.buckets, s.groups, s.chain, link, s.packets[following].due)
    node = s.links[link].to
    if node >= hosts:
        port = out_port(s, node, packet, now)
        serve(s, port, now)
        resting = s.links[port].flight_head < 0
        dropped = arrive(s, port, packet, now)
        if dropped != EMPTY:
            free_packet(s, dropped)
        if resting and s.links[port].flight_head >= 0:
            schedule(s.run, s.buckets, s.groups, s.chain, port, s.packets[s.links[port].flight_head].due)
        return
    serve_host(s, choose, node, now)
    kind = s.packets[packet].kind & KIND_MASK
    if kind == DATA:
        receive(s, choose, node, packet, now)
        return
    if kind == ACK:
        acknowledge(s, on_ack, choose, learn, packet, now)
    elif kind == NACK:
        reject(s, on_loss, choose, learn, packet, now)
    elif kind == PULL:
        take_pull(s, choose, packet, now)
    else:
        want(s, node, s.packets[packet].flow, s.answers[packet].base, 1, now)
    free_packet(s, packet)


@inlined
def next_arrival(s: State, timer: int) -> int:
    """Return when the next packet arrives, if that is not after the bucket of the next timer, else NEVER."""
    run = s.run
    if run[0].drain_at == run[0].drain_count:
        if run[0].scheduled == 0 or not refill(run, s.buckets, s.groups, s.chain, s.drain, timer):
            return NEVER
        for i in range(run[0].drain_count):
            prefetch(s.links, s.drain[i] & LINK_MASK)
            prefetch(s.counters, s.drain[i] & LINK_MASK)
    return run[0].drain_base + (s.drain[run[0].drain_at] >> LINK_BITS)


@inlined
def look_ahead(s: State, at: int) -> None:
    """Ask for what the next two arrivals will touch: which link and packet is certain, the bucket is sorted."""
    if at >= s.run[0].drain_count:
        return
    link = s.drain[at] & LINK_MASK
    packet = s.links[link].flight_head
    node = s.links[link].to
    # The packet behind it, and the one that begins to leave next: their times are wanted too.
    if s.packets[packet].next >= 0:
        prefetch(s.packets, s.packets[packet].next)
    if s.links[link].low_head >= 0:
        prefetch(s.packets, s.links[link].low_head)
    if node >= s.run[0].hosts:
        if s.run[0].adaptive == 0:
            port = out_port(s, node, packet, 0)
            prefetch(s.links, port)
            prefetch(s.counters, port)
    else:
        flow = s.packets[packet].flow
        prefetch(s.flows, flow)
        prefetch(s.links, node)
        prefetch(s.answers, packet)
    if at + 1 < s.run[0].drain_count:
        prefetch(s.packets, s.links[s.drain[at + 1] & LINK_MASK].flight_head)


@inner
def fire(s: State, on_loss: React, choose: Choose, learn: Learn, what: int, now: int) -> None:
    """Let a timer do what it is for."""
    kind, number = what >> 32, what & 0xFFFFFFFF
    if kind == START_FLOW:
        start_flow(s, choose, number, now)
    elif kind == RETRANSMIT:
        time_out(s, on_loss, choose, learn, number, now)
    elif kind == PACE:
        serve_host(s, choose, number, now)
        pace(s, choose, number, now)
    elif kind == TAPER:
        adapt_to_taper(s, number, now)
    else:
        packet = change(s, number, now)
        while packet >= 0:
            following = s.packets[packet].next
            free_packet(s, packet)
            packet = following


def advance(s: State, on_ack: React, on_loss: React, choose: Choose, learn: Learn, events: int) -> int:
    """Run for about that many events and return why it came back."""
    run = s.run
    until = run[0].events + events
    while run[0].unfinished > 0:
        if run[0].free_packets < SPARE_PACKETS:
            return POOL_LOW
        if run[0].events >= until:
            return PAUSED
        timer = next_timer(run, s.heap)
        arrival = next_arrival(s, timer)
        run[0].events += 1
        if timer <= arrival:
            if timer == NEVER:
                return STUCK
            run[0].clock = timer
            fire(s, on_loss, choose, learn, take_timer(run, s.heap), timer)
        else:
            link = s.drain[run[0].drain_at] & LINK_MASK
            ahead = run[0].drain_at + 1
            run[0].drain_at = ahead
            look_ahead(s, ahead)
            run[0].hops += 1
            run[0].clock = arrival
            deliver(s, on_ack, on_loss, choose, learn, link, arrival)
    return DONE_ALL


@cache
def load() -> Any:
    """Return the compiled loop, from the cache or (once for a version of these sources) from the compiler."""
    function = types.FunctionType
    signature = (
        numba.typeof(blank()),
        function(REACT),
        function(REACT),
        function(CHOOSE),
        function(LEARN),
        types.int64,
    )
    with first_time("compiling the packet simulator, once for this version; about a minute"):
        return compile_now(signature, advance)


def step(loop: Any, state: State, transport: Transport, balancer: Balancer, events: int) -> int:
    """Advance a run by about ``events`` events; return DONE_ALL, PAUSED, POOL_LOW or STUCK."""
    return int(loop(state, transport.on_ack, transport.on_loss, balancer.choose, balancer.learn, events))
