"""NSCC, the sender-based congestion control of Ultra Ethernet (UET specification 1.0, 3.6.13; htsim's UEC source).

Two signals, the ECN echo and the queueing delay of a sample against a target, make four cases:

    no mark, low delay    the pipe is not full: increase in proportion to the room, fast if it is empty
    no mark, high delay   others cause the delay: increase a little
    mark, low delay       one path is full: leave the window, the load balancer moves away
    mark, high delay      the network is full: once a round trip, cut by up to half

and when losses or extreme delay say that the window is far too large, quick adapt sets it to what got through.
Increases are gathered and applied every 8 packets or round trip. Quantities are cut to integers where the reference
keeps integers.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import compiled, react
from orchestrator_network.packet.configs import NsccConfig
from orchestrator_network.packet.layout import (
    AT_LAST_HOP,
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

# State of a flow.
AVERAGE_DELAY = OWN  # ps
INCREASE = OWN + 1  # gathered; bytes times window
SINCE_ADJUST = OWN + 2  # bytes arrived
LAST_ADJUST, LAST_CUT = OWN + 3, OWN + 4
ADAPT_END, ADAPT_ARMED, ACHIEVED = OWN + 5, OWN + 6, OWN + 7  # quick adapt
IGNORED, TO_IGNORE = OWN + 8, OWN + 9
CLEAN, FAST = OWN + 10, OWN + 11  # fast increase

# Constants.
TARGET_DELAY, ALPHA, FAIR, ETA, FAST_SCALE, GAMMA, EWMA = range(7)
ADAPT_GATE, ADAPT_DELAY, ADJUST_BYTES, NETWORK_RTT, MTU, RATE, CREDITED_TOO = range(7, 14)

US = 1_000_000.0


class Nscc(Transport):
    """The congestion control ``nscc``."""

    columns = 12

    def __init__(self, config: NsccConfig | None = None) -> None:
        self.config = config or NsccConfig()
        self.on_ack, self.on_loss = on_ack, on_loss

    def target_delay_ps(self, fabric: Fabric) -> int:
        """Return the target of the queueing delay: what was asked for, or a share of the round trip."""
        asked_us = self.config.target_delay_us
        return super().target_delay_ps(fabric) if asked_us is None else int(asked_us * US)

    def constants(self, fabric: Fabric) -> np.ndarray:
        """Scale the constants of the specification, given for 100 Gb/s and 12 us, to a fabric."""
        reference_bdp = 150_000
        bdp = int(fabric.rtt_ps / 1e12 * (fabric.rate_bps / 8))
        scale = bdp / reference_bdp
        mss, target_ps = fabric.payload_bytes, float(self.target_delay_ps(fabric))
        values = np.zeros(16)
        values[TARGET_DELAY] = target_ps
        values[ALPHA] = 4.0 * mss * scale * (target_ps / (12 * US)) / target_ps
        values[FAIR] = 5 * mss * scale
        values[ETA] = 0.15 * mss * scale
        values[FAST_SCALE] = 0.25 * scale
        values[GAMMA] = self.config.gamma
        values[EWMA] = 0.0125
        values[ADAPT_GATE] = 2**self.config.quick_adapt_gate
        values[ADAPT_DELAY] = 4 * target_ps
        values[ADJUST_BYTES] = 8 * fabric.packet_bytes
        values[NETWORK_RTT] = fabric.rtt_ps
        values[MTU] = fabric.packet_bytes
        values[RATE] = fabric.rate_bps
        values[CREDITED_TOO] = fabric.credited
        return values


@compiled
def clamp(w: np.ndarray, k: np.ndarray) -> None:
    """Keep the window between a packet and its maximum."""
    w[CWND] = min(max(w[CWND], k[MTU]), w[MAX_CWND])


@compiled
def lower_base(w: np.ndarray, rtt: float, k: np.ndarray) -> None:
    """Take a smaller round trip as the unloaded one; the maximum window follows, and a packet must fit into it.

    Between neighbours without latency a packet of few bytes is back before a full one has left.
    """
    if rtt < w[BASE_RTT]:
        w[BASE_RTT] = rtt
        w[MAX_CWND] = max(np.floor(1.5 * np.floor(rtt / US * k[RATE] / 8e6)), k[MTU])


@compiled
def average(w: np.ndarray, delay: float, marked: bool, k: np.ndarray) -> None:
    """Move the average delay; a high delay without a mark counts as a quarter of a round trip."""
    if not marked and delay > k[TARGET_DELAY]:
        delay = w[BASE_RTT] * 0.25
    w[AVERAGE_DELAY] = np.floor(k[EWMA] * delay + (1 - k[EWMA]) * w[AVERAGE_DELAY])


@compiled
def quick_adapt(w: np.ndarray, now: float, loss: bool, marked: bool, delay: float, k: np.ndarray) -> bool:
    """Set the window to what got through, at most once a period; True if this feedback says nothing more."""
    done = False
    if w[IGNORED] < w[TO_IGNORE] and marked:
        done = True
    elif now > w[ADAPT_END]:
        wanted = w[ADAPT_ARMED] != 0 or loss or delay > k[ADAPT_DELAY]
        if w[ADAPT_END] != 0 and wanted and w[ACHIEVED] < np.floor(w[MAX_CWND] / k[ADAPT_GATE]):
            w[CWND] = max(w[ACHIEVED], k[MTU])
            w[TO_IGNORE] = w[IN_FLIGHT]
            w[IGNORED] = 0
            w[ADAPT_ARMED] = 0
            done = True
        w[ACHIEVED] = 0
        w[ADAPT_END] = now + w[BASE_RTT] + k[TARGET_DELAY]
    if done:
        w[INCREASE] = 0
        w[SINCE_ADJUST] = 0
    return done


@compiled
def fast_increase(w: np.ndarray, delay: float, arrived: float, k: np.ndarray) -> bool:
    """Grow with every byte once a whole window has come back without delay."""
    if delay < US:
        w[CLEAN] += arrived
        if w[CLEAN] > w[CWND] or w[FAST] != 0:
            w[CWND] = np.floor(w[CWND] + arrived * k[FAST_SCALE])
            w[FAST] = 1
            return True
    else:
        w[CLEAN] = 0
    w[FAST] = 0
    return False


@compiled
def cut(w: np.ndarray, now: float, k: np.ndarray) -> None:
    """Multiplicative decrease by how far the average delay is above the target, once a round trip, by half at most."""
    w[FAST] = 0
    w[CLEAN] = 0
    if w[AVERAGE_DELAY] > k[TARGET_DELAY] and now - w[LAST_CUT] > w[BASE_RTT]:
        factor = 1 - k[GAMMA] * (w[AVERAGE_DELAY] - k[TARGET_DELAY]) / w[AVERAGE_DELAY]
        w[CWND] = max(np.floor(w[CWND] * max(factor, 0.5)), k[MTU])
        w[LAST_CUT] = now


@react
def on_ack(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take an acknowledgement."""
    now, arrived, marked = e[NOW], e[BYTES], e[ECHO] != 0
    w[ACHIEVED] += arrived
    w[SINCE_ADJUST] += arrived
    w[IGNORED] += arrived
    delay = w[AVERAGE_DELAY]
    if e[RTT] >= 0:
        lower_base(w, e[RTT], k)
        delay = e[RTT] - w[BASE_RTT]
        average(w, delay, marked, k)
    if quick_adapt(w, now, False, marked, delay, k):
        return
    if not marked and delay >= k[TARGET_DELAY]:
        w[INCREASE] += np.floor(k[FAIR] * arrived)
    elif not marked:
        if not fast_increase(w, delay, arrived, k):
            w[INCREASE] += np.floor(k[ALPHA] * arrived * (k[TARGET_DELAY] - delay))
    elif delay >= k[TARGET_DELAY]:
        cut(w, now, k)
    clamp(w, k)
    if w[SINCE_ADJUST] > k[ADJUST_BYTES] or now - w[LAST_ADJUST] > k[NETWORK_RTT]:
        w[CWND] += np.floor(w[INCREASE] / w[CWND])
        if now - w[LAST_ADJUST] >= k[NETWORK_RTT]:
            w[CWND] = np.floor(w[CWND] + k[ETA])
            w[LAST_ADJUST] = now
        w[INCREASE] = 0
        w[SINCE_ADJUST] = 0
        clamp(w, k)


@react
def on_loss(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take a negative acknowledgement or a timeout."""
    if e[REASON] == TIMEOUT_LOSS:
        w[CWND] = max(w[CWND] - e[BYTES], k[MTU])
        return
    lower_base(w, e[RTT], k)
    w[IGNORED] += e[BYTES]
    average(w, k[NETWORK_RTT], True, k)
    w[ADAPT_ARMED] = 1
    if quick_adapt(w, e[NOW], True, True, 0.0, k):
        return
    if k[CREDITED_TOO] == 0 or e[AT_LAST_HOP] == 0:
        w[CWND] -= e[BYTES]
        clamp(w, k)
