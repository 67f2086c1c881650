"""RCCC, receiver credit: the receiver paces what its senders may send (htsim's UEC pull pacer).

A sender starts with credit for a window, spends it as it sends, and says with every packet up to where it wants to be
pulled. A receiver grants 64 quanta of 256 bytes at a time, at 0.99 of its line rate, to senders that want more in turn,
and then to idle ones, up to a window each, so that they can start without asking. Pulls count from the start of the
flow, so a lost one is made good by the next; a sender to which none comes for much longer than its turn takes asks for them.

On a tapered fabric the last hop is not the only bottleneck: a receiver then also lowers its rate by the fraction of
marked packets and of packets trimmed elsewhere than at the last hop, every one to two round trips.
"""

from __future__ import annotations

from orchestrator_network.packet.bits import advance, bits_of
from orchestrator_network.packet.calendar import set_timer
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.layout import EMPTY, NO_CREDIT, PACE, PULL, RTS, TAPER
from orchestrator_network.packet.nic import (
    QUANTUM,
    Choose,
    entropy_of,
    new_packet,
    pull_target,
    send_control,
    serve_host,
    try_send,
)
from orchestrator_network.packet.state import State

PULL_PATHS = 128  # entropy values that pulls walk through
LEAST_QUANTA = 4  # the pacer rests for so many after a pull that granted nothing
TARGET_MARKED, DECREASE, INCREASE, EWMA = 0.3, 0.5, 0.01, 0.5


@inlined
def stop_speculating(s: State, flow: int) -> None:
    """Forget credit that was never granted: the receiver has answered."""
    if s.credits[flow].speculating != 0:
        s.credits[flow].speculating = 0
        s.credits[flow].credit = min(s.credits[flow].credit, 0)


@inner
def take_pull(s: State, choose: Choose, packet: int, now: int) -> None:
    """Take a grant at a sender whose host is up to date."""
    flow = s.packets[packet].flow
    if s.flows[flow].finished >= 0:
        return
    stop_speculating(s, flow)
    pulled = s.answers[packet].cumulative
    if pulled > s.credits[flow].pulled:
        granted = s.credits[flow].credit + (pulled - s.credits[flow].pulled) * QUANTUM
        s.credits[flow].credit = min(granted, s.run[0].most_credit)
        s.credits[flow].pulled = pulled
    try_send(s, choose, flow, now)


@inner
def ask(s: State, choose: Choose, flow: int, now: int) -> None:
    """Send a request for credit, at most once a round trip."""
    if s.credits[flow].asked_at != 0 and now - s.credits[flow].asked_at < s.run[0].round_trip:
        return
    s.credits[flow].asked_at = now
    packet = new_packet(s)
    s.packets[packet].flow = flow
    s.packets[packet].psn = s.flows[flow].next_psn
    s.packets[packet].size = s.run[0].header_bytes
    s.packets[packet].kind = RTS
    s.packets[packet].entropy = entropy_of(s, choose, flow, s.flows[flow].next_psn, now)
    s.packets[packet].target = s.flows[flow].sink
    s.answers[packet].base = pull_target(s, flow, 0)
    send_control(s, choose, s.flows[flow].source, packet, now)


@inner
def watch_credit(s: State, flow: int, now: int) -> None:
    """See to it that a sender asks that waits for credit and nothing else: with grants that were lost it would wait for ever."""
    unsent = s.flows[flow].next_psn < s.flows[flow].packets or s.flows[flow].lost > 0
    if not unsent or s.credits[flow].credit > 0 or s.credits[flow].watched != 0:
        return
    s.credits[flow].watched = 1
    s.credits[flow].pulled_then = s.credits[flow].pulled
    set_timer(s.run, s.heap, now + s.run[0].starved_ps, NO_CREDIT << 32 | flow)


@inner
def miss_credit(s: State, choose: Choose, flow: int, now: int) -> None:
    """Let a sender ask to which no credit has come since it was watched, and watch on."""
    s.credits[flow].watched = 0
    if s.flows[flow].finished >= 0:
        return
    if s.credits[flow].credit <= 0 and s.credits[flow].pulled == s.credits[flow].pulled_then:
        serve_host(s, choose, s.flows[flow].source, now)
        ask(s, choose, flow, now)
    watch_credit(s, flow, now)


@inner
def want(s: State, host: int, flow: int, target: int, trimmed: int, now: int) -> None:
    """Note what a sender wants; one that lost a packet wants even if it says nothing new."""
    if target > s.credits[flow].wanted:
        s.credits[flow].wanted = target
    elif trimmed == 0:
        return
    if s.credits[flow].in_active != 0:
        return
    s.credits[flow].in_active = 1
    s.credits[flow].next_active = EMPTY
    if s.pacers[host].active_head == EMPTY:
        s.pacers[host].active_head = flow
    else:
        s.credits[s.pacers[host].active_tail].next_active = flow
    s.pacers[host].active_tail = flow
    if s.pacers[host].running == 0:
        s.pacers[host].running = 1
        set_timer(s.run, s.heap, now, PACE << 32 | host)


