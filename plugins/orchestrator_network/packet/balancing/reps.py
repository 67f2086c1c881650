"""REPS: recycle the entropy values of packets that came through (htsim's buffer of 8 slots, with freezing).

A ring of 8 remembers the entropy values of acknowledgements without a mark; a packet takes the oldest that is still
fresh, and a random one when there is none. After a timeout the ring is frozen: it is cycled through, stale or not, for
10 ms, because what worked before the failure is more likely to work than a guess; then 16 packets explore. Where full ports
drop instead of trimming, a timeout is no sign of a failure, and nothing freezes.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.bits import draw
from orchestrator_network.packet.compiled import choose, learn
from orchestrator_network.packet.layout import ENTROPIES, GOOD, PATH_RANDOM, PATHS_OWN, TIMED_OUT
from orchestrator_network.packet.transports.base import Fabric

SLOTS = 8
HEAD, COUNT, FRESH, FROZEN, FROZEN_AT, THAW, EXPLORE = range(PATHS_OWN, PATHS_OWN + 7)
TRIMMED = (
    PATHS_OWN + 7 + 2 * 8
)  # whether a timeout says that a path failed: where full ports trim, nothing else loses packets
VALUES = PATHS_OWN + 7
VALID = VALUES + SLOTS
FREEZE_PS = 10_000_000_000
EXPLORED = 16


class Reps(Balancer):
    """The load balancer ``reps``."""

    columns = 8 + 2 * SLOTS

    def __init__(self) -> None:
        self.choose, self.learn = choose_reps, learn_reps

    def begin(self, fabric: Fabric, entropies: int, random_states: np.ndarray) -> np.ndarray:
        """Return rows that know whether full ports trim."""
        rows = super().begin(fabric, entropies, random_states)
        rows[:, TRIMMED] = fabric.trimming
        return rows


@choose
def choose_reps(p: np.ndarray, psn: int, window: int, now: int) -> int:  # noqa: ARG001 - the signature of all
    """Return the oldest fresh entropy value, or a random one."""
    if p[EXPLORE] > 0:
        p[EXPLORE] -= 1
        return (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31
    if p[FROZEN] != 0 and p[COUNT] > 0:
        at = p[FROZEN_AT]
        if p[VALID + at] != 0:
            p[VALID + at] = 0
            p[FRESH] -= 1
        p[FROZEN_AT] = (at + 1) % p[COUNT]
        return p[VALUES + at]
    if p[FROZEN] == 0 and p[FRESH] > 0:
        at = (p[HEAD] - p[FRESH]) % SLOTS
        p[VALID + at] = 0
        p[FRESH] -= 1
        return p[VALUES + at]
    return (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31


@learn
def learn_reps(p: np.ndarray, entropy: int, verdict: int, now: int) -> None:
    """Remember what came through without a mark; freeze after a timeout."""
    if verdict == TIMED_OUT and p[TRIMMED] != 0 and p[FROZEN] == 0 and p[EXPLORE] == 0:
        p[FROZEN] = 1
        p[THAW] = now + FREEZE_PS
    if p[FROZEN] != 0 and now > p[THAW]:
        p[HEAD : VALID + SLOTS] = 0
        p[EXPLORE] = EXPLORED
    if verdict == GOOD:
        at = p[HEAD]
        if p[VALID + at] == 0:
            p[FRESH] += 1
        p[VALUES + at] = entropy
        p[VALID + at] = 1
        p[HEAD] = (at + 1) % SLOTS
        p[COUNT] = min(p[COUNT] + 1, SLOTS)
