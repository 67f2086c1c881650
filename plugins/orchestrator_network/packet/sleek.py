"""SLEEK, what finds losses where switches drop instead of trimming (htsim's UEC source).

Two signs say that packets are lost before a timer does: an acknowledgement that tells of more packets beyond a hole than
reordering explains (1.5 windows, at least five packets), and the answer to a probe that waited nowhere. The sender then
sends again what is missing up to the last packet of that moment, a window's worth beyond the hole at a time and whether
the window has room or not; losses of packets sent later are for the next round. A probe is a header that queues like
data. It goes out when nothing was heard for three round trips, after the last packet of the flow sooner, and every five
round trips from then on.
"""

from __future__ import annotations

from orchestrator_network.packet.calendar import set_timer
from orchestrator_network.packet.compiled import inner
from orchestrator_network.packet.credit import watch_credit
from orchestrator_network.packet.layout import (
    BASE_RTT,
    CWND,
    DATA,
    IN_FLIGHT,
    MAX_CWND,
    PROBE,
    PROBE_TIME,
)
from orchestrator_network.packet.nic import Choose, entropy_of, new_packet, send_control, serve_host
from orchestrator_network.packet.outstanding import is_flying, lose, size_of
from orchestrator_network.packet.state import State

WINDOWS, LEAST_PACKETS = 1.5, 5  # packets beyond a hole that reordering does not explain
FIRST_TRIPS, NEXT_TRIPS = 3, 5  # round trips until a probe


@inner
def probe_delay(s: State, flow: int, number: int, now: int) -> float:
    """Return how long the probe that is answered waited in queues, in ps; of one that is not the last, nothing is known."""
    if number != s.recovery[flow].number:
        return -1.0 - s.window[flow, BASE_RTT]
    return max(float(now - s.recovery[flow].probed_at) - s.window[flow, BASE_RTT], 0.0)


@inner
def hear(s: State, flow: int, packet: int, now: int) -> None:
    """Take what an acknowledgement, which is covered already, tells of losses."""
    cumulative = s.answers[packet].cumulative
    unsent = s.flows[flow].next_psn < s.flows[flow].packets
    s.recovery[flow].probe_at = 0
    if unsent or cumulative < s.flows[flow].next_psn:
        base = int(s.window[flow, BASE_RTT])
        expect_probe(s, flow, now + (FIRST_TRIPS * base if unsent else base + s.run[0].unloaded_ps))
    if s.packets[packet].kind & PROBE:
        delay = probe_delay(s, flow, s.packets[packet].psn, now)
        if 0 <= delay < s.run[0].unloaded_ps:
            s.recovery[flow].active = 1
            s.recovery[flow].until = s.flows[flow].next_psn
            s.recovery[flow].resent = cumulative
    recover(s, flow, cumulative, s.notes[packet, 0])
    if s.run[0].credited != 0:
        watch_credit(s, flow, now)


@inner
def recover(s: State, flow: int, cumulative: int, beyond: int) -> None:
    """Decide whether packets are lost where ``beyond`` arrived past a hole, and put them among those to send again."""
    payload = s.run[0].full_bytes - s.run[0].header_bytes
    window = int(s.window[flow, CWND])
    enough = max(min(int(WINDOWS * window), int(s.window[flow, MAX_CWND])), LEAST_PACKETS * payload) // payload
    if s.recovery[flow].active != 0 and cumulative >= s.recovery[flow].until:
        s.recovery[flow].active = 0
    if s.recovery[flow].active == 0:
        if beyond < enough:
            return
        if s.flows[flow].lost == 0:
            s.recovery[flow].active = 1
            s.recovery[flow].until = s.flows[flow].next_psn
    end = min(s.recovery[flow].until, cumulative + window // payload)
    for psn in range(max(cumulative, s.recovery[flow].resent), end):
        if is_flying(s, flow, psn):
            s.window[flow, IN_FLIGHT] -= size_of(s, flow, psn)
            lose(s, flow, psn)
            s.recovery[flow].resent = psn + 1


@inner
def leave_to_recovery(s: State, flow: int, psn: int) -> bool:
    """Let the timer go of a packet that nobody answered, as the recovery that is under way will send it again.

    Return whether it has been sent again in vain; then it is from there on once more, and no timer runs until something is.
    """
    slot = s.flows[flow].ring + (psn & (s.flows[flow].ring_size - 1))
    s.untimed[slot >> 6] |= 1 << (slot & 63)
    if s.tries[slot] == 0:
        return False
    s.recovery[flow].resent = psn
    return True


@inner
def expect_probe(s: State, flow: int, when: int) -> None:
    """Set when the next probe is due; a timer that is set for later is out of date, one for earlier looks again."""
    s.recovery[flow].probe_at = when
    if s.recovery[flow].timer_at == 0 or when < s.recovery[flow].timer_at:
        s.recovery[flow].timer_at = when
        set_timer(s.run, s.heap, when, PROBE_TIME << 32 | flow)


@inner
def probe(s: State, choose: Choose, flow: int, now: int) -> None:
    """Send a probe if it is time for one."""
    if now != s.recovery[flow].timer_at:
        return
    s.recovery[flow].timer_at = 0
    when = s.recovery[flow].probe_at
    if s.flows[flow].finished >= 0 or when == 0:
        return
    if when > now:
        expect_probe(s, flow, when)
        return
    host = s.flows[flow].source
    serve_host(s, choose, host, now)
    packet = new_packet(s)
    s.recovery[flow].number += 1
    s.recovery[flow].probed_at = now
    entropy = entropy_of(s, choose, flow, s.flows[flow].next_psn, now)
    s.packets[packet].flow = flow
    s.packets[packet].psn = s.recovery[flow].number
    s.packets[packet].size = s.run[0].header_bytes
    s.packets[packet].kind = DATA | PROBE
    s.packets[packet].entropy = entropy
    s.packets[packet].target = s.flows[flow].sink
    expect_probe(s, flow, now + NEXT_TRIPS * int(s.window[flow, BASE_RTT]))
    send_control(s, choose, host, packet, now)
