"""The event loop: one event for every packet that arrives at the end of a link, and the timers between them.

At one time packets that have left a port come first, then timers by number, then arrivals by link.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
from numba import types

from orchestrator_network.packet.adaptive import adapt, emptiest
from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.calendar import (
    ARRIVAL,
    LINK_BITS,
    LINK_MASK,
    next_timer,
    refill,
    schedule,
    take_timer,
)
from orchestrator_network.packet.compiled import CHOOSE, LEARN, REACT, compile_now, first_time, inlined, inner
from orchestrator_network.packet.credit import adapt_to_taper, miss_credit, pace, take_pull, want
from orchestrator_network.packet.detours import column_of, drawn_of, steer
from orchestrator_network.packet.features import has_detours, has_errors, has_more, is_lossless
from orchestrator_network.packet.kinds import is_data
from orchestrator_network.packet.layout import (
    ACK,
    CHANGE,
    COME_BACK,
    CORRUPT,
    CREDIT_BACK,
    DATA,
    EMPTY,
    GATE_WORD,
    KIND_MASK,
    NACK,
    NEVER,
    NO_CREDIT,
    PACE,
    PULL,
    RETRANSMIT,
    START_FLOW,
    TAPER,
    TICK,
    WAKE,
)
from orchestrator_network.packet.lossless import (
    admit,
    enter_channel,
    first_gate,
    give_back,
    let_go,
    note_end_of_wait,
    watch,
)
from orchestrator_network.packet.nic import Choose, free_packet, kick, serve_host
from orchestrator_network.packet.ports import arrive, catch_up, change, go_on, serve
from orchestrator_network.packet.prefetch import prefetch, prefetch_from
from orchestrator_network.packet.receiver import discard, receive
from orchestrator_network.packet.sender import Learn, React, acknowledge, reject, start_flow, tick, time_out, wake
from orchestrator_network.packet.sleek import probe
from orchestrator_network.packet.state import State, blank
from orchestrator_network.packet.transports.base import Transport

# Why the loop came back.
DONE_ALL, PAUSED, POOL_LOW, STUCK, HEAP_LOW, SAMPLE = 0, 1, 2, 3, 4, 5
LINE = 64  # bytes of a cache line


@inlined
def out_port(s: State, node: int, packet: int, now: int) -> int:
    """Return the port of a switch that a packet takes: the flow and its entropy value decide among equals."""
    switch = node - s.run[0].hosts
    entry = s.routes[switch, column_of(s, packet)]
    count = entry & 0xFFF
    if count == 0:
        return s.down[s.packets[packet].target]
    first = entry >> 12
    if count == 1:
        return s.ports[first]
    if s.run[0].adaptive != 0 and is_data(s, packet):
        return adapt(s, switch, first, count, s.packets[packet].flow, now)
    port = s.ports[first + ((drawn_of(s, packet, s.salt[switch]) * count) >> 32)]
    # Control keeps to the flow's path, which an adaptive switch leaves where its own port is down.
    if s.run[0].adaptive != 0 and s.links[port].limit < 0:
        return s.ports[emptiest(s, first, count, now)]
    return port


@inlined
def forward(s: State, link: int, node: int, packet: int, now: int) -> None:
    """Take a packet that came over a link at a switch."""
    if has_detours(s):
        steer(s, link, node, packet, now)
    port = out_port(s, node, packet, now)
    serve(s, port, now)
    resting = s.links[port].flight_head < 0
    if is_lossless(s):
        if not admit(s, link, packet, now):
            discard(s, packet, now)
            return
        enter_channel(s, link, port, packet)
    dropped = arrive(s, port, packet, now)
    if dropped != EMPTY:
        if is_lossless(s):
            let_go(s, dropped, now)
        discard(s, dropped, now)
    if resting and s.links[port].flight_head >= 0:
        schedule(s.run, s.buckets, s.groups, s.chain, port, s.packets[s.links[port].flight_head].due)


@inner
def lose_on_the_way(s: State, link: int, packet: int, now: int) -> None:
    """Discard a packet that arrives with wrong bits; the room that was kept for it is free again."""
    s.counters[link].drops += 1
    if is_lossless(s):
        give_back(s, link, packet, now)
    discard(s, packet, now)


@inlined
def deliver(s: State, on_ack: React, on_loss: React, choose: Choose, learn: Learn, link: int, now: int) -> None:
    """Let the first packet in flight on a link arrive."""
    hosts = s.run[0].hosts
    if link < hosts:
        s.run[0].end_hops += 1
        serve_host(s, choose, link, now)
    else:
        serve(s, link, now)
    packet = s.links[link].flight_head
    following = s.packets[packet].next
    s.links[link].flight_head = following
    if following >= 0:
        schedule(s.run, s.buckets, s.groups, s.chain, link, s.packets[following].due)
    if has_errors(s) and s.packets[packet].kind & CORRUPT != 0:
        lose_on_the_way(s, link, packet, now)
        return
    node = s.links[link].to
    if node >= hosts:
        forward(s, link, node, packet, now)
        return
    s.run[0].end_hops += 1
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
def is_next_an_arrival(s: State, timer: int) -> bool:
    """Tell whether the next entry of the calendar, if there is one, is an arrival and no departure."""
    return not has_more(s) or timer == NEVER or s.drain[s.run[0].drain_at] & ARRIVAL != 0


@inner
def look_at_flow(s: State, flow: int) -> None:
    """Ask for the rows of a flow, two cache lines each where they are as long."""
    prefetch(s.flows, flow)
    prefetch_from(s.flows, flow, LINE)
    window, paths = flow * s.window.shape[1], flow * s.paths.shape[1]
    prefetch(s.window, window)
    prefetch_from(s.window, window, LINE)
    prefetch(s.paths, paths)
    prefetch_from(s.paths, paths, LINE)


@inlined
def look_ahead(s: State, at: int) -> None:
    """Ask for what the next two arrivals will touch: which link and packet is certain, the bucket is sorted."""
    if at >= s.run[0].drain_count:
        return
    link = s.drain[at] & LINK_MASK
    if has_more(s) and link >= len(s.links):
        return
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
        prefetch(s.links, node)
        prefetch(s.answers, packet)
        look_at_flow(s, s.packets[packet].flow)
    if link < s.run[0].hosts and s.hosts[link].ring_head >= 0:
        look_at_flow(s, s.hosts[link].ring_head)
    if at + 1 < s.run[0].drain_count:
        link = s.drain[at + 1] & LINK_MASK
        if not has_more(s) or link < len(s.links):
            prefetch(s.packets, s.links[link].flight_head)


@inner
def change_link(s: State, choose: Choose, number: int, now: int) -> None:
    """Give a link another speed, or take it down with what waits for it; a host keeps what it has until its link is back."""
    link = s.changes[number].link
    if link < s.run[0].hosts:
        serve_host(s, choose, link, now)
        s.links[link].ps_per_byte = s.changes[number].ps_per_byte
        s.links[link].limit = s.changes[number].limit
        kick(s, choose, link, now)
        return
    packet = change(s, number, now)
    while packet >= 0:
        following = s.packets[packet].next
        if is_lossless(s):
            let_go(s, packet, now)
        discard(s, packet, now)
        packet = following


@inner
def fire(s: State, on_loss: React, on_tick: React, choose: Choose, learn: Learn, what: int, now: int) -> None:
    """Let a timer do what it is for."""
    kind, number = what >> 32, what & 0xFFFFFFFF
    if kind == PACE:
        serve_host(s, choose, number, now)
        pace(s, choose, number, now)
    elif kind == TAPER:
        adapt_to_taper(s, number, now)
    elif kind == CHANGE:
        change_link(s, choose, number, now)
    elif kind == COME_BACK:
        s.run[0].until = 0
    elif kind == GATE_WORD:
        move_gate(s, choose, number >> 1, number & 1, 0, now)
    elif kind >= CREDIT_BACK:
        move_gate(s, choose, kind - CREDIT_BACK, 0, number, now)
    else:
        fire_of_flow(s, on_loss, on_tick, choose, learn, kind, number, now)


@inner
def fire_of_flow(
    s: State, on_loss: React, on_tick: React, choose: Choose, learn: Learn, kind: int, flow: int, now: int
) -> None:
    """Let a timer of a flow do what it is for."""
    if kind == START_FLOW:
        start_flow(s, choose, flow, now)
    elif kind == RETRANSMIT:
        time_out(s, on_loss, choose, learn, flow, now)
    elif kind == WAKE:
        wake(s, choose, flow, now)
    elif kind == TICK:
        tick(s, on_tick, choose, flow, now)
    elif kind == NO_CREDIT:
        miss_credit(s, choose, flow, now)
    else:
        probe(s, choose, flow, now)


@inner
def move_gate(s: State, choose: Choose, gate: int, closed: int, credit: int, now: int) -> None:
    """Take the word of the other end of a channel: stop, go on, or room for more bytes."""
    link = gate // s.run[0].channels
    if link < s.run[0].hosts:
        serve_host(s, choose, link, now)
    else:
        catch_up(s, link, now)
    s.gates[gate].closed = closed
    s.gates[gate].credit += credit
    if closed != 0 or s.gates[gate].credit < s.run[0].full_bytes:
        return
    note_end_of_wait(s, link, gate, now)
    if link < s.run[0].hosts:
        kick(s, choose, link, now)
        return
    resting = s.links[link].flight_head < 0
    packet = go_on(s, link, now)
    if packet >= 0 and resting:
        schedule(s.run, s.buckets, s.groups, s.chain, link, s.packets[packet].due)


@inner
def look(s: State, choose: Choose, link: int, now: int) -> None:
    """See what has left a port whose departures are events."""
    s.gates[first_gate(s, link)].watched = 0
    if link < s.run[0].hosts:
        serve_host(s, choose, link, now)
    else:
        catch_up(s, link, now)
    if s.links[link].done >= 0:
        watch(s, link, s.links[link].done)


def advance(s: State, on_ack: React, on_loss: React, on_tick: React, choose: Choose, learn: Learn, events: int) -> int:
    """Run for about that many events, to the time `pause_at`, or to what somebody watches, and return why it came back."""
    run = s.run
    run[0].until = run[0].events + events
    while run[0].unfinished > 0:
        if run[0].free_packets < run[0].spare_packets:
            return POOL_LOW
        if 2 * run[0].timers > len(s.heap):
            return HEAP_LOW
        if run[0].events >= run[0].until:
            return PAUSED
        timer = next_timer(run, s.heap)
        arrival = next_arrival(s, timer)
        if arrival >= run[0].pause_at and timer >= run[0].pause_at:
            return SAMPLE
        run[0].events += 1
        if timer < arrival or (timer == arrival and is_next_an_arrival(s, timer)):
            if timer == NEVER:
                return STUCK
            run[0].clock = timer
            fire(s, on_loss, on_tick, choose, learn, take_timer(run, s.heap), timer)
        else:
            link = s.drain[run[0].drain_at] & LINK_MASK
            ahead = run[0].drain_at + 1
            run[0].drain_at = ahead
            look_ahead(s, ahead)
            run[0].clock = arrival
            if has_more(s) and link >= len(s.links):
                look(s, choose, link - len(s.links), arrival)
                continue
            run[0].hops += 1
            deliver(s, on_ack, on_loss, choose, learn, link, arrival)
    return DONE_ALL


@cache
def load(more: bool) -> Any:
    """Return the loop compiled with or without `features`, from the cache or, once for a version, from the compiler."""
    function = types.FunctionType
    signature = (
        numba.typeof(blank(more)),
        function(REACT),
        function(REACT),
        function(REACT),
        function(CHOOSE),
        function(LEARN),
        types.int64,
    )
    kind = "all-features" if more else "windowed"
    with first_time(f"compiling the packet simulator ({kind}), once for this version; about a minute", kind):
        return compile_now(signature, advance)


class _Address(types.WrapperAddressProtocol):
    """A compiled function by its address: numba looks a dispatcher up anew at every call, which takes a millisecond."""

    def __init__(self, function: Any) -> None:
        (self._signature,) = function.nopython_signatures
        compiled = function.get_compile_result(self._signature)
        self._address = int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))

    def __wrapper_address__(self) -> int:
        return self._address

    def signature(self) -> Any:
        return self._signature


@cache
def _address(function: Any) -> _Address:
    return _Address(function)


def step(state: State, transport: Transport, balancer: Balancer, events: int) -> int:
    """Advance a run by about ``events`` events; return DONE_ALL, PAUSED, POOL_LOW, HEAP_LOW, SAMPLE or STUCK."""
    loop = load(len(state.more) > 0)
    functions = (transport.on_ack, transport.on_loss, transport.on_tick, balancer.choose, balancer.learn)
    return int(loop(state, *map(_address, functions), events))
