"""SMaRTT (arXiv:2404.01630), the algorithm that NSCC grew from: the paper's first version and its fourth.

Both want a round trip of 1.5 times the unloaded one, and sort feedback by mark and delay. Version 1 (retitled
FASTFLOW) acts on every acknowledgement, by a packet at most, and lets the mark alone decrease fairly; version 4 cuts
the whole window once a round trip. The function of version 1 reads as the paper's pseudo-code does.

Read from copies, not from the paper: what "round trip as if unloaded" means differs between them (here: within five
packet times), and so do the thresholds of wait-to-decrease (here 0.25). The fair increase is given for 100 Gb/s and
12 us and scales with the bandwidth-delay product.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import compiled, react
from orchestrator_network.packet.layout import (
    BASE_RTT,
    BYTES,
    CWND,
    ECHO,
    IN_FLIGHT,
    MAX_CWND,
    NOW,
    OWN,
    REASON,
    RTT,
    TIMEOUT_LOSS,
)
from orchestrator_network.packet.transports.base import Fabric, Transport

ACKED, IGNORED, TO_IGNORE, WAIT, ADAPT_END, ADAPT_ARMED, CLEAN, FAST, LAST_RTT, AVERAGE_RTT, LAST_CUT = range(
    OWN, OWN + 11
)
(MTU, BDP, TARGET, FD, FI, MD, MI, ADAPT_SCALE, CLEAN_RTT, GAMMA, EWMA) = range(11)


@compiled
def clamp(w: np.ndarray, k: np.ndarray) -> None:
    """Keep the window between a packet and its maximum."""
    w[CWND] = min(max(w[CWND], k[MTU]), w[MAX_CWND])


@compiled
def quick_adapt(w: np.ndarray, now: float, k: np.ndarray) -> bool:
    """Once a target round trip, if something was lost: set the window to what got through."""
    if now < w[ADAPT_END]:
        return False
    fire = w[ADAPT_ARMED] != 0 and w[ADAPT_END] != 0
    if fire:
        w[CWND] = max(w[ACKED], k[MTU]) * k[ADAPT_SCALE]
        w[TO_IGNORE] = w[IN_FLIGHT]
        w[IGNORED] = 0
        w[ADAPT_ARMED] = 0
    w[ADAPT_END] = now + k[TARGET]
    w[ACKED] = 0
    return fire


@compiled
def fast_increase(w: np.ndarray, arrived: float, rtt: float, marked: bool, k: np.ndarray) -> bool:
    """Two packets an acknowledgement, once a whole window came back as if the network were empty."""
    if rtt <= k[CLEAN_RTT] and not marked:
        w[CLEAN] += arrived
        if w[CLEAN] > w[CWND] or w[FAST] != 0:
            w[FAST] = 1
            w[CWND] += 2 * k[MTU]
            return True
    else:
        w[CLEAN] = 0
        w[FAST] = 0
    return False


@compiled
def sample(w: np.ndarray, e: np.ndarray) -> float:
    """Return the round trip that this acknowledgement measured, or the last one that is known."""
    if e[RTT] >= 0:
        w[LAST_RTT] = e[RTT]
    return w[LAST_RTT] if w[LAST_RTT] > 0 else w[BASE_RTT]


@react
def on_ack_v1(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take an acknowledgement, version 1."""
    arrived, marked, rtt = e[BYTES], e[ECHO] != 0, sample(w, e)
    w[ACKED] += arrived
    w[IGNORED] += arrived
    if w[IGNORED] < w[TO_IGNORE]:
        return
    w[WAIT] += 0.125 * (e[ECHO] - w[WAIT])
    may_cut = w[WAIT] >= 0.25
    if not quick_adapt(w, e[NOW], k) and not fast_increase(w, arrived, rtt, marked, k):
        late = rtt > k[TARGET]
        if marked and may_cut:
            if late:
                w[CWND] -= min(arrived, k[MD] * arrived * (rtt - k[TARGET]) / rtt)
            w[CWND] -= k[FD] * arrived * w[CWND] / k[BDP]
        elif not marked:
            if not late:
                w[CWND] += min(arrived, k[MI] * k[MTU] * arrived / w[CWND] * (k[TARGET] - rtt) / rtt)
            w[CWND] += k[FI] * k[MTU] * arrived / w[CWND]
    clamp(w, k)


