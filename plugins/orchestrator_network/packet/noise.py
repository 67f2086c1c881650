"""Chance at a port: its generator, bit errors on the wire behind it, and the retry of links (LLR of Ultra Ethernet).

A packet of n bytes arrives as it was sent with probability (1 - bit error rate)^(8 n). Without retry the other end
discards what did not. With it the other end asks for the frame, and the sender goes back to it: from the end of the
frame, one latency until the other end sees it, one for the word back, and the frame again. What was sent behind it
meanwhile is discarded and sent again as well, so nothing else gets through before: the link is taken for all of that
time. A link gives up after `LINK_TRIES`, and the packet is lost. A link without latency is no wire, and changes nothing.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.bits import advance, bits_of
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.layout import CORRUPT
from orchestrator_network.packet.state import State

LINK_TRIES = 8  # the calendar has to cover them


@inlined
def draw_port(s: State, link: int) -> int:
    """Return 31 random bits of a port."""
    state = advance(s.counters[link].random)
    s.counters[link].random = state
    return bits_of(state)


@inner
def cross(s: State, link: int, packet: int, done: int) -> int:
    """Return when a packet that has left by ``done`` has left for good; mark it if it never arrives whole."""
    if s.links[link].latency == 0:  # inside a device that forwards: no wire
        return done
    size = s.packets[packet].size
    bad = int(-np.expm1(size * s.run[0].log_whole) * 2147483648.0)
    again = 2 * s.links[link].latency + ((size * s.links[link].ps_per_byte + 128) >> 8)
    for _ in range(s.run[0].retries):
        if draw_port(s, link) >= bad:
            return done
        s.counters[link].replays += 1
        done += again
    if draw_port(s, link) < bad:
        s.packets[packet].kind |= CORRUPT
    return done
