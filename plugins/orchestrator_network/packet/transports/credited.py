"""Transports in which the receiver grants credit: RCCC, RCCC with NSCC, and their ancestors EQDS and NDP.

The pacer is that of `credit`; what differs is how much a grant is, whether idle senders get any, how far a sender may
go before it hears of the receiver, and whether a window limits it too. NDP (Handley 2017) pulls a packet at a time,
only for what arrived or was trimmed, and has no requests; EQDS (Olteanu 2022) adds idle credit and speculation.
"""

from __future__ import annotations

from orchestrator_network.packet.transports.base import Credit, Transport
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

    credit = Credit(packets=1, first_window_bdp=1.0, adapts_to_taper=False)


class Ndp(_Credited):
    """``ndp``: a window unasked, then a packet for a packet, in turn."""

    credit = Credit(packets=1, first_window_bdp=1.0, idle=False, adapts_to_taper=False)
