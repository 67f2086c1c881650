"""Output ports of switches: data and control classes, trimming, ECN at dequeue.

Data that finds the port full is trimmed to its header, or the newest data in the port is trimmed in its place, by a
fair coin; headers and control go first (htsim's composite queue serves them 100000:1, so strictly). By the
specification of Ultra Ethernet it is the arrival that is trimmed, and headers and control have a share of the port
only. A mark is decided when a packet has left, on the data that stays behind.

Nothing here is an event of its own: a port is brought up to date when somebody looks at it, and everything that
happened since then follows from what arrived. What has the same time as an arrival has happened before it.
"""

from __future__ import annotations

from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.features import (
    has_errors,
    has_telemetry,
    is_lossless,
    is_paced,
    is_secure,
    is_weighted,
)
from orchestrator_network.packet.kinds import is_data
from orchestrator_network.packet.layout import EMPTY, LAST_HOP, MARKED, TRIMMED
from orchestrator_network.packet.lossless import (
    append_to_channel,
    first_gate,
    gate_of,
    is_open,
    leaving,
    let_go,
    next_gate,
    note_wait,
    take_from_channels,
    watch,
)
from orchestrator_network.packet.noise import cross, draw_port
from orchestrator_network.packet.state import State
from orchestrator_network.packet.telemetry import note, swap_notes

_COIN = 1 << 30  # half of the 31 bits of a draw


@inlined
def begin(s: State, link: int, packet: int, start: int) -> None:
    """Let a packet begin to leave at ``start``; from here on it is in flight."""
    size = s.packets[packet].size
    done = start + ((size * s.links[link].ps_per_byte + 128) >> 8)
    if has_errors(s):
        done = cross(s, link, packet, done)
    s.packets[packet].due = done + s.links[link].latency
    s.packets[packet].next = EMPTY
    s.links[link].done = done
    s.counters[link].sent_bytes += size
    if s.links[link].flight_head < 0:
        s.links[link].flight_head = packet
    else:
        s.packets[s.links[link].flight_tail].next = packet
    s.links[link].flight_tail = packet
    if is_lossless(s):
        leaving(s, link, packet, done)
    if is_paced(s) and link < s.run[0].hosts:
        watch(s, link, done)


@inlined
def take_low(s: State, link: int, now: int) -> int:
    """Remove the first data packet and return it, or EMPTY if there is none or the other end takes none."""
    if is_lossless(s):
        return take_from_channels(s, link, now)
    packet = s.links[link].low_head
    if packet >= 0:
        s.links[link].low_head = s.packets[packet].next
    return packet


@inlined
def take_high(s: State, link: int) -> int:
    """Remove the first packet of the high class and return it, or EMPTY."""
    packet = s.links[link].high_head
    if packet >= 0:
        s.links[link].high_head = s.packets[packet].next
    return packet


@inlined
def put_high(s: State, link: int, packet: int) -> None:
    """Append a packet to the high class."""
    s.packets[packet].next = EMPTY
    if s.links[link].high_head < 0:
        s.links[link].high_head = packet
    else:
        s.packets[s.links[link].high_tail].next = packet
    s.links[link].high_tail = packet
    s.links[link].high_bytes += s.packets[packet].size


@inner
def swap(s: State, one: int, other: int) -> None:
    """Exchange what two packet rows carry, but not their places in lists."""
    a, b = s.packets[one], s.packets[other]
    a.flow, b.flow = b.flow, a.flow
    a.psn, b.psn = b.psn, a.psn
    a.target, b.target = b.target, a.target
    a.size, b.size = b.size, a.size
    a.entropy, b.entropy = b.entropy, a.entropy
    a.kind, b.kind = b.kind, a.kind
    a.via, b.via = b.via, a.via
    s.answers[one].base, s.answers[other].base = s.answers[other].base, s.answers[one].base
    if is_secure(s):
        s.answers[one].received, s.answers[other].received = s.answers[other].received, s.answers[one].received
    if has_telemetry(s):
        swap_notes(s, one, other)


