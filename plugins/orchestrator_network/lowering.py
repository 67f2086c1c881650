"""From flows and collectives to programs for the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from orchestrator_network.allreduce_flows import as_workload
from orchestrator_network.collectives import Algorithm, AllReduce, Chain, Phase, Uniform, candidates, lower
from orchestrator_network.double_tree import DoubleTree
from orchestrator_network.engine import run
from orchestrator_network.fairness import alone_rates
from orchestrator_network.in_network import Reduction
from orchestrator_network.program import Program, ProgramBuilder
from orchestrator_network.routes import Routes
from orchestrator_network.topology import Topology
from orchestrator_network.tuning import Tuning
from orchestrator_network.wire import PS_PER_S, Wire
from orchestrator_network.workloads import Workload

#: Messages of a double binary tree that are followed one by one, at a millisecond each or less; larger ones take rounds.
MOST_SINGLE = 20_000
_PAIRS = 1 << 18  # of hosts whose distance is taken at once


@dataclass(frozen=True, kw_only=True)
class Move:
    """One transfer: bits along a row of loads, then a delay; ``alone_bps`` is its rate when alone."""

    bits: float
    row: int
    alone_bps: float
    delay_ps: int


class CollectiveLowering:
    """Lowers collectives into a program under construction; equal ones share their rows."""

    def __init__(
        self,
        builder: ProgramBuilder,
        topology: Topology,
        wire: Wire,
        allreduce: AllReduce,
        tuning: Tuning = Tuning(),  # noqa: B008 - frozen
    ) -> None:
        self._builder, self._topology, self._wire, self._allreduce = builder, topology, wire, allreduce
        self._tuning = tuning
        self._trees: dict[bytes, tuple[int, float]] = {}
        self._rows: dict[tuple[bytes, ...], tuple[int, float, Routes]] = {}
        self._chosen: dict[tuple[str, int, bytes], tuple[Algorithm, list[list[Move]]]] = {}

    def moves(self, name: str, size_bytes: int, ranks: np.ndarray) -> list[list[Move]]:
        """Return concurrent chains of consecutive transfers that carry out a collective over ``ranks``.

        ``auto`` takes the algorithm that is quickest when alone, of those that the topology can lay out.
        """
        return self._choice(name, size_bytes, ranks)[1]

    def algorithm(self, name: str, size_bytes: int, ranks: np.ndarray) -> Algorithm:
        """Return the algorithm of a collective: the one that is named, or the one that ``auto`` takes."""
        return self._choice(name, size_bytes, ranks)[0] if self._allreduce == "auto" else self._allreduce

    def _choice(self, name: str, size_bytes: int, ranks: np.ndarray) -> tuple[Algorithm, list[list[Move]]]:
        key = (name, size_bytes, ranks.tobytes())
        if key not in self._chosen:
            named = self._allreduce
            found = candidates(name, ranks, self._topology) if named == "auto" else (named,)
            lowered = ((one, self._lower(name, size_bytes, ranks, one)) for one in found)
            self._chosen[key] = min(lowered, key=lambda choice: self._alone_s(choice[1]))
        return self._chosen[key]

    def _lower(self, name: str, size_bytes: int, ranks: np.ndarray, algorithm: Algorithm) -> list[list[Move]]:
        chains = lower(name, size_bytes, ranks, self._topology, algorithm, self._tuning)
        return [self._chain(chain) for chain in chains]

    def _chain(self, chain: Chain) -> list[Move]:
        moves: list[Move] = []
        for part in chain:
            if isinstance(part, Phase):
                moves.append(self._phase(part))
            elif isinstance(part, Uniform):
                moves.append(self._uniform(part))
            elif isinstance(part, DoubleTree) and len(part) <= MOST_SINGLE:
                moves.append(self._double_tree(part))
            elif isinstance(part, DoubleTree):
                piece = part.size_bytes / 2 / part.pieces
                moves += [
                    self._phase(Phase(source=source, target=target, step_bytes=piece, steps=1))
                    for source, target in part.rounds()
                ]
            else:
                moves.append(self._reduction(part))
        return moves

    def _alone_s(self, chains: list[list[Move]]) -> float:
        """Return the seconds that a collective takes alone; its concurrent chains use different links."""
        return max(
            (sum(move.bits / move.alone_bps + move.delay_ps / PS_PER_S for move in chain) for chain in chains),
            default=0,
        )

    def message(self, source: int, target: int, size_bytes: int) -> Move:
        """Return the transfer of one message; its delay is that from the last bit sent until arrival."""
        phase = Phase(source=np.array([source]), target=np.array([target]), step_bytes=size_bytes, steps=1)
        return self._phase(phase)

    def _phase(self, phase: Phase) -> Move:
        key = (phase.source.tobytes(), phase.target.tobytes())
        if key not in self._rows:
            routes = self._topology.routes(phase.source, phase.target)
            self._add_row(key, np.asarray(routes.share.sum(axis=0)), routes)
        return self._move(key, phase.step_bytes, phase.steps)

    def _uniform(self, exchange: Uniform) -> Move:
        ranks = exchange.ranks
        key = (b"all_to_all", ranks.tobytes())
        if key not in self._rows:
            demand = np.zeros((self._topology.hosts, self._topology.hosts))
            demand[np.ix_(ranks, ranks)] = 1
            # All pairs start at once, so one latency passes: that of the longest route of all.
            self._add_row(key, self._topology.loads(demand), self._farthest(ranks))
        return self._move(key, exchange.step_bytes, 1)

    def _farthest(self, ranks: np.ndarray) -> Routes:
        """Return the routes from that rank to all others whose last message arrives last; of several, from the first.

        A topology with ``spans`` says how far hosts are apart for many sources at a time, without which links lie between.
        """
        link_bps, bits, others = self._topology.link_bps, float(self._wire.packet_bytes * 8), len(ranks) - 1
        spans = getattr(self._topology, "spans", None)
        block = 1 if spans is None else max(1, _PAIRS // len(ranks))
        farthest, longest_ps = ranks[0], -1
        for begin in range(0, len(ranks), block):
            some = ranks[begin : begin + block]
            source, target = np.repeat(some, len(ranks)), np.tile(ranks, len(some))
            away = source != target
            routes = (spans or self._topology.routes)(source[away], target[away])
            arrival_ps = self._wire.arrival_ps(routes, bits, link_bps).reshape(len(some), others).max(axis=1)
            if arrival_ps.max() > longest_ps:
                farthest, longest_ps = some[arrival_ps.argmax()], arrival_ps.max()
        return self._topology.routes(np.full(others, farthest), ranks[ranks != farthest])

    def _double_tree(self, tree: DoubleTree) -> Move:
        """Return the transfer of a double binary tree: the bytes of its messages, then what else they take when alone.

        Pieces follow one another on an edge without a latency between them, and those on fast links wait for none on slow
        ones; rounds in lockstep, which larger trees take, pay both.
        """
        topology, bits = self._topology, float(self._wire.bits(tree.size_bytes / self._topology.planes))
        messages = as_workload(tree.messages())
        workload = replace(messages, source=tree.ranks[messages.source], target=tree.ranks[messages.target])
        lowered = lower_flows(topology, workload, self._wire)
        took_ps = int(run(lowered.program, topology.network.trunk_bps, sharing="max_min").finish_ps.max())
        row = csr_array((lowered.bits @ lowered.routes.share / bits).reshape(1, -1))
        alone_bps = float(alone_rates(row, topology.network.trunk_bps)[0])
        delay_ps = max(round(took_ps - bits / alone_bps * PS_PER_S), 0)
        return Move(bits=bits, row=self._builder.rows(row), alone_bps=alone_bps, delay_ps=delay_ps)

    def _reduction(self, part: Reduction) -> Move:
        """Return the transfer of a reduction in switches: every link of the tree carries the buffer once each way."""
        network, key = self._topology.network, part.up.tobytes()
        if key not in self._trees:
            used = np.concatenate([part.up, part.down])
            row = csr_array(
                np.bincount(network.trunk[used], minlength=len(network.trunk_bps)).astype(float).reshape(1, -1)
            )
            self._trees[key] = (self._builder.rows(row), float(alone_rates(row, network.trunk_bps)[0]))
        number, alone_bps = self._trees[key]
        planes = self._topology.planes
        bits = float(self._wire.bits(part.size_bytes / planes))
        if part.chunk_bytes:
            chunk_bits = min(float(self._wire.bits(part.chunk_bytes / planes)), bits)
        else:
            chunk_bits = min(self._wire.packet_bytes * 8.0, bits)
        chunk_ps = chunk_bits / alone_bps * PS_PER_S
        chunks = -(-part.size_bytes // part.chunk_bytes) if part.chunk_bytes else 1
        delay_ps = 2 * part.latency_ps + (2 * part.depth - 1) * chunk_ps + part.waiting_ps(chunk_ps, chunks)
        return Move(bits=bits, row=number, alone_bps=alone_bps, delay_ps=round(delay_ps))

    def _add_row(self, key: tuple[bytes, ...], total: np.ndarray, routes: Routes) -> None:
        row = csr_array(total.reshape(1, -1))
        alone_bps = float(alone_rates(row, self._topology.network.trunk_bps)[0])
        self._rows[key] = (self._builder.rows(row), alone_bps, routes)

    def _move(self, key: tuple[bytes, ...], step_bytes: float, steps: int) -> Move:
        row, alone_bps, routes = self._rows[key]
        bits = float(self._wire.bits(step_bytes / self._topology.planes))
        # A step is over when its slowest flow has arrived.
        delay_ps = int(self._wire.arrival_ps(routes, bits, self._topology.link_bps).max())
        return Move(bits=bits * steps, row=row, alone_bps=alone_bps, delay_ps=delay_ps * steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoweredFlows:
    """A program with one operation a flow, its routes, and wire bits of one plane, float64 [flows]."""

    program: Program
    routes: Routes
    bits: np.ndarray

    @property
    def delay_ps(self) -> np.ndarray:
        """What passes from the last bit's leaving to its arrival, int64 [flows]."""
        return self.program.delay_ps[: len(self.bits)]


