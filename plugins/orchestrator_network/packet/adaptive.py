"""Switches that choose among the ports of the shortest ways by how full they are, whatever flows and entropy values say.

A port is as full as one of four levels tells, at 5, 10 and 20 % of what it holds, at which a switch looks every 0.1 us at
most (htsim's `quantized_queuesize`); or as the bytes of data in it tell. A random one of those that are equally full is
taken, by every packet of data, or by every flowlet: a flow that has paused for longer than a switch waits moves to a port that is
less full, by a fair coin (htsim's `-ar_granularity flow` and `-ar_sticky_delta`).
"""

from __future__ import annotations

from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.layout import EMPTY, NEVER
from orchestrator_network.packet.noise import draw_port
from orchestrator_network.packet.ports import catch_up
from orchestrator_network.packet.state import State

LOOK_EVERY_PS = 100_000
COIN = 1 << 30  # half of the 31 bits of a draw


@inlined
def fullness(s: State, port: int, now: int) -> int:
    """Return how full a switch takes a port for that is up to date."""
    if s.run[0].by_levels == 0:
        return s.links[port].low_bytes
    if now - s.glances[port].at > LOOK_EVERY_PS:
        held, room = s.links[port].low_bytes + s.links[port].high_bytes, s.links[port].limit
        s.glances[port].at = now
        s.glances[port].level = int(20 * held >= room) + int(10 * held >= room) + int(5 * held >= room)
    return s.glances[port].level


@inner
def emptiest(s: State, first: int, count: int, now: int) -> int:
    """Return the place of the least full port, a random one of equals; one that is down holds none and takes none."""
    best, least, equals = EMPTY, NEVER, 0
    for i in range(first, first + count):
        port = s.ports[i]
        if s.links[port].limit < 0:
            continue
        catch_up(s, port, now)
        held = fullness(s, port, now)
        if held < least:
            best, least, equals = i, held, 1
        elif held == least:
            equals += 1
            if (draw_port(s, s.ports[first]) * equals) >> 31 == 0:
                best = i
    return first if best == EMPTY else best


@inner
def adapt(s: State, switch: int, first: int, count: int, flow: int, now: int) -> int:
    """Return the port that data of a flow takes at a switch."""
    if s.run[0].sticky_ps == 0:
        return s.ports[emptiest(s, first, count, now)]
    row = switch * len(s.flows) + flow
    place = s.flowlets[row].place - 1
    if not first <= place < first + count or s.links[s.ports[place]].limit < 0:
        place = emptiest(s, first, count, now)
    elif now - s.flowlets[row].at > s.run[0].sticky_ps and draw_port(s, s.ports[first]) < COIN:
        other = emptiest(s, first, count, now)
        catch_up(s, s.ports[place], now)
        if fullness(s, s.ports[other], now) < fullness(s, s.ports[place], now):
            place = other
    s.flowlets[row].at = now
    s.flowlets[row].place = place + 1
    return s.ports[place]