@inlined
def rest_idle(s: State, host: int, flow: int) -> None:
    """Put a flow at the end of those that get credit when nobody wants any."""
    s.credits[flow].in_idle = 1
    s.credits[flow].next_idle = EMPTY
    if s.pacers[host].idle_head == EMPTY:
        s.pacers[host].idle_head = flow
    else:
        s.credits[s.pacers[host].idle_tail].next_idle = flow
    s.pacers[host].idle_tail = flow


@inner
def grant_active(s: State, host: int) -> int:
    """Grant the next sender that wants credit; return the quanta, and leave the flow in the pacer's record."""
    flow = s.pacers[host].active_head
    s.pacers[host].active_head = s.credits[flow].next_active
    s.pacers[host].flow = flow
    before, wanted = s.credits[flow].granted, s.credits[flow].wanted
    granted = before + s.run[0].grant_quanta
    if granted > wanted and s.run[0].whole_grants == 0:
        granted = max(wanted, before)
    s.credits[flow].granted = granted
    if wanted > granted:
        s.credits[flow].next_active = EMPTY
        if s.pacers[host].active_head == EMPTY:
            s.pacers[host].active_head = flow
        else:
            s.credits[s.pacers[host].active_tail].next_active = flow
        s.pacers[host].active_tail = flow
    else:
        s.credits[flow].in_active = 0
        if s.run[0].idle_credit != 0 and s.credits[flow].in_idle == 0:
            rest_idle(s, host, flow)
    return granted - before


@inner
def grant_idle(s: State, host: int) -> int:
    """Grant the next idle sender, and let it wait again while it has less than a window in advance."""
    flow = s.pacers[host].idle_head
    s.pacers[host].idle_head = s.credits[flow].next_idle
    s.pacers[host].flow = flow
    s.credits[flow].in_idle = 0
    s.credits[flow].granted += s.run[0].grant_quanta
    ahead = s.credits[flow].granted - s.credits[flow].wanted
    if 0 <= ahead < s.run[0].most_credit // QUANTUM:
        rest_idle(s, host, flow)
    return s.run[0].grant_quanta


@inner
def pace(s: State, choose: Choose, host: int, now: int) -> None:
    """Send the next pull of a receiver whose host is up to date."""
    if s.pacers[host].active_head != EMPTY:
        quanta = grant_active(s, host)
    elif s.pacers[host].idle_head != EMPTY:
        quanta = grant_idle(s, host)
    else:
        s.pacers[host].running = 0
        return
    flow = s.pacers[host].flow
    packet = new_packet(s)
    s.credits[flow].entropy = (s.credits[flow].entropy + 1) % PULL_PATHS
    s.packets[packet].flow = flow
    s.packets[packet].psn = 0
    s.packets[packet].size = s.run[0].header_bytes
    s.packets[packet].kind = PULL
    s.packets[packet].entropy = s.credits[flow].entropy
    s.packets[packet].target = s.flows[flow].source
    s.answers[packet].cumulative = s.credits[flow].granted
    send_control(s, choose, host, packet, now)
    if quanta == 0:
        quanta = LEAST_QUANTA
    quantum_ps = int(s.run[0].quantum_ps / s.pacers[host].rate)
    set_timer(s.run, s.heap, now + quantum_ps * quanta, PACE << 32 | host)


@inner
def adapt_to_taper(s: State, host: int, now: int) -> None:
    """Set a receiver's rate by what the fabric did to its packets since the last time."""
    p = s.pacers[host]
    trimmed = p.trimmed_last + p.trimmed_before
    whole = p.received - trimmed
    fraction = p.marked / whole if whole > 0 else 0.0
    decrease = False
    if p.trimmed_before > 0:
        s.pacers[host].rate = p.rate - p.trimmed_before / p.received
        decrease = True
    congestion = p.congestion * (1 - EWMA) + EWMA * fraction
    s.pacers[host].congestion = congestion
    if congestion > TARGET_MARKED:
        s.pacers[host].rate *= 1 - (congestion - TARGET_MARKED) * DECREASE
        decrease = True
    if decrease:
        s.pacers[host].increases = 0
    else:
        step = INCREASE * 2.0 ** s.pacers[host].increases if p.marked == 0 else INCREASE
        s.pacers[host].rate += step
        s.pacers[host].increases = min(s.pacers[host].increases + 1, 20)
    s.pacers[host].rate = min(max(s.pacers[host].rate, s.run[0].least_rate), 1.0)
    s.pacers[host].received = 0
    s.pacers[host].marked = 0
    s.pacers[host].trimmed_last = 0
    s.pacers[host].trimmed_before = 0
    s.pacers[host].random = advance(s.pacers[host].random)
    draw = bits_of(s.pacers[host].random) / 2147483648.0
    set_timer(s.run, s.heap, now + int((0.75 + draw / 2) * 1.5 * s.run[0].round_trip), TAPER << 32 | host)
