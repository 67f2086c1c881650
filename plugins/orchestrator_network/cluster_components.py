"""The topologies of switched clusters that a recipe chooses by name: Dragonflies, rails, and any network from a file.

Every device has one link in each plane, of which there are 16 where none are asked for, as in a fat tree; a file
states its own links and planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, ClassVar, Literal

from orchestrator_network.cost import LINKS_PER_DEVICE
from orchestrator_network.errors import TopologyError
from orchestrator_network.file_config import FileConfig

if TYPE_CHECKING:
    from orchestrator_network.dragonfly import Dragonfly
    from orchestrator_network.graph_topology import GraphTopology
    from orchestrator_network.rail_optimized import RailOptimized

_SEARCHED = 64  # device counts up and down that are tried for a suggestion


@dataclass(frozen=True, kw_only=True)
class DragonflyConfig:
    """What may be set of a Dragonfly; what is null is as near to 1 : 2 : 1 as the devices allow.

    hosts_per_router   of every router
    routers_per_group  joined all to all; groups follow from the devices, near to as many as a router has hosts
    global_links       of a router, to other groups
    routing            minimal, valiant, or at fidelity packet ugal_l (own queues) and ugal_g (queues of the whole way)
    radix              ports of a switch
    """

    hosts_per_router: int | None = None
    routers_per_group: int | None = None
    global_links: int | None = None
    routing: Literal["minimal", "valiant", "ugal_l", "ugal_g"] = "minimal"
    radix: int = 64

    def __post_init__(self) -> None:
        for name in ("hosts_per_router", "routers_per_group", "global_links"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, it must be at least 1, or null")

    def shape(self, devices: int) -> tuple[int, int, int, int]:
        """Return hosts a router, routers a group, global links a router, and groups; raises TopologyError."""
        shape = _best_shape(self, devices)
        if shape is None:
            near = [_near(self, devices, step) for step in (-1, 1)]
            sizes = " or ".join(str(size) for size in near if size) or "other"
            raise TopologyError(
                f"{devices} devices make no Dragonfly of {self.radix}-port switches in this shape: hosts a "
                f"router x routers a group x groups must be {devices}, with a link between every two groups; use "
                f"{sizes} devices, or another shape"
            )
        return shape


@dataclass(frozen=True, kw_only=True)
class RailOptimizedConfig:
    """What may be set of servers on rails.

    gpus_per_node     of a server, each on a rail of its own
    local_gbps        what a GPU sends into its server over all planes, one direction; 3,600 is NVLink 4
    oversubscription  taper at the leaf; null: rails without a spine
    cross_rail        how another rail is reached: over the GPU of that rail in the own server (nvlink), or over the spine
    radix             ports of a switch
    """

    forwarding: ClassVar[bool] = True
    gpus_per_node: int = 8
    local_gbps: float = 3600.0
    oversubscription: float | None = 1.0
    cross_rail: Literal["nvlink", "spine"] = "nvlink"
    radix: int = 64

    def __post_init__(self) -> None:
        if self.gpus_per_node < 1:
            raise ValueError(f"gpus_per_node is {self.gpus_per_node}, it must be at least 1")
        if self.local_gbps <= 0:
            raise ValueError(f"local_gbps is {self.local_gbps}, it must be above 0")

    def shape(self, devices: int) -> int:
        """Return the number of servers; raises TopologyError."""
        size = self.gpus_per_node
        nodes, rest = divmod(devices, size)
        if rest or nodes == 0:
            near = sorted({max(1, nodes) * size, (nodes + 1) * size})
            raise TopologyError(
                f"{devices} devices do not fill servers of {size}; use {' or '.join(map(str, near))} devices, or "
                "another gpus_per_node"
            )
        return nodes


@dataclass(frozen=True, kw_only=True)
class GraphConfig(FileConfig):
    """A network from a file.

    path  of a JSON or TOML file in the format of `GraphTopology.from_file`
    """

    file: ClassVar[str] = "a network in JSON or TOML"
    error: ClassVar[type[ValueError]] = TopologyError


class DragonflyBuilder:
    """Kind ``topology``: a Dragonfly."""

    def __init__(self, config: DragonflyConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> Dragonfly:
        """Return the Dragonfly for that many devices, links of ``link_gbps``, 16 a device or ``planes``; raises TopologyError."""
        from orchestrator_network.dragonfly import Dragonfly

        hosts, routers, links, groups = self.config.shape(devices)
        return Dragonfly(
            hosts_per_router=hosts,
            routers_per_group=routers,
            global_links=links,
            groups=groups,
            routing=self.config.routing,
            link_gbps=link_gbps,
            radix=self.config.radix,
            planes=planes or LINKS_PER_DEVICE,
        )


def _near(config: DragonflyConfig, devices: int, step: int) -> int | None:
    """Return the nearest number of devices in one direction that makes a Dragonfly."""
    tried = range(devices + step, devices + step * _SEARCHED, step)
    return next((size for size in tried if _best_shape(config, size) is not None), None)


def _best_shape(config: DragonflyConfig, devices: int) -> tuple[int, int, int, int] | None:
    """Return (p, a, h, g) with the least |log a/2p| + |log h/p| + |log g/p|, or None."""
    return min(_shapes(config, devices), key=_imbalance, default=None)


def _imbalance(shape: tuple[int, int, int, int]) -> tuple[float, tuple[int, int, int, int]]:
    hosts, routers, links, groups = shape
    return abs(log(routers / (2 * hosts))) + abs(log(links / hosts)) + abs(log(groups / hosts)), shape


def _shapes(config: DragonflyConfig, devices: int) -> Iterator[tuple[int, int, int, int]]:
    least_groups = 2 if config.routing == "minimal" else 3
    for hosts in _divisors(devices, config.hosts_per_router, config.radix):
        for routers in _divisors(devices // hosts, config.routers_per_group, config.radix):
            groups = devices // hosts // routers
            free = config.radix - hosts - routers + 1
            links = config.global_links or min(hosts, free)
            if 1 <= links <= free and groups >= least_groups and routers * links >= groups - 1:
                yield hosts, routers, links, groups


def _divisors(count: int, only: int | None, most: int) -> list[int]:
    tried = range(1, min(count, most) + 1) if only is None else [only]
    return [one for one in tried if count % one == 0]


class RailOptimizedBuilder:
    """Kind ``topology``: servers of GPUs on rails."""

    def __init__(self, config: RailOptimizedConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> RailOptimized:
        """Return the cluster for that many devices, links of ``link_gbps``, 16 a device or ``planes``; raises TopologyError."""
        from orchestrator_network.rail_optimized import RailOptimized

        config = self.config
        return RailOptimized(
            nodes=config.shape(devices),
            gpus_per_node=config.gpus_per_node,
            link_gbps=link_gbps,
            local_gbps=config.local_gbps / (planes or LINKS_PER_DEVICE),
            oversubscription=config.oversubscription,
            cross_rail=config.cross_rail,
            radix=config.radix,
            planes=planes or LINKS_PER_DEVICE,
        )


class GraphBuilder:
    """Kind ``topology``: a network from a file."""

    def __init__(self, config: GraphConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> GraphTopology:
        """Return the network of the file; links that state no speed have ``link_gbps``; raises TopologyError.

        The file must have as many hosts as there are devices, and the digest that the recipe names.
        """
        from orchestrator_network.graph_topology import GraphTopology

        path = self.config.verified()
        built = GraphTopology.from_file(path, link_gbps=link_gbps)
        if built.hosts != devices:
            raise TopologyError(
                f"{path}: hosts: the file has {built.hosts}, asked for are {devices} devices; they must agree"
            )
        if planes not in {None, built.planes}:
            raise TopologyError(f"{path}: planes: the file has {built.planes}, the recipe {planes}; they must agree")
        return built