@react
def on_ack_v4(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take an acknowledgement, version 4: a mark without delay is left to the load balancer."""
    arrived, marked, rtt = e[BYTES], e[ECHO] != 0, sample(w, e)
    w[ACKED] += arrived
    w[IGNORED] += arrived
    before = w[AVERAGE_RTT] if w[AVERAGE_RTT] > 0 else w[BASE_RTT]
    w[AVERAGE_RTT] = before + k[EWMA] * (rtt - before)
    if w[IGNORED] < w[TO_IGNORE]:
        return
    if not quick_adapt(w, e[NOW], k) and not fast_increase(w, arrived, rtt, marked, k):
        late = rtt > k[TARGET]
        if marked and late and w[AVERAGE_RTT] > k[TARGET] and e[NOW] - w[LAST_CUT] > w[BASE_RTT]:
            w[CWND] *= max(0.5, 1 - k[GAMMA] * (w[AVERAGE_RTT] - k[TARGET]) / w[AVERAGE_RTT])
            w[LAST_CUT] = e[NOW]
        elif not marked:
            if not late:
                w[CWND] += min(arrived, k[MI] * k[MTU] * arrived / w[CWND] * (k[TARGET] - rtt) / rtt)
            w[CWND] += k[FI] * k[MTU] * arrived / w[CWND]
    clamp(w, k)


@react
def on_loss(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take a trim or a timeout; it counts as feedback that is ignored after a quick adapt (as the authors' code counts)."""
    w[IGNORED] += e[BYTES]
    w[CWND] -= e[BYTES]
    w[ADAPT_ARMED] = 1
    if w[IGNORED] >= w[TO_IGNORE] and e[REASON] != TIMEOUT_LOSS:
        quick_adapt(w, e[NOW], k)
    clamp(w, k)


class _Smartt(Transport):
    columns = 11
    ack_every_bytes = 1
    cap_bdp = 1.25
    adapt_scale = 0.8

    def constants(self, fabric: Fabric) -> np.ndarray:
        values = np.zeros(11)
        values[MTU], values[BDP] = fabric.packet_bytes, fabric.bdp_bytes
        values[TARGET] = 1.5 * fabric.rtt_ps
        values[FD], values[FI] = 0.8, 0.25 * fabric.bdp_bytes / 150_000
        values[MD] = 2 if fabric.trimming else 4
        values[MI] = fabric.rtt_ps / (values[TARGET] - fabric.rtt_ps)
        values[ADAPT_SCALE] = self.adapt_scale
        values[CLEAN_RTT] = fabric.rtt_ps + 5 * fabric.packet_bytes * 8 / fabric.rate_bps * 1e12
        values[GAMMA], values[EWMA] = 0.8, 0.0125
        return values

    def begin(self, fabric: Fabric, window: np.ndarray) -> None:
        """Begin at the maximum window."""
        super().begin(fabric, window)
        window[:, MAX_CWND] = window[:, CWND] = int(self.cap_bdp * fabric.bdp_bytes)


class SmarttV1(_Smartt):
    """``smartt_v1``: reaction to every acknowledgement, wait to decrease."""

    def __init__(self) -> None:
        self.on_ack, self.on_loss = on_ack_v1, on_loss


class SmarttV4(_Smartt):
    """``smartt_v4``: one cut of the whole window a round trip."""

    cap_bdp = 1.5
    adapt_scale = 1.0

    def __init__(self) -> None:
        self.on_ack, self.on_loss = on_ack_v4, on_loss