def lower_flows(topology: Topology, workload: Workload, wire: Wire) -> LoweredFlows:
    """Return the program of a workload: flow i is operation i, it finishes when its last byte has arrived.

    Behind the flows come the ways back of acknowledgements that others wait for.
    """
    routes = topology.routes(workload.source, workload.target)
    bits = wire.bits(np.ceil(workload.size_bytes / topology.planes))
    count = len(workload)
    known, which = np.unique(workload.after_acked[:, 1], return_inverse=True)
    back = count + np.arange(len(known))
    delay_ps = np.concatenate(
        [wire.arrival_ps(routes, bits, topology.link_bps), wire.acknowledge_ps(routes, topology.link_bps)[known]]
    )
    edges = [
        workload.after[:, ::-1],
        np.column_stack([known, back]),
        np.column_stack([back[which], workload.after_acked[:, 0]]),
    ]
    none, no_more = np.full(len(delay_ps), -1), np.zeros(len(known), np.int64)
    program = Program(
        delay_ps=delay_ps,
        on_network=np.ones(len(delay_ps), bool),
        bits=np.concatenate([bits, no_more]),
        row=np.concatenate([np.arange(count), no_more - 1]),
        start_ps=np.concatenate([workload.start_ps, no_more]),
        acquire=none,
        release=none,
        finish_edges=np.unique(np.concatenate(edges), axis=0),
        start_edges=np.zeros((0, 2), np.int64),
        loads=routes.share,
    )
    return LoweredFlows(program=program, routes=routes, bits=bits)
