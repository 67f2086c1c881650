"""How fast a flow is delivered, measured by its sender (Cheng and Cardwell, delivery rate estimation).

A packet takes along how much had been delivered when it was sent, when the last of that was told, and when the packet
that told of it was sent. Its acknowledgement then gives bytes over a time: the longer of that in which they were sent
and that in which they were acknowledged, as acknowledgements may come in a bunch.
"""

from __future__ import annotations

from orchestrator_network.packet.compiled import inner
from orchestrator_network.packet.layout import BEFORE, DELIVERED, GAINED, IN_FLIGHT, SPAN
from orchestrator_network.packet.state import State


@inner
def remember(s: State, flow: int, slot: int, size: int, now: int) -> None:
    """Note at the slot of a packet of ``size`` bytes what is delivered as it is sent; it is counted as in flight."""
    if s.window[flow, IN_FLIGHT] <= size:  # nothing else is on its way: time without packets is no one's fault
        s.delivery[flow].delivered_at = now
        s.delivery[flow].first_sent = now
    s.then[slot].bytes = s.flows[flow].seen_bytes
    s.then[slot].delivered_at = s.delivery[flow].delivered_at
    s.then[slot].first_sent = s.delivery[flow].first_sent


@inner
def sample(s: State, flow: int, slot: int, valid: bool, now: int) -> None:
    """Put the rate that the acknowledgement of the packet at a slot tells of into the event."""
    s.event[SPAN] = -1.0
    s.event[DELIVERED] = s.flows[flow].seen_bytes
    s.event[BEFORE] = -1.0
    s.delivery[flow].delivered_at = now
    if not valid:
        return
    sent = s.sent_at[slot]
    s.event[BEFORE] = s.then[slot].bytes
    s.event[GAINED] = s.flows[flow].seen_bytes - s.then[slot].bytes
    s.event[SPAN] = max(sent - s.then[slot].first_sent, now - s.then[slot].delivered_at)
    s.delivery[flow].first_sent = sent
