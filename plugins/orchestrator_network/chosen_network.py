"""The network that the config of `network.simulate` chooses: what its links carry, and the network itself.

The stage builds it, and so does the plan of a recipe where something can be wrong with single links of it.
"""

from __future__ import annotations

import inspect
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator import component
from orchestrator_network.cost import LINKS_PER_DEVICE
from orchestrator_network.errors import TopologyError
from orchestrator_network.shape_rules import check_gbps

if TYPE_CHECKING:
    from orchestrator_network.simulate_config import SimulateConfig
    from orchestrator_network.topology import Topology


class Links(NamedTuple):
    """The hardware by whose injection links are as fast, if any; Gb/s of one link; planes, None: as 16 links a device make."""

    hardware: str
    gbps: float
    planes: int | None


def links_of(config: SimulateConfig) -> Links:
    """Return what links carry, from the config or its hardware; TopologyError for hardware that sends nothing."""
    if config.states_links:
        return Links("", 0.0, config.planes)  # its builder is given no speed
    if config.link_gbps is not None:
        # A graph from a file says itself how many planes there are.
        return Links("", config.link_gbps, config.planes or (None if str(config.topology) == "graph" else 1))
    if config.injection_gbps is not None:
        return Links("", config.injection_gbps / LINKS_PER_DEVICE, None)
    machine = component("hardware", config.hardware)
    sent = getattr(machine, "injection_bytes_per_s", None)
    if not isinstance(sent, Real):
        raise TopologyError(
            f"hardware {config.hardware} says injection_bytes_per_s {sent!r}, it must be what a device sends; set injection_gbps or "
            "link_gbps instead, or let it say so"
        )
    injection_gbps = float(sent) * 8 / 1e9
    check_gbps(f"the injection of hardware {config.hardware}", injection_gbps, LINKS_PER_DEVICE)
    return Links(machine.name, injection_gbps / LINKS_PER_DEVICE, None)


def build_network(config: SimulateConfig, devices: int, links: Links) -> Topology:
    """Return the network; a builder that knows no planes is asked for none. TopologyError for what cannot be built."""
    builder = component("topology", config.topology)
    chosen = {} if links.planes is None else {"planes": links.planes}
    if chosen and "planes" not in inspect.signature(builder.build).parameters:
        raise TopologyError(
            f"the topology {config.topology} cannot be built for a number of planes; leave link_gbps and planes out and set "
            "injection_gbps or hardware, or raise the plugin that offers it"
        )
    topology: Any = builder.build(devices, links.gbps, **chosen)
    return topology if config.states_links else topology.with_latency(round(config.link_latency_ns * 1000))  # type: ignore[no-any-return]


def outside_gbps(topology: Topology) -> float:
    """Return what a host sends over all its links of all planes; a GPU's links into its own server are none of them."""
    stated_gbps = getattr(topology, "outside_gbps", None)
    if stated_gbps is not None:
        return float(stated_gbps) * topology.planes
    inside_gbps = float(getattr(topology, "local_gbps", 0.0))
    return (topology.injection_bps / 1e9 - inside_gbps) * topology.planes
