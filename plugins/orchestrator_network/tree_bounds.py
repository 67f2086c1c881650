"""What a flow takes alone on a fat tree whose tiers differ in speed, packet by packet.

All shortest paths of a flow have links of the same speeds, tier by tier, up and down again. Let F_i be what a full packet takes
to leave link i of h, L_i the last packet, both in whole ps, and n the packets. On one path packets keep their order, and the last
one arrives, beside latency, after the longest way through the grid of packets and links:

    max over j of   F_1 + ... + F_j + (n - 2) max(F_1, ..., F_j) + L_j + ... + L_h                            (n > 1)

On several paths a short last packet may overtake full ones, so that only this is certain, of every link m that all paths share:

    F_1 + ... + F_h + (n - 2) F_m                                         all full packets cross m
    F_1 + ... + F_(m-1) + (n - 1) F_m + L_m + ... + L_h                   all cross m, a full one first
    D + L_(p+1) + ... + L_m + (n - 1) F_m + F_(m+1) + ... + F_h           or, behind the links 1 to p at the begin that all share
                                                                          and that the last leaves at D, the last one first
    D + L_(p+1) + ... + L_h                                               the last one crosses

of which the second or the third. Of k links side by side in a tier one carries as many packets as its share, rounded up:

    F_1 + ... + F_h + (ceil((n - 1) / k) - 1) F_m                         of full packets
    L_1 + ... + L_h + (ceil(n / k) - 1) F_m                               of all
"""

from __future__ import annotations

import numpy as np

from orchestrator_network.fat_tree import FatTree
from orchestrator_network.wire import PS_PER_S, Wire
from orchestrator_network.workloads import Workload


def alone_on_tiers(tree: FatTree, workload: Workload, wire: Wire, *, answered: bool = True) -> np.ndarray:
    """Return the least from start to the last acknowledgement of every flow alone, int64 [flows] in picoseconds.

    ``workload`` is what one plane carries. Flows that are not ``answered`` are over when their last packet arrives. It is what
    a flow takes where it has one path, and where its full packets find no queue but at a link that all of its paths share.
    """
    ports = tree.ports
    packets, last_bytes = wire.packets(workload.size_bytes), wire.last_bytes(workload.size_bytes)
    tor_from, tor_to = workload.source // ports.tor_down, workload.target // ports.tor_down
    top = (tor_from != tor_to).astype(int)
    if tree.levels == 3:
        top += tor_from // tree.tors_per_pod != tor_to // tree.tors_per_pod
    beside = (1, ports.tor_up, tree.aggs_per_pod * ports.agg_up)
    alone_ps = np.zeros(len(workload), np.int64)
    for tier in range(tree.levels):
        flows = np.flatnonzero(top == tier)
        path = [*range(tier + 1), *range(tier, -1, -1)]
        bps = np.array([tree.tier_gbps[at] * 1e9 for at in path])
        full, header = (_sent_ps(np.array([size]), bps)[0] for size in (wire.packet_bytes, wire.header_bytes))
        latency_ps = len(path) * tree.latency_ps + (len(path) - 1) * tree.switch_latency_ps
        links = np.array([beside[at] for at in path])
        arrive_ps = _arrive_ps(full, _sent_ps(last_bytes[flows], bps), packets[flows], links) + latency_ps
        alone_ps[flows] = arrive_ps + (int(header.sum()) + latency_ps) * answered
    return alone_ps


def _sent_ps(size_bytes: np.ndarray, link_bps: np.ndarray) -> np.ndarray:
    """Return what packets of these sizes take to leave links of these rates as the packet engine counts, int64 [sizes, links]."""
    each = np.rint(8 * PS_PER_S / link_bps * 256).astype(np.int64)
    return np.asarray((size_bytes.astype(np.int64)[:, None] * each + 128) >> 8)


def _arrive_ps(full: np.ndarray, last: np.ndarray, packets: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Return when the last packet has arrived, without latency, int64 [flows].

    ``full`` int64 [hops] and ``last`` int64 [flows, hops]: what packets take to leave; ``links`` [hops]: how many are side by side.
    """
    behind = np.cumsum(last[:, ::-1], axis=1)[:, ::-1]  # of the last packet, this link and all that follow
    shared = links == 1
    hops = len(full)
    first = hops if shared.all() else int(np.argmin(shared))  # links at the begin that all share
    left = _left_ps(full[:first], last[:, :first], packets)
    rest = behind[:, first] if first < hops else np.zeros(len(last), np.int64)
    arrive = left + rest
    for link in range(hops):
        before, after = int(full[:link].sum()), int(full[link + 1 :].sum())
        if not shared[link]:
            all_full = int(full.sum()) + (-(-(packets - 1) // links[link]) - 1) * full[link]
            beside = last.sum(axis=1) + (-(-packets // links[link]) - 1) * full[link]
            arrive = np.maximum(arrive, np.maximum(all_full, beside))
            continue
        in_order = before + (packets - 1) * full[link] + behind[:, link]
        if link >= first:
            overtaken = left + last[:, first : link + 1].sum(axis=1) + (packets - 1) * full[link] + after
            in_order = np.minimum(in_order, overtaken)
        all_full = int(full.sum()) + (packets - 2) * full[link]
        arrive = np.maximum(arrive, np.maximum(in_order, all_full))
    return np.asarray(np.where(packets > 1, arrive, last.sum(axis=1)))


def _left_ps(full: np.ndarray, last: np.ndarray, packets: np.ndarray) -> np.ndarray:
    """Return when the last packet has left the last of links that all packets cross in one order, int64 [flows]."""
    behind = np.cumsum(last[:, ::-1], axis=1)[:, ::-1]
    slowest, reached = np.maximum.accumulate(full), np.cumsum(full)
    return np.asarray((reached + (packets[:, None] - 2) * slowest + behind).max(axis=1))
