"""Virtual channels: in which of the queues of a link data goes on, so that nothing waits in a circle (Dally and Seitz, 1987).

Links have ranks. A packet begins in channel 0 and keeps its channel as long as the ranks of its links rise; where they do
not, it goes on in the next channel. Ranks hold a phase in their upper bits, which no route ever falls in: where it rises,
the packet begins again in channel 0. So (phase, channel, rank) grows with every link of every route, and packets that wait
for memory of one channel wait for a greater one: no circle can close, whatever the routes are. Ranks decide only how many
channels that takes.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import compiled, inlined

PHASE_SHIFT = 20
#: Ranks of the links from and to hosts: before and after all others.
FIRST, LAST = -1, 2**31 - 1


@inlined
def next_channel(channel: int, before: int, after: int) -> int:
    """Return the channel of a packet on a link of rank ``after`` that it takes behind one of rank ``before``."""
    if after >> PHASE_SHIFT > before >> PHASE_SHIFT:
        return 0
    return channel if after > before else channel + 1


@inlined
def channel_behind(
    port: int, before: np.ndarray, column: int, carries: np.ndarray, channel: np.ndarray, ranks: np.ndarray
) -> tuple[int, bool]:
    """Return the highest channel of what comes to a port over the links ``before`` that carry a column, and whether a phase falls."""
    most, falls = 0, False
    for link in before:
        if carries[link] == column:
            most = max(most, next_channel(channel[link], ranks[link], ranks[port]))
            falls = falls or ranks[port] >> PHASE_SHIFT < ranks[link] >> PHASE_SHIFT
    return most, falls


@compiled
def highest_channel(
    routes: np.ndarray,
    ports: np.ndarray,
    to: np.ndarray,
    into: np.ndarray,
    first_into: np.ndarray,
    ranks: np.ndarray,
    of_links: np.ndarray,
    of_switches: np.ndarray,
) -> tuple[int, bool]:
    """Return the highest channel that any route to these columns needs, and whether a phase falls on one.

    ``routes`` int [switches, columns] and ``ports`` as in the state; ``to`` int [links] is the switch behind a link, -1 for a
    host, and switch i is entered by ``into[first_into[i] : first_into[i + 1]]``. Routes to a column form no circle.
    ``of_links`` int64 [2, links] and ``of_switches`` int64 [2, switches] are overwritten.
    """
    switches, columns = routes.shape
    highest, falls = 0, False
    channel, carries = of_links[0], of_links[1]
    missing, ready = of_switches[0], of_switches[1]
    carries[:] = -1
    for column in range(columns):
        missing[:] = 0
        for switch in range(switches):
            entry = routes[switch, column]
            for i in range(entry >> 12, (entry >> 12) + (entry & 0xFFF)):
                carries[ports[i]] = column
                missing[to[ports[i]]] += 1
        count = 0
        for switch in range(switches):
            if missing[switch] == 0:
                ready[count] = switch
                count += 1
        while count > 0:
            count -= 1
            switch = ready[count]
            entry = routes[switch, column]
            for i in range(entry >> 12, (entry >> 12) + (entry & 0xFFF)):
                port = ports[i]
                before = into[first_into[switch] : first_into[switch + 1]]
                channel[port], fell = channel_behind(port, before, column, carries, channel, ranks)
                highest, falls = max(highest, channel[port]), falls or fell
                missing[to[port]] -= 1
                if missing[to[port]] == 0:
                    ready[count] = to[port]
                    count += 1
    return highest, falls
