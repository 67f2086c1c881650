"""Looks at a run from time to time: what ports hold, windows of some flows, and what has arrived.

The loop comes back before the first event that is not before the time of a sample, and everything here only reads, so
a run with samples and one without are the same to the bit. Ports are brought up to date on copies of their rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator_network.graph import Network
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.engine import FOREVER, LONGEST
from orchestrator_network.packet.state import State

MOST_SAMPLES = 4000
MOST_BYTES = 32 << 20  # of queue samples; beyond either, every other sample goes and the interval doubles


class Sampler:
    """Samples of one run, every ``every_ps`` picoseconds from 0 on; ``flows`` int64: whose windows are kept."""

    def __init__(self, network: Network, flows: np.ndarray, every_ps: int, *, most_samples: int = MOST_SAMPLES) -> None:
        self.every_ps = every_ps
        self.flows = flows
        #: Links that leave switches, in the network's order; hosts queue nothing in their ports unless they forward.
        forwards = network.degree()[: network.hosts].max() > 1
        self.links = np.flatnonzero((network.source >= network.hosts) | forwards)
        self.times_ps: list[int] = []
        self.queues: list[np.ndarray] = []  # int32 [links]
        self.windows: list[np.ndarray] = []  # float64 [flows, 3]: window, in flight, received; bytes
        self.received: list[int] = []  # bytes of payload, all flows
        #: Bytes that these ports hold at most, and at which they begin to mark and mark all; masked where they never do.
        self.limits: tuple[np.ma.MaskedArray, ...] = ()
        self._network = network
        self._most = max(min(most_samples, MOST_BYTES // max(4 * len(self.links), 1)), 2)
        self._ports = np.zeros(0, np.int64)

    def begin(self, state: State, order: np.ndarray) -> None:
        """Ask the loop for the first pause; ``order[i]`` is the network's number of link i of the state."""
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        self._ports = number[self.links]
        ports = state.links[self._ports]
        never = ports["mark_from"] >= LONGEST
        self.limits = tuple(
            np.ma.array(ports[name].astype(np.int64), mask=never & (name != "limit"))
            for name in ("limit", "mark_from", "mark_all")
        )
        if state.run["lossless"][0]:
            self.limits = (np.ma.array(self._memory(state, number)), *self.limits[1:])
        state.run["pause_at"] = 0

    def _memory(self, state: State, number: np.ndarray) -> np.ndarray:
        """Return what ports hold at most where nothing is dropped: all that their switch has room for, whichever link it came by."""
        room = state.gates["room"].reshape(len(state.links), -1).sum(axis=1, dtype=np.int64)
        network = self._network
        of_node = np.bincount(network.target, room[number[: network.links]], network.nodes)
        return np.asarray(of_node[network.source[self.links]], np.int64)

    def take(self, state: State) -> None:
        """Keep a sample of the time at which the loop paused, and ask for the next pause."""
        self._keep(state, int(state.run["pause_at"][0]))
        self._thin()
        rest_ps = _rests_until(state)
        while self.times_ps[-1] + self.every_ps <= rest_ps:
            self.times_ps.append(self.times_ps[-1] + self.every_ps)
            for samples in self._samples:
                samples.append(samples[-1])
            self._thin()
        state.run["pause_at"] = self.times_ps[-1] + self.every_ps

    def end(self, state: State) -> None:
        """Keep a last sample of the time at which the last flow finished."""
        state.run["pause_at"] = FOREVER
        self._keep(state, int(state.run["clock"][0]))

    @property
    def _samples(self) -> tuple[list[Any], ...]:
        return self.queues, self.windows, self.received

    def _thin(self) -> None:
        """Drop every other sample and double the interval if there are too many."""
        if len(self.times_ps) >= self._most:
            self.every_ps *= 2
            for samples in (self.times_ps, *self._samples):
                del samples[1::2]

    def _keep(self, state: State, now_ps: int) -> None:
        got = payload_bytes(state)
        self.times_ps.append(now_ps)
        self.queues.append(queues_at(state, self._ports, now_ps).astype(np.int32))
        self.received.append(int(got.sum()))
        columns = state.window[self.flows][:, [at.CWND, at.IN_FLIGHT]]
        self.windows.append(np.column_stack([columns, got[self.flows]]))


def _rests_until(state: State) -> int:
    """Return when the next timer fires if nothing is on its way till then, as in the wait for a timeout; else 0."""
    run = state.run[0]
    if run["scheduled"] > 0 or run["drain_at"] < run["drain_count"] or run["timers"] == 0:
        return 0
    return int(state.heap[0, 0])


def payload_bytes(state: State) -> np.ndarray:
    """Return the payload that has arrived of every flow, each byte once, int64 [flows].

    Receivers count packets with their headers; all packets but the last one of a flow are full.
    """
    got = state.flows["got_bytes"]
    packets = -(-got // int(state.run["full_bytes"][0]))
    return np.asarray(got - packets * int(state.run["header_bytes"][0]))


def queues_at(state: State, ports: np.ndarray, now_ps: int) -> np.ndarray:
    """Return the data that ports hold at a time, the packet in service included, int64 [ports] in bytes.

    A port is as old as the last look at it; what has left since follows from what it holds, as in `ports.serve` (but for
    frames that a link sends again, and shares of classes, which the next look brings).
    """
    links, packets = state.links[ports], state.packets
    held = links["low_bytes"].astype(np.int64)
    done, leaving = links["done"].copy(), links["flight_tail"].copy()
    high, low = links["high_head"].copy(), links["low_head"].copy()
    late = np.flatnonzero((done >= 0) & (done <= now_ps))
    while len(late):
        left = packets[leaving[late]]
        held[late] -= np.where(left["kind"] & (at.KIND_MASK | at.TRIMMED) == at.DATA, left["size"], 0)
        from_high = high[late] >= 0
        following = np.where(from_high, high[late], low[late])
        late, from_high, following = late[following >= 0], from_high[following >= 0], following[following >= 0]
        behind = packets["next"][following]
        high[late] = np.where(from_high, behind, high[late])
        low[late] = np.where(from_high, low[late], behind)
        leaving[late] = following
        sizes = packets["size"][following].astype(np.int64)
        done[late] += (sizes * links["ps_per_byte"][late] + 128) >> 8
        late = late[done[late] <= now_ps]
    return held
