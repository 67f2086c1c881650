"""In-band telemetry (INT), as HPCC uses it: packets note the ports on their way, acknowledgements bring the notes back.

A row of notes is [how many, then for each port: link, bytes that have left it, when, bytes of data behind]. The sender
compares two rows of the same path (Li 2019, algorithm 1, lines 2 to 6): the load of a port is the rate of what left it
since then over the rate of its link, plus what waits there over what its link carries in a round trip.
"""

from __future__ import annotations

from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.layout import BASE_RTT, BUSIEST, OVER
from orchestrator_network.packet.state import State

FIELDS = 4  # link, bytes, time, waiting


@inner
def note(s: State, link: int, packet: int, done: int, behind: int) -> None:
    """Write down what the port looks like that a packet leaves at ``done``."""
    count = s.notes[packet, 0]
    first = 1 + FIELDS * count
    if first + FIELDS > s.notes.shape[1]:
        return
    s.notes[packet, 0] = count + 1
    s.notes[packet, first] = link
    s.notes[packet, first + 1] = s.counters[link].sent_bytes
    s.notes[packet, first + 2] = done
    s.notes[packet, first + 3] = behind


@inner
def measure(s: State, flow: int, packet: int) -> None:
    """Put the load of the busiest port into the event, -1 if the path is another than the last time."""
    busiest, over = -1.0, 0.0
    count = s.notes[packet, 0]
    same = s.heard[flow, 0] == count
    for port in range(count):
        first = 1 + FIELDS * port
        link = s.notes[packet, first]
        same = same and s.heard[flow, first] == link
        span = s.notes[packet, first + 2] - s.heard[flow, first + 2]
        if same and span > 0:
            ps_per_byte = s.links[link].ps_per_byte / 256
            left = s.notes[packet, first + 1] - s.heard[flow, first + 1]
            waiting = min(s.notes[packet, first + 3], s.heard[flow, first + 3])
            load = left * ps_per_byte / span + waiting * ps_per_byte / s.window[flow, BASE_RTT]
            if load > busiest:
                busiest, over = load, float(span)
    s.event[BUSIEST] = busiest if same else -1.0
    s.event[OVER] = over
    for column in range(s.notes.shape[1]):
        s.heard[flow, column] = s.notes[packet, column]


@inlined
def swap_notes(s: State, one: int, other: int) -> None:
    """Exchange the notes of two packets."""
    for column in range(s.notes.shape[1]):
        s.notes[one, column], s.notes[other, column] = s.notes[other, column], s.notes[one, column]
