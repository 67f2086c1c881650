"""Operations that send packets: computations and their order beside the packet engine, as beside the flow engine.

An operation of the program either lasts, or carries flows: it starts those that wait for no other flow, and is over when
all have arrived. A flow may start no sooner than so long after its operation. Flows that wait for one another do so in the kernel. The kernel comes back when the last flow of an
operation arrives, and at the time of the next event of the program; in between the program is at rest.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator_network.engine import Run
from orchestrator_network.engine import Trace as ProgramTrace
from orchestrator_network.graph import Network
from orchestrator_network.packet import layout as at
from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.engine import Steps, Trace, prepare
from orchestrator_network.packet.fabric import describe
from orchestrator_network.packet.options import Options
from orchestrator_network.packet.routers import real_links
from orchestrator_network.packet.transports.base import Transport
from orchestrator_network.program import Program
from orchestrator_network.workloads import Workload

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True, eq=False)
class Carried:
    """A program whose operations carry flows: flow i belongs to operation ``owner[i]``, int64 [flows] and ascending.

    Flows wait for flows of their own operation only, and their ``start_ps`` count from its start. An operation that lasts
    carries none.
    """

    program: Program
    flows: Workload
    owner: np.ndarray


def run_operations(
    network: Network,
    carried: Carried,
    transport: Transport,
    balancer: Balancer,
    options: Options,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ProgramTrace, Trace]:
    """Run to the end of the last operation; return when each started and finished, and what the packets did.

    ``progress(finished, operations)`` may raise to stop. Raises WorkloadError when operations wait for one another, or
    packets make no progress.
    """
    fabric = describe(
        network, packet_bytes=options.packet_bytes, header_bytes=options.header_bytes, trimming=options.trimming
    )
    waits = np.zeros(len(carried.flows), bool)
    waits[carried.flows.after[:, 0]] = True
    state, order = prepare(network, carried.flows, transport, balancer, options, fabric, held=~waits)
    began = time.perf_counter()
    run = _PacketRun(carried, ~waits, Steps(state, transport, balancer))
    trace = run.to_end(progress)
    wall_s = time.perf_counter() - began
    packets = Trace(state=run.steps.state, fabric=fabric, order=order, real_links=real_links(network), wall_s=wall_s)
    return trace, packets


class _PacketRun(Run):
    """A program whose transfers are flows of a packet run."""

    def __init__(self, carried: Carried, first: np.ndarray, steps: Steps) -> None:
        super().__init__(carried.program, np.zeros(0), "max_min")
        self.steps, self.owner = steps, carried.owner
        count = len(carried.program)
        firsts = np.flatnonzero(first)
        self.first_flows = np.split(firsts, np.searchsorted(carried.owner[firsts], np.arange(1, count)))
        last = np.ones(len(carried.owner), bool)
        last[carried.flows.after[:, 1]] = False
        steps.state.starts["watched"] = last
        self.missing_flows = np.bincount(carried.owner[last], minlength=count)
        self.transfers = (self.missing_flows > 0).tolist()
        self.carrying = 0
        self.told_to_come = -1

    def to_end(self, progress: Callable[[int, int], None] | None) -> ProgramTrace:
        self._begin()
        turns = 0
        while self.heap or self.carrying:
            arrived = self._advance(self.heap[0][0] if self.heap else _NEVER)
            if arrived >= 0:
                self.carrying -= 1
                self.sent[arrived] = self.now
                heapq.heappush(self.heap, (self.now + self.delay_ps[arrived], arrived, True))
            self._drain()
            for operation in self.joining:
                self._send(operation)
            self.joining = []
            turns += 1
            if progress is not None and turns % 64 == 0:
                progress(self.finished, len(self.program))
        return self._ended(turns + int(self.steps.state.run[0]["events"]))

    def _advance(self, until: int) -> int:
        """Let packets move until ``until``, or until an operation has all its flows; return it, or -1."""
        while self.carrying:
            if until not in {_NEVER, self.told_to_come}:
                self._set_timer(until, at.COME_BACK << 32)
                self.told_to_come = until
            self.steps.advance()
            run = self.steps.state.run[0]
            self.now, flow = int(run["clock"]), int(run["told"])
            run["told"] = at.EMPTY
            if flow >= 0:
                operation = int(self.owner[flow])
                self.missing_flows[operation] -= 1
                if self.missing_flows[operation] == 0:
                    return operation
            elif self.now >= until:
                return -1
        self.now = until
        return -1

    def _send(self, operation: int) -> None:
        """Start the flows of an operation that wait for no other."""
        self.carrying += 1
        earliest = self.steps.state.starts["earliest"]
        earliest[slice(*np.searchsorted(self.owner, [operation, operation + 1]))] += self.now
        for flow in self.first_flows[operation].tolist():
            self.steps.state.starts[flow]["waits"] -= 1
            self._set_timer(int(earliest[flow]), at.START_FLOW << 32 | flow)

    def _set_timer(self, when: int, what: int) -> None:
        run, heap = self.steps.state.run, self.steps.state.heap
        if 2 * (int(run["timers"][0]) + 1) > len(heap):
            self.steps.make_room()
            run, heap = self.steps.state.run, self.steps.state.heap
        place = int(run["timers"][0])
        run["timers"] += 1
        while place > 0:
            above = (place - 1) >> 1
            if (heap[above, 0], heap[above, 1]) <= (when, what):
                break
            heap[place] = heap[above]
            place = above
        heap[place] = when, what
