"""Who suffers where links never drop: flows that wait for the congestion of others.

A port that fills by itself is a root of congestion; ports that wait for the other end to take data again are paused. A flow
that crosses a paused port and no root shares no bottleneck with those for which the port waits, and still waits with them:
a victim of head-of-line blocking. Ports count over the whole run, so a flow that met a port before it paused counts, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator_network.packet.bits import path_hash
from orchestrator_network.packet.engine import Trace
from orchestrator_network.packet.state import State

_MOST = 2**28  # flows times links


def with_pauses(flows: pa.Table, trace: Trace) -> tuple[pa.Table, dict[str, Any]]:
    """Return the table of flows with a column ``victim`` where paths are known, and what the summary says of pauses."""
    counters = trace.state.counters
    paused = counters["paused_ps"] > 0
    root = ~paused & (counters["max_bytes"] > trace.state.run[0]["xon"])
    said: dict[str, Any] = {
        "paused_links": int((paused & (trace.order < trace.real_links)).sum()),
        "victim_flows": None,
        "victim_slowdown": None,
    }
    crossed = links_used(trace.state)
    if crossed is None:
        return flows, said
    victims = np.asarray(crossed[:, paused].any(axis=1) & ~crossed[:, root].any(axis=1))
    said["victim_flows"] = int(victims.sum())
    if victims.any():
        said["victim_slowdown"] = float(np.median(flows["slowdown"].to_numpy()[victims]))
    return flows.append_column("victim", pa.array(victims)), said


def links_used(state: State) -> np.ndarray | None:
    """Return which links data of every flow has gone over, bool [flows, links]: those of its entropy values.

    None where switches choose by load, which leaves no trace, and for more than 2^28 flows times links.
    """
    run, flows = state.run[0], state.flows
    if run["adaptive"] or run["detours"] or len(flows) * len(state.links) > _MOST:
        return None
    crossed = np.zeros((len(flows), len(state.links)), bool)
    for entropy in range(int(run["entropies"])):
        chosen = np.flatnonzero(state.used[:, entropy >> 6] >> (entropy & 63) & 1)
        if len(chosen):
            _follow(state, chosen, entropy, crossed)
    return crossed


def _hash(*columns: np.ndarray) -> np.ndarray:
    """Return what switches draw, for arrays of flows, entropy values and salts."""
    function: Any = path_hash
    return np.asarray(function.py_func(*(column.astype(np.uint64) for column in columns)))


def _follow(state: State, flows: np.ndarray, entropy: int, crossed: np.ndarray) -> None:
    """Enter the links from source to sink that packets of ``flows`` with an entropy value take, as switches choose them."""
    hosts = int(state.run[0]["hosts"])
    link = state.flows["source"][flows].astype(np.int64)
    while len(flows):
        crossed[flows, link] = True
        node = state.links["to"][link]
        flows, node = flows[node >= hosts], node[node >= hosts]
        sink, switch = state.flows["sink"][flows], node - hosts
        entry = state.routes[switch, state.group[sink]].astype(np.int64)
        count = entry & 0xFFF
        drawn = _hash(2 * flows, np.full(len(flows), entropy), state.salt[switch])
        place = np.minimum((entry >> 12) + ((drawn * count) >> 32), len(state.ports) - 1)
        link = np.where(count == 0, state.down[sink], state.ports[place]).astype(np.int64)
