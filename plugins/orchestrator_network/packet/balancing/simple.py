"""Load balancers that learn nothing: one path a flow (ECMP), and a walk over all paths (oblivious spraying)."""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.bits import draw
from orchestrator_network.packet.compiled import choose, learn
from orchestrator_network.packet.configs import AdaptiveConfig
from orchestrator_network.packet.layout import ENTROPIES, PATH_RANDOM, PATHS_OWN

BEGUN, VALUE = PATHS_OWN, PATHS_OWN + 1
INDEX, MASK = PATHS_OWN + 1, PATHS_OWN + 2


@learn
def learn_nothing(p: np.ndarray, entropy: int, verdict: int, now: int) -> None:
    """Leave everything as it is."""


@choose
def choose_one(p: np.ndarray, psn: int, window: int, now: int) -> int:  # noqa: ARG001 - the signature of all
    """Return the one entropy value of the flow."""
    if p[BEGUN] == 0:
        p[BEGUN] = 1
        p[VALUE] = (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31
    return p[VALUE]


@choose
def choose_next(p: np.ndarray, psn: int, window: int, now: int) -> int:  # noqa: ARG001 - the signature of all
    """Walk through all values in an order that changes every round: counter xor r, a new r each wrap."""
    if p[BEGUN] == 0:
        p[BEGUN] = 1
        p[MASK] = (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31
    value = p[INDEX] ^ p[MASK]
    p[INDEX] += 1
    if p[INDEX] == p[ENTROPIES]:
        p[INDEX] = 0
        p[MASK] = (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31
    return value


class Ecmp(Balancer):
    """``ecmp``: one entropy value a flow, so one path."""

    columns = 2

    def __init__(self) -> None:
        self.choose, self.learn = choose_one, learn_nothing


class Oblivious(Balancer):
    """``oblivious``: every path in turn; the number of entropy values must be a power of 2."""

    columns = 3
    power_of_two = True

    def __init__(self) -> None:
        self.choose, self.learn = choose_next, learn_nothing


class Adaptive(Ecmp):
    """``adaptive``: the switch decides, packet by packet or for flowlets, by levels or bytes."""

    in_switch = True

    def __init__(self, config: AdaptiveConfig | None = None) -> None:
        super().__init__()
        config = config or AdaptiveConfig()
        self.by_levels = config.load == "levels"
        self.sticky_ps = round(config.sticky_us * 1e6) if config.granularity == "flowlet" else 0
