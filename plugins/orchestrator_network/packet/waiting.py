"""Flows that wait for others: for their last packet to arrive, or for their sender to know of it."""

from __future__ import annotations

from orchestrator_network.packet.calendar import set_timer
from orchestrator_network.packet.compiled import inner
from orchestrator_network.packet.layout import BEHIND_ACK, START_FLOW
from orchestrator_network.packet.state import State


@inner
def release(s: State, flow: int, now: int) -> None:
    """Start the flows that waited for this one to arrive, and come back to whoever watches it."""
    if s.starts[flow].watched != 0:
        s.run[0].told = flow
        s.run[0].until = 0
    for position in range(s.first_after[flow], s.first_after[flow + 1]):
        if s.after[position] < BEHIND_ACK:
            wait_less(s, s.after[position], now)


@inner
def release_acknowledged(s: State, flow: int, now: int) -> None:
    """Start the flows that waited for the sender of this one to know that it has arrived."""
    for position in range(s.first_after[flow], s.first_after[flow + 1]):
        if s.after[position] >= BEHIND_ACK:
            wait_less(s, s.after[position] - BEHIND_ACK, now)


@inner
def wait_less(s: State, waiting: int, now: int) -> None:
    """Note that one of those that a flow waits for is done; the last one starts it."""
    s.starts[waiting].waits -= 1
    if s.starts[waiting].waits == 0:
        set_timer(s.run, s.heap, max(now, s.starts[waiting].earliest), START_FLOW << 32 | waiting)
