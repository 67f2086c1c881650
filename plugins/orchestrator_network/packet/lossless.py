"""Links that never drop: priority flow control (PFC) and credit, for data; control packets have a class of their own.

A switch counts, for every link that leads into it, the bytes of data that came over that link and have not left. With
PFC it tells the other end to stop above ``xoff`` and to go on at ``xon``; the word travels for the latency of the link,
and what begins to leave meanwhile finds room above ``xoff`` (twice the latency at full speed and two packets). With
credit the other end knows how much room is left: it sends when a full packet fits, and what leaves the switch comes
back as credit one latency later. Both have the same memory, so they can be compared.

When data leaves a port matters here at once and not only when somebody looks, so every departure is an event: in the
calendar it has the number of the link plus the number of links. It is so at hosts whose senders keep a pace, too: one
that is held back has to be woken in time, and not when somebody looks.
"""

from __future__ import annotations

from orchestrator_network.packet.calendar import schedule, set_timer
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.features import is_lossless
from orchestrator_network.packet.kinds import is_data
from orchestrator_network.packet.layout import BY_CREDIT, BY_PAUSE, CREDIT_BACK, GATE_WORD
from orchestrator_network.packet.state import State


@inlined
def is_open(s: State, link: int) -> bool:
    """Tell whether the other end of a link takes data."""
    if not is_lossless(s):
        return True
    return s.gates[link].closed == 0 and s.gates[link].credit >= s.run[0].full_bytes


@inner
def watch(s: State, link: int, done: int) -> None:
    """Let the departure of the packet in service be an event."""
    if s.gates[link].watched == 0:
        s.gates[link].watched = 1
        schedule(s.run, s.buckets, s.groups, s.chain, len(s.links) + link, done)


@inner
def leaving(s: State, link: int, packet: int, done: int) -> None:
    """Note that a packet begins to leave a port, and see to it that somebody looks when it has."""
    if s.run[0].lossless == BY_CREDIT and is_data(s, packet) and s.links[link].to >= s.run[0].hosts:
        s.gates[link].credit -= s.packets[packet].size
    if link >= s.run[0].hosts:
        watch(s, link, done)


@inner
def note_wait(s: State, link: int, now: int) -> None:
    """Begin to count how long data waits for the other end."""
    if s.gates[link].waiting == 0:
        s.gates[link].waiting = 1
        s.gates[link].since = now


@inner
def note_end_of_wait(s: State, link: int, now: int) -> None:
    """Stop counting how long data waits."""
    if s.gates[link].waiting != 0:
        s.gates[link].waiting = 0
        s.counters[link].paused_ps += now - s.gates[link].since


@inner
def admit(s: State, link: int, packet: int, now: int) -> bool:
    """Count data that came over a link into a switch; False if there is no room, which must not happen."""
    if not is_data(s, packet):
        return True
    held = s.gates[link].held + s.packets[packet].size
    if held > s.gates[link].room:
        s.counters[link].drops += 1
        return False
    s.gates[link].held = held
    s.gates[link].most = max(s.gates[link].most, held)
    s.answers[packet].cumulative = link
    if s.run[0].lossless == BY_PAUSE and held > s.run[0].xoff and s.gates[link].stopped == 0:
        s.gates[link].stopped = 1
        s.gates[link].pauses += 1
        set_timer(s.run, s.heap, now + s.links[link].latency, GATE_WORD << 32 | link << 1 | 1)
    return True


@inner
def give_back(s: State, link: int, packet: int, now: int) -> None:
    """Return the credit of data that did not arrive whole at a switch."""
    if s.run[0].lossless == BY_CREDIT and is_data(s, packet) and s.links[link].to >= s.run[0].hosts:
        set_timer(s.run, s.heap, now + s.links[link].latency, (CREDIT_BACK + link) << 32 | s.packets[packet].size)


@inner
def let_go(s: State, packet: int, now: int) -> None:
    """Take data that left a switch, or was lost there, off the account of the link over which it came."""
    if not is_data(s, packet):
        return
    link = s.answers[packet].cumulative
    size = s.packets[packet].size
    s.gates[link].held -= size
    due = now + s.links[link].latency
    if s.run[0].lossless == BY_CREDIT:
        set_timer(s.run, s.heap, due, (CREDIT_BACK + link) << 32 | size)
    elif s.gates[link].stopped != 0 and s.gates[link].held <= s.run[0].xon:
        s.gates[link].stopped = 0
        set_timer(s.run, s.heap, due, GATE_WORD << 32 | link << 1)
