"""The workloads that a recipe chooses by name: who sends how much to whom, on hosts 0 to n - 1.

Kind ``workload``. What they have in common is the stage's: the hosts, the bytes of a flow (of the buffer, for
all-reduces), the speed of a link and the seed. `poisson` draws sizes, `cm` and `hpcc_flows` read them, so
they take no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from orchestrator import Component
from orchestrator_network.errors import WorkloadError
from orchestrator_network.file_config import FileConfig
from orchestrator_network.workload_rules import check_allreduce

if TYPE_CHECKING:
    from orchestrator_network.readers.cm import ConnectionMatrix
    from orchestrator_network.workloads import Workload

_HOME = "orchestrator_network.workload_components"
_SHORTEST_US = 0.5e-6  # rounds to no picosecond
_READ_WHEN_PLANNED = 1 << 22  # bytes: some 100,000 flows, a second
#: Workloads that know the sizes of their flows.
UNSIZED = ("poisson", "cm", "hpcc_flows")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a stage asks of a workload: ``hosts``, ``flow_bytes`` (0: none given), ``link_gbps`` of a host, ``seed``.

    ``names`` of the hosts, where the network has any.
    """

    hosts: int
    flow_bytes: int
    link_gbps: float
    seed: int
    names: tuple[str, ...] = ()


class WorkloadBuilder(Protocol):
    """Kind ``workload``: flows between a number of hosts; ``asked`` has hosts, flow_bytes, link_gbps and seed."""

    def build(self, asked: Any) -> Any:
        """Return the flows as a `Workload`; a ValueError says what the hosts do not allow."""


class Pattern:
    """A workload from a function of what is asked."""

    def __init__(self, make: Callable[[Asked], Workload]) -> None:
        self._make = make

    def build(self, asked: Asked) -> Workload:
        """Return the flows; raises WorkloadError where the hosts do not allow the pattern."""
        return self._make(asked)


@dataclass(frozen=True, kw_only=True)
class IncastConfig:
    """Many to one.

    fan_in   senders
    target   the host that receives
    senders  spread over all hosts, the next ones after the target, or drawn at random by the seed
    """

    fan_in: int
    target: int = 0
    senders: Literal["spread", "next", "random"] = "spread"

    def __post_init__(self) -> None:
        _at_least(self, 1, "fan_in")
        _at_least(self, 0, "target")

    def check_devices(self, devices: int) -> None:
        """Refuse more senders than there are, when the recipe is planned; raises WorkloadError."""
        others = devices - 1
        if self.target > others or self.fan_in > others:
            raise WorkloadError(
                f"an incast of fan_in {self.fan_in} to host {self.target}: {devices} devices leave {others} senders "
                f"and hosts 0 to {others}; use more devices, or a smaller fan_in or target"
            )


@dataclass(frozen=True, kw_only=True)
class LeavingConfig:
    """A permutation that leaves its groups.

    group  consecutive hosts that no flow stays in: of a pod, or of a rack
    """

    group: int

    def __post_init__(self) -> None:
        _at_least(self, 1, "group")

    def check_devices(self, devices: int) -> None:
        """Refuse groups that flows cannot leave, when the recipe is planned; raises WorkloadError."""
        if 2 * self.group > devices:
            raise WorkloadError(f"group is {self.group} of {devices} devices; a group holds at most half of them")


@dataclass(frozen=True, kw_only=True)
class AllToAllConfig:
    """Everybody to everybody.

    parallel  messages that a host sends at a time; null: all at once
    """

    parallel: int | None = None

    def __post_init__(self) -> None:
        _at_least(self, 1, "parallel")


@dataclass(frozen=True, kw_only=True)
class OutcastConfig:
    """Senders with one target in common.

    fan_outs  flows of every sender, one of them to the target that all share, the others to hosts of their own
    """

    fan_outs: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.fan_outs or min(self.fan_outs) < 1:
            raise ValueError(f"fan_outs is {list(self.fan_outs)}; list the flows of every sender, each at least 1")

    def check_devices(self, devices: int) -> None:
        """Refuse more hosts than there are, when the recipe is planned; raises WorkloadError."""
        needed = 1 + sum(self.fan_outs)
        if needed > devices:
            raise WorkloadError(
                f"fan_outs {list(self.fan_outs)} take {needed} hosts, the target, the senders and targets of their own; {devices} "
                "devices are too few"
            )


