"""The topologies of switched clusters that a recipe chooses by name: Dragonflies, rails, and any network from a file.

Every device has one link in each plane, of which there are 16 where none are asked for, as in a fat tree; a file
states its own links and planes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from orchestrator_network.cost import LINKS_PER_DEVICE
from orchestrator_network.errors import TopologyError
from orchestrator_network.file_config import READ_WHEN_PLANNED, FileConfig
from orchestrator_network.shape_rules import check_rails, least_groups

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
    global_links       of a router, to other groups; null: one a host, or, where the devices allow none such, the fewest that
                       join every two groups
    routing            minimal, valiant, or at fidelity packet ugal_l (own queues) and ugal_g (queues of the whole way)
    radix              ports of a switch
    """

    cables: ClassVar[frozenset[tuple[str, str]]] = frozenset(
        {("host#", "group#.router#"), ("group#.router#", "group#.router#")}
    )
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
        if not self._joins():
            raise TopologyError(
                f"no Dragonfly has routers of {self.radix} ports with hosts_per_router {_free(self.hosts_per_router)}, "
                f"routers_per_group {_free(self.routers_per_group)}, global_links {_free(self.global_links)} and routing "
                f"{self.routing}: hosts, the other routers and global links share the ports, and a group needs a global port "
                f"for each of {least_groups(self.routing) - 1} others; use fewer of each, more global_links, or a larger radix"
            )

    def _joins(self) -> bool:
        """Whether routers have the ports for the fewest groups, for which two hosts and two routers are always enough."""
        groups = least_groups(self.routing)
        sizes = itertools.product(_tried(self.hosts_per_router, 2), _tried(self.routers_per_group, 2))
        return any(self.links(hosts, routers, groups, more=True) for hosts, routers in sizes)

    def links(self, hosts: int, routers: int, groups: int, *, more: bool = False) -> int | None:
        """Return the global links of every router, None where its ports do not suffice; ``more`` than hosts where null, as needed."""
        free = self.radix - hosts - routers + 1
        needed = -(-(groups - 1) // routers)
        links = self.global_links or max(min(hosts, free), needed * more)
        return links if 1 <= links <= free and groups >= least_groups(self.routing) and links >= needed else None

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
    cables: ClassVar[frozenset[tuple[str, str]]] = frozenset(
        {("node#.gpu#", "node#.switch"), ("node#.gpu#", "unit#.rail#"), ("unit#.rail#", "spine#")}
    )
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
        # The fewest servers that are a network: what they do not make, more of them do not.
        check_rails(
            1 + (self.gpus_per_node == 1), self.gpus_per_node, self.oversubscription, self.cross_rail, self.radix
        )

    def has_mesh(self, devices: int | None) -> bool:
        """Whether there may be two servers of two GPUs; None: of some number of devices."""
        return self.gpus_per_node > 1 and (devices is None or self.shape(devices) > 1)

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
        check_rails(nodes, size, self.oversubscription, self.cross_rail, self.radix)
        return nodes


@dataclass(frozen=True, kw_only=True)
class GraphConfig(FileConfig):
    """A network from a file.

    path  of a JSON or TOML file in the format of `GraphTopology.from_file`
    """

    file: ClassVar[str] = "a network in JSON or TOML"
    error: ClassVar[type[ValueError]] = TopologyError

    def check_hosts(self, devices: int | None, planes: int | None) -> int | None:
        """Return the hosts; when the recipe is planned, refuse a file that is no network or has others; large ones are read later."""
        from orchestrator_network.graph_topology import GraphTopology

        if Path(self.path).stat().st_size > READ_WHEN_PLANNED:
            return None
        built = GraphTopology.from_file(self.path)
        _agree(self.path, built, devices, planes)
        return built.hosts


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
    return next((size for size in tried if size > 0 and _best_shape(config, size)), None)


def _best_shape(config: DragonflyConfig, devices: int) -> tuple[int, int, int, int] | None:
    """Return (p, a, h, g) with the least |log a/2p| + |log h/p| + |log g/p|, or None; more links than hosts where nothing else is."""
    usual = min(_shapes(config, devices), key=_imbalance, default=None)
    return usual or min(_shapes(config, devices, more=True), key=_imbalance, default=None)


def _imbalance(shape: tuple[int, int, int, int]) -> tuple[float, tuple[int, int, int, int]]:
    hosts, routers, links, groups = shape
    return abs(log(routers / (2 * hosts))) + abs(log(links / hosts)) + abs(log(groups / hosts)), shape


def _shapes(config: DragonflyConfig, devices: int, *, more: bool = False) -> Iterator[tuple[int, int, int, int]]:
    for hosts in _divisors(devices, config.hosts_per_router, config.radix):
        for routers in _divisors(devices // hosts, config.routers_per_group, config.radix):
            # Routers joined all to all make a Dragonfly of groups of one only where somebody asks for them.
            if more and routers == 1 != config.routers_per_group:
                continue
            groups = devices // hosts // routers
            links = config.links(hosts, routers, groups, more=more)
            if links is not None:
                yield hosts, routers, links, groups


def _divisors(count: int, only: int | None, most: int) -> list[int]:
    return [one for one in _tried(only, min(count, most)) if count % one == 0]


def _tried(only: int | None, most: int) -> Sequence[int]:
    return range(1, most + 1) if only is None else (only,)


def _free(value: int | None) -> str:
    return "null" if value is None else str(value)


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
        _agree(str(path), built, devices, planes)
        return built


def _agree(path: str, built: GraphTopology, devices: int | None, planes: int | None) -> None:
    if devices not in {None, built.hosts}:
        raise TopologyError(
            f"{path}: hosts: the file has {built.hosts}, asked for are {devices} devices; they must agree"
        )
    if planes not in {None, built.planes}:
        raise TopologyError(f"{path}: planes: the file has {built.planes}, the recipe {planes}; they must agree")
