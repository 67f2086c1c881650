"""Fat trees with failed cables: what routes are left, and what no schedule beats on them.

A failure names a switch and one of its links, as htsim's connection matrices do (`FatTreeTopology::add_failed_link` of
csg-htsim and uet-htsim, which knows AGG alone; TOR and CORE are counted in the same way):

    TOR i, link j     up-link j of ToR i: to aggregation switch j of its pod; with two tiers to spine j
    AGG i, link j     up-link j of aggregation switch i, counted over all pods: to core (i mod aggs of a pod) x up-links + j
    CORE i, link j    the link of core i down to pod j; with two tiers of spine i down to ToR j

Where a bundle joins two switches, the first cables of all bundles of a switch are counted, then the second ones, and so on:
with n switches on the other side, link j is cable j // n of the bundle to switch j mod n. (htsim names a bundle by j < n and takes
its first cable down.)

Both directions of the cable are down from the begin, and routes know it: flows are split over the minimal paths that are
left. Queues keep the size that the whole tree has. A path that is left may turn upwards again below the top.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from orchestrator_network.cost import Bill
from orchestrator_network.errors import TopologyError
from orchestrator_network.fat_tree import FatTree
from orchestrator_network.fat_tree_ports import Ports
from orchestrator_network.graph import Network
from orchestrator_network.routes import Routes, minimal_loads, minimal_routes

TIERS = ("TOR", "AGG", "CORE")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed cable: number ``link`` of the TOR, AGG or CORE switch ``switch``; ``where`` says who wants it, for errors."""

    tier: str
    switch: int
    link: int
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class FailedTree(FatTree):
    """The tree ``whole`` without the cables of ``failures``; raises TopologyError for those that it does not have.

    ``network`` keeps the links that failed, so that links have the numbers of the whole tree; no route takes them.
    """

    failures: tuple[Failure, ...] = ()
    whole: FatTree

    def __post_init__(self) -> None:
        super().__post_init__()
        network = self.network
        left = np.flatnonzero(self.alive)
        ends = (np.ones(len(left)), (network.source[left], network.target[left]))
        graph = csr_array(ends, shape=(network.nodes, network.nodes))
        _, part = connected_components(graph, directed=False)
        lost = np.flatnonzero(part[: self.hosts] != part[0])
        if len(lost):
            raise TopologyError(
                f"{_of(self.failures[-1])}the {len(self.failures)} failed links cut host {lost[0]} off from host 0; fail fewer"
            )

    @cached_property
    def ports(self) -> Ports:
        """Port counts of every tier, those of the whole tree."""
        return self.whole.ports

    def spans(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Return how far hosts are apart, which failed links may lengthen."""
        return self.routes(sources, targets)

    def with_latency(self, latency_ps: int) -> FailedTree:
        """Return the same tree with another latency a link."""
        return replace(self, latency_ps=latency_ps, whole=self.whole.with_latency(latency_ps))

    def bill(self) -> Bill:
        """Return switches and cables of all planes: what has failed was bought."""
        return self.whole.bill()

    @cached_property
    def alive(self) -> np.ndarray:
        """Return which links are left, bool [links]."""
        whole = self.whole.network
        down = np.zeros(whole.links, bool)
        for failure in self.failures:
            low, high, cable = self._ends(failure)
            first, second = whole.names.index(low), whole.names.index(high)
            for source, target in ((first, second), (second, first)):
                down[np.flatnonzero((whole.source == source) & (whole.target == target))[cable]] = True
        return ~down

    @cached_property
    def network(self) -> Network:
        """One plane as a graph; every link is a trunk of its own, as those of one switch are no longer loaded alike."""
        whole = self.whole.network
        return replace(whole, trunk=np.arange(whole.links, dtype=np.int32), route_weight=self.alive.astype(float))

    @cached_property
    def cuts(self) -> FatTree:
        """The tree with what is left of the links of every ToR and every pod as one trunk, whatever balances them."""
        return _Cuts(**{one.name: getattr(self, one.name) for one in fields(self)})

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split every flow evenly over the minimal paths that are left; WorkloadError for impossible pairs."""
        return minimal_routes(self.network, sources, targets)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every link, in the demand's unit, float64 [links]."""
        return minimal_loads(self.network, demand)

    def _ends(self, failure: Failure) -> tuple[str, str, int]:
        """Return the names of the lower and the upper end of a cable, and its number in their bundle."""
        ports, aggs = self.ports, self.ports.above_tor
        most = {
            "TOR": (self.tors, ports.tor_up if self.levels > 1 else 0),
            "AGG": (self.pods * aggs, ports.agg_up) if self.levels == 3 else (0, 0),
            "CORE": (ports.tops, self.pods * ports.core_bundle)
            if self.levels == 3
            else (ports.tops, self.tors * ports.agg_bundle),
        }
        if failure.tier not in most:
            raise TopologyError(f"{_of(failure)}switch_type is {failure.tier}, not one of {', '.join(TIERS)}")
        switches, links = most[failure.tier] if self.levels > 1 else (0, 0)
        if not switches:
            raise TopologyError(
                f"{_of(failure)}a fat tree of {self.levels} tiers has no {failure.tier} switch with links to others; "
                + ("name TOR or CORE" if self.levels == 2 else "use 2 or 3 tiers")
            )
        for name, value, count in (("switch_id", failure.switch, switches), ("link_id", failure.link, links)):
            if not 0 <= value < count:
                raise TopologyError(
                    f"{_of(failure)}{name} is {value}; this tree has {failure.tier} switches 0 to {switches - 1} with "
                    f"links 0 to {links - 1} each"
                )
        switch, others = failure.switch, {"TOR": aggs, "AGG": ports.above_agg}
        below = self.tors if self.levels == 2 else self.pods
        cable, other = divmod(failure.link, others.get(failure.tier, below))
        if self.levels == 2:
            tor, spine = (switch, other) if failure.tier == "TOR" else (other, switch)
            return f"tor{tor}", f"core{spine}", cable
        if failure.tier == "TOR":
            return f"tor{switch}", f"agg{switch // self.tors_per_pod * aggs + other}", cable
        if failure.tier == "AGG":
            return f"agg{switch}", f"core{switch % aggs * ports.above_agg + other}", cable
        return f"agg{other * aggs + switch // ports.above_agg}", f"core{switch}", cable


@dataclass(frozen=True, kw_only=True)
class _Cuts(FailedTree):
    """Routes over groups of links that all of a flow must cross: a bound, and no statement of who carries what."""

    @cached_property
    def network(self) -> Network:
        whole = self.whole.network
        return replace(whole, capacity_bps=np.where(self.alive, whole.capacity_bps, 0.0))

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        return self.whole.routes(sources, targets)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        return self.whole.loads(demand)


def without(tree: FatTree, failures: Iterable[Failure]) -> FatTree:
    """Return the tree without those cables; the same tree if there are none. Raises TopologyError, naming what is wrong."""
    failed = tuple(failures)
    if not failed:
        return tree
    if isinstance(tree, FailedTree):
        return without(tree.whole, (*tree.failures, *failed))
    return FailedTree(**{one.name: getattr(tree, one.name) for one in fields(FatTree)}, failures=failed, whole=tree)


def _of(failure: Failure) -> str:
    return f"{failure.where}: " if failure.where else ""
