"""From the state at the end of a run to columns of results."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator_network.packet.engine import Trace
from orchestrator_network.packet.state import State


def flow_columns(trace: Trace, planes: int) -> dict[str, np.ndarray]:
    """Return what a packet run knows of every flow, over all planes; times in picoseconds."""
    flows = trace.state.flows
    columns = {"start_ps": flows["started"], "finish_ps": flows["finished"]}
    for name in ("packets", "retransmissions", "trims", "marks"):
        columns[name] = flows[name].astype(np.int64) * planes
    columns["entropies"] = np.bitwise_count(trace.state.used.view(np.uint64)).sum(axis=1).astype(np.int64)
    return columns


def lost_packets(trace: Trace, planes: int) -> np.ndarray:
    """Return how many packets of every flow of datagrams never arrived, over all planes, int64 [flows]."""
    flows, run = trace.state.flows, trace.state.run[0]
    wire = flows["size_bytes"] + flows["packets"].astype(np.int64) * run["header_bytes"]
    return np.asarray(_packets_in(wire - flows["got_bytes"], flows, int(run["full_bytes"])) * planes)


def _packets_in(missing: np.ndarray, flows: np.ndarray, full: int) -> np.ndarray:
    """Return of how many packets so many wire bytes are: full ones, and perhaps the last one."""
    return np.where(missing % full == 0, missing // full, (missing - flows["last_size"]) // full + 1)


def link_columns(trace: Trace, end_ps: int) -> dict[str, np.ndarray]:
    """Return what a packet run knows of every link that is there, in the network's order; bytes of data held in the port.

    ``bytes`` are those of packets that have begun to leave, of which ``unsent_bytes`` leave after ``end_ps``.
    """
    counters = trace.state.counters
    back = np.empty(len(trace.order), np.int64)
    back[trace.order] = np.arange(len(trace.order))
    span_ps = max(int(trace.state.run["clock"][0]), 1)
    # What still waits, copies of what has arrived, has been held until now.
    held_byte_ps = counters["byte_ps"] + trace.state.links["low_bytes"].astype(np.int64) * span_ps
    columns = {
        "bytes": counters["sent_bytes"],
        "max_queue_bytes": counters["max_bytes"],
        "mean_queue_bytes": held_byte_ps / span_ps,
        "marks": counters["marks"].astype(np.int64),
        "trims": counters["trims"].astype(np.int64),
        "drops": counters["drops"].astype(np.int64),
        "pause_ps": counters["paused_ps"],
        "unsent_bytes": _unsent(trace.state.links, trace.state.packets, end_ps),
    }
    return {name: column[back[: trace.real_links]] for name, column in columns.items()}


def _unsent(links: np.ndarray, packets: np.ndarray, end_ps: int) -> np.ndarray:
    """Return the bytes of the packet in service of every link that leave after ``end_ps``, float64 [links]."""
    left = np.maximum(links["done"] - end_ps, 0) / (links["ps_per_byte"] / 256)
    return np.minimum(left, np.where(links["done"] > end_ps, packets["size"][links["flight_tail"]], 0))


def totals(trace: Trace) -> dict[str, Any]:
    """Return counts over the whole run for the summary."""
    flows, counters = trace.state.flows, trace.state.counters
    return {
        "packet_hops": trace.packet_hops,
        "events": trace.events,
        "retransmissions": int(flows["retransmissions"].sum()),
        "trims": int(counters["trims"].sum()),
        "marks": int(counters["marks"].sum()),
        "drops": int(counters["drops"].sum()),
        "timeouts": int(flows["timeouts"].sum()),
        "link_retries": int(counters["replays"].sum()),
        "refused_as_replays": int(trace.state.secure["refused"].sum()),
        "detoured": int(trace.state.run["detoured"][0]),
        "virtual_channels": int(trace.state.run["channels"][0]),
        **_rerouting(trace.state),
    }


def _rerouting(state: State) -> dict[str, float | None]:
    """Return for how long flows went on sending to ports that had gone down: of the flows that did the median and the longest.

    None where no port went down, 0 where nobody sent to it.
    """
    took_us = state.astray[state.astray >= 0] / 1e6
    if not (state.changes["limit"] < 0).any():
        return {"reroute_us": None, "reroute_max_us": None}
    return {
        "reroute_us": float(np.median(took_us)) if len(took_us) else 0.0,
        "reroute_max_us": float(took_us.max()) if len(took_us) else 0.0,
    }
