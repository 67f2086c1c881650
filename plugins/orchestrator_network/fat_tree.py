"""Fat trees of one to three tiers with any taper, ECMP spraying at flow fidelity.

With ``radix`` ports a switch (tiers 1 and 2; tier 3 when a radix is given): a ToR has floor(radix o / (1 + o))
ports down and the rest up for oversubscription o, everything above is non-blocking, the last ToR and pod may be
partly filled. Without a radix, three tiers are the k-ary tree: hosts = k^3/4, k/2 hosts a ToR, k/2 ToRs a pod, as
many aggregation switches a pod as a ToR has uplinks; the taper sits at the ToR up to 4, the rest of it at the
aggregation switch (8: ToR k/2 : k/8, agg k/2 : k/4). Cores and spines are *logical*: uplink j of every switch below
meets in core j; several share one physical switch, which is what the bill counts.

Spraying evenly over all uplinks loads the links of one ToR (and of one pod) alike, so they are one trunk in each
direction. Tiers may have links of different speeds; the taper of bandwidth is then not that of the ports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from orchestrator_network.cost import Bill, fat_tree_bill
from orchestrator_network.errors import TopologyError
from orchestrator_network.fat_tree_ports import Ports, tree_ports
from orchestrator_network.graph import Network, Wiring
from orchestrator_network.routes import Routes, check_pairs, paced, span
from orchestrator_network.shape_rules import check_links
from orchestrator_network.wire import PS_PER_S


@dataclass(frozen=True, kw_only=True)
class FatTree:
    """A fat tree; ``tiers=None`` takes the fewest that fit.

    ``planes`` disjoint copies carry 1/planes of every message each and are alike, so one is simulated.
    ``link_gbps`` of all links, or of the links below each tier in use, those of hosts first; ``oversubscription`` is of ports.
    ``latency_ps`` is that of one link, ``switch_latency_ps`` what a packet takes through a switch beside. Impossible shapes
    raise :class:`TopologyError`.
    """

    hosts: int
    tiers: int | None = None
    oversubscription: float = 1
    link_gbps: float | tuple[float, ...] = 400.0
    radix: int | None = None
    planes: int = 1
    latency_ps: int = 1_000_000
    switch_latency_ps: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.link_gbps, list):  # as it comes from a file
            object.__setattr__(self, "link_gbps", tuple(self.link_gbps))
        given = self.link_gbps if isinstance(self.link_gbps, tuple) else (self.link_gbps,)
        if not given:
            raise TopologyError("link_gbps has no speed; give one number, or one a tier")
        for gbps in given:
            check_links(gbps, self.planes)
        if min(self.latency_ps, self.switch_latency_ps) < 0:
            raise TopologyError(f"latencies must be 0 or more, got {self.latency_ps} and {self.switch_latency_ps} ps")
        _ = self.ports
        if isinstance(self.link_gbps, tuple) and len(given) != self.levels:
            raise TopologyError(
                f"link_gbps has {len(given)} speeds, {self.link_gbps}, and the tree {self.levels} tiers; give one a tier, that of "
                "hosts' links first, or one number for all"
            )

    def with_latency(self, latency_ps: int) -> FatTree:
        """Return the same tree with another latency a link."""
        return replace(self, latency_ps=latency_ps)

    @property
    def name(self) -> str:
        """The family and its taper, for tables."""
        return "fat_tree" if self.taper == 1 else f"fat_tree_{self.taper:g}to1"

    @cached_property
    def tier_gbps(self) -> tuple[float, ...]:
        """The speeds of the links below every tier in use, in Gb/s, those of hosts first."""
        return self.link_gbps if isinstance(self.link_gbps, tuple) else (self.link_gbps,) * self.levels

    @property
    def one_speed(self) -> bool:
        """Whether the links of all tiers are as fast."""
        return len(set(self.tier_gbps)) == 1

    @property
    def taper(self) -> float:
        """What hosts send over what leads up from their ToR, or their pod, whichever is more; at least 1.

        Where all links are as fast it is the ``oversubscription`` that was asked for.
        """
        if self.one_speed:
            return self.oversubscription
        ports, gbps = self.ports, self.tier_gbps
        tapers = [ports.tor_down * gbps[0] / (ports.tor_up * gbps[1])]
        if self.levels == 3:
            down, up = ports.tor_down * ports.agg_down, ports.tor_up * ports.agg_up
            tapers.append(down * gbps[0] / (up * gbps[2]))
        return max(1.0, *tapers)

    @cached_property
    def ports(self) -> Ports:
        """Port counts of every tier; raises TopologyError when the hosts do not fit."""
        return tree_ports(self.hosts, self.tiers, self.oversubscription, self.radix)

    @cached_property
    def levels(self) -> int:
        """The number of tiers in use."""
        return self.ports.levels

    @property
    def tors(self) -> int:
        """The number of ToR switches."""
        return math.ceil(self.hosts / self.ports.tor_down)

    @property
    def pods(self) -> int:
        """The number of pods; a tree of fewer than three tiers is one pod."""
        return math.ceil(self.tors / self.tors_per_pod) if self.levels == 3 else 1

    @property
    def tors_per_pod(self) -> int:
        """The number of ToR switches of a full pod; a tree of fewer than three tiers is one pod."""
        return self.ports.tors_per_pod if self.levels == 3 else self.tors

    @property
    def aggs_per_pod(self) -> int:
        """The number of aggregation switches of a pod; 0 in a tree of fewer than three tiers."""
        return self.ports.above_tor if self.levels == 3 else 0

    @property
    def link_bps(self) -> float:
        """Capacity of one link in bits per second, of the slowest where tiers differ."""
        return min(self.tier_gbps) * 1e9

    @property
    def injection_bps(self) -> float:
        """What one host can send in one plane, in bits per second."""
        return self.tier_gbps[0] * 1e9

    @property
    def bought_gbps(self) -> float | None:
        """The mean speed of all links in Gb/s where tiers differ, None where whoever prices the tree knows it."""
        return None if self.one_speed else self.mean_gbps

    @property
    def mean_gbps(self) -> float:
        """The mean speed of all links in Gb/s."""
        return float(self.network.capacity_bps.mean() / 1e9)

    @cached_property
    def network(self) -> Network:
        """One plane as a graph."""
        ports, tors, pods = self.ports, self.tors, self.pods
        aggs = self.aggs_per_pod
        first_tor = self.hosts
        first_agg = first_tor + tors
        first_core = first_agg + pods * aggs
        wiring, host, tor = Wiring(), np.arange(self.hosts), np.arange(tors)
        up = self._trunks
        wiring.cable(
            host,
            first_tor + host // ports.tor_down,
            trunk=host,
            back=up["host_down"] + host,
            latency_ps=self.latency_ps,
            link_bps=self.tier_gbps[0] * 1e9,
        )
        if self.levels > 1:
            above = first_core if self.levels == 2 else first_agg + (tor // self.tors_per_pod)[:, None] * aggs
            wiring.cable(
                first_tor + tor[:, None],
                above + np.arange(ports.tor_up) % ports.above_tor,
                trunk=up["tor_up"] + tor[:, None],
                back=up["tor_down"] + tor[:, None],
                latency_ps=self.latency_ps,
                link_bps=self.tier_gbps[1] * 1e9,
            )
        if self.levels == 3:
            agg = np.arange(pods * aggs)[:, None]
            wiring.cable(
                first_agg + agg,
                first_core + (agg % aggs) * ports.above_agg + np.arange(ports.agg_up) % ports.above_agg,
                trunk=up["pod_up"] + agg // aggs,
                back=up["pod_down"] + agg // aggs,
                latency_ps=self.latency_ps,
                link_bps=self.tier_gbps[2] * 1e9,
            )
        names = [f"host{i}" for i in host] + [f"tor{i}" for i in tor]
        names += [f"agg{i}" for i in range(pods * aggs)] + [f"core{i}" for i in range(ports.tops)]
        built = wiring.network(self.hosts, tuple(names), self.link_bps)
        # What a switch takes comes before its queue, so that it is as good as on the link that leads there.
        inside_ps = np.where(built.target >= self.hosts, self.switch_latency_ps, 0)
        sized_bps = None if self.one_speed else self.injection_bps
        return replace(built, latency_ps=built.latency_ps + inside_ps, sized_bps=sized_bps)

    def links_from_top(self) -> np.ndarray:
        """Return the links from the top tier down, switch by switch below it, int64; none in a tree of one tier."""
        network = self.network
        first_top = network.nodes - self.ports.tops
        down = np.flatnonzero(network.source >= first_top)
        return down[np.lexsort((network.source[down], network.target[down]))]

    @cached_property
    def _trunks(self) -> dict[str, int]:
        """First trunk of every group; absent groups take no numbers."""
        tors, pods = self.tors if self.levels > 1 else 0, self.pods if self.levels == 3 else 0
        sizes = {
            "host_up": self.hosts,
            "host_down": self.hosts,
            "tor_up": tors,
            "tor_down": tors,
            "pod_up": pods,
            "pod_down": pods,
        }
        starts, begin = {}, 0
        for group, size in sizes.items():
            starts[group] = begin
            begin += size
        return starts

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Spray every flow evenly over its shortest up-down paths, in closed form."""
        check_pairs(self.hosts, sources, targets)
        start = self._trunks
        tor_from, tor_to = sources // self.ports.tor_down, targets // self.ports.tor_down
        away = tor_from != tor_to
        per_pod = self.tors_per_pod
        far = away & (tor_from // per_pod != tor_to // per_pod)
        flow = np.arange(len(sources))
        rows = [flow, flow, flow[away], flow[away], flow[far], flow[far]]
        columns = [
            start["host_up"] + sources,
            start["host_down"] + targets,
            start["tor_up"] + tor_from[away],
            start["tor_down"] + tor_to[away],
            start["pod_up"] + tor_from[far] // per_pod,
            start["pod_down"] + tor_to[far] // per_pod,
        ]
        row, column = np.concatenate(rows), np.concatenate(columns)
        shape = (len(sources), len(self.network.trunk_bps))
        share = csr_array((np.ones(len(row)), (row, column)), shape=shape)
        routes = replace(self._span(away, far), share=share)
        if self.one_speed:
            return routes
        each = [8 * PS_PER_S / (gbps * 1e9) for gbps in self.tier_gbps]
        stored_ps = 2 * (each[0] + away * each[1] + (far * each[2] if self.levels == 3 else 0.0))
        return paced(routes, stored_ps, self.network.trunk_bps)

    def spans(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Return how far hosts are apart: `routes`, without shares where links are of one speed."""
        if not self.one_speed:
            return self.routes(sources, targets)
        tor_from, tor_to = sources // self.ports.tor_down, targets // self.ports.tor_down
        per_pod = self.tors_per_pod
        return self._span(tor_from != tor_to, tor_from // per_pod != tor_to // per_pod)

    def _span(self, away: np.ndarray, far: np.ndarray) -> Routes:
        hops = (2.0 + 2.0 * away) + 2.0 * far
        return span(hops * self.latency_ps + (hops - 1) * self.switch_latency_ps, hops)

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [hosts, hosts] puts on every trunk, in the demand's unit, float64 [trunks]."""
        wanted = demand.astype(float)
        np.fill_diagonal(wanted, 0)
        host = np.arange(self.hosts)
        tor = host // self.ports.tor_down
        parts = [wanted.sum(axis=1), wanted.sum(axis=0)]
        groups = [tor] if self.levels > 1 else []
        groups += [tor // self.tors_per_pod] if self.levels == 3 else []
        for group in groups:
            leaving = np.where(group[:, None] != group, wanted, 0.0)
            parts += [np.bincount(group, leaving.sum(axis=1)), np.bincount(group, leaving.sum(axis=0))]
        return np.concatenate(parts)

    def grid(self, ranks: np.ndarray) -> None:  # noqa: ARG002 - the topology protocol asks every topology
        """Return None: a tree has no mesh to lay a collective on."""
        return

    def bill(self) -> Bill:
        """Return switches and cables of all planes."""
        return fat_tree_bill(self.hosts, self.ports).times(self.planes)
