"""Routes that are not minimal: every packet of data first goes to an area that its flow and entropy value draw (Valiant).

The first switch decides. Valiant (1982; for the Dragonfly: Kim et al., ISCA 2008) sends everything between two areas over a
third one, by minimal ways to the first switch of it that is met and on from there. UGAL (Singh 2005) draws the same way
and takes it where the minimal one is busier: `local`, where queue times links is more, of the queues in its own ports;
`global`, where the queues of all ports on the way, and a packet each, are more, as if a switch knew them all. A draw depends on
flow and entropy value alone, so a load balancer learns of detours as of other paths; where switches choose the emptiest
port (`adaptive`), which values have no part in, it depends on the number of the packet. Answers and trimmed headers that a
host sends go minimal ways.

DAL (dimensionally adaptive, load-balanced; Ahn et al., SC 2009) decides at every accelerator of a grid anew, as areas are
places there. A next hop is another place of its row or column, in a dimension in which the packet is not aligned with its
target: the aligned one, or in every dimension once any other (a deroute). With b the bytes in all ports on the way there,
P a full packet and l the links, the packet takes

    the least of   b + P l   for an aligned next hop,   2 b + P (l + l')   for a deroute, with l' links from there on

which is queue times hops in that dimension, 1 or 2, the packet itself counted at each port (the weights of VDAL in
SST/Merlin, where a direct link is what is the switch of a line here). Of equals it takes an aligned one, in a dimension
that flow and entropy value draw. ``via`` holds the area that it goes to next, and in which dimensions it was derouted.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.bits import path_hash
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.features import has_detours
from orchestrator_network.packet.kinds import is_data
from orchestrator_network.packet.layout import BY_DIMENSIONS, BY_OWN_QUEUES, DATA, KIND_MASK, NEVER
from orchestrator_network.packet.ports import catch_up
from orchestrator_network.packet.state import State

_SALT = 0x5DEECE66D  # so that the area and the ports are drawn apart
DOWN = 1 << 40  # bytes that a port which is down seems to hold: it is empty, and nothing leaves it
# What `via` holds by dimensions: an area, whether the packet is on its way there, and bits from DEROUTED_SHIFT on, one a dimension.
AREA_MASK, MOVING, DEROUTED_SHIFT = 0xFFF, 1 << 12, 13


@inlined
def column_of(s: State, packet: int) -> int:
    """Return the column of `routes` to which a packet goes next: of its target, or of an area before."""
    if has_detours(s) and s.packets[packet].via != 0:
        via = np.int64(s.packets[packet].via)
        if s.run[0].detours != BY_DIMENSIONS:
            return via - 1
        if via & MOVING != 0:
            return s.run[0].first_area + (via & AREA_MASK)
    return s.group[s.packets[packet].target]


@inlined
def drawn_of(s: State, packet: int, salt: int) -> int:
    """Return 32 bits that depend on flow, direction and entropy value of a packet."""
    # Both directions of a flow are routed independently.
    flow = 2 * s.packets[packet].flow + (0 if s.packets[packet].kind & KIND_MASK == DATA else 1)
    return path_hash(flow, s.packets[packet].entropy, salt)


@inlined
def aside_of(s: State, packet: int, salt: int) -> int:
    """Return 32 bits for where data goes aside: of its flow and entropy value, or where switches choose ways of its number."""
    if s.run[0].adaptive != 0:  # the entropy value is that of the flow
        return path_hash(2 * s.packets[packet].flow, s.packets[packet].psn, salt)
    return drawn_of(s, packet, salt)


@inlined
def held_in(s: State, port: int) -> int:
    """Return the bytes of data in a port that is up to date."""
    return s.links[port].low_bytes if s.links[port].limit >= 0 else DOWN


@inner
def least_held(s: State, first: int, count: int, now: int) -> int:
    """Return the port that holds the least data, the first of equals."""
    best, least = s.ports[first], NEVER
    for i in range(first, first + count):
        catch_up(s, s.ports[i], now)
        if held_in(s, s.ports[i]) < least:
            best, least = s.ports[i], held_in(s, s.ports[i])
    return best


@inner
def walk(s: State, node: int, column: int, packet: int, now: int) -> tuple[int, int, int, int]:
    """Follow a packet from a switch to where a column ends; return that node, links, and bytes in the first and all ports."""
    links, first, total = 0, 0, 0
    while True:
        switch = node - s.run[0].hosts
        entry = s.routes[switch, column]
        count = entry & 0xFFF
        if count == 0:
            return node, links, first, total
        if count > 1 and s.run[0].adaptive != 0:
            port = least_held(s, entry >> 12, count, now)
        else:
            port = s.ports[(entry >> 12) + ((drawn_of(s, packet, s.salt[switch]) * count) >> 32 if count > 1 else 0)]
            catch_up(s, port, now)
        held = held_in(s, port)
        if links == 0:
            first = held
        total += held
        links += 1
        node = s.links[port].to


@inner
def is_better(s: State, node: int, via: int, packet: int, now: int) -> bool:
    """Tell whether UGAL sends a packet over an area."""
    target = s.group[s.packets[packet].target]
    _, links, first, total = walk(s, node, target, packet, now)
    between, there, first_away, total_away = walk(s, node, via, packet, now)
    _, onward, _, behind = walk(s, between, target, packet, now)
    away = there + onward
    if s.run[0].detours == BY_OWN_QUEUES:
        return first * links > first_away * away
    return total + links * s.run[0].full_bytes > total_away + behind + away * s.run[0].full_bytes


@inner
def line_of(s: State, area: int, target: int, dimension: int) -> tuple[int, int, int, int, int]:
    """Return first area, stride and length of the line of an area along a dimension (0: its row), and both places on it."""
    columns = s.run[0].columns
    if dimension == 0:
        return area // columns * columns, 1, columns, area % columns, target % columns
    return area % columns, columns, s.run[0].areas // columns, area // columns, target // columns


@inner
def derouted(
    s: State, node: int, area: int, target: int, dimension: int, packet: int, now: int, best: int
) -> tuple[int, int]:
    """Return what the best deroute in a dimension takes and its area, or ``best`` and -1 where none takes less than that."""
    first, stride, length, place, goal = line_of(s, area, target, dimension)
    chosen = -1
    if place == goal:
        return best, chosen
    start = (aside_of(s, packet, _SALT + 1) * length) >> 32
    for i in range(length):
        other = (start + i) % length
        if other in (place, goal):
            continue
        there, links, _, held = walk(s, node, s.run[0].first_area + first + other * stride, packet, now)
        if 2 * held + links * s.run[0].full_bytes < best:
            _, onward, _, _ = walk(s, there, s.run[0].first_area + first + goal * stride, packet, now)
            takes = 2 * held + (links + onward) * s.run[0].full_bytes
            if takes < best:
                best, chosen = takes, first + other * stride
    return best, chosen


@inner
def aligned(s: State, node: int, area: int, target: int, first: int, packet: int, now: int) -> tuple[int, int, int]:
    """Return what the best aligned next hop takes, its area, and what waits on the way; of equals that of dimension ``first``."""
    best, chosen, waits = NEVER, area, 0
    for i in range(2):
        start, stride, _, place, goal = line_of(s, area, target, i ^ first)
        if place != goal:
            _, links, _, held = walk(s, node, s.run[0].first_area + start + goal * stride, packet, now)
            if held + links * s.run[0].full_bytes < best:
                best, chosen, waits = held + links * s.run[0].full_bytes, start + goal * stride, held
    return best, chosen, waits


@inner
def steer_by_dimensions(s: State, link: int, node: int, packet: int, now: int) -> None:
    """Let an accelerator choose the next hop of a packet, and count packets that were derouted."""
    if link < s.run[0].hosts:
        s.packets[packet].via = 0
    here, there = s.area[node - s.run[0].hosts], s.home_area[s.group[s.packets[packet].target]]
    if here < 0:
        return
    done = np.int64(s.packets[packet].via) >> DEROUTED_SHIFT
    s.packets[packet].via = done << DEROUTED_SHIFT
    if not is_data(s, packet) or here == there:
        return
    first, turned = aside_of(s, packet, _SALT) & 1, -1
    best, chosen, waits = aligned(s, node, here, there, first, packet, now)
    for i in range(2 if waits > 0 else 0):
        dimension = i ^ first
        if done >> dimension & 1 == 0:
            takes, area = derouted(s, node, here, there, dimension, packet, now, best)
            if area >= 0:
                best, chosen, turned = takes, area, dimension
    if turned >= 0:
        s.run[0].detoured += done == 0
        done |= 1 << turned
    s.packets[packet].via = done << DEROUTED_SHIFT | MOVING | chosen


@inner
def steer(s: State, link: int, node: int, packet: int, now: int) -> None:
    """Let the first switch choose an area for a packet that came over a link, and others note that it is there."""
    switch = node - s.run[0].hosts
    if s.run[0].detours == BY_DIMENSIONS:
        steer_by_dimensions(s, link, node, packet, now)
        return
    if link >= s.run[0].hosts:
        if s.packets[packet].via != 0 and s.routes[switch, s.packets[packet].via - 1] == 0:
            s.packets[packet].via = 0
        return
    s.packets[packet].via = 0
    here, there = s.area[switch], s.home_area[s.group[s.packets[packet].target]]
    others = s.run[0].areas - 2
    if not is_data(s, packet) or here == there or others <= 0:
        return
    other = (aside_of(s, packet, _SALT) * others) >> 32
    other += other >= min(here, there)
    other += other >= max(here, there)
    via = s.run[0].first_area + other
    if s.run[0].detours < BY_OWN_QUEUES or is_better(s, node, via, packet, now):
        s.packets[packet].via = via + 1
        s.run[0].detoured += 1
