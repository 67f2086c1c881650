"""An all-reduce inside the network, packet by packet: chunks as flows between reduction points, which are hosts at switches.

Every port of a switch that belongs to the tree has a point of its own, so that what is multicast goes to every child at
the speed of its link and no port fills.

A chunk goes up an edge when all that it adds up has arrived, and down when the sum has. A rank has w chunks under way: it
sends chunk k when the sum of chunk k - w is back (see `in_network`), and no sooner than chunk k - 1 has had its time on the
link and the answers to what comes down have had theirs, so that chunks follow one another on every edge and do not mix. A
chunk is stored whole at every switch.
"""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np

from orchestrator_network.graph import Network
from orchestrator_network.in_network import Reduction
from orchestrator_network.wire import PS_PER_S, Wire

#: Chunks of a buffer, where nothing else is said: the way through the tree takes a few of them longer.
CHUNKS = 128


def chunk_sizes(part: Reduction, wire: Wire, planes: int) -> tuple[int, int, int]:
    """Return the payload bytes of a chunk in one plane, those of the last one, and how many chunks there are."""
    payload = wire.packet_bytes - wire.header_bytes
    total = -(-part.size_bytes // planes)
    chunk = min(-(-part.chunk_bytes // planes) or payload * math.ceil(total / payload / CHUNKS), total)
    count = -(-total // chunk)
    return chunk, total - (count - 1) * chunk, count


def chunk_flows(
    part: Reduction, network: Network, wire: Wire, planes: int, answer_every_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the flows of all chunks: source, target, bytes and least start int64 [flows, 4], and pairs that order them.

    Ends are hosts, or from ``network.hosts`` on the links over which points send; starts are ps after that of the whole;
    pairs int64 [pairs, 2] are (flow, earlier flow).
    ``answer_every_bytes``: how often receivers acknowledge.
    """
    chunk, last, count = chunk_sizes(part, wire, planes)
    chunk_bytes = float(wire.bits(chunk)) / 8
    answers = math.ceil(chunk_bytes / max(answer_every_bytes, wire.packet_bytes)) + 2
    slowest_bps = float(network.capacity_bps[np.concatenate([part.up, part.down])].min())
    chunk_ps = math.ceil((chunk_bytes + answers * wire.header_bytes) * 8 / slowest_bps * PS_PER_S)
    # As many as are on the way at once, and one more; a point stores a packet once more on either side.
    packet_ps = min(wire.packet_bytes, chunk_bytes) * 8 / slowest_bps * PS_PER_S
    around_ps = 2 * part.latency_ps + 2 * part.depth * (chunk_ps + 2 * packet_ps)
    around = 1 + math.ceil(around_ps / chunk_ps)
    in_flight = part.in_flight or around
    hosts = network.hosts
    low = np.where(part.child < hosts, part.child, hosts + part.up)
    columns = (part.child, part.parent, low, hosts + part.down)
    edges = list(zip(*(column.tolist() for column in columns), strict=True))
    rows: list[tuple[int, int, int, int]] = []
    after: list[tuple[int, int]] = []
    sums: list[dict[int, int]] = []  # of every chunk: by which flow a rank or a switch has its sum
    for number in range(count):
        size = chunk if number + 1 < count else last
        parts: defaultdict[int, list[int]] = defaultdict(list)
        for child, parent, below, above in edges:
            sends = child < hosts
            before = parts[child] if not sends else [sums[-in_flight][child]] if number >= in_flight else []
            after += [(len(rows), earlier) for earlier in before]
            parts[parent].append(len(rows))
            rows.append((below, above, size, number * chunk_ps if sends else 0))
        has: dict[int, int] = {}
        for child, parent, below, above in reversed(edges):
            before = parts[part.root] if parent == part.root else [has[parent]]
            after += [(len(rows), earlier) for earlier in before]
            has[child] = len(rows)
            rows.append((above, below, size, 0))
        sums.append(has)
    return np.array(rows, np.int64), np.array(after, np.int64).reshape(-1, 2)
