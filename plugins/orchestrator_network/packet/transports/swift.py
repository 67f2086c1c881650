"""Swift: delay against a target that grows with hops and with small windows (Kumar 2020, algorithm 1).

The window counts packets as in the paper. One below a packet lets a packet go every round trip over window, so a flow of
many can send less than a packet a round trip. A timeout cuts as any other loss does; several in a row, with nothing
acknowledged between them, bring the window to its least.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator_network.packet.compiled import compiled, react
from orchestrator_network.packet.configs import SwiftConfig
from orchestrator_network.packet.layout import BYTES, CWND, MAX_CWND, NOW, OWN, PACE_OF, REASON, RTT, TIMEOUT_LOSS
from orchestrator_network.packet.transports.base import Fabric, Transport

LAST_CUT, LAST_RTT, WINDOW, TIMEOUTS, LAST_TIMEOUT = range(OWN, OWN + 5)
MTU, BASE_TARGET, FS_ALPHA, FS_BETA, FS_RANGE, BETA, MAX_CUT, AI, BASE, LEAST = range(10)
RESET_AFTER = 5  # timeouts in a row, as in htsim (`_rtx_reset_threshold`); the paper names no number
LONG_AGO = -(2.0**60)


@compiled
def set_window(w: np.ndarray, packets: float, k: np.ndarray) -> None:
    """Set the window, and below a packet the pace."""
    w[WINDOW] = min(max(packets, k[LEAST]), w[MAX_CWND] / k[MTU])
    w[CWND] = max(w[WINDOW], 1.0) * k[MTU]
    rtt = w[LAST_RTT] if w[LAST_RTT] > 0 else k[BASE]
    w[PACE_OF] = rtt / (w[WINDOW] * k[MTU]) if w[WINDOW] < 1 else 0.0


@react
def on_ack(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take an acknowledgement."""
    w[TIMEOUTS] = 0
    if e[RTT] >= 0:
        w[LAST_RTT] = e[RTT]
    rtt = w[LAST_RTT] if w[LAST_RTT] > 0 else k[BASE]
    packets = w[WINDOW]
    scaling = max(0.0, min(k[FS_ALPHA] / np.sqrt(packets) + k[FS_BETA], k[FS_RANGE]))
    target = k[BASE_TARGET] + scaling
    if rtt < target:
        packets += k[AI] * (e[BYTES] / k[MTU]) / max(packets, 1.0)
    elif e[NOW] - w[LAST_CUT] >= rtt:
        packets *= max(1 - k[BETA] * (rtt - target) / rtt, 1 - k[MAX_CUT])
        w[LAST_CUT] = e[NOW]
    set_window(w, packets, k)


@react
def on_loss(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Cut by the maximum, once a round trip; to the least window after several timeouts without an acknowledgement."""
    rtt = max(w[LAST_RTT], k[BASE])
    # What was lost together times out together, and is one timeout.
    if e[REASON] == TIMEOUT_LOSS and e[NOW] - w[LAST_TIMEOUT] >= rtt:
        w[TIMEOUTS] += 1
        w[LAST_TIMEOUT] = e[NOW]
    if w[TIMEOUTS] >= RESET_AFTER:
        set_window(w, k[LEAST], k)
    elif e[NOW] - w[LAST_CUT] >= rtt:
        set_window(w, w[WINDOW] * (1 - k[MAX_CUT]), k)
        w[LAST_CUT] = e[NOW]


class Swift(Transport):
    """``swift``."""

    columns = 5
    ack_every_bytes = 1
    paced = True

    def __init__(self, config: SwiftConfig | None = None) -> None:
        self.config = config or SwiftConfig()
        self.on_ack, self.on_loss = on_ack, on_loss

    def constants(self, fabric: Fabric) -> np.ndarray:
        """Return targets for a path of the fabric's diameter."""
        base_ps = self.config.base_target_us * 1e6
        range_ps, smallest, largest = 5 * base_ps, 0.1, 100.0
        alpha = range_ps / (1 / math.sqrt(smallest) - 1 / math.sqrt(largest))
        values = np.zeros(10)
        values[MTU], values[BASE] = fabric.packet_bytes, fabric.rtt_ps
        values[BASE_TARGET] = base_ps + fabric.hops * base_ps / 6.55
        values[FS_ALPHA], values[FS_BETA], values[FS_RANGE] = alpha, -alpha / math.sqrt(largest), range_ps
        values[BETA], values[MAX_CUT], values[AI] = self.config.beta, self.config.max_cut, self.config.additive_increase
        values[LEAST] = self.config.least_window
        return values

    def begin(self, fabric: Fabric, window: np.ndarray) -> None:
        """Begin with the largest window, and no pace."""
        super().begin(fabric, window)
        window[:, WINDOW] = window[:, CWND] / fabric.packet_bytes
        window[:, LAST_CUT] = window[:, LAST_TIMEOUT] = LONG_AGO
        window[:, PACE_OF] = 0
