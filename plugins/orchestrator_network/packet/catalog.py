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
from orchestrator_network.packet.catalog_names import LOAD_BALANCERS, TRANSPORTS
from orchestrator_network.packet.transports.base import Transport


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
