"""The topologies that a recipe takes from other simulators' files: htsim's fat trees, and the networks of HPCC and SimAI.

Links have the speed and the latency that the file gives them, so that a recipe says nothing of either, and there is one
plane unless it asks for more. Queue sizes of a .topo file are checked and left alone: `queue_packets` of the stage says them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator import Component
from orchestrator_network.errors import TopologyError
from orchestrator_network.file_config import FileConfig

if TYPE_CHECKING:
    from orchestrator_network.fat_tree import FatTree
    from orchestrator_network.graph_topology import GraphTopology

_HOME = "orchestrator_network.file_components"


@dataclass(frozen=True, kw_only=True)
class TopoConfig(FileConfig):
    """An htsim fat tree.

    path  of a .topo file
    """

    states_links: ClassVar[bool] = True
    is_tree: ClassVar[bool] = True
    file: ClassVar[str] = "an htsim .topo file"
    error: ClassVar[type[ValueError]] = TopologyError

    def check_hosts(self, devices: int | None, planes: int | None) -> int:
        """Return the hosts; when the recipe is planned, refuse a file that is no fat tree, or has others than devices."""
        from orchestrator_network.readers.topo import read_topo

        tree = read_topo(self.path).tree(planes=planes or 1)
        if devices is not None:
            _agree(self.path, tree.hosts, devices)
        return tree.hosts


@dataclass(frozen=True, kw_only=True)
class HpccTopologyConfig(FileConfig):
    """A network of the simulators of HPCC and SimAI.

    path  of a topology file
    """

    states_links: ClassVar[bool] = True
    file: ClassVar[str] = "a topology file of HPCC or SimAI"
    error: ClassVar[type[ValueError]] = TopologyError

    def check_hosts(self, devices: int | None, planes: int | None) -> int:
        """Return the hosts; when the recipe is planned, refuse a file that is no network, or has others than devices."""
        from orchestrator_network.readers.hpcc import from_hpcc

        built = from_hpcc(self.path, planes=planes or 1)
        if devices is not None:
            _agree(self.path, built.hosts, devices)
        return built.hosts


class TopoBuilder:
    """Kind ``topology``: a fat tree from htsim's file."""

    def __init__(self, config: TopoConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> FatTree:  # noqa: ARG002 - as all
        """Return the fat tree of the file, which has as many hosts as there are devices; raises TopologyError."""
        from orchestrator_network.readers.topo import read_topo

        path = self.config.verified()
        shape = read_topo(path)
        _agree(str(path), shape.hosts, devices)
        return shape.tree(planes=planes or 1)


class HpccTopologyBuilder:
    """Kind ``topology``: a network from the file of HPCC and SimAI."""

    def __init__(self, config: HpccTopologyConfig) -> None:
        self.config = config

    def build(self, devices: int, link_gbps: float, planes: int | None = None) -> GraphTopology:  # noqa: ARG002 - as all
        """Return the network of the file, which has as many hosts as there are devices; raises TopologyError."""
        from orchestrator_network.readers.hpcc import from_hpcc

        path = self.config.verified()
        topology = from_hpcc(path, planes=planes or 1)
        _agree(str(path), topology.hosts, devices)
        return topology


def _agree(path: str, hosts: int, devices: int) -> None:
    if hosts != devices:
        raise TopologyError(f"{path}: the file has {hosts} hosts, asked for are {devices} devices; they must agree")


def components() -> list[Component]:
    """Return both."""
    return [
        Component(
            kind="topology",
            name="topo",
            version="1",
            entry=f"{_HOME}:TopoBuilder",
            config=TopoConfig,
            doc="A fat tree from htsim's .topo file.",
        ),
        Component(
            kind="topology",
            name="hpcc_topology",
            version="1",
            entry=f"{_HOME}:HpccTopologyBuilder",
            config=HpccTopologyConfig,
            doc="A network from a topology file of the simulators of HPCC and SimAI.",
        ),
    ]
