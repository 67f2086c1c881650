"""The receiving half of the transport (htsim's UEC sink).

An acknowledgement goes out for every 16384 bytes, and at once for a marked packet, a packet that asks for one, the
first packet, the end of a hole that the sender asked about, and a duplicate. It tells the next packet that is missing,
64 packets beyond, and how many bytes have come. A trimmed packet is answered by a negative acknowledgement.
"""

from __future__ import annotations

from orchestrator_network.packet.bits import clear_bit, has_bit, set_bit, window_bits
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.credit import want
from orchestrator_network.packet.features import has_more, is_datagram, is_ordered, is_secure, is_sleek, is_stateless
from orchestrator_network.packet.kinds import is_probe
from orchestrator_network.packet.layout import (
    ACK,
    ASKS,
    DATA,
    KIND_MASK,
    LAST_HOP,
    MARKED,
    NACK,
    PROBE,
    RESENT,
    TRIMMED,
)
from orchestrator_network.packet.nic import Choose, free_packet, send_control
from orchestrator_network.packet.state import State
from orchestrator_network.packet.waiting import release, release_acknowledged


@inlined
def receive(s: State, choose: Choose, host: int, packet: int, now: int) -> None:
    """Take a data packet, whole or trimmed, at a host that is up to date."""
    flow, psn, kind = s.packets[packet].flow, s.packets[packet].psn, s.packets[packet].kind
    ring, ring_size = s.flows[flow].ring, s.flows[flow].ring_size
    expected = s.flows[flow].expected
    if has_more(s) and is_otherwise(s, choose, host, packet, now):
        return
    known = psn < expected or has_bit(s.seen, ring, ring_size, psn)
    marked = kind & MARKED != 0
    if s.run[0].credited != 0:
        note_credit(s, host, packet, known, now)
    reply = ACK | (kind & (RESENT | MARKED))
    report = True
    exact = marked  # whether the bitmap begins at this packet
    if kind & TRIMMED:
        s.flows[flow].trims += 1
        if known and not is_stateless(s):
            reply = ACK | (kind & RESENT)
            exact = False
        else:
            reply = NACK | (kind & (LAST_HOP | MARKED))
    else:
        size = s.packets[packet].size
        s.flows[flow].unreported += size
        s.flows[flow].marks += 1 if marked else 0
        if known:
            s.flows[flow].duplicates += 1
        else:
            if kind & ASKS:
                s.flows[flow].owes_ack = 1
            asked = kind & ASKS != 0
            first = s.flows[flow].got_bytes == 0
            s.flows[flow].got_bytes += size
            expected, filled = take(s, flow, psn, expected, now)
            report = marked or asked or first or filled or s.flows[flow].unreported >= s.run[0].ack_every
            exact = marked or asked
        if report:
            s.flows[flow].unreported = 0
    if report:
        answer(s, choose, host, packet, psn if exact else max(psn - 63, expected + 1), reply, now)
    else:
        free_packet(s, packet)


@inner
def is_otherwise(s: State, choose: Choose, host: int, packet: int, now: int) -> bool:
    """Take a packet where delivery is not what it mostly is; False if the usual rules go for it all the same."""
    flow, psn, kind = s.packets[packet].flow, s.packets[packet].psn, s.packets[packet].kind
    expected = s.flows[flow].expected
    if is_probe(s, packet):
        base = max(psn - 63, expected + 1)
        answer(s, choose, host, packet, base, ACK | PROBE | (kind & MARKED), now)
        return True
    if is_datagram(s):
        s.flows[flow].got_bytes += s.packets[packet].size
        s.flows[flow].marks += 1 if kind & MARKED else 0
        discard(s, packet, now)
        return True
    if is_secure(s) and kind & TRIMMED == 0 and not is_fresh(s, flow, packet):
        free_packet(s, packet)
        return True
    if is_ordered(s) and (psn > expected or (kind & TRIMMED and psn == expected)):
        ask_again(s, choose, host, packet, now)
        return True
    return False


@inner
def ask_again(s: State, choose: Choose, host: int, packet: int, now: int) -> None:
    """Where order counts: discard what is not next, and ask once for what is; again if it arrives, but trimmed."""
    flow, kind = s.packets[packet].flow, s.packets[packet].kind
    if kind & TRIMMED:
        s.flows[flow].trims += 1
    if s.flows[flow].out_of_order != 0 and not (kind & TRIMMED and s.packets[packet].psn == s.flows[flow].expected):
        free_packet(s, packet)
        return
    s.flows[flow].out_of_order = 1
    answer(s, choose, host, packet, s.flows[flow].expected + 1, NACK | (kind & (LAST_HOP | MARKED)), now)


