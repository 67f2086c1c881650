"""HPCC: telemetry of every port on the way sets the window and the pace (Li 2019, algorithm 1).

The load of the busiest port is averaged over a round trip. Above ``eta``, or after some steps up, the window goes to
what would have given that load; below, up by a packet. All of it counts from a reference window that changes once a
round trip only, so that one state of the network is not reacted to twice. A window below one packet is kept by the
pace. What the notes add to a packet on the wire is left out, as in the reference's default.
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.packet.compiled import compiled, react
from orchestrator_network.packet.configs import HpccConfig
from orchestrator_network.packet.layout import BUSIEST, CWND, LOWEST, NEXT, OVER, OWN, PACE_OF
from orchestrator_network.packet.transports.base import Fabric, Transport
from orchestrator_network.packet.transports.roce import keep_rate

LOAD, REFERENCE, STEPS_UP, LAST_UPDATE = range(OWN, OWN + 4)
MTU, RTT, BDP, ETA, MOST_STEPS, ADD, LEAST = range(7)


@compiled
def react_to_load(w: np.ndarray, once_a_round: bool, k: np.ndarray) -> float:
    """Return the window that the load asks for; move the reference once a round trip (ComputeWind)."""
    if w[LOAD] >= k[ETA] or w[STEPS_UP] >= k[MOST_STEPS]:
        wanted, steps = w[REFERENCE] / (w[LOAD] / k[ETA]) + k[ADD], 0.0
    else:
        wanted, steps = w[REFERENCE] + k[ADD], w[STEPS_UP] + 1
    wanted = min(max(wanted, k[LEAST]), k[BDP])
    if once_a_round:
        w[STEPS_UP], w[REFERENCE] = steps, wanted
    return wanted


@react
def on_ack(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Take the load of the busiest port."""
    if w[LAST_UPDATE] == 0:
        w[LAST_UPDATE] = e[NEXT]
    if e[BUSIEST] < 0:
        return
    weight = min(e[OVER], k[RTT]) / k[RTT]
    w[LOAD] = (1 - weight) * w[LOAD] + weight * e[BUSIEST]
    once_a_round = e[LOWEST] > w[LAST_UPDATE]
    wanted = react_to_load(w, once_a_round, k)
    if once_a_round:
        w[LAST_UPDATE] = e[NEXT]
    w[CWND] = max(wanted, k[MTU])
    w[PACE_OF] = k[RTT] / wanted


class Hpcc(Transport):
    """``hpcc``."""

    columns = 4
    ack_every_bytes = 1
    paced, ordered, telemetry = True, True, True
    lossless, load_balancer = "pfc", "ecmp"

    def __init__(self, config: HpccConfig | None = None) -> None:
        self.config = config or HpccConfig()
        self.on_ack, self.on_loss = on_ack, keep_rate

    def constants(self, fabric: Fabric) -> np.ndarray:
        """Return the constants, sizes in bytes, the round trip in picoseconds."""
        config = self.config
        add = config.additive_packets * fabric.payload_bytes
        least = config.least_share * fabric.bdp_bytes
        return np.array(
            [fabric.packet_bytes, fabric.rtt_ps, fabric.bdp_bytes, config.eta, config.stages, add, least], float
        )

    def begin(self, fabric: Fabric, window: np.ndarray) -> None:
        """Let every flow begin at the rate of the line: one bandwidth-delay product a round trip."""
        super().begin(fabric, window)
        window[:, CWND] = window[:, REFERENCE] = fabric.bdp_bytes
        window[:, LOAD] = 1.0
