"""What `network.simulate` refuses when a recipe is planned beyond its settings one by one: what they say of one another's parts.

Names of links are looked up in the network, and so are links that a connection matrix fails; what hardware injects is asked of
it; small files are read. A network is built only where something depends on it: that of 16,384 devices takes less than
0.1 s, beside 0.3 s for numpy and scipy, which load then. No compiler does. Larger networks, files and workloads are looked at in the
stage, and so is what the traffic of a training step or a seed decides.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import component
from orchestrator_network.chosen_network import Links, build_network, links_of, outside_gbps
from orchestrator_network.cost import LINKS_PER_DEVICE
from orchestrator_network.errors import TopologyError
from orchestrator_network.workload_components import Asked
from orchestrator_network.workload_rules import check_traced, flow_count

if TYPE_CHECKING:
    from orchestrator_network.components import Cables
    from orchestrator_network.simulate_config import SimulateConfig
    from orchestrator_network.topology import Topology
    from orchestrator_network.workloads import Workload

MOST_PLANNED_HOSTS = 65_536
MOST_PLANNED_FLOWS = 200_000
_LONG_S = 1e6  # what may take so long is looked at closely


def check_network(config: SimulateConfig, hosts: int | None) -> None:
    """Refuse what cannot be of the network and the workload that a recipe names; ``hosts`` None: not known before the run.

    Raises TopologyError or WorkloadError, both ValueErrors, as the stage would.
    """
    links = links_of(config)
    config.check_speeds(links.gbps)
    if hosts is None:
        _check_names(config)
        return
    plan = _Plan(config, hosts, links)
    if plan.flows is not None:
        check_traced(config.trace_flows, plan.flows)
    if not config.known_topology or hosts > MOST_PLANNED_HOSTS:
        plan.read_alone()
        return
    plan.check_workload()
    plan.check_links()


def _check_names(config: SimulateConfig) -> None:
    """Refuse changes of links that the topology has for no number of devices; whether it has so many is known with them."""
    cables: Cables | None = getattr(getattr(config.topology, "config", None), "cables", None)
    if cables is None or not config.known_topology:
        return
    for one in config.link_changes:
        ends = re.sub(r"\d+", "#", one.src), re.sub(r"\d+", "#", one.dst)
        if not {ends, ends[::-1]} & cables:
            kinds = ", ".join(f"{low} and {high}" for low, high in sorted(cables))
            raise TopologyError(
                f"no link leads from `{one.src}` to `{one.dst}`; in topology {config.topology} they join {kinds}, # for a number"
            )


class _Plan:
    """A network and a workload as far as a recipe says them, made when they are asked for."""

    def __init__(self, config: SimulateConfig, hosts: int, links: Links) -> None:
        self.config, self.hosts, self.links = config, hosts, links

    @property
    def from_file(self) -> bool:
        """Whether the network is read from a file."""
        return hasattr(getattr(self.config.topology, "config", None), "check_file")

    @property
    def flows(self) -> int | None:
        """How many flows there are, where the name of the workload says so."""
        name, settings = str(self.config.workload), getattr(self.config.workload, "config", None)
        return flow_count(name, settings, self.hosts)

    @cached_property
    def whole(self) -> Topology:
        """The network before any link fails."""
        return build_network(self.config, self.hosts, self.links)

    @cached_property
    def network(self) -> Topology:
        """The network that carries the workload."""
        from orchestrator_network.packet_parts import without_failed

        return self.whole if self.load is None else without_failed(self.whole, self.load)

    @cached_property
    def load(self) -> Workload | None:
        """The flows, of files and where it is not certain that they are over soon enough; None: not known, or of no interest."""
        settings = getattr(self.config.workload, "config", None)
        size = getattr(settings, "read_when_planned", None)
        if size is not None:
            return self._made(self.whole.network.names[: self.hosts]) if self._small(size, settings) else None
        few = self.flows is not None and self.flows <= MOST_PLANNED_FLOWS
        return self._made(()) if few and self._may_last() else None

    def read_alone(self) -> None:
        """Read a connection matrix, which knows without a network whether it is one for so many hosts."""
        settings: Any = getattr(self.config.workload, "config", None)
        if str(self.config.workload) == "cm" and self._small(settings.read_when_planned, settings):
            self._made(())

    def check_workload(self) -> None:
        """Refuse flows that are not of this network, too many of them, and such as take longer than is counted."""
        from orchestrator_network.wire import Wire

        config = self.config
        if self.load is not None:
            from orchestrator_network.time_limits import check_time

            check_traced(config.trace_flows, len(self.load))
            check_time(
                self.network, self.load, Wire(packet_bytes=config.packet_bytes, header_bytes=config.header_bytes)
            )
        if str(config.workload) == "poisson":
            from orchestrator_network.arrivals import mean_gap_ps

            settings: Any = getattr(config.workload, "config", None)
            duration_ps = round(settings.duration_us * 1e6)
            mean_gap_ps(self.hosts, settings.load, outside_gbps(self.whole), duration_ps, settings.sizes)

    def check_links(self) -> None:
        """Refuse changes of links that are not there, and links that packets or switches that reduce cannot have."""
        config = self.config
        if config.fidelity == "packet" and (config.link_changes or self.from_file):
            from orchestrator_network.packet_parts import told_links

            told_links(self.network, config.slow_links, config.changes, config.bit_error_rate)
        if config.workload is None and config.allreduce == "in_network" and self.from_file:
            from orchestrator_network.in_network import check_single_links

            check_single_links(self.whole.network)

    def _made(self, names: tuple[str, ...]) -> Workload:
        asked = Asked(hosts=self.hosts, flow_bytes=self.config.flow_bytes or 0, link_gbps=0.0, seed=0, names=names)
        made: Any = component("workload", self.config.workload).build(asked)
        return made  # type: ignore[no-any-return]

    @staticmethod
    def _small(most_bytes: int, settings: Any) -> bool:
        return Path(settings.path).stat().st_size <= most_bytes

    def _may_last(self) -> bool:
        """Tell whether flows may be anywhere near the longest time that is counted, one after the other on the slowest link."""
        config, flows, settings = self.config, self.flows or 0, getattr(self.config.topology, "config", None)
        if self.from_file:  # which says how fast links are
            return True
        packets = flows * ((config.flow_bytes or 0) / (config.packet_bytes - config.header_bytes) + 1)
        inside_gbps = getattr(settings, "local_gbps", self.links.gbps) / (self.links.planes or LINKS_PER_DEVICE)
        tiers = getattr(settings, "tier_speeds", None) or (1.0,)
        slowest_bps = min(self.links.gbps, inside_gbps) * min(tiers) * 1e9
        link_ns = config.link_latency_ns + getattr(settings, "switch_latency_ns", 0.0)
        return packets * config.packet_bytes * 8 / slowest_bps + 2 * 64 * link_ns / 1e9 * flows > _LONG_S
