"""How many ports each tier of a fat tree has, by arithmetic alone, so that a recipe can be refused before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator_network.errors import TopologyError
from orchestrator_network.shape_rules import check_radix

_PORTS = 64  # of a switch, where nothing is said
_LARGEST_K = 4096  # ports of a switch of k-ary trees that are looked for: 17 billion hosts


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Ports of the switches of a fat tree: ToR down and up, aggregation down and up, ports of a core (or spine).

    ``agg_bundle`` cables join a ToR to each aggregation switch of its pod (with two tiers to each spine), ``core_bundle`` cables
    an aggregation switch to each of its cores.
    """

    tor_down: int
    tor_up: int = 0
    agg_down: int = 0
    agg_up: int = 0
    core: int = 0
    agg_bundle: int = 1
    core_bundle: int = 1

    @property
    def above_tor(self) -> int:
        """How many switches a ToR is joined to."""
        return self.tor_up // self.agg_bundle

    @property
    def above_agg(self) -> int:
        """How many cores an aggregation switch is joined to."""
        return self.agg_up // self.core_bundle

    @property
    def tors_per_pod(self) -> int:
        """How many ToRs an aggregation switch is joined to."""
        return self.agg_down // self.agg_bundle

    @property
    def tops(self) -> int:
        """The number of logical switches of the top tier: cores, or spines; 0 in a tree of one tier."""
        return {1: 0, 2: self.above_tor, 3: self.above_tor * self.above_agg}[self.levels]

    @property
    def levels(self) -> int:
        """The number of tiers in use."""
        return 1 + (self.tor_up > 0) + (self.agg_down > 0)

    def links_from_top(self, hosts: int) -> int:
        """Return how many links lead from the top tier down, for that many hosts."""
        tors = math.ceil(hosts / self.tor_down)
        if self.levels < 3:
            return tors * self.tor_up
        return math.ceil(tors / self.tors_per_pod) * self.above_tor * self.agg_up


def tree_ports(hosts: int, tiers: int | None, oversubscription: float, radix: int | None) -> Ports:
    """Return the ports of the tree, of the fewest tiers that fit where ``tiers`` is None.

    Raises TopologyError for a tree that cannot be, naming what would do.
    """
    check_tree(tiers, oversubscription, radix)
    if hosts < 2:
        raise TopologyError(f"a fat tree needs at least 2 hosts, got {hosts}")
    if tiers == 3 and radix is None:
        return _k_ary_ports(hosts, oversubscription)
    radix = radix or _PORTS
    down, up = _tapered(radix, oversubscription)
    tors = math.ceil(hosts / down)
    levels = tiers or (1 if hosts <= radix else 2 if tors <= radix else 3)
    if levels == 1:
        if hosts > radix:
            raise TopologyError(f"{hosts} hosts do not fit one switch of {radix} ports; use tiers=2")
        return Ports(tor_down=hosts)
    if levels == 2:
        if tors > radix:
            raise TopologyError(
                f"{hosts} hosts need {tors} ToRs of {down} hosts, a spine has {radix} ports; use tiers=3"
            )
        return Ports(tor_down=down, tor_up=up, core=radix)
    pods = math.ceil(tors / (radix // 2))
    if pods > radix:
        raise TopologyError(f"{hosts} hosts need {pods} pods, a core has {radix} ports; use a larger radix")
    return Ports(tor_down=down, tor_up=up, agg_down=radix // 2, agg_up=radix // 2, core=radix)


def check_tree(tiers: int | None, oversubscription: float, radix: int | None) -> None:
    """Refuse, with a TopologyError, what makes a tree of no number of hosts."""
    if not 1 <= oversubscription < math.inf:
        raise TopologyError(f"oversubscription must be at least 1 (1 is non-blocking), got {oversubscription}")
    if tiers not in {None, 1, 2, 3}:
        raise TopologyError(f"a fat tree has 1, 2 or 3 tiers, got {tiers}")
    if radix is not None:
        check_radix(radix)
    elif tiers == 3 and not any(_whole(k, oversubscription) for k in range(4, _LARGEST_K + 1, 2)):
        raise TopologyError(
            f"oversubscription {oversubscription:g} divides the uplinks of no k-ary tree of up to {_LARGEST_K} ports; use a "
            "taper of small whole numbers, 1.5 or 2 for example, or give a radix"
        )


def _tapered(radix: int, oversubscription: float) -> tuple[int, int]:
    """Return the ports down and up of a ToR switch: 32/32, 42/22 and 51/13 of 64 for 1, 2 and 4."""
    down = min(math.floor(radix * oversubscription / (1 + oversubscription)), radix - 1)
    return down, radix - down


def _k_ary_ports(hosts: int, oversubscription: float) -> Ports:
    """Return the ports of the k-ary tree of k^3/4 hosts, the taper at the ToR first."""
    k = round((4 * hosts) ** (1 / 3))
    if k % 2 or k**3 != 4 * hosts:
        near = sorted({max(4, 2 * math.floor(k / 2)), 2 * math.ceil((k + 1) / 2)})
        sizes = " or ".join(str(size**3 // 4) for size in near)
        raise TopologyError(
            f"a k-ary tree of 3 tiers has k^3/4 hosts for an even k, {hosts} is none; "
            f"use {sizes} hosts, or give radix=64"
        )
    tor_up, agg_up = _uplinks(k, oversubscription)
    if not _whole(k, oversubscription):
        raise TopologyError(
            f"oversubscription {oversubscription:g} leaves {tor_up:g} uplinks a ToR and {agg_up:g} an aggregation "
            f"switch of {k} ports; both must be whole numbers"
        )
    return Ports(tor_down=k // 2, tor_up=int(tor_up), agg_down=k // 2, agg_up=int(agg_up), core=k)


def _uplinks(k: int, oversubscription: float) -> tuple[float, float]:
    """Return the uplinks of a ToR and of an aggregation switch; the taper is at the ToR up to 4."""
    at_tor = min(oversubscription, 4)
    return k / 2 / at_tor, k / 2 / (oversubscription / at_tor)


def _whole(k: int, oversubscription: float) -> bool:
    return all(links >= 1 and links == int(links) for links in _uplinks(k, oversubscription))
