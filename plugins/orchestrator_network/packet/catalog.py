"""The transports and load balancers that have names.

A name loads its module when it is asked for: compiled functions take a moment even from the cache.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from orchestrator_network.errors import WorkloadError
from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.transports.base import Transport

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


def transport(chosen: str | Transport) -> Transport:
    """Return a transport by its name, or the one that was given; WorkloadError for an unknown name."""
    return chosen if isinstance(chosen, Transport) else _load("transport", chosen, TRANSPORTS)


def load_balancer(chosen: str | Balancer) -> Balancer:
    """Return a load balancer by its name, or the one that was given; WorkloadError for an unknown name."""
    return chosen if isinstance(chosen, Balancer) else _load("load_balancer", chosen, LOAD_BALANCERS)


def _load(what: str, name: str, known: Mapping[str, str]) -> Any:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise WorkloadError(f"{what} `{name}` is not one of {', '.join(known)}{hint}")
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(f"orchestrator_network.packet.{module}"), attribute)()
