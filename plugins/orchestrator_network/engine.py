"""The event loop of flow fidelity: an event whenever a transfer starts or ends, max-min rates in between.

Time is integer picoseconds; a transfer ends at the first picosecond at which its last bit has left. Operations that
become ready at one instant start in the order of their numbers, and a stream that becomes free takes the waiting
operation with the smallest number, so a run is reproducible to the bit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from orchestrator_network.errors import WorkloadError
from orchestrator_network.fairness import alone_rates, max_min_rates
from orchestrator_network.program import Program
from orchestrator_network.wire import PS_PER_S

Sharing = Literal["max_min", "alone", "infinite"]
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """When every operation started, had sent its last bit, and finished, int64 [operations] in picoseconds."""

    start_ps: np.ndarray
    sent_ps: np.ndarray
    finish_ps: np.ndarray
    events: int

    @property
    def end_ps(self) -> int:
        """When the last operation finished."""
        return int(self.finish_ps.max())


def run(
    program: Program,
    capacity_bps: np.ndarray,
    *,
    sharing: Sharing = "max_min",
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Run a program on trunks of ``capacity_bps`` bits per second.

    ``sharing``: ``max_min`` fair; ``alone``, every transfer at the rate it would have with the network to itself
    (analytic); or ``infinite`` bandwidth and zero latency. ``progress(finished, total)`` is called every so often
    and may raise to stop. Raises WorkloadError when operations wait for one another.
    """
    return Run(program, capacity_bps, sharing).to_end(progress)


class Run:
    """A program between two events: what waits, what is ready, what is on the network."""

    def __init__(self, program: Program, capacity_bps: np.ndarray, sharing: Sharing) -> None:
        self.program, self.capacity_bps, self.sharing = program, capacity_bps, sharing
        count = len(program)
        network = sharing != "infinite"
        self.delay_ps = np.where(program.on_network & (not network), 0, program.delay_ps).tolist()
        self.transfers = (network & (program.row >= 0) & (program.bits > 0)).tolist()
        self.missing = np.bincount(
            np.concatenate([program.finish_edges[:, 1], program.start_edges[:, 1]]), minlength=count
        ).tolist()
        self.on_finish = _successors(program.finish_edges, count)
        self.on_start = _successors(program.start_edges, count)
        self.acquire, self.release = program.acquire.tolist(), program.release.tolist()
        self.earliest = program.start_ps.tolist()
        streams = int(max(program.acquire.max(), program.release.max(), -1)) + 1
        self.busy = [False] * streams
        self.waiting: list[list[int]] = [[] for _ in range(streams)]
        self.start = np.full(count, -1, np.int64)
        self.sent = np.full(count, -1, np.int64)
        self.finish = np.full(count, -1, np.int64)
        self.heap: list[tuple[int, int, bool]] = []  # (time, operation, whether it finishes or becomes ready)
        self.ready: list[int] = []
        self.active = np.zeros(0, np.int64)
        self.left = np.zeros(0)
        self.rates = np.zeros(0)
        self.ends = np.zeros(0, np.int64)
        self.joining: list[int] = []
        self.now = self.since = 0
        self.finished = 0

    def to_end(self, progress: Callable[[int, int], None] | None) -> Trace:
        """Run to the end; as `run`."""
        self._begin()
        events = 0
        while self.heap or len(self.active):
            head = self.heap[0][0] if self.heap else _NEVER
            self.now = int(min(head, self.ends.min())) if len(self.ends) else head
            over = self.ends <= self.now
            for operation in self.active[over].tolist():
                self.sent[operation] = self.now
                heapq.heappush(self.heap, (self.now + self.delay_ps[operation], operation, True))
            self._drain()
            if self.joining or over.any():
                self._share(over)
            events += 1
            if progress is not None and events % 64 == 0:
                progress(self.finished, len(self.program))
        return self._ended(events)

    def _begin(self) -> None:
        for operation, missing in enumerate(self.missing):
            if missing == 0:
                heapq.heappush(self.heap, (self.earliest[operation], operation, False))

    def _ended(self, events: int) -> Trace:
        if self.finished < len(self.program):
            stuck = np.flatnonzero(self.finish < 0)
            raise WorkloadError(f"{len(stuck)} operations wait for one another, the first is operation {stuck[0]}")
        return Trace(start_ps=self.start, sent_ps=self.sent, finish_ps=self.finish, events=events)

    def _drain(self) -> None:
        """Handle everything that happens now, including what it sets off at once."""
        while self.ready or (self.heap and self.heap[0][0] <= self.now):
            while self.heap and self.heap[0][0] <= self.now:
                _, operation, finishes = heapq.heappop(self.heap)
                if finishes:
                    self._finish(operation)
                else:
                    heapq.heappush(self.ready, operation)
            while self.ready:
                operation = heapq.heappop(self.ready)
                stream = self.acquire[operation]
                if stream >= 0 and self.busy[stream]:
                    heapq.heappush(self.waiting[stream], operation)
                else:
                    self._start(operation)

    def _start(self, operation: int) -> None:
        if self.acquire[operation] >= 0:
            self.busy[self.acquire[operation]] = True
        self.start[operation] = self.now
        if self.transfers[operation]:
            self.joining.append(operation)
        else:
            self.sent[operation] = self.now
            heapq.heappush(self.heap, (self.now + self.delay_ps[operation], operation, True))
        self._release(self.on_start[operation])

    def _finish(self, operation: int) -> None:
        self.finish[operation] = self.now
        self.finished += 1
        stream = self.release[operation]
        if stream >= 0:
            self.busy[stream] = False
            if self.waiting[stream]:
                # Through `ready`, so that what becomes ready at this instant competes by number.
                heapq.heappush(self.ready, heapq.heappop(self.waiting[stream]))
        self._release(self.on_finish[operation])

    def _release(self, successors: list[int]) -> None:
        for successor in successors:
            self.missing[successor] -= 1
            if self.missing[successor] == 0:
                if self.earliest[successor] > self.now:
                    heapq.heappush(self.heap, (self.earliest[successor], successor, False))
                else:
                    heapq.heappush(self.ready, successor)

    def _share(self, over: np.ndarray) -> None:
        """Account for the bits sent so far, drop what ended, add what joined, and share the trunks anew."""
        elapsed = self.now - self.since if len(self.active) else 0
        stays = ~over
        new = np.array(self.joining, np.int64)
        self.joining = []
        left = self.left[stays] - self.rates[stays] * (elapsed / PS_PER_S)
        self.left = np.concatenate([np.maximum(left, 0.0), self.program.bits[new]])
        self.active = np.concatenate([self.active[stays], new])
        self.since = self.now
        if not len(self.active):
            self.ends = np.zeros(0, np.int64)
            self.rates = np.zeros(0)
            return
        weights = self.program.loads[self.program.row[self.active]]
        share = max_min_rates if self.sharing == "max_min" else alone_rates
        self.rates = share(weights, self.capacity_bps)
        # The subtracted thousandth of a picosecond keeps rounding noise from costing a whole one.
        self.ends = self.now + np.ceil(self.left / self.rates * PS_PER_S - 1e-3).astype(np.int64)


def _successors(edges: np.ndarray, count: int) -> list[list[int]]:
    """Return, for every operation, the operations that wait for it, in order."""
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    later = edges[order, 1].tolist()
    bounds = np.searchsorted(edges[order, 0], np.arange(count + 1)).tolist()
    return [later[bounds[i] : bounds[i + 1]] for i in range(count)]
