"""The fat tree of an htsim topology file: what it says, and the tree that `simulate` takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator_network.errors import TopologyError
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.fat_tree_ports import Ports


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One tier of switches: ports, the links below it, and what it takes to cross a switch.

    ``speed_gbps`` and ``latency_ps`` are of one link to the tier below; ``bundle`` links join two switches;
    queues in bytes, None where the file leaves them to the command line; ``line`` is where the tier begins.
    """

    radix_down: int
    radix_up: int
    speed_gbps: float
    latency_ps: int
    switch_latency_ps: int = 0
    oversubscribed: int = 1
    bundle: int = 1
    queue_up_bytes: int | None = None
    queue_down_bytes: int | None = None
    line: int = 0


@dataclass(frozen=True, kw_only=True)
class GivenTree(FatTree):
    """A fat tree whose ports are given, not derived from a radix."""

    given: Ports

    @property
    def bought_gbps(self) -> float:
        """The mean speed of the links that are bought, those of the file."""
        return self.mean_gbps

    @cached_property
    def ports(self) -> Ports:
        """The ports that were given."""
        return self.given


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A fat tree as a `.topo` file gives it, its counts checked against one another."""

    path: str
    hosts: int
    hosts_per_pod: int
    tiers: tuple[Tier, ...]

    @property
    def tors(self) -> int:
        """The number of ToR switches."""
        return self.hosts // self.tiers[0].radix_down

    @property
    def pods(self) -> int:
        """The number of pods."""
        return self.hosts // self.hosts_per_pod

    @property
    def aggs(self) -> int:
        """The number of switches of tier 1."""
        return self.pods * (self.tiers[0].radix_up // self.tiers[1].bundle)

    @property
    def cores(self) -> int:
        """The number of switches of tier 2; 0 for two tiers."""
        return self.aggs * self.tiers[1].radix_up // self.tiers[2].radix_down if len(self.tiers) == 3 else 0

    @property
    def taper(self) -> float:
        """The bandwidth of the hosts of a pod over that of its uplinks, or of a ToR for two tiers; at least 1."""
        down = up = 1
        for tier in self.tiers[:-1]:
            down, up = down * tier.radix_down, up * tier.radix_up
        return max(1.0, down * self.tiers[0].speed_gbps / (up * self.tiers[-1].speed_gbps))

    def tree(self, *, planes: int = 1) -> FatTree:
        """Return the fat tree that `simulate` takes.

        Raises TopologyError for what it cannot express: links of different latency, switches that take different times.
        """
        bottom = self.tiers[0]
        for number, tier in enumerate(self.tiers):
            if tier.latency_ps != bottom.latency_ps:
                self._refuse(tier, f"tier {number} has links of {tier.latency_ps} ps, tier 0 of {bottom.latency_ps}")
            if tier.switch_latency_ps != bottom.switch_latency_ps:
                took, beside = tier.switch_latency_ps, bottom.switch_latency_ps
                self._refuse(tier, f"tier {number} takes {took} ps a switch, tier 0 {beside}")
        speeds = tuple(tier.speed_gbps for tier in self.tiers)
        return GivenTree(
            hosts=self.hosts,
            tiers=len(self.tiers),
            oversubscription=self.taper,
            link_gbps=bottom.speed_gbps if len(set(speeds)) == 1 else speeds,
            planes=planes,
            latency_ps=bottom.latency_ps,
            switch_latency_ps=bottom.switch_latency_ps,
            given=self._ports(),
        )

    def _ports(self) -> Ports:
        ports = Ports(tor_down=self.tiers[0].radix_down, tor_up=self.tiers[0].radix_up, agg_bundle=self.tiers[1].bundle)
        if len(self.tiers) == 2:
            return replace(ports, core=self.tiers[1].radix_down)
        middle, top = self.tiers[1:]
        return replace(
            ports,
            agg_down=middle.radix_down,
            agg_up=middle.radix_up,
            core=top.radix_down,
            core_bundle=top.bundle,
        )

    def _refuse(self, tier: Tier, found: str) -> None:
        raise TopologyError(
            f"{self.path}:{tier.line}: {found}; a fat tree has links of one latency and switches that are alike"
        )
