"""Load balancers that keep a path for a while: PLB moves on congestion, flowlet switching after a pause."""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.bits import draw
from orchestrator_network.packet.compiled import choose, learn
from orchestrator_network.packet.layout import ENTROPIES, GOOD, PATH_RANDOM, PATHS_OWN
from orchestrator_network.packet.transports.base import Fabric

BEGUN, VALUE, SINCE, PATIENCE, RTT = range(PATHS_OWN, PATHS_OWN + 5)


@choose
def choose_plb(p: np.ndarray, psn: int, window: int, now: int) -> int:  # noqa: ARG001 - the signature of all
    """Return the value of the flow; a new one when nothing came back clean for 5 to 7 round trips."""
    if p[BEGUN] == 0 or now - p[SINCE] > p[PATIENCE]:
        p[BEGUN] = 1
        p[VALUE] = (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31
        p[PATIENCE] = 5 * p[RTT] + ((draw(p, PATH_RANDOM) >> 11) * 2 * p[RTT] >> 20)
        p[SINCE] = now
    return p[VALUE]


@learn
def learn_plb(p: np.ndarray, entropy: int, verdict: int, now: int) -> None:
    """Note that the path is clean."""
    if verdict == GOOD and entropy == p[VALUE]:
        p[SINCE] = now


@choose
def choose_flowlet(p: np.ndarray, psn: int, window: int, now: int) -> int:  # noqa: ARG001
    """Return the value of the flow; a new one after a pause that is longer than the paths can differ."""
    if p[BEGUN] == 0 or now - p[SINCE] > p[PATIENCE]:
        p[BEGUN] = 1
        p[VALUE] = (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31
    p[SINCE] = now
    return p[VALUE]


@learn
def learn_nothing(p: np.ndarray, entropy: int, verdict: int, now: int) -> None:
    """Leave everything as it is."""


class Plb(Balancer):
    """``plb``: protective load balancing, by the rule of a public reproduction (no clean feedback for 5 to 7 round trips)."""

    columns = 5

    def __init__(self) -> None:
        self.choose, self.learn = choose_plb, learn_plb

    def begin(self, fabric: Fabric, entropies: int, random_states: np.ndarray) -> np.ndarray:
        """Return rows that know the round trip."""
        rows = super().begin(fabric, entropies, random_states)
        rows[:, RTT] = fabric.rtt_ps
        return rows


class Flowlet(Balancer):
    """``flowlet``: a new path after a pause of half a round trip."""

    columns = 5
    pause_rtt = 0.5

    def __init__(self) -> None:
        self.choose, self.learn = choose_flowlet, learn_nothing

    def begin(self, fabric: Fabric, entropies: int, random_states: np.ndarray) -> np.ndarray:
        """Return rows that know the pause."""
        rows = super().begin(fabric, entropies, random_states)
        rows[:, PATIENCE] = int(self.pause_rtt * fabric.rtt_ps)
        return rows
