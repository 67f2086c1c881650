"""Links that never drop: priority flow control (PFC) and credit, for data; control packets have a class of their own.

A switch counts, for every link that leads into it, the bytes of data that came over that link and have not left. With
PFC it tells the other end to stop above ``xoff`` and to go on at ``xon``; the word travels for the latency of the link,
and what begins to leave meanwhile finds room above ``xoff`` (twice the latency at full speed and two packets). With
credit the other end knows how much room is left: it sends when a full packet fits, and what leaves the switch comes
back as credit one latency later. Both have the same memory, so they can be compared.

A link may have several virtual channels (see `channels`): each has its queue in the port, its memory behind the link and its
own word of stop, and a port asks them in turns. A switch decides in which channel a packet goes on.

When data leaves a port matters here at once and not only when somebody looks, so every departure is an event: in the
calendar it has the number of the link plus the number of links. It is so at hosts whose senders keep a pace, too: one
that is held back has to be woken in time, and not when somebody looks.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.calendar import schedule, set_timer
from orchestrator_network.packet.channels import next_channel
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.features import is_lossless
from orchestrator_network.packet.kinds import is_data
from orchestrator_network.packet.layout import (
    BY_CREDIT,
    BY_PAUSE,
    CHANNEL_SHIFT,
    CREDIT_BACK,
    EMPTY,
    GATE_WORD,
    MOST_CHANNELS,
)
from orchestrator_network.packet.state import State


@inlined
def first_gate(s: State, link: int) -> int:
    """Return the row of the first channel of a link, which is the only one at hosts."""
    return link * s.run[0].channels


@inlined
def gate_of(s: State, link: int, packet: int) -> int:
    """Return the row of the channel in which a packet is, or waits to be, on a link."""
    return first_gate(s, link) + ((np.int64(s.packets[packet].kind) >> CHANNEL_SHIFT) & (MOST_CHANNELS - 1))


@inlined
def is_open(s: State, gate: int) -> bool:
    """Tell whether the other end of a channel takes data."""
    if not is_lossless(s):
        return True
    return s.gates[gate].closed == 0 and s.gates[gate].credit >= s.run[0].full_bytes


@inner
def enter_channel(s: State, link: int, port: int, packet: int) -> None:
    """Let a packet of data that came over a link go on in the channel that the ranks of both ask for."""
    if s.run[0].channels == 1 or not is_data(s, packet):
        return
    kind = np.int64(s.packets[packet].kind)
    channel = next_channel(kind >> CHANNEL_SHIFT, s.ranks[link], s.ranks[port])
    s.packets[packet].kind = (kind & ((1 << CHANNEL_SHIFT) - 1)) | channel << CHANNEL_SHIFT


@inner
def next_gate(s: State, link: int) -> int:
    """Return the channel whose turn it is of those that have data and may send, or EMPTY."""
    first, channels = first_gate(s, link), s.run[0].channels
    for i in range(channels):
        gate = first + (s.gates[first].turn + i) % channels
        if s.gates[gate].low_head >= 0 and is_open(s, gate):
            return gate
    return EMPTY


@inner
def take_from_channels(s: State, link: int, now: int) -> int:
    """Remove the data whose turn it is and return it, or EMPTY; note what waits for the other end."""
    first, channels = first_gate(s, link), s.run[0].channels
    for gate in range(first, first + channels):
        if s.gates[gate].low_head >= 0 and not is_open(s, gate):
            note_wait(s, link, gate, now)
    gate = next_gate(s, link)
    if gate < 0:
        return EMPTY
    packet = s.gates[gate].low_head
    s.gates[gate].low_head = s.packets[packet].next
    s.gates[first].turn = (gate - first + 1) % channels
    return packet


@inner
def append_to_channel(s: State, gate: int, packet: int) -> None:
    """Let a packet wait for its channel."""
    s.packets[packet].next = EMPTY
    if s.gates[gate].low_head < 0:
        s.gates[gate].low_head = packet
    else:
        s.packets[s.gates[gate].low_tail].next = packet
    s.gates[gate].low_tail = packet


@inner
def watch(s: State, link: int, done: int) -> None:
    """Let the departure of the packet in service be an event."""
    gate = first_gate(s, link)
    if s.gates[gate].watched == 0:
        s.gates[gate].watched = 1
        schedule(s.run, s.buckets, s.groups, s.chain, len(s.links) + link, done)


@inner
def leaving(s: State, link: int, packet: int, done: int) -> None:
    """Note that a packet begins to leave a port, and see to it that somebody looks when it has."""
    if s.run[0].lossless == BY_CREDIT and is_data(s, packet) and s.links[link].to >= s.run[0].hosts:
        s.gates[gate_of(s, link, packet)].credit -= s.packets[packet].size
    if link >= s.run[0].hosts:
        watch(s, link, done)


@inner
def note_wait(s: State, link: int, gate: int, now: int) -> None:
    """Begin to count how long data of a channel waits for the other end."""
    if s.gates[gate].waiting == 0:
        s.gates[gate].waiting = 1
        first = first_gate(s, link)
        if s.gates[first].blocked == 0:
            s.gates[first].since = now
        s.gates[first].blocked += 1


@inner
def note_end_of_wait(s: State, link: int, gate: int, now: int) -> None:
    """Stop counting how long data of a channel waits; what counts for a link is the time in which any waits."""
    if s.gates[gate].waiting != 0:
        s.gates[gate].waiting = 0
        first = first_gate(s, link)
        s.gates[first].blocked -= 1
        if s.gates[first].blocked == 0:
            s.counters[link].paused_ps += now - s.gates[first].since


@inner
def admit(s: State, link: int, packet: int, now: int) -> bool:
    """Count data that came over a link into a switch; False if there is no room, which must not happen."""
    if not is_data(s, packet):
        return True
    gate = gate_of(s, link, packet)
    held = s.gates[gate].held + s.packets[packet].size
    if held > s.gates[gate].room:
        s.counters[link].drops += 1
        return False
    s.gates[gate].held = held
    s.gates[gate].most = max(s.gates[gate].most, held)
    s.answers[packet].cumulative = gate
    if s.run[0].lossless == BY_PAUSE and held > s.run[0].xoff and s.gates[gate].stopped == 0:
        s.gates[gate].stopped = 1
        s.gates[gate].pauses += 1
        set_timer(s.run, s.heap, now + s.links[link].latency, GATE_WORD << 32 | gate << 1 | 1)
    return True


@inner
def give_back(s: State, link: int, packet: int, now: int) -> None:
    """Return the credit of data that did not arrive whole at a switch."""
    if s.run[0].lossless == BY_CREDIT and is_data(s, packet) and s.links[link].to >= s.run[0].hosts:
        gate = gate_of(s, link, packet)
        set_timer(s.run, s.heap, now + s.links[link].latency, (CREDIT_BACK + gate) << 32 | s.packets[packet].size)


@inner
def let_go(s: State, packet: int, now: int) -> None:
    """Take data that left a switch, or was lost there, off the account of the link over which it came."""
    if not is_data(s, packet):
        return
    gate = s.answers[packet].cumulative
    size = s.packets[packet].size
    s.gates[gate].held -= size
    due = now + s.links[gate // s.run[0].channels].latency
    if s.run[0].lossless == BY_CREDIT:
        set_timer(s.run, s.heap, due, (CREDIT_BACK + gate) << 32 | size)
    elif s.gates[gate].stopped != 0 and s.gates[gate].held <= s.run[0].xon:
        s.gates[gate].stopped = 0
        set_timer(s.run, s.heap, due, GATE_WORD << 32 | gate << 1)
