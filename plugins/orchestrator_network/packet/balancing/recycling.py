"""Load balancers that remember paths: the bitmap of penalties, the first REPS, and htsim's mix of both."""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.bits import draw
from orchestrator_network.packet.compiled import choose, compiled, learn
from orchestrator_network.packet.layout import (
    CONGESTED,
    ENTROPIES,
    GOOD,
    PATH_RANDOM,
    PATHS_OWN,
    TIMED_OUT,
    TRIMMED_PATH,
)

FIFO = 256  # clean values that wait to be used again; a window holds fewer
HEAD, LENGTH, WALK, BEGUN, INDEX, MASK = range(PATHS_OWN, PATHS_OWN + 6)
QUEUE = PATHS_OWN + 6
PENALTY = QUEUE + FIFO
CAP = 15


@compiled
def next_unpenalised(p: np.ndarray) -> int:
    """Walk as `oblivious` does, past values with a penalty; the first one that is passed loses a point."""
    if p[BEGUN] == 0:
        p[BEGUN] = 1
        p[MASK] = (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31
    value = p[INDEX] ^ p[MASK]
    passed = 0
    while p[PENALTY + value] > 0:
        if passed == 0:
            p[PENALTY + value] -= 1
        passed += 1
        if passed > p[ENTROPIES]:
            break
        step(p)
        value = p[INDEX] ^ p[MASK]
    step(p)
    return value


@compiled
def step(p: np.ndarray) -> None:
    """Go to the next value; a new order begins when all have been visited."""
    p[INDEX] += 1
    if p[INDEX] == p[ENTROPIES]:
        p[INDEX] = 0
        p[MASK] = (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31


@compiled
def punish(p: np.ndarray, entropy: int, verdict: int) -> None:
    """Add the penalty of a verdict: a mark 1, a trim 4, a timeout the most there is."""
    points = 0
    if verdict == CONGESTED:
        points = 1
    elif verdict == TRIMMED_PATH:
        points = 4
    elif verdict == TIMED_OUT:
        points = CAP
    at = PENALTY + entropy
    p[at] = min(p[at] + points, CAP)


@compiled
def remember(p: np.ndarray, entropy: int, verdict: int) -> None:
    """Queue a value that came through clean; the oldest makes room."""
    if verdict != GOOD:
        return
    p[QUEUE + (p[HEAD] + p[LENGTH]) % FIFO] = entropy
    if p[LENGTH] < FIFO:
        p[LENGTH] += 1
    else:
        p[HEAD] = (p[HEAD] + 1) % FIFO


@compiled
def recall(p: np.ndarray) -> int:
    """Return the value that has waited longest; there is one."""
    value = p[QUEUE + p[HEAD]]
    p[HEAD] = (p[HEAD] + 1) % FIFO
    p[LENGTH] -= 1
    return value


@choose
def choose_bitmap(p: np.ndarray, psn: int, window: int, now: int) -> int:  # noqa: ARG001 - the signature of all
    """Return the next value without a penalty."""
    return next_unpenalised(p)


@learn
def learn_bitmap(p: np.ndarray, entropy: int, verdict: int, now: int) -> None:  # noqa: ARG001
    """Punish what was marked, trimmed or lost."""
    punish(p, entropy, verdict)


@choose
def choose_legacy(p: np.ndarray, psn: int, window: int, now: int) -> int:  # noqa: ARG001
    """Walk 1, 2, ... in the first window, then use clean values again, then guess."""
    if psn < min(window, p[ENTROPIES]):
        p[WALK] = (p[WALK] + 1) % p[ENTROPIES]
        return p[WALK]
    if p[LENGTH] > 0:
        return recall(p)
    return (draw(p, PATH_RANDOM) * p[ENTROPIES]) >> 31


@learn
def learn_legacy(p: np.ndarray, entropy: int, verdict: int, now: int) -> None:  # noqa: ARG001
    """Remember what came through."""
    remember(p, entropy, verdict)


@choose
def choose_mixed(p: np.ndarray, psn: int, window: int, now: int) -> int:  # noqa: ARG001
    """Use a clean value again, or the next one without a penalty."""
    return recall(p) if p[LENGTH] > 0 else next_unpenalised(p)


@learn
def learn_mixed(p: np.ndarray, entropy: int, verdict: int, now: int) -> None:  # noqa: ARG001
    """Remember and punish."""
    punish(p, entropy, verdict)
    remember(p, entropy, verdict)


class _Recycling(Balancer):
    power_of_two = True

    def columns_for(self, entropies: int) -> int:
        return 6 + FIFO + entropies


class Bitmap(_Recycling):
    """``bitmap``: a penalty for every value; the number of entropy values must be a power of 2."""

    def __init__(self) -> None:
        self.choose, self.learn = choose_bitmap, learn_bitmap


class RepsLegacy(_Recycling):
    """``reps_legacy``: the first version of REPS."""

    power_of_two = False

    def __init__(self) -> None:
        self.choose, self.learn = choose_legacy, learn_legacy


class Mixed(_Recycling):
    """``mixed``: REPS's memory first, the bitmap else; the default of htsim."""

    def __init__(self) -> None:
        self.choose, self.learn = choose_mixed, learn_mixed