@dataclass(frozen=True, kw_only=True)
class PoissonConfig:
    """Random arrivals.

    load         share of the hosts' links that is offered in the mean, above 0 to 1
    duration_us  for so long flows arrive
    sizes        a published distribution of flow sizes
    """

    load: float
    duration_us: float
    sizes: Literal["websearch", "hadoop", "alistorage"] = "websearch"

    def __post_init__(self) -> None:
        if not 0 < self.load <= 1:
            raise ValueError(f"load is {self.load}, it must be above 0 and at most 1, the share of a host's link")
        if not _SHORTEST_US < self.duration_us < math.inf:
            raise ValueError(
                f"duration_us is {self.duration_us}, it must be a picosecond, {_SHORTEST_US * 2:g}, or more"
            )


@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """An all-reduce over two binary trees.

    pieces  that every half of the buffer is cut into, to keep the trees busy
    """

    pieces: int = 1

    def __post_init__(self) -> None:
        _at_least(self, 1, "pieces")

    def check_bytes(self, devices: int, size_bytes: int) -> None:
        """Refuse a buffer with fewer bytes than pieces, when the recipe is planned; raises WorkloadError."""
        check_allreduce(devices, size_bytes, 2 * self.pieces)


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig:
    """An all-reduce within servers and between them.

    per_server  consecutive hosts of one server
    """

    per_server: int = 8

    def __post_init__(self) -> None:
        _at_least(self, 1, "per_server")

    def check_devices(self, devices: int) -> None:
        """Refuse a server that is not full, when the recipe is planned; raises WorkloadError."""
        if devices % self.per_server:
            raise WorkloadError(f"{devices} devices do not fill servers of {self.per_server}; change one of them")

    def check_bytes(self, devices: int, size_bytes: int) -> None:
        """Refuse a buffer with fewer bytes than ranks, when the recipe is planned; raises WorkloadError."""
        check_allreduce(devices, size_bytes, devices)


@dataclass(frozen=True, kw_only=True)
class CmConfig(FileConfig):
    """Flows from a file.

    path  of an htsim connection matrix
    """

    file: ClassVar[str] = "an htsim connection matrix"
    read_when_planned: ClassVar[int] = _READ_WHEN_PLANNED


@dataclass(frozen=True, kw_only=True)
class HpccFlowsConfig(FileConfig):
    """Flows from a file, between the hosts that it numbers: `host7` of a network that has names, as all of this package.

    path  of a flow file of HPCC or SimAI
    """

    file: ClassVar[str] = "a flow file of HPCC or SimAI"
    read_when_planned: ClassVar[int] = _READ_WHEN_PLANNED


def _at_least(config: Any, least: int, name: str) -> None:
    value = getattr(config, name)
    if value is not None and value < least:
        raise ValueError(f"{name} is {value}, it must be at least {least}")


def permutation() -> Pattern:
    """Return the permutation that other simulators shuffle alike."""
    from orchestrator_network import workloads

    return Pattern(lambda asked: workloads.permutation(asked.hosts, bytes=asked.flow_bytes, seed=asked.seed))


def full_bisection_permutation(config: LeavingConfig) -> Pattern:
    """Return a permutation in which every flow leaves its group of hosts."""
    from orchestrator_network import workloads

    return Pattern(
        lambda asked: workloads.full_bisection_permutation(asked.hosts, asked.flow_bytes, config.group, asked.seed)
    )


def incast(config: IncastConfig) -> Pattern:
    """Return flows from many hosts to one."""
    return Pattern(lambda asked: _incast(config, asked))