@inner
def first_low(s: State, link: int) -> int:
    """Return the data that would leave next, or EMPTY if there is none or the other end takes none."""
    if not is_lossless(s):
        return s.links[link].low_head
    gate = next_gate(s, link)
    return s.gates[gate].low_head if gate >= 0 else EMPTY


@inner
def is_turn_of_data(s: State, link: int) -> bool:
    """Tell whether data goes first where both classes wait: the high one has had its share (deficit round robin)."""
    high, low = s.links[link].high_head, first_low(s, link)
    if high < 0 or low < 0:
        s.counters[link].owed = 0
        return False
    if s.counters[link].owed > 0:
        s.counters[link].owed -= s.packets[low].size * s.run[0].high_share
        return True
    s.counters[link].owed += s.packets[high].size * (256 - s.run[0].high_share)
    return False


@inlined
def has_left(s: State, link: int, packet: int, done: int) -> None:
    """Take data that has left a port off what it holds, and mark it for what stays behind."""
    size = s.packets[packet].size
    behind = s.links[link].low_bytes - size
    s.links[link].low_bytes = behind
    s.counters[link].byte_ps += size * done
    if behind > s.links[link].mark_from:
        span = s.links[link].mark_all - s.links[link].mark_from
        if behind > s.links[link].mark_all or draw_port(s, link) * span < ((behind - s.links[link].mark_from) << 31):
            s.packets[packet].kind |= MARKED
            s.counters[link].marks += 1
    if has_telemetry(s):
        note(s, link, packet, done, behind)
    if is_lossless(s):
        let_go(s, packet, done)


@inlined
def take_next(s: State, link: int, now: int) -> int:
    """Remove the packet whose turn it is and return it, or EMPTY."""
    packet = EMPTY
    if is_weighted(s) and is_turn_of_data(s, link):
        packet = take_low(s, link, now)
    if packet < 0:
        packet = take_high(s, link)
    if packet < 0:
        packet = take_low(s, link, now)
    return packet


@inlined
def serve(s: State, link: int, now: int) -> None:
    """Bring a port of a switch up to date: what has left by ``now``, and what began to leave after it."""
    while 0 <= s.links[link].done <= now:
        done = s.links[link].done
        packet = s.links[link].flight_tail
        if is_data(s, packet):
            has_left(s, link, packet, done)
        else:
            s.links[link].high_bytes -= s.packets[packet].size
        packet = take_next(s, link, done)
        if packet >= 0:
            begin(s, link, packet, done)
        else:
            s.links[link].done = EMPTY


@inner
def catch_up(s: State, link: int, now: int) -> None:
    """As `serve`, where it is called so rarely that another copy of it would only take time to compile."""
    serve(s, link, now)


@inlined
def arrive(s: State, link: int, packet: int, now: int) -> int:
    """Put a packet into a port that is up to date; return a packet that was dropped, or EMPTY."""
    if s.links[link].limit < 0:
        s.counters[link].drops += 1
        flow = s.packets[packet].flow
        s.astray[flow] = max(s.astray[flow], now - s.changes[s.counters[link].outage].at)
        return packet
    if is_data(s, packet):
        if is_lossless(s) or s.links[link].low_bytes + s.packets[packet].size <= s.links[link].limit:
            put_low(s, link, packet, now)
            return EMPTY
        packet = give_way(s, link, packet, now)
        if s.run[0].trimming == 0:
            s.counters[link].drops += 1
            return packet
        s.counters[link].trims += 1
        s.packets[packet].size = s.run[0].trimmed_bytes
        s.packets[packet].kind |= TRIMMED
        if s.links[link].to < s.run[0].hosts:
            s.packets[packet].kind |= LAST_HOP
    if s.links[link].high_bytes + s.packets[packet].size > 2 * s.links[link].limit:
        s.counters[link].drops += 1
        return packet
    if s.links[link].done < 0:
        s.links[link].high_bytes += s.packets[packet].size
        begin(s, link, packet, now)
    else:
        put_high(s, link, packet)
    return EMPTY


