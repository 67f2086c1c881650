"""Window rules of a few lines each: a constant window, DCTCP, MPRDMA.

They keep the transport of the package (selective repeat, trimming, acknowledgements) and change the window only, so a
comparison isolates the rule.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import react
from orchestrator_network.packet.configs import ConstantConfig, DctcpConfig
from orchestrator_network.packet.layout import BASE_RTT, BYTES, CWND, ECHO, MAX_CWND, NOW, OWN
from orchestrator_network.packet.transports.base import Fabric, Transport, nothing

MTU, MSS = range(2)
GAIN = 1 / 16
ALPHA, ROUND_END, ROUND_BYTES, ROUND_MARKED = range(OWN, OWN + 4)  # of the classic DCTCP


@react
def take_off(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take what was lost off the window, down to a packet."""
    w[CWND] = max(w[CWND] - e[BYTES], k[MTU])


@react
def dctcp_uec(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """One packet a round trip up, a third of what is marked down (htsim's UEC source: no estimate, no rounds)."""
    if e[ECHO] == 0:
        w[CWND] += np.floor(e[BYTES] * k[MTU] / w[CWND])
    else:
        w[CWND] = max(w[CWND] - np.floor(e[BYTES] / 3), k[MTU])


@react
def dctcp_classic(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Once a round trip, cut by half the moving fraction of marked bytes (Alizadeh 2010, equations 1 and 2)."""
    w[ROUND_BYTES] += e[BYTES]
    if e[ECHO] != 0:
        w[ROUND_MARKED] += e[BYTES]
    else:
        w[CWND] = min(w[CWND] + e[BYTES] * k[MTU] / w[CWND], w[MAX_CWND])
    if e[NOW] > w[ROUND_END]:
        fraction = w[ROUND_MARKED] / max(w[ROUND_BYTES], 1.0)
        w[ALPHA] += GAIN * (fraction - w[ALPHA])
        if w[ROUND_MARKED] > 0:
            w[CWND] = max(w[CWND] * (1 - w[ALPHA] / 2), k[MTU])
        w[ROUND_BYTES] = 0
        w[ROUND_MARKED] = 0
        w[ROUND_END] = e[NOW] + w[BASE_RTT]


@react
def mprdma(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Half a packet down for a marked acknowledgement, a packet a window up for others (Lu 2018)."""
    if e[ECHO] != 0:
        w[CWND] = max(w[CWND] - k[MSS] / 2, k[MTU])
    else:
        payload = e[BYTES] * k[MSS] / k[MTU]
        w[CWND] = min(w[CWND] + k[MSS] * payload / w[CWND], w[MAX_CWND])


class Constant(Transport):
    """``constant``: a window that nothing changes; it isolates load balancing."""

    def __init__(self, config: ConstantConfig | None = None) -> None:
        self.config = config or ConstantConfig()
        self.on_ack, self.on_loss = nothing, nothing

    def begin(self, fabric: Fabric, window: np.ndarray) -> None:
        """Fill the windows with one size."""
        super().begin(fabric, window)
        window[:, CWND] = max(int(self.config.window_bdp * fabric.bdp_bytes), fabric.packet_bytes)


class Dctcp(Transport):
    """``dctcp``."""

    columns = 4

    def __init__(self, config: DctcpConfig | None = None) -> None:
        self.on_ack = dctcp_uec if (config or DctcpConfig()).variant == "uec" else dctcp_classic
        self.on_loss = take_off


class Mprdma(Transport):
    """``mprdma``: an acknowledgement a packet."""

    ack_every_bytes = 1

    def __init__(self) -> None:
        self.on_ack, self.on_loss = mprdma, take_off
