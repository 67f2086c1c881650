"""What a sender knows of the packets that it has sent: out, thought lost, or arrived."""

from __future__ import annotations

from orchestrator_network.packet.bits import clear_bit, has_bit, lowest_bit, set_bit
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.features import is_ordered, is_sleek
from orchestrator_network.packet.layout import EMPTY, IN_FLIGHT
from orchestrator_network.packet.state import State


@inlined
def size_of(s: State, flow: int, psn: int) -> int:
    """Return the wire bytes of a packet of a flow."""
    return s.flows[flow].last_size if psn == s.flows[flow].packets - 1 else s.run[0].full_bytes


@inlined
def cover(s: State, flow: int, psn: int) -> None:
    """Note that a packet has arrived, whatever the sender thought of it."""
    ring, size = s.flows[flow].ring, s.flows[flow].ring_size
    if has_bit(s.lost, ring, size, psn):
        clear_bit(s.lost, ring, size, psn)
        s.flows[flow].lost -= 1
        s.window[flow, IN_FLIGHT] += size_of(s, flow, psn)
    if is_ordered(s):  # what is in flight can be told packet by packet where none arrives out of order
        s.window[flow, IN_FLIGHT] -= size_of(s, flow, psn)
    clear_bit(s.out, ring, size, psn)


@inlined
def lose(s: State, flow: int, psn: int) -> None:
    """Put a packet that was in flight among those to send again."""
    ring, size = s.flows[flow].ring, s.flows[flow].ring_size
    set_bit(s.lost, ring, size, psn)
    s.flows[flow].lost_from = psn if s.flows[flow].lost == 0 else min(s.flows[flow].lost_from, psn)
    s.flows[flow].lost += 1


@inlined
def is_flying(s: State, flow: int, psn: int) -> bool:
    """Tell whether a packet is out and not thought lost."""
    ring, size = s.flows[flow].ring, s.flows[flow].ring_size
    if psn < s.flows[flow].lowest:
        return False
    return has_bit(s.out, ring, size, psn) and not has_bit(s.lost, ring, size, psn)


@inner
def oldest_out(s: State, flow: int) -> int:
    """Return the packet that was sent longest ago of those in flight, lowest first among equals, or EMPTY.

    Packets that a timer has left to SLEEK are not asked for again.
    """
    ring, size = s.flows[flow].ring, s.flows[flow].ring_size
    oldest, when = EMPTY, 0
    psn = s.flows[flow].lowest & ~63
    while psn < s.flows[flow].next_psn:
        word = (ring + (psn & (size - 1))) >> 6
        bits = s.out[word] & ~s.lost[word]
        if is_sleek(s):
            bits &= ~s.untimed[word]
        while bits != 0:
            bit = lowest_bit(bits)
            bits &= bits - 1
            sent = s.sent_at[(word << 6) + bit]
            if oldest == EMPTY or sent < when:
                oldest, when = psn + bit, sent
        psn += 64
    return oldest