@inner
def note_credit(s: State, host: int, packet: int, known: bool, now: int) -> None:
    """Take what a packet says to the pacer of its receiver; a trimmed one that is known says nothing."""
    flow, kind = s.packets[packet].flow, s.packets[packet].kind
    s.pacers[host].received += 1
    if kind & TRIMMED:
        if kind & LAST_HOP:
            s.pacers[host].trimmed_last += 1
        else:
            s.pacers[host].trimmed_before += 1
    elif kind & MARKED:
        s.pacers[host].marked += 1
    if not (kind & TRIMMED and known):
        want(s, host, flow, s.answers[packet].base, kind & TRIMMED, now)


@inlined
def take(s: State, flow: int, psn: int, expected: int, now: int) -> tuple[int, bool]:
    """Note a packet that is new; return the next one that is missing, and whether this ends a hole that was asked about."""
    ring, ring_size = s.flows[flow].ring, s.flows[flow].ring_size
    filled = False
    if psn == expected:
        expected += 1
        if is_ordered(s):
            s.flows[flow].out_of_order = 0
        while has_bit(s.seen, ring, ring_size, expected):
            clear_bit(s.seen, ring, ring_size, expected)
            s.flows[flow].out_of_order -= 1
            expected += 1
        s.flows[flow].expected = expected
        if s.flows[flow].out_of_order == 0 and s.flows[flow].owes_ack != 0:
            filled = True
            s.flows[flow].owes_ack = 0
        if expected == s.flows[flow].packets:
            s.flows[flow].arrived = now
            release(s, flow, now)
    else:
        set_bit(s.seen, ring, ring_size, psn)
        s.flows[flow].out_of_order += 1
    return expected, filled


@inlined
def answer(s: State, choose: Choose, host: int, packet: int, base: int, kind: int, now: int) -> None:
    """Turn a data packet into its acknowledgement, positive or negative, and send it along the same entropy value."""
    flow = s.packets[packet].flow
    s.packets[packet].size = s.run[0].header_bytes
    s.packets[packet].kind = kind
    s.packets[packet].target = s.flows[flow].source
    if is_stateless(s):  # it speaks of this packet only
        s.answers[packet].cumulative = 0
        s.answers[packet].base = s.packets[packet].psn
        s.answers[packet].bitmap = 1 if kind & KIND_MASK == ACK else 0
        s.answers[packet].received = 0
        send_control(s, choose, host, packet, now)
        return
    if is_sleek(s):
        s.notes[packet, 0] = s.flows[flow].out_of_order
    s.answers[packet].cumulative = s.flows[flow].expected
    s.answers[packet].base = base
    s.answers[packet].bitmap = window_bits(s.seen, s.flows[flow].ring, s.flows[flow].ring_size, base)
    s.answers[packet].received = s.flows[flow].got_bytes
    send_control(s, choose, host, packet, now)


@inlined
def discard(s: State, packet: int, now: int) -> None:
    """Free a packet that goes no further; of a datagram this settles what became of it."""
    if is_datagram(s) and s.packets[packet].kind & KIND_MASK == DATA:
        settle(s, s.packets[packet].flow, now)
    free_packet(s, packet)


@inner
def settle(s: State, flow: int, now: int) -> None:
    """Note that one packet more of a flow of datagrams has arrived or is lost; the last one ends the flow."""
    s.flows[flow].expected += 1
    if s.flows[flow].expected == s.flows[flow].packets:
        s.flows[flow].arrived = now
        s.flows[flow].finished = now
        s.run[0].unfinished -= 1
        release(s, flow, now)
        release_acknowledged(s, flow, now)


@inner
def is_fresh(s: State, flow: int, packet: int) -> bool:
    """Tell whether security lets a packet pass: it is no further behind the newest than the window."""
    number = s.answers[packet].received
    if number + s.run[0].replay_window <= s.secure[flow].newest:
        s.secure[flow].refused += 1
        return False
    s.secure[flow].newest = max(s.secure[flow].newest, number)
    return True
