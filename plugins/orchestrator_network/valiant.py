"""Valiant routing between groups, exactly and at flow level (Valiant 1982; for the Dragonfly: Kim et al., ISCA 2008).

A flow from router s in group S to router t in group T, S != T, goes to every other group m in equal parts 1 / (g - 2),
over the cheapest ways from s to any router of m, split evenly; from the router y where a part enters m it takes the
minimal routes to t. With A(s, m, y) the part that enters m at y and R the minimal shares,

    share(s, t) = sum over m of (first(s, m) + sum over y of A(s, m, y) R(y, t)) / (g - 2)

Flows inside a group take minimal routes: there is nothing to balance.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from orchestrator_network.graph import Network
from orchestrator_network.routes import Routes, minimal_loads, minimal_routes, routes_over_links


class Valiant:
    """Valiant routes over ``fabric``, a network whose hosts are routers, in full groups that are joined pair by pair.

    ``group`` int64 [routers] and ascending; ``is_global`` bool [links]. Every link is a trunk of its own.
    """

    def __init__(self, fabric: Network, group: np.ndarray, is_global: np.ndarray) -> None:
        self.fabric, self.group, self.is_global = fabric, group, is_global
        self.groups = int(group.max()) + 1

    @cached_property
    def _first(self) -> tuple[csr_array, csr_array]:
        """Return what the way from router s to group m, row s * groups + m, uses: links, and routers of m it enters."""
        network, groups = self.fabric, self.groups
        routers = network.hosts
        shape = (routers * groups, network.links)
        links = np.flatnonzero(self.is_global)
        from_router, to_group = network.source[links], self.group[network.target[links]]
        count = np.zeros((routers, groups))
        np.add.at(count, (from_router, to_group), 1)
        of_group = np.zeros((groups, groups))
        np.add.at(of_group, self.group, count)
        own = csr_array((1 / count[from_router, to_group], (from_router * groups + to_group, links)), shape=shape)
        # A router without a link of its own to a group goes over each neighbour that has some, by the links it has.
        local = np.flatnonzero(~self.is_global)
        s, neighbour = network.source[local], network.target[local]
        step, m = np.nonzero((count[s] == 0) & (count[neighbour] > 0))
        share = count[neighbour[step], m] / of_group[self.group[s[step]], m]
        near = csr_array((share, (s[step] * groups + m, local[step])), shape=shape)
        hop, router = np.nonzero((self.group[from_router][:, None] == self.group) & (count[:, to_group] == 0).T)
        share = 1 / of_group[self.group[router], to_group[hop]]
        onward = csr_array((share, (router * groups + to_group[hop], links[hop])), shape=shape)
        used = own + near + onward
        enters = csr_array((np.ones(len(links)), (links, network.target[links])), shape=(network.links, routers))
        return csr_array(used), csr_array(used @ enters)

    def routes(self, sources: np.ndarray, targets: np.ndarray) -> Routes:
        """Split flows between different routers over all groups that they may pass through."""
        used, enters = self._first
        count, routers = len(sources), self.fabric.hosts
        first, last = self.group[sources], self.group[targets]
        leg = np.ones((count, self.groups))
        leg[np.arange(count), first] = leg[np.arange(count), last] = 0
        leg[first == last] = 0
        flow, via = np.nonzero(leg)
        spread = 1 / (self.groups - 2)
        start = csr_array(
            (np.full(len(flow), spread), (flow, sources[flow] * self.groups + via)),
            shape=(count, routers * self.groups),
        )
        # What is left to carry minimally: from where the parts entered, or from the source within a group.
        entered = csr_array(start @ enters).tocoo()
        at_home = np.flatnonzero(first == last)
        owner = np.concatenate([entered.coords[0], at_home])
        origin = np.concatenate([entered.coords[1], sources[at_home]])
        part = np.concatenate([entered.data, np.ones(len(at_home))])
        moving = origin != targets[owner]
        owner, origin, part = owner[moving], origin[moving], part[moving]
        rest = minimal_routes(self.fabric, origin, targets[owner]).share
        gather = csr_array((part, (owner, np.arange(len(owner)))), shape=(count, len(owner)))
        return routes_over_links(self.fabric, csr_array(start @ used + gather @ rest[:, self.fabric.trunk]))

    def loads(self, demand: np.ndarray) -> np.ndarray:
        """Return what a demand matrix [routers, routers] puts on every trunk, in its unit, float64 [trunks]."""
        used, enters = self._first
        routers, groups = len(demand), self.groups
        away = np.where(self.group[:, None] != self.group, demand, 0.0)
        member = (self.group[:, None] == np.arange(groups)).astype(float)
        to_group = away @ member
        through = (to_group.sum(axis=1, keepdims=True) - to_group) / (groups - 2)
        through[np.arange(routers), self.group] = 0
        outward = through.ravel() @ used
        # From the router where parts enter a group to their targets; a flow does not pass through its own two groups.
        by_source = sum(enters[np.arange(routers) * groups + m] for m in range(groups))
        entering = np.where(self.group[:, None] != self.group, csr_array(by_source).T @ away, 0.0) / (groups - 2)
        onward = minimal_loads(self.fabric, demand - away + entering)
        return np.asarray(np.bincount(self.fabric.trunk, outward) + onward)
