"""What a congestion control is: constants for a fabric, a first window, and two compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator_network.packet.compiled import react
from orchestrator_network.packet.layout import BASE_RTT, CWND, MAX_CWND, OWN, PACE_OF
from orchestrator_network.wire import PS_PER_S


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """What a transport may know before it starts.

    ``rate_bps`` of the fastest link; ``rtt_ps`` of the longest path without load, a full packet out and a header back;
    ``host_bps`` of all links of the fastest host together, 0 for one link a host; ``credited``: the receiver's credit
    limits the sender too. ``queue`` packets that a port holds, None for the bandwidth-delay product of its own rate; ``ecn``: from
    which and to which share of them marks are set.
    """

    rate_bps: float
    rtt_ps: int
    packet_bytes: int
    header_bytes: int
    trimming: bool
    hops: int
    credited: bool = False
    host_bps: float = 0.0
    queue: int | None = None
    ecn: tuple[float, float] = (0.2, 0.8)

    @property
    def payload_bytes(self) -> int:
        """Payload of a full packet."""
        return self.packet_bytes - self.header_bytes

    @property
    def bdp_bytes(self) -> int:
        """Bandwidth-delay product in bytes."""
        return int(self.rtt_ps / 1e12 * (self.rate_bps / 8))


@dataclass(frozen=True, kw_only=True)
class Credit:
    """How a receiver grants credit: ``packets`` at a time at ``rate`` of its line, to idle senders too or not.

    ``first_window_bdp``: how far a sender goes on its own, and the most credit that it may hold. ``whole``: a grant has its
    size where a sender wants less, too, as one whose packet was trimmed may.
    """

    packets: int = 4
    rate: float = 0.99
    whole: bool = False
    idle: bool = True
    first_window_bdp: float = 1.5
    adapts_to_taper: bool = True


@react
def nothing(w: np.ndarray, e: np.ndarray, k: np.ndarray) -> None:
    """Leave the window."""


class Transport:
    """A congestion control; subclass it, and give ``on_ack`` and ``on_loss`` compiled with `compiled.react`.

    All get (window of the flow, event, constants), see `layout` for the columns; the window's columns from ``OWN``
    on are free. They set ``window[CWND]``, or ``window[PACE_OF]`` where ``paced``; ``on_tick`` is called every
    ``tick_ps`` from the start of a flow.
    """

    windowed: bool = True  # window[CWND] limits the sender
    credit: Credit | None = None  # the receiver's credit limits the sender
    columns: int = 0  # of its own in a window
    ack_every_bytes: int = 16384  # the receiver acknowledges at least so often
    telemetry: bool = False  # packets note the ports on their way; on_ack gets BUSIEST and OVER
    rated: bool = False  # senders measure how fast they are delivered; on_ack gets SPAN, GAINED, BEFORE and DELIVERED
    ordered: bool = False  # the receiver takes packets in order only, and the sender goes back to what is missing
    paced: bool = False  # window[PACE_OF] limits the sender
    lossless: str = "none"  # flow control of the links that it is meant for
    load_balancer: str = "reps"  # that it is meant for
    tick_ps: int = 0
    on_tick: Callable[..., None] = staticmethod(nothing)
    on_ack: Callable[..., None]
    on_loss: Callable[..., None]

    @property
    def width(self) -> int:
        """Columns of a window."""
        return OWN + self.columns + (2 if self.paced else 0)

    def constants(self, fabric: Fabric) -> np.ndarray:
        """Return the constants of the compiled functions, float64: by default what every window rule needs."""
        return np.array([fabric.packet_bytes, fabric.payload_bytes, fabric.rtt_ps, fabric.bdp_bytes], float)

    def target_delay_ps(self, fabric: Fabric) -> int:
        """Return the queueing delay that senders aim at, below which a path counts as not loaded: that of `nscc`."""
        return int(fabric.rtt_ps * (0.75 if fabric.trimming else 1.0))

    def begin(self, fabric: Fabric, window: np.ndarray) -> None:
        """Fill the windows float64 [flows, columns] of flows that have not started: 1.5 BDP, and the line's pace."""
        if self.paced:
            window[:, PACE_OF] = 8 * PS_PER_S / fabric.rate_bps
        window[:, BASE_RTT] = fabric.rtt_ps
        window[:, MAX_CWND] = int(1.5 * fabric.bdp_bytes)
        window[:, CWND] = window[:, MAX_CWND]
