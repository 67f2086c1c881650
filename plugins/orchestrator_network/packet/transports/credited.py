"""Transports in which the receiver grants credit: RCCC, RCCC with NSCC, and their ancestors EQDS and NDP.

The pacer is that of `credit`; what differs is how much a grant is, whether idle senders get any, how far a sender may
go before it hears of the receiver, and whether a window limits it too. NDP (Handley 2017) pulls a packet at a time,
only for what arrived or was trimmed, and has no requests; EQDS (Olteanu 2022) adds idle credit and speculation.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator_network.packet.layout import CWND, MAX_CWND
from orchestrator_network.packet.transports.base import Credit, Fabric, Transport
from orchestrator_network.packet.transports.nscc import Nscc
from orchestrator_network.packet.transports.simple import nothing


class _Credited(Transport):
    windowed = False

    def __init__(self) -> None:
        self.on_ack, self.on_loss = nothing, nothing


class Rccc(_Credited):
    """``rccc``: receiver credit alone; on a tapered fabric with the receiver's own reaction to marks."""

    credit = Credit()


class NsccRccc(Nscc):
    """``nscc+rccc``: the window and the credit both limit; trims at the last hop are the receiver's business."""

    credit = Credit()


class Eqds(_Credited):
    """``eqds``: a window of one bandwidth-delay product unasked, grants of one packet, credit for idle senders."""

    credit = Credit(packets=1, whole=True, first_window_bdp=1.0, adapts_to_taper=False)


class Ndp(_Credited):
    """``ndp``: a window unasked, then a packet for a packet, in turn; every packet is acknowledged.

    The pacer grants what is wanted, whether packets arrive or wait in ports: the constant window of as many packets as
    were sent unasked is what lets one follow only when one has left the network. Without it a sender behind a taper
    sends twice as many packets to be trimmed.
    """

    windowed = True
    ack_every_bytes = 1
    credit = Credit(packets=1, whole=True, first_window_bdp=1.0, idle=False, adapts_to_taper=False)

    def begin(self, fabric: Fabric, window: np.ndarray) -> None:
        """Fill the windows with one bandwidth-delay product, in whole packets."""
        super().begin(fabric, window)
        packets = math.ceil(fabric.bdp_bytes / fabric.packet_bytes)
        window[:, CWND] = window[:, MAX_CWND] = packets * fabric.packet_bytes
