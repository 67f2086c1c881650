"""The port of a host: control packets and the data of many flows share one wire.

Of a host that has both, one packet in eleven is data (htsim's NIC: 10:1); flows that may send take turns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrator_network.packet.bits import clear_bit, has_bit, set_bit
from orchestrator_network.packet.calendar import schedule, set_timer
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.features import (
    has_more,
    has_telemetry,
    is_datagram,
    is_ordered,
    is_paced,
    is_rated,
    is_secure,
    is_sleek,
)
from orchestrator_network.packet.kinds import is_data, is_probe
from orchestrator_network.packet.layout import (
    ASKS,
    CWND,
    DATA,
    EMPTY,
    IN_FLIGHT,
    NEXT_AT,
    PACE_OF,
    RESENT,
    RETRANSMIT,
    WAKE,
)
from orchestrator_network.packet.lossless import first_gate, is_open, note_wait
from orchestrator_network.packet.outstanding import size_of
from orchestrator_network.packet.ports import begin, put_high, take_high
from orchestrator_network.packet.rate import remember
from orchestrator_network.packet.state import State

Choose = Callable[[np.ndarray, int, int, int], int]

QUANTUM = 256  # bytes of credit
CONTROL_TURNS = 11  # one of these is data


@inlined
def new_packet(s: State) -> int:
    """Take a packet row from the pool; the kernel sees to it that the pool never runs dry."""
    packet = s.run[0].free
    s.run[0].free = s.packets[packet].next
    s.run[0].free_packets -= 1
    return packet


@inlined
def free_packet(s: State, packet: int) -> None:
    """Give a packet row back."""
    s.packets[packet].next = s.run[0].free
    s.run[0].free = packet
    s.run[0].free_packets += 1


@inlined
def entropy_of(s: State, choose: Choose, flow: int, psn: int, now: int) -> int:
    """Return the entropy value that the load balancer chooses for a packet; one that there is not is noted, and ends the run."""
    window_packets = int(s.window[flow, CWND]) // (s.run[0].full_bytes - s.run[0].header_bytes)
    entropy = choose(s.paths[flow], psn, window_packets, now)
    if entropy < 0 or entropy >= s.run[0].entropies:
        s.run[0].stray = flow + 1
        entropy = 0
    return entropy


@inlined
def first_lost(s: State, flow: int) -> int:
    """Return the lowest packet that is to be sent again; there is one."""
    ring, size = s.flows[flow].ring, s.flows[flow].ring_size
    psn = max(s.flows[flow].lost_from, s.flows[flow].lowest)
    while not has_bit(s.lost, ring, size, psn):
        psn += 1
    s.flows[flow].lost_from = psn
    return psn


@inlined
def may_send(s: State, flow: int) -> bool:
    """Tell whether a flow has something to send and its window allows it."""
    if s.flows[flow].lost > 0:
        size = size_of(s, flow, first_lost(s, flow))
    elif (
        s.flows[flow].next_psn < s.flows[flow].packets
        and s.flows[flow].next_psn < s.flows[flow].lowest + s.flows[flow].ring_size - 64
    ):
        size = size_of(s, flow, s.flows[flow].next_psn)
    else:
        return False
    if s.run[0].credited != 0 and s.credits[flow].credit <= 0:
        return False
    if is_sleek(s) and s.recovery[flow].active != 0 and s.flows[flow].lost > 0:
        return True
    return s.run[0].windowed == 0 or s.window[flow, CWND] >= s.window[flow, IN_FLIGHT] + size


@inlined
def is_ready(s: State, flow: int, now: int) -> bool:
    """Tell whether a flow may send at ``now``; one that its pace holds back is woken in time."""
    if not may_send(s, flow):
        return False
    if is_paced(s) and s.window[flow, NEXT_AT] > now:
        if s.flows[flow].waking == 0:
            s.flows[flow].waking = 1
            set_timer(s.run, s.heap, int(np.ceil(s.window[flow, NEXT_AT])), WAKE << 32 | flow)
        return False
    return True


@inlined
def is_last_for_now(s: State, flow: int, psn: int, size: int) -> bool:
    """Tell whether a new packet uses up the data, the credit or the window of its flow."""
    if psn + 1 == s.flows[flow].packets:
        return True
    if s.run[0].credited != 0 and s.credits[flow].credit <= size:
        return True
    return s.run[0].windowed != 0 and s.window[flow, IN_FLIGHT] + size >= s.window[flow, CWND]


@inlined
def pull_target(s: State, flow: int, competing: int) -> int:
    """Return up to which quantum a sender wants to be pulled; ``competing`` flows wait for the same port."""
    full = s.run[0].full_bytes
    unsent = 0
    if s.flows[flow].next_psn < s.flows[flow].packets:
        unsent = (s.flows[flow].packets - 1 - s.flows[flow].next_psn) * full + s.flows[flow].last_size
    wanted = unsent + s.flows[flow].lost * full
    if s.run[0].windowed != 0:
        wanted = min(wanted, int(s.window[flow, CWND]) + full)
    wanted = min(wanted, s.run[0].most_credit) - s.credits[flow].credit
    if s.credits[flow].speculating != 0 and unsent > 0:
        wanted = max(wanted, full)
    if competing > 0 and s.run[0].idle_credit != 0:  # without, one that asked for too little would never ask again
        share = abs(wanted) // (competing + 1)
        wanted = share if wanted >= 0 else -share
    return s.credits[flow].pulled + (wanted + QUANTUM - 1) // QUANTUM


@inner
def stamp(s: State, flow: int, packet: int, slot: int, size: int, now: int) -> None:
    """Note of a packet that is sent what pace, measurements, security and recovery need."""
    if is_sleek(s):
        s.untimed[slot >> 6] &= ~(1 << (slot & 63))
    if is_paced(s):
        s.window[flow, NEXT_AT] = max(s.window[flow, NEXT_AT], float(now)) + size * s.window[flow, PACE_OF]
    if is_rated(s):
        remember(s, flow, slot, size, now)
    if has_telemetry(s):
        s.notes[packet, 0] = 0
    if is_secure(s):
        s.secure[flow].sent += 1
        s.answers[packet].received = s.secure[flow].sent


@inlined
def await_answer(s: State, flow: int, psn: int, now: int) -> None:
    """See to it that a packet is missed if nobody answers; nobody answers datagrams."""
    if is_datagram(s):
        clear_bit(s.out, s.flows[flow].ring, s.flows[flow].ring_size, psn)
        s.window[flow, IN_FLIGHT] = 0
        s.flows[flow].lowest = psn + 1
    elif s.flows[flow].timer == 0:
        s.flows[flow].timer = 1
        set_timer(s.run, s.heap, now + s.run[0].rto, RETRANSMIT << 32 | flow)


@inlined
def send(s: State, choose: Choose, flow: int, now: int) -> int:
    """Return the next packet of a flow: the lowest one that was lost, or a new one."""
    ring, ring_size = s.flows[flow].ring, s.flows[flow].ring_size
    mask = ring_size - 1
    if s.flows[flow].lost > 0:
        psn = first_lost(s, flow)
        clear_bit(s.lost, ring, ring_size, psn)
        s.flows[flow].lost -= 1
        s.flows[flow].retransmissions += 1
        s.tries[ring + (psn & mask)] = min(s.tries[ring + (psn & mask)] + 1, 100)
        size = size_of(s, flow, psn)
        s.window[flow, IN_FLIGHT] += size
        kind = DATA | RESENT | ASKS
    else:
        psn = s.flows[flow].next_psn
        s.flows[flow].next_psn = psn + 1
        set_bit(s.out, ring, ring_size, psn)
        size = size_of(s, flow, psn)
        s.window[flow, IN_FLIGHT] += size
        kind = DATA
        if is_ordered(s) and psn < s.flows[flow].lost_from:
            s.flows[flow].retransmissions += 1
            s.tries[ring + (psn & mask)] = min(s.tries[ring + (psn & mask)] + 1, 100)
            kind |= RESENT
        else:
            s.tries[ring + (psn & mask)] = 0
            s.flows[flow].lost_from = psn + 1 if is_ordered(s) else s.flows[flow].lost_from
        if is_last_for_now(s, flow, psn, size):
            kind |= ASKS
    s.sent_at[ring + (psn & mask)] = now
    packet = new_packet(s)
    if has_more(s):
        stamp(s, flow, packet, ring + (psn & mask), size, now)
    entropy = entropy_of(s, choose, flow, psn, now)
    s.used[flow, entropy >> 6] |= 1 << (entropy & 63)
    s.packets[packet].flow = flow
    s.packets[packet].psn = psn
    s.packets[packet].size = size
    s.packets[packet].kind = kind
    s.packets[packet].entropy = entropy
    s.packets[packet].target = s.flows[flow].sink
    if s.run[0].credited != 0:
        s.credits[flow].credit -= size
        s.answers[packet].base = pull_target(s, flow, s.hosts[s.flows[flow].source].ring_flows)
    await_answer(s, flow, psn, now)
    return packet


@inlined
def enter_ring(s: State, flow: int) -> None:
    """Let a flow take its turn at its host."""
    host = s.flows[flow].source
    s.flows[flow].in_ring = 1
    s.hosts[host].ring_flows += 1
    s.flows[flow].next_in_ring = EMPTY
    if s.hosts[host].ring_head == EMPTY:
        s.hosts[host].ring_head = flow
    else:
        s.flows[s.hosts[host].ring_tail].next_in_ring = flow
    s.hosts[host].ring_tail = flow


@inner
def pick(s: State, choose: Choose, host: int, now: int) -> int:
    """Return what a host sends at ``now``, or EMPTY; one whose link is down sends nothing and loses nothing."""
    if s.links[host].limit < 0:
        return EMPTY
    flow = s.hosts[host].ring_head
    if flow == EMPTY:
        return take_high(s, host)
    if not is_open(s, first_gate(s, host)):
        note_wait(s, host, first_gate(s, host), now)
        return take_high(s, host)
    if s.links[host].high_head != EMPTY:
        s.hosts[host].turn = (s.hosts[host].turn + 1) % CONTROL_TURNS
        if s.hosts[host].turn != 0:
            return take_high(s, host)
    while flow != EMPTY:
        s.hosts[host].ring_head = s.flows[flow].next_in_ring
        s.flows[flow].in_ring = 0
        s.hosts[host].ring_flows -= 1
        if is_ready(s, flow, now):
            packet = send(s, choose, flow, now)
            if is_ready(s, flow, now):
                enter_ring(s, flow)
            return packet
        flow = s.hosts[host].ring_head
    return take_high(s, host)


@inlined
def serve_host(s: State, choose: Choose, host: int, now: int) -> None:
    """Bring the port of a host up to date; it must be before anything changes at the host."""
    if 0 <= s.links[host].done <= now:
        send_on(s, choose, host, now)


@inner
def send_on(s: State, choose: Choose, host: int, now: int) -> None:
    """Let everything leave a host that leaves by ``now``."""
    while 0 <= s.links[host].done <= now:
        done = s.links[host].done
        packet = s.links[host].flight_tail
        if not is_data(s, packet) or is_probe(s, packet):
            s.links[host].high_bytes -= s.packets[packet].size
        s.links[host].done = EMPTY
        packet = pick(s, choose, host, done)
        if packet >= 0:
            begin(s, host, packet, done)


@inlined
def kick(s: State, choose: Choose, host: int, now: int) -> None:
    """Let an idle host send."""
    if s.links[host].done < 0:
        start(s, choose, host, now)


@inner
def start(s: State, choose: Choose, host: int, now: int) -> None:
    """Let a host begin to send what it has."""
    packet = pick(s, choose, host, now)
    if packet >= 0:
        resting = s.links[host].flight_head < 0
        begin(s, host, packet, now)
        if resting:
            schedule(s.run, s.buckets, s.groups, s.chain, host, s.packets[packet].due)


@inlined
def try_send(s: State, choose: Choose, flow: int, now: int) -> None:
    """Let a flow send if it may; its host is up to date."""
    if s.flows[flow].in_ring == 0 and is_ready(s, flow, now):
        enter_ring(s, flow)
        kick(s, choose, s.flows[flow].source, now)


@inlined
def send_control(s: State, choose: Choose, host: int, packet: int, now: int) -> None:
    """Send a control packet from a host that is up to date."""
    put_high(s, host, packet)
    kick(s, choose, host, now)
