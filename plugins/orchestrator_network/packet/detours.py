"""Routes that are not minimal: every packet of data first goes to an area that its flow and entropy value draw (Valiant).

The first switch decides. Valiant (1982; for the Dragonfly: Kim et al., ISCA 2008) sends everything between two areas over a
third one, by minimal ways to the first switch of it that is met and on from there. UGAL (Singh 2005) draws the same way
and takes it where the minimal one is busier: `local`, where queue times links is more, of the queues in its own ports;
`global`, where the queues of all ports on the way, and a packet each, are more, as if a switch knew them all. A draw depends on
flow and entropy value alone, so a load balancer learns of detours as of other paths. Answers and trimmed headers that a
host sends go minimal ways.
"""

from __future__ import annotations

from orchestrator_network.packet.bits import path_hash
from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.features import has_detours
from orchestrator_network.packet.kinds import is_data
from orchestrator_network.packet.layout import BY_OWN_QUEUES, DATA, KIND_MASK
from orchestrator_network.packet.ports import catch_up
from orchestrator_network.packet.state import State

_SALT = 0x5DEECE66D  # so that the area and the ports are drawn apart


@inlined
def column_of(s: State, packet: int) -> int:
    """Return the column of `routes` to which a packet goes next: of its target, or of an area before."""
    if has_detours(s) and s.packets[packet].via != 0:
        return s.packets[packet].via - 1
    return s.group[s.packets[packet].target]


@inlined
def drawn_of(s: State, packet: int, salt: int) -> int:
    """Return 32 bits that depend on flow, direction and entropy value of a packet."""
    # Both directions of a flow are routed independently.
    flow = 2 * s.packets[packet].flow + (0 if s.packets[packet].kind & KIND_MASK == DATA else 1)
    return path_hash(flow, s.packets[packet].entropy, salt)


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
        port = s.ports[(entry >> 12) + ((drawn_of(s, packet, s.salt[switch]) * count) >> 32 if count > 1 else 0)]
        catch_up(s, port, now)
        held = s.links[port].low_bytes
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
def steer(s: State, link: int, node: int, packet: int, now: int) -> None:
    """Let the first switch choose an area for a packet that came over a link, and others note that it is there."""
    switch = node - s.run[0].hosts
    if link >= s.run[0].hosts:
        if s.packets[packet].via != 0 and s.routes[switch, s.packets[packet].via - 1] == 0:
            s.packets[packet].via = 0
        return
    s.packets[packet].via = 0
    here, there = s.area[switch], s.home_area[s.group[s.packets[packet].target]]
    others = s.run[0].areas - 2
    if not is_data(s, packet) or here == there or others <= 0:
        return
    other = (drawn_of(s, packet, _SALT) * others) >> 32
    other += other >= min(here, there)
    other += other >= max(here, there)
    via = s.run[0].first_area + other
    if s.run[0].detours < BY_OWN_QUEUES or is_better(s, node, via, packet, now):
        s.packets[packet].via = via + 1
        s.run[0].detoured += 1
