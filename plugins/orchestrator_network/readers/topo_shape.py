"""The fat tree of an htsim topology file: what it says, and the tree that `simulate` takes.

A bundle joins two switches by several links. Flow fidelity spreads a flow evenly over all uplinks, so bundled links
are modelled as links to as many logical switches, which carry the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from orchestrator_network.cost import Bill, fat_tree_bill
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
    """A fat tree whose ports are given, not derived from a radix; ``switches`` are the ports of its physical switches.

    Bundled links are spread over as many logical switches as there are links, which carry the same.
    """

    given: Ports
    switches: Ports

    @property
    def bought_gbps(self) -> float:
        """The speed of the links that are bought, that of the file."""
        return self.link_gbps

    @cached_property
    def ports(self) -> Ports:
        """The ports of the logical switches."""
        return self.given

    def bill(self) -> Bill:
        """Return switches and cables of all planes."""
        return fat_tree_bill(self.hosts, self.ports, bought=self.switches).times(self.planes)


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
        return max(1.0, down / up)

    def tree(self, *, planes: int = 1) -> FatTree:
        """Return the fat tree that `simulate` takes.

        Raises TopologyError for what it cannot express: links of different speed or latency, switches that take
        different times, bundles that do not divide the uplinks of a switch.
        """
        bottom = self.tiers[0]
        for number, tier in enumerate(self.tiers):
            if tier.speed_gbps != bottom.speed_gbps:
                self._refuse(
                    tier, f"tier {number} has links of {tier.speed_gbps:g} Gb/s, tier 0 of {bottom.speed_gbps:g}"
                )
            if tier.latency_ps != bottom.latency_ps:
                self._refuse(tier, f"tier {number} has links of {tier.latency_ps} ps, tier 0 of {bottom.latency_ps}")
            if tier.switch_latency_ps != bottom.switch_latency_ps:
                took, beside = tier.switch_latency_ps, bottom.switch_latency_ps
                self._refuse(tier, f"tier {number} takes {took} ps a switch, tier 0 {beside}")
        physical = self._ports(1)
        shares = self.tiers[1].bundle
        if len(self.tiers) == 3 and self.tiers[1].radix_up % shares:
            uplinks = self.tiers[1].radix_up
            self._refuse(
                self.tiers[1], f"tier 1 has bundles of {shares} links, which do not divide its {uplinks} uplinks"
            )
        return GivenTree(
            hosts=self.hosts,
            tiers=len(self.tiers),
            oversubscription=self.taper,
            link_gbps=bottom.speed_gbps,
            planes=planes,
            latency_ps=bottom.latency_ps,
            switch_latency_ps=bottom.switch_latency_ps,
            given=self._ports(shares),
            switches=physical,
        )

    def _ports(self, shares: int) -> Ports:
        """Return the ports when every switch of tier 1 counts as ``shares``."""
        ports = Ports(tor_down=self.tiers[0].radix_down, tor_up=self.tiers[0].radix_up)
        if len(self.tiers) == 2:
            return replace(ports, core=self.tiers[1].radix_down)
        middle, top = self.tiers[1:]
        return replace(
            ports, agg_down=middle.radix_down // shares, agg_up=middle.radix_up // shares, core=top.radix_down
        )

    def _refuse(self, tier: Tier, found: str) -> None:
        raise TopologyError(
            f"{self.path}:{tier.line}: {found}; a fat tree at flow fidelity has links of one speed and latency, "
            "switches that are alike, and bundles that divide the uplinks"
        )
