"""The names of transports and load balancers, and where they live below this package; loads nothing."""

from __future__ import annotations

from collections.abc import Mapping

TRANSPORTS: Mapping[str, str] = {
    "nscc": "transports.nscc:Nscc",
    "rccc": "transports.credited:Rccc",
    "nscc+rccc": "transports.credited:NsccRccc",
    "smartt_v1": "transports.smartt:SmarttV1",
    "smartt_v4": "transports.smartt:SmarttV4",
    "dctcp": "transports.simple:Dctcp",
    "swift": "transports.swift:Swift",
    "mprdma": "transports.simple:Mprdma",
    "eqds": "transports.credited:Eqds",
    "ndp": "transports.credited:Ndp",
    "hpcc": "transports.hpcc:Hpcc",
    "dcqcn": "transports.roce:Dcqcn",
    "bbr": "transports.bbr:Bbr",
    "constant": "transports.simple:Constant",
}
LOAD_BALANCERS: Mapping[str, str] = {
    "ecmp": "balancing.simple:Ecmp",
    "oblivious": "balancing.simple:Oblivious",
    "bitmap": "balancing.recycling:Bitmap",
    "reps": "balancing.reps:Reps",
    "reps_legacy": "balancing.recycling:RepsLegacy",
    "mixed": "balancing.recycling:Mixed",
    "plb": "balancing.flowwise:Plb",
    "flowlet": "balancing.flowwise:Flowlet",
    "adaptive": "balancing.simple:Adaptive",
}
#: Those whose receivers give credit.
CREDITED = frozenset({"rccc", "nscc+rccc", "eqds", "ndp"})
#: Those whose receivers take packets in order only.
ORDERED = frozenset({"dcqcn", "hpcc"})
