"""Swift: delay against a target that grows with hops and with small windows (Kumar 2020, algorithm 1).

The window counts packets as in the paper. Windows below one packet would need pacing; the floor here is one packet.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator_network.packet.compiled import react
from orchestrator_network.packet.configs import SwiftConfig
from orchestrator_network.packet.layout import BYTES, CWND, MAX_CWND, NOW, OWN, REASON, RTT, TIMEOUT_LOSS
from orchestrator_network.packet.transports.base import Fabric, Transport

LAST_CUT, LAST_RTT = OWN, OWN + 1
MTU, BASE_TARGET, FS_ALPHA, FS_BETA, FS_RANGE, BETA, MAX_CUT, AI, BASE = range(9)


@react
def on_ack(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take an acknowledgement."""
    if e[RTT] >= 0:
        w[LAST_RTT] = e[RTT]
    rtt = w[LAST_RTT] if w[LAST_RTT] > 0 else k[BASE]
    packets = w[CWND] / k[MTU]
    scaling = max(0.0, min(k[FS_ALPHA] / np.sqrt(packets) + k[FS_BETA], k[FS_RANGE]))
    target = k[BASE_TARGET] + scaling
    if rtt < target:
        packets += k[AI] * (e[BYTES] / k[MTU]) / packets
    elif e[NOW] - w[LAST_CUT] >= rtt:
        packets *= max(1 - k[BETA] * (rtt - target) / rtt, 1 - k[MAX_CUT])
        w[LAST_CUT] = e[NOW]
    w[CWND] = min(max(packets * k[MTU], k[MTU]), w[MAX_CWND])


@react
def on_loss(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Cut by the maximum, once a round trip; a timeout goes to one packet."""
    if e[REASON] == TIMEOUT_LOSS:
        w[CWND] = k[MTU]
    elif e[NOW] - w[LAST_CUT] >= max(w[LAST_RTT], k[BASE]):
        w[CWND] = max(w[CWND] * (1 - k[MAX_CUT]), k[MTU])
        w[LAST_CUT] = e[NOW]


class Swift(Transport):
    """``swift``."""

    columns = 2
    ack_every_bytes = 1

    def __init__(self, config: SwiftConfig | None = None) -> None:
        self.config = config or SwiftConfig()
        self.on_ack, self.on_loss = on_ack, on_loss

    def constants(self, fabric: Fabric) -> np.ndarray:
        """Return targets for a path of the fabric's diameter."""
        base_ps = self.config.base_target_us * 1e6
        range_ps, smallest, largest = 5 * base_ps, 0.1, 100.0
        alpha = range_ps / (1 / math.sqrt(smallest) - 1 / math.sqrt(largest))
        values = np.zeros(9)
        values[MTU], values[BASE] = fabric.packet_bytes, fabric.rtt_ps
        values[BASE_TARGET] = base_ps + fabric.hops * base_ps / 6.55
        values[FS_ALPHA], values[FS_BETA], values[FS_RANGE] = alpha, -alpha / math.sqrt(largest), range_ps
        values[BETA], values[MAX_CUT], values[AI] = self.config.beta, self.config.max_cut, self.config.additive_increase
        return values