def _incast(config: IncastConfig, asked: Asked) -> Workload:
    import random

    from orchestrator_network import workloads

    config.check_devices(asked.hosts)
    others = asked.hosts - 1
    after = [(config.target + place) % asked.hosts for place in range(1, asked.hosts)]
    if config.senders == "random":
        senders = random.Random(asked.seed).sample(after, config.fan_in)
    elif config.senders == "next":
        senders = after[: config.fan_in]
    else:
        # The middles of equal stretches, so that no sender is the target's neighbour where others are free.
        senders = [after[(2 * i + 1) * others // (2 * config.fan_in)] for i in range(config.fan_in)]
    return workloads.incast(senders, config.target, asked.flow_bytes)


def outcast_incast(config: OutcastConfig) -> Pattern:
    """Return senders that share one target while each also sends elsewhere."""
    from orchestrator_network import workloads

    return Pattern(lambda asked: workloads.outcast_incast(config.fan_outs, asked.flow_bytes))


def all_to_all(config: AllToAllConfig) -> Pattern:
    """Return a flow between every two hosts, all at once or some at a time."""
    from orchestrator_network import workloads

    return Pattern(
        lambda asked: workloads.windowed_all_to_all(
            asked.hosts, asked.flow_bytes, parallel=config.parallel or max(asked.hosts - 1, 1)
        )
    )


def tornado() -> Pattern:
    """Return flows to the host half of all hosts away."""
    from orchestrator_network import workloads

    return Pattern(lambda asked: workloads.tornado(asked.hosts, asked.flow_bytes))


def poisson(config: PoissonConfig) -> Pattern:
    """Return flows that arrive at random."""
    from orchestrator_network import workloads

    return Pattern(
        lambda asked: workloads.poisson(
            asked.hosts,
            load=config.load,
            link_gbps=asked.link_gbps,
            duration_ps=round(config.duration_us * 1e6),
            sizes=config.sizes,
            seed=asked.seed,
        )
    )


def ring_allreduce() -> Pattern:
    """Return a ring all-reduce, message by message."""
    from orchestrator_network import workloads

    return Pattern(lambda asked: workloads.ring_allreduce(asked.hosts, asked.flow_bytes))


def recursive_doubling_allreduce() -> Pattern:
    """Return a recursive-doubling all-reduce, message by message."""
    from orchestrator_network import workloads

    return Pattern(lambda asked: workloads.recursive_doubling_allreduce(asked.hosts, asked.flow_bytes))


def double_binary_tree_allreduce(config: TreeConfig) -> Pattern:
    """Return an all-reduce over two binary trees, message by message."""
    from orchestrator_network import workloads

    return Pattern(
        lambda asked: workloads.double_binary_tree_allreduce(asked.hosts, asked.flow_bytes, pieces=config.pieces)
    )


def hierarchical_allreduce(config: HierarchicalConfig) -> Pattern:
    """Return an all-reduce within servers, between them, and within them again."""
    from orchestrator_network import allreduce_flows

    def make(asked: Asked) -> Workload:
        config.check_devices(asked.hosts)
        servers = asked.hosts // config.per_server
        return allreduce_flows.hierarchical_allreduce(servers, config.per_server, asked.flow_bytes)

    return Pattern(make)


def cm(config: CmConfig) -> Pattern:
    """Return the flows of an htsim connection matrix, with the links of a fat tree that it fails."""
    return Pattern(lambda asked: _cm(config, asked))


def _cm(config: CmConfig, asked: Asked) -> Workload:
    return _matrix(config.verified(), asked.hosts).workload


def _matrix(path: Path, hosts: int) -> ConnectionMatrix:
    from orchestrator_network.readers.cm import read_cm

    matrix = read_cm(path)
    if matrix.nodes > hosts:
        raise WorkloadError(f"{path}: Nodes: the file has {matrix.nodes}, the recipe {hosts} devices; use more")
    return matrix


def hpcc_flows(config: HpccFlowsConfig) -> Pattern:
    """Return the flows of a file of HPCC or SimAI."""
    return Pattern(lambda asked: _hpcc_flows(config, asked))


def _hpcc_flows(config: HpccFlowsConfig, asked: Asked) -> Workload:
    from orchestrator_network.readers.hpcc import read_hpcc_flows

    path = config.verified()
    return read_hpcc_flows(path, asked.names or tuple(f"host{number}" for number in range(asked.hosts)))


_OFFERED: tuple[tuple[str, type | None, str], ...] = (
    ("permutation", None, "Every host sends to one and receives from one."),
    ("full_bisection_permutation", LeavingConfig, "A permutation in which every flow leaves its pod (or rack)."),
    ("incast", IncastConfig, "Many hosts send to one."),
    ("outcast_incast", OutcastConfig, "Senders share one target while each also sends elsewhere."),
    ("all_to_all", AllToAllConfig, "Every host sends to every other, all at once or some at a time."),
    ("tornado", None, "Host i sends to i + n/2."),
    ("poisson", PoissonConfig, "Flows arrive at random, with measured sizes."),
    ("ring_allreduce", None, "Ring all-reduce, message by message."),
    ("recursive_doubling_allreduce", None, "Recursive-doubling all-reduce, message by message."),
    ("double_binary_tree_allreduce", TreeConfig, "All-reduce over two binary trees, message by message."),
    ("hierarchical_allreduce", HierarchicalConfig, "All-reduce within servers and between them, by messages."),
    ("cm", CmConfig, "An htsim connection matrix."),
    ("hpcc_flows", HpccFlowsConfig, "A flow file of the simulators of HPCC and SimAI."),
)
#: Built-in workloads whose flows have the bytes that the stage says.
SIZED = tuple(name for name, _, _ in _OFFERED if name not in UNSIZED)


def components() -> list[Component]:
    """Return all of them."""
    return [
        Component(kind="workload", name=name, version="1", entry=f"{_HOME}:{name}", config=config, doc=doc)
        for name, config, doc in _OFFERED
    ]
