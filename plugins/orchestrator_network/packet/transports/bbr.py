"""BBR: a model of the path, the most it delivers and the least it takes, sets the pace (Cardwell 2016, version 1).

The bandwidth is the highest delivery rate of the last ten round trips. A flow starts up at 2/ln 2 times what it
measures until three round trips bring less than a quarter more, drains what that put into queues, and then probes for
more with gains of 1.25, 0.75 and six times 1, a round trip each. Losses are no signal. The published filters last for
10 s and a probe of the round trip for 200 ms on paths of some 40 ms: 250 and 5 round trips, which are the units here.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import compiled, react
from orchestrator_network.packet.configs import BbrConfig
from orchestrator_network.packet.layout import (
    BASE_RTT,
    BEFORE,
    BYTES,
    CWND,
    DELIVERED,
    GAINED,
    IN_FLIGHT,
    NOW,
    OWN,
    PACE_OF,
    REASON,
    RTT,
    SPAN,
    TIMEOUT_LOSS,
)
from orchestrator_network.packet.transports.base import Fabric, Transport

ROUNDS = 10  # of the filter of the bandwidth
RATES = OWN  # one column a round, bytes per ps
MODE, ROUND, ROUND_END, FULL_RATE, STALLED, PHASE, PHASE_AT, SEEN_AT, PROBE_END, PACE_GAIN, WINDOW_GAIN = range(
    OWN + ROUNDS, OWN + ROUNDS + 11
)
COLUMNS = ROUNDS + 11
STARTUP, DRAIN, PROBE_BANDWIDTH, PROBE_ROUND_TRIP = range(4)
MTU, NETWORK_RTT, HIGH_GAIN, STEADY_GAIN, FILTER, PROBE_FOR, LEAST_PACKETS = range(7)
GROWTH, PATIENCE, PHASES = 1.25, 3, 8


@compiled
def best_rate(w: np.ndarray) -> float:
    """Return the highest delivery rate of the last rounds, bytes per ps."""
    best = 0.0
    for column in range(RATES, RATES + ROUNDS):
        best = max(best, w[column])
    return best


@compiled
def gain_of(phase: float) -> float:
    """Return the gain of a phase of the probing of bandwidth."""
    if phase == 0:
        return 1.25
    return 0.75 if phase == 1 else 1.0


@compiled
def note_rate(w: np.ndarray, e: np.ndarray) -> bool:
    """Take a sample of the delivery rate; True at the begin of a round trip, which packets count."""
    if e[BEFORE] < 0:
        return False
    begins = e[BEFORE] >= w[ROUND_END]
    if begins:
        w[ROUND_END] = e[DELIVERED]
        w[ROUND] += 1
        w[RATES + int(w[ROUND]) % ROUNDS] = 0
    if e[SPAN] > 0:
        column = RATES + int(w[ROUND]) % ROUNDS
        w[column] = max(w[column], e[GAINED] / e[SPAN])
    return begins


@compiled
def leave_startup(w: np.ndarray, rate: float, pipe: float, begins: bool, k: np.ndarray) -> None:
    """Go from start-up to draining when the rate has stopped to grow, and from there on when the queue is empty."""
    if w[MODE] == STARTUP and begins:
        if rate >= w[FULL_RATE] * GROWTH:
            w[FULL_RATE], w[STALLED] = rate, 0
        else:
            w[STALLED] += 1
        if w[STALLED] >= PATIENCE:
            w[MODE], w[PACE_GAIN] = DRAIN, 1 / k[HIGH_GAIN]
    if w[MODE] == DRAIN and w[IN_FLIGHT] <= pipe:
        w[MODE] = PROBE_BANDWIDTH


@compiled
def probe_bandwidth(w: np.ndarray, now: float, pipe: float, k: np.ndarray) -> None:
    """Go through the phases: more until it is in flight, less until the queue is gone, each for a round trip."""
    if w[MODE] != PROBE_BANDWIDTH:
        return
    gain = gain_of(w[PHASE])
    over = now - w[PHASE_AT] > w[BASE_RTT]
    if gain > 1:
        over = over and w[IN_FLIGHT] >= gain * pipe
    elif gain < 1:
        over = over or w[IN_FLIGHT] <= pipe
    if over:
        w[PHASE], w[PHASE_AT] = (w[PHASE] + 1) % PHASES, now
    w[PACE_GAIN], w[WINDOW_GAIN] = gain_of(w[PHASE]), k[STEADY_GAIN]


@compiled
def probe_round_trip(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take the least round trip of the filter; when it is old, keep next to nothing in flight to see it again."""
    now, least = e[NOW], k[LEAST_PACKETS] * k[MTU]
    old = now > w[SEEN_AT] + k[FILTER]
    if e[RTT] >= 0 and (e[RTT] <= w[BASE_RTT] or old):
        w[BASE_RTT], w[SEEN_AT] = e[RTT], now
    if old and w[MODE] != PROBE_ROUND_TRIP:
        w[MODE], w[PACE_GAIN], w[PROBE_END] = PROBE_ROUND_TRIP, 1.0, 0
    if w[MODE] != PROBE_ROUND_TRIP:
        return
    if w[PROBE_END] == 0 and w[IN_FLIGHT] <= least:
        w[PROBE_END] = now + max(k[PROBE_FOR], w[BASE_RTT])
    elif w[PROBE_END] != 0 and now > w[PROBE_END]:
        w[SEEN_AT] = now
        full = w[STALLED] >= PATIENCE
        w[MODE] = PROBE_BANDWIDTH if full else STARTUP
        w[PACE_GAIN] = 1.0 if full else k[HIGH_GAIN]


