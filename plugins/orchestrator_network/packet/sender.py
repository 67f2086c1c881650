"""The sending half of the transport (htsim's UEC source): what acknowledgements and timers do.

A packet is out until an acknowledgement covers it; a negative acknowledgement or the timer makes it lost, and lost
packets go first, lowest first. Bytes in flight follow what the receiver says it has, not which packets: a packet that
was thought lost and had arrived is counted once too often, and is given back when an acknowledgement names it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrator_network.packet.bits import clear_bit, has_bit, lowest_bit
from orchestrator_network.packet.calendar import set_timer
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.credit import ask, stop_speculating, watch_credit
from orchestrator_network.packet.features import (
    has_more,
    has_telemetry,
    is_ordered,
    is_rated,
    is_sleek,
    is_stateless,
    is_ticking,
)
from orchestrator_network.packet.layout import (
    AT_LAST_HOP,
    BASE_RTT,
    BYTES,
    CONGESTED,
    ECHO,
    EMPTY,
    GOOD,
    IN_FLIGHT,
    LAST_HOP,
    LOWEST,
    MARKED,
    NEXT,
    NOW,
    PROBE,
    REASON,
    RESENT,
    RETRANSMIT,
    RTT,
    TICK,
    TIMED_OUT,
    TIMEOUT_LOSS,
    TRIM_LOSS,
    TRIMMED_PATH,
)
from orchestrator_network.packet.nic import Choose, serve_host, try_send
from orchestrator_network.packet.outstanding import cover, is_flying, lose, oldest_out, size_of
from orchestrator_network.packet.rate import sample as measure_rate
from orchestrator_network.packet.sleek import hear, leave_to_recovery, probe_delay
from orchestrator_network.packet.state import State
from orchestrator_network.packet.telemetry import measure
from orchestrator_network.packet.waiting import release_acknowledged

React = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
Learn = Callable[[np.ndarray, int, int, int], None]


@inner
def start_flow(s: State, choose: Choose, flow: int, now: int) -> None:
    """Let a flow send its first packets."""
    s.flows[flow].started = now
    if is_ticking(s):
        set_timer(s.run, s.heap, now + s.run[0].tick, TICK << 32 | flow)
    serve_host(s, choose, s.flows[flow].source, now)
    try_send(s, choose, flow, now)


@inlined
def newly_arrived(s: State, flow: int, packet: int) -> int:
    """Return how many bytes an acknowledgement tells of that were not known to have arrived, and count them."""
    newly = max(s.answers[packet].received - s.flows[flow].seen_bytes, 0)
    if is_stateless(s):
        ring, ring_size, psn = s.flows[flow].ring, s.flows[flow].ring_size, s.packets[packet].psn
        is_new = psn >= s.flows[flow].lowest and has_bit(s.out, ring, ring_size, psn)
        newly = size_of(s, flow, psn) if is_new else 0
    s.flows[flow].seen_bytes += newly
    if not is_ordered(s):
        s.window[flow, IN_FLIGHT] -= newly
    return newly


@inlined
def cover_all(s: State, flow: int, packet: int) -> int:
    """Note all packets that an acknowledgement names; return the first that is not known to have arrived."""
    ring, ring_size = s.flows[flow].ring, s.flows[flow].ring_size
    cumulative = s.answers[packet].cumulative
    lowest = s.flows[flow].lowest
    while lowest < cumulative:
        if has_bit(s.out, ring, ring_size, lowest):
            cover(s, flow, lowest)
        lowest += 1
    s.flows[flow].next_psn = max(s.flows[flow].next_psn, lowest)  # it may have gone back too far
    told = s.answers[packet].bitmap
    base = s.answers[packet].base
    while told != 0:
        bit = lowest_bit(told)
        told &= told - 1
        if base + bit >= lowest and has_bit(s.out, ring, ring_size, base + bit):
            cover(s, flow, base + bit)
    if is_stateless(s):
        while lowest < s.flows[flow].next_psn and not has_bit(s.out, ring, ring_size, lowest):
            lowest += 1
    s.flows[flow].lowest = lowest
    return lowest


@inlined
def acknowledge(s: State, on_ack: React, choose: Choose, learn: Learn, packet: int, now: int) -> None:
    """Take an acknowledgement at a host that is up to date."""
    flow, psn, kind = s.packets[packet].flow, s.packets[packet].psn, s.packets[packet].kind
    if s.flows[flow].finished >= 0:
        return
    ring, ring_size = s.flows[flow].ring, s.flows[flow].ring_size
    mask = ring_size - 1
    newly = newly_arrived(s, flow, packet)
    # A sample counts if it is clear which copy of the packet it belongs to.
    sample = -1.0
    probed = is_sleek(s) and kind & PROBE != 0
    if probed:
        sample = probe_delay(s, flow, psn, now) + s.window[flow, BASE_RTT]
    elif is_flying(s, flow, psn) and s.tries[ring + (psn & mask)] == (1 if kind & RESENT else 0):
        sample = float(now - s.sent_at[ring + (psn & mask)])
    lowest = cover_all(s, flow, packet)
    learn(s.paths[flow], s.packets[packet].entropy, CONGESTED if kind & MARKED else GOOD, now)
    if has_more(s):
        tell_more(s, flow, packet, sample >= 0 and not probed, now)
    s.event[NOW] = now
    s.event[BYTES] = newly
    s.event[ECHO] = 1.0 if kind & MARKED else 0.0
    s.event[RTT] = sample
    on_ack(s.window[flow], s.event, s.control)
    if is_sleek(s):
        hear(s, flow, packet, now)
    stop_speculating(s, flow)
    if lowest >= s.flows[flow].packets:
        s.flows[flow].finished = now
        s.run[0].unfinished -= 1
        release_acknowledged(s, flow, now)
        return
    try_send(s, choose, flow, now)


@inner
def tell_more(s: State, flow: int, packet: int, valid: bool, now: int) -> None:
    """Put into the event what only some transports ask for."""
    s.event[LOWEST] = s.flows[flow].lowest
    s.event[NEXT] = s.flows[flow].next_psn
    if has_telemetry(s):
        measure(s, flow, packet)
    if is_rated(s):
        slot = s.flows[flow].ring + (s.packets[packet].psn & (s.flows[flow].ring_size - 1))
        measure_rate(s, flow, slot, valid, now)


@inner
def go_back(s: State, flow: int) -> None:
    """Begin again with the first packet that is not known to have arrived."""
    ring, size = s.flows[flow].ring, s.flows[flow].ring_size
    psn = s.flows[flow].lowest
    while psn < s.flows[flow].next_psn:
        if has_bit(s.out, ring, size, psn):
            clear_bit(s.out, ring, size, psn)
            s.window[flow, IN_FLIGHT] -= size_of(s, flow, psn)
        psn += 1
    s.flows[flow].next_psn = s.flows[flow].lowest


@inner
def reject_in_order(s: State, on_loss: React, choose: Choose, learn: Learn, packet: int, now: int) -> None:
    """Take the word of a receiver that misses the next packet: everything from there on is sent again."""
    flow = s.packets[packet].flow
    missing = s.answers[packet].cumulative
    if s.flows[flow].finished >= 0 or missing < s.flows[flow].lowest:
        return
    newly = max(s.answers[packet].received - s.flows[flow].seen_bytes, 0)
    s.flows[flow].seen_bytes += newly
    while s.flows[flow].lowest < missing:
        if has_bit(s.out, s.flows[flow].ring, s.flows[flow].ring_size, s.flows[flow].lowest):
            cover(s, flow, s.flows[flow].lowest)
        s.flows[flow].lowest += 1
    s.flows[flow].next_psn = max(s.flows[flow].next_psn, missing)
    go_back(s, flow)
    s.event[NOW] = now
    s.event[BYTES] = size_of(s, flow, missing)
    s.event[ECHO] = 1.0 if s.packets[packet].kind & MARKED else 0.0
    # Which copy was lost is not known: the sample is of the last one, and no shorter than a path without load.
    sent = s.sent_at[s.flows[flow].ring + (missing & (s.flows[flow].ring_size - 1))]
    s.event[RTT] = max(float(now - sent), s.window[flow, BASE_RTT])
    s.event[REASON] = TRIM_LOSS
    s.event[AT_LAST_HOP] = 1.0 if s.packets[packet].kind & LAST_HOP else 0.0
    on_loss(s.window[flow], s.event, s.control)
    stop_speculating(s, flow)
    learn(s.paths[flow], s.packets[packet].entropy, TRIMMED_PATH, now)
    try_send(s, choose, flow, now)


@inner
def wake(s: State, choose: Choose, flow: int, now: int) -> None:
    """Let a flow send that its pace held back."""
    s.flows[flow].waking = 0
    if s.flows[flow].finished < 0:
        serve_host(s, choose, s.flows[flow].source, now)
        try_send(s, choose, flow, now)


@inner
def tick(s: State, on_tick: React, choose: Choose, flow: int, now: int) -> None:
    """Tell the congestion control of a flow the time."""
    if s.flows[flow].finished >= 0:
        return
    serve_host(s, choose, s.flows[flow].source, now)
    s.event[NOW] = now
    s.event[BYTES] = 0.0
    on_tick(s.window[flow], s.event, s.control)
    set_timer(s.run, s.heap, now + s.run[0].tick, TICK << 32 | flow)
    try_send(s, choose, flow, now)


@inner
def reject(s: State, on_loss: React, choose: Choose, learn: Learn, packet: int, now: int) -> None:
    """Take a negative acknowledgement: the packet was trimmed on its way."""
    if is_ordered(s):
        reject_in_order(s, on_loss, choose, learn, packet, now)
        return
    flow, psn, kind = s.packets[packet].flow, s.packets[packet].psn, s.packets[packet].kind
    if s.flows[flow].finished >= 0 or not is_flying(s, flow, psn):
        return
    size = size_of(s, flow, psn)
    at_last_hop = kind & LAST_HOP != 0
    s.event[NOW] = now
    s.event[BYTES] = size
    s.event[ECHO] = 1.0 if kind & MARKED else 0.0
    s.event[RTT] = float(now - s.sent_at[s.flows[flow].ring + (psn & (s.flows[flow].ring_size - 1))])
    s.event[REASON] = TRIM_LOSS
    s.event[AT_LAST_HOP] = 1.0 if at_last_hop else 0.0
    on_loss(s.window[flow], s.event, s.control)
    s.window[flow, IN_FLIGHT] -= size
    stop_speculating(s, flow)
    lose(s, flow, psn)
    # The balancer hears of it only after the flow had its chance to send (as the reference does).
    try_send(s, choose, flow, now)
    verdict = TRIMMED_PATH
    if at_last_hop:
        verdict = CONGESTED if kind & MARKED else GOOD
    learn(s.paths[flow], s.packets[packet].entropy, verdict, now)
    try_send(s, choose, flow, now)


@inner
def give_up(s: State, on_loss: React, flow: int, psn: int, now: int) -> None:
    """Take a packet that nobody answered in time for lost; where order counts, with all that follow."""
    size = size_of(s, flow, psn)
    s.event[NOW] = now
    s.event[BYTES] = size
    s.event[ECHO] = 0.0
    s.event[RTT] = -1.0
    s.event[REASON] = TIMEOUT_LOSS
    s.event[AT_LAST_HOP] = 0.0
    on_loss(s.window[flow], s.event, s.control)
    if is_ordered(s):
        go_back(s, flow)
    else:
        s.window[flow, IN_FLIGHT] -= size
        lose(s, flow, psn)


@inner
def time_out(s: State, on_loss: React, choose: Choose, learn: Learn, flow: int, now: int) -> None:
    """Take the retransmission timer of a flow: it fires for the packet that was sent longest ago."""
    if s.flows[flow].finished >= 0:
        s.flows[flow].timer = 0
        return
    serve_host(s, choose, s.flows[flow].source, now)
    at = s.flows[flow].ring
    mask = s.flows[flow].ring_size - 1
    psn = oldest_out(s, flow)
    if psn != EMPTY and s.sent_at[at + (psn & mask)] + s.run[0].rto <= now:
        s.flows[flow].timeouts += 1
        learn(s.paths[flow], 0, TIMED_OUT, now)
        if is_sleek(s) and s.recovery[flow].active != 0:
            if leave_to_recovery(s, flow, psn):
                s.flows[flow].timer = 0
                return
        else:
            give_up(s, on_loss, flow, psn, now)
            stop_speculating(s, flow)
            try_send(s, choose, flow, now)
        psn = oldest_out(s, flow)
    if s.run[0].credited != 0 and s.flows[flow].lost > 0 and s.credits[flow].credit <= 0:
        ask(s, choose, flow, now)
        if psn == EMPTY:  # the request may be lost too
            set_timer(s.run, s.heap, now + s.run[0].rto, RETRANSMIT << 32 | flow)
            return
    if psn == EMPTY:
        s.flows[flow].timer = 0
        if s.run[0].credited != 0:
            watch_credit(s, flow, now)
    else:
        set_timer(s.run, s.heap, max(s.sent_at[at + (psn & mask)] + s.run[0].rto, now), RETRANSMIT << 32 | flow)
