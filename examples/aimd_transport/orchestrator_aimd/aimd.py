"""AIMD: a packet a round trip up, half the window down, at most once a round trip."""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import compiled, react
from orchestrator_network.packet.layout import BASE_RTT, BYTES, CWND, ECHO, MAX_CWND, NOW, OWN
from orchestrator_network.packet.transports.base import Transport

LAST_CUT = OWN  # the first column of the window that is the congestion control's own
PACKET = 0  # of the constants that every transport gets


@compiled
def halve(w: np.ndarray, now: float, k: np.ndarray) -> None:
    """Cut the window, if a round trip has passed since the last time."""
    if now - w[LAST_CUT] > w[BASE_RTT]:
        w[CWND] = max(w[CWND] / 2, k[PACKET])
        w[LAST_CUT] = now


@react
def on_ack(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take an acknowledgement."""
    if e[ECHO] != 0:
        halve(w, e[NOW], k)
    else:
        w[CWND] = min(w[CWND] + k[PACKET] * e[BYTES] / w[CWND], w[MAX_CWND])


@react
def on_loss(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take a trim or a timeout."""
    halve(w, e[NOW], k)


class Aimd(Transport):
    """The transport ``aimd``."""

    columns = 1

    def __init__(self) -> None:
        self.on_ack, self.on_loss = on_ack, on_loss