@inlined
def put_low(s: State, link: int, packet: int, now: int) -> None:
    """Append data to a port that has room for it."""
    size = s.packets[packet].size
    held = s.links[link].low_bytes + size
    s.links[link].low_bytes = held
    s.counters[link].byte_ps -= size * now
    s.counters[link].max_bytes = max(s.counters[link].max_bytes, held)
    gate = gate_of(s, link, packet) if is_lossless(s) else 0
    waiting = s.gates[gate].low_head if is_lossless(s) else s.links[link].low_head
    if s.links[link].done < 0 and waiting < 0:  # else it waits for the other end
        if is_open(s, gate):
            begin(s, link, packet, now)
            return
        note_wait(s, link, gate, now)
    if is_lossless(s):
        append_to_channel(s, gate, packet)
        return
    s.packets[packet].next = EMPTY
    if s.links[link].low_head < 0:
        s.links[link].low_head = packet
    else:
        s.packets[s.links[link].low_tail].next = packet
    s.links[link].low_tail = packet


@inner
def give_way(s: State, link: int, packet: int, now: int) -> int:
    """Decide who loses its payload where data finds no room, and return its row: the arrival, or the newest in place."""
    if is_weighted(s):  # by the specification it is the arrival
        return packet
    size = s.packets[packet].size
    newest = s.links[link].low_tail if s.links[link].low_head >= 0 else EMPTY
    fair = draw_port(s, link) < _COIN
    if fair and newest >= 0:
        less = s.packets[newest].size
        if s.links[link].low_bytes - less + size <= s.links[link].limit:
            # The row keeps its place in the queue and takes the arrival's content, the arrival's row takes its.
            s.links[link].low_bytes += size - less
            s.counters[link].byte_ps += (less - size) * now
            swap(s, newest, packet)
    return packet


@inner
def change(s: State, number: int, now: int) -> int:
    """Give a port another speed, or take it down; return the first of the packets that it loses, or EMPTY.

    What has begun to leave arrives, at the speed at which it began.
    """
    link = s.changes[number].link
    catch_up(s, link, now)
    was_up = s.links[link].limit >= 0
    s.links[link].ps_per_byte = s.changes[number].ps_per_byte
    s.links[link].limit = s.changes[number].limit
    if s.links[link].limit >= 0:
        return EMPTY
    if was_up:
        s.counters[link].outage = number
    gone = lose(s, link, s.links[link].high_head, EMPTY, now)
    s.links[link].high_head = EMPTY
    gone = lose(s, link, s.links[link].low_head, gone, now)
    s.links[link].low_head = EMPTY
    if is_lossless(s):
        first = first_gate(s, link)
        for gate in range(first, first + s.run[0].channels):
            gone = lose(s, link, s.gates[gate].low_head, gone, now)
            s.gates[gate].low_head = EMPTY
    return gone


@inner
def lose(s: State, link: int, packet: int, gone: int, now: int) -> int:
    """Take a list of packets off what a port holds and put it before ``gone``; return the first of all."""
    while packet >= 0:
        following = s.packets[packet].next
        size = s.packets[packet].size
        if is_data(s, packet):
            s.links[link].low_bytes -= size
            s.counters[link].byte_ps += size * now
        else:
            s.links[link].high_bytes -= size
        s.counters[link].drops += 1
        s.packets[packet].next = gone
        gone = packet
        packet = following
    return gone


@inlined
def go_on(s: State, link: int, now: int) -> int:
    """Let data leave an idle port whose other end takes data again; return the packet, or EMPTY."""
    if s.links[link].done >= 0:
        return EMPTY
    packet = take_low(s, link, now)
    if packet >= 0:
        begin(s, link, packet, now)
    return packet
