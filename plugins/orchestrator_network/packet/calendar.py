"""The event list: a calendar of links by the arrival of their first packet in flight, and a heap of timers.

Packets of a link arrive in order, so a link is in the calendar once, whatever it carries, and no event is further
away than the slowest packet on the slowest wire: a ring of buckets that covers this span never wraps. A bucket is no
wider than the shortest time between two events of one link, so that nothing is added to the bucket that is being
drained; it is sorted by (time, link) when its turn comes, which makes ties cheap and a run reproducible to the bit.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import inlined, inner
from orchestrator_network.packet.layout import EMPTY, NEVER

GROUP = 6  # log2 of the buckets that are skipped at once when all of them are empty
#: An entry of the bucket that is being drained is time, a bit that is set for arrivals, and the link: at one time,
#: departures (of links without losses; their numbers begin after those of arrivals) come first.
LINK_BITS = 25
ARRIVAL = 1 << 24
LINK_MASK = ARRIVAL - 1


@inlined
def schedule(run: np.ndarray, buckets: np.ndarray, groups: np.ndarray, chain: np.ndarray, link: int, due: int) -> None:
    """Enter a link that has a packet due; ``chain`` int64 [links, 2] holds (next link of the bucket, due)."""
    bucket = (due >> run[0].bucket_shift) & (len(buckets) - 1)
    chain[link, 0] = buckets[bucket]
    chain[link, 1] = due
    buckets[bucket] = link
    groups[bucket >> GROUP] += 1
    run[0].scheduled += 1


@inlined
def sort_first(values: np.ndarray, count: int) -> None:
    """Sort the first ``count`` values in place (Shell's method; most buckets hold one or two)."""
    gap = 1
    while gap * 9 < count * 4:
        gap = gap * 9 // 4 + 1
    while gap > 0:
        for i in range(gap, count):
            value = values[i]
            place = i
            while place >= gap and values[place - gap] > value:
                values[place] = values[place - gap]
                place -= gap
            values[place] = value
        gap = 0 if gap == 1 else max(gap * 4 // 9, 1)


@inlined
def refill(
    run: np.ndarray, buckets: np.ndarray, groups: np.ndarray, chain: np.ndarray, drain: np.ndarray, limit: int
) -> bool:
    """Sort the next bucket that is not empty into ``drain``; False if there is none before the time ``limit``."""
    shift = run[0].bucket_shift
    mask = len(buckets) - 1
    # Timers may have moved the clock beyond the bucket that was drained last; nothing is due before the clock.
    at = max(run[0].cursor, run[0].clock >> shift)
    last = min(limit >> shift, at + len(buckets))
    while at <= last:
        bucket = at & mask
        if groups[bucket >> GROUP] == 0:
            at = ((at >> GROUP) + 1) << GROUP
            continue
        link = buckets[bucket]
        if link == EMPTY:
            at += 1
            continue
        base = at << shift
        count = 0
        while link != EMPTY:
            first = ARRIVAL if link < run[0].links else 0
            drain[count] = ((chain[link, 1] - base) << LINK_BITS) | first | link
            count += 1
            link = chain[link, 0]
        sort_first(drain, count)
        buckets[bucket] = EMPTY
        groups[bucket >> GROUP] -= count
        run[0].scheduled -= count
        run[0].cursor = at + 1
        run[0].drain_at = 0
        run[0].drain_count = count
        run[0].drain_base = base
        return True
    run[0].cursor = max(run[0].cursor, min(at, limit >> shift))
    return False


@inner
def set_timer(run: np.ndarray, heap: np.ndarray, due: int, what: int) -> None:
    """Add a timer; ``heap`` int64 [capacity, 2] of (due, what), smallest first."""
    at = run[0].timers
    run[0].timers = at + 1
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, 0] < due or (heap[above, 0] == due and heap[above, 1] <= what):
            break
        heap[at, 0] = heap[above, 0]
        heap[at, 1] = heap[above, 1]
        at = above
    heap[at, 0] = due
    heap[at, 1] = what


@inlined
def next_timer(run: np.ndarray, heap: np.ndarray) -> int:
    """Return when the first timer is due, or NEVER."""
    return heap[0, 0] if run[0].timers > 0 else NEVER


@inner
def take_timer(run: np.ndarray, heap: np.ndarray) -> int:
    """Remove the first timer and return what it is."""
    first = heap[0, 1]
    count = run[0].timers - 1
    run[0].timers = count
    due, what = heap[count, 0], heap[count, 1]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= count:
            break
        if below + 1 < count and (
            heap[below + 1, 0] < heap[below, 0]
            or (heap[below + 1, 0] == heap[below, 0] and heap[below + 1, 1] < heap[below, 1])
        ):
            below += 1
        if due < heap[below, 0] or (due == heap[below, 0] and what <= heap[below, 1]):
            break
        heap[at, 0] = heap[below, 0]
        heap[at, 1] = heap[below, 1]
        at = below
    heap[at, 0] = due
    heap[at, 1] = what
    return first