@react
def on_ack(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Update the model of the path, the mode, and what follows from them."""
    begins = note_rate(w, e)
    rate = best_rate(w)
    pipe = rate * w[BASE_RTT]
    leave_startup(w, rate, pipe, begins, k)
    probe_bandwidth(w, e[NOW], pipe, k)
    probe_round_trip(w, e, k)
    if rate > 0:
        w[PACE_OF] = 1 / (w[PACE_GAIN] * rate)
    least = k[LEAST_PACKETS] * k[MTU]
    if w[MODE] == PROBE_ROUND_TRIP:
        w[CWND] = least
        return
    target = w[WINDOW_GAIN] * pipe
    if w[MODE] == STARTUP:
        w[CWND] += e[BYTES] if w[CWND] < target or rate == 0 else 0.0
    else:
        w[CWND] = min(w[CWND] + e[BYTES], target)
    w[CWND] = max(w[CWND], least)


@react
def on_loss(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Leave the model; after a timeout begin again with the smallest window, which acknowledgements open."""
    if e[REASON] == TIMEOUT_LOSS:
        w[CWND] = k[LEAST_PACKETS] * k[MTU]


class Bbr(Transport):
    """``bbr``: acknowledgements for every packet, senders that measure their delivery and keep a pace."""

    columns = COLUMNS
    ack_every_bytes = 1
    paced, rated = True, True

    def __init__(self, config: BbrConfig | None = None) -> None:
        self.config = config or BbrConfig()
        self.on_ack, self.on_loss = on_ack, on_loss

    def constants(self, fabric: Fabric) -> np.ndarray:
        """Return the constants, times in picoseconds."""
        config, rtt = self.config, fabric.rtt_ps
        return np.array(
            [
                fabric.packet_bytes,
                rtt,
                config.high_gain,
                config.window_gain,
                config.filter_rtts * rtt,
                config.probe_rtts * rtt,
                config.least_packets,
            ],
            float,
        )

    def begin(self, fabric: Fabric, window: np.ndarray) -> None:
        """Begin with a few packets at the high gain; the phases of flows are not the same, and never the low one."""
        super().begin(fabric, window)
        first = self.config.first_packets * fabric.packet_bytes
        window[:, CWND] = first
        window[:, PACE_OF] = np.maximum(fabric.rtt_ps / (self.config.high_gain * first), window[:, PACE_OF])
        window[:, PACE_GAIN] = window[:, WINDOW_GAIN] = self.config.high_gain
        # A flow that is alone in its place draws the same phase whatever others there are.
        phases = (np.arange(len(window)) * 5) % (PHASES - 1)
        window[:, PHASE] = np.where(phases >= 1, phases + 1, 0)
