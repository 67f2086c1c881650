"""RoCE: go-back-N on links that never drop, one path a flow, and DCQCN for the rate (Zhu 2015).

A flow has a rate and no window. The word that a packet was marked cuts the rate by half of a moving estimate of
congestion, at most once in 50 us: marks within these count as one at their end. A timer of 55 us, which starts anew with
every cut, and a counter of 10 MB bring it back: five steps that halve the distance to where it was, then steps of a fixed
rate, then, when both have passed five, steps of a higher one.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import compiled, react
from orchestrator_network.packet.configs import DcqcnConfig
from orchestrator_network.packet.layout import BYTES, CWND, ECHO, MAX_CWND, NOW, OWN, PACE_OF
from orchestrator_network.packet.transports.base import Fabric, Transport
from orchestrator_network.wire import PS_PER_S

RATE, TARGET, ALPHA, LAST_CUT, TIMES, ROUNDS, COUNTED = range(OWN, OWN + 7)  # rates are shares of the line's
MARKED, UPDATE_AT = range(OWN + 7, OWN + 9)  # marks came since the last cut; when the timer is due, 0: it has not begun
LINE, GAIN, CUT_EVERY, UPDATE, COUNTER, STEPS, ADD, ADD_MORE, LEAST = range(9)
UNBOUNDED = 2.0**60
TICKS = 11  # of an update: the clock that says when a cut or the timer is due, where acknowledgements are rare


@compiled
def raise_rate(w: np.ndarray, k: np.ndarray) -> None:
    """Go up by one step: half of the way back, or first raise where to go back to."""
    if max(w[TIMES], w[ROUNDS]) > k[STEPS]:
        w[TARGET] += k[ADD_MORE] if min(w[TIMES], w[ROUNDS]) > k[STEPS] else k[ADD]
    w[TARGET] = min(w[TARGET], 1.0)
    w[RATE] = (w[RATE] + w[TARGET]) / 2
    w[PACE_OF] = k[LINE] / w[RATE]


@compiled
def cut(w: np.ndarray, when: float, k: np.ndarray) -> None:
    """Cut the rate for a notification that was due at ``when``, and begin to come back."""
    w[TARGET] = w[RATE]
    w[RATE] = max(w[RATE] * (1 - w[ALPHA] / 2), k[LEAST])
    w[ALPHA] = (1 - k[GAIN]) * w[ALPHA] + k[GAIN]
    w[LAST_CUT], w[UPDATE_AT], w[MARKED] = when, when + k[UPDATE], 0
    w[TIMES], w[ROUNDS], w[COUNTED] = 0, 0, 0
    w[PACE_OF] = k[LINE] / w[RATE]


@compiled
def catch_up(w: np.ndarray, now: float, k: np.ndarray) -> None:
    """Do what time asks for: the cut for marks since the last one, and the timer's steps up."""
    if w[UPDATE_AT] == 0:
        w[UPDATE_AT] = now + k[UPDATE]
    if w[MARKED] != 0 and now - w[LAST_CUT] >= k[CUT_EVERY]:
        cut(w, w[LAST_CUT] + k[CUT_EVERY], k)
    while now >= w[UPDATE_AT]:
        w[UPDATE_AT] += k[UPDATE]
        w[ALPHA] *= 1 - k[GAIN]
        w[TIMES] += 1
        raise_rate(w, k)


@react
def dcqcn(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Cut for a mark, at once or when the time between two cuts is over, and count bytes."""
    catch_up(w, e[NOW], k)
    if e[ECHO] != 0:
        if e[NOW] - w[LAST_CUT] >= k[CUT_EVERY]:
            cut(w, e[NOW], k)
        else:
            w[MARKED] = 1
    w[COUNTED] += e[BYTES]
    if w[COUNTED] >= k[COUNTER]:
        w[COUNTED] -= k[COUNTER]
        w[ROUNDS] += 1
        raise_rate(w, k)


@react
def dcqcn_tick(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Look at the time where no acknowledgement does."""
    catch_up(w, e[NOW], k)


@react
def keep_rate(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Go back, at the same rate: a loss is no sign of congestion where links do not drop."""


class Dcqcn(Transport):
    """``dcqcn``."""

    columns = 9
    windowed, paced, ordered = False, True, True
    lossless, load_balancer = "pfc", "ecmp"

    def __init__(self, config: DcqcnConfig | None = None) -> None:
        self.config = config or DcqcnConfig()
        self.on_ack, self.on_loss, self.on_tick = dcqcn, keep_rate, dcqcn_tick
        self.tick_ps = max(round(self.config.update_us * 1e6 / TICKS), 1)

    def constants(self, fabric: Fabric) -> np.ndarray:
        """Return the constants, times in picoseconds, rates as shares of the line."""
        config = self.config
        return np.array(
            [
                8 * PS_PER_S / fabric.rate_bps,
                config.gain,
                config.cut_every_us * 1e6,
                config.update_us * 1e6,
                config.counter_bytes,
                config.fast_steps,
                config.additive_share,
                config.hyper_share,
                config.least_share,
            ],
            float,
        )

    def begin(self, fabric: Fabric, window: np.ndarray) -> None:
        """Let every flow begin at the rate of the line."""
        super().begin(fabric, window)
        window[:, CWND] = window[:, MAX_CWND] = UNBOUNDED
        window[:, RATE] = window[:, TARGET] = window[:, ALPHA] = 1.0
        window[:, LAST_CUT] = -UNBOUNDED
