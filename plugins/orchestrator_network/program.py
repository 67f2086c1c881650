"""What the event engine runs: operations with dependencies, as arrays.

An operation waits for what must finish (or start) before it, then for its stream, then transfers ``bits`` along row
``row`` of ``loads`` (a row holds the bits that each trunk carries for every bit of the operation), then lasts
``delay_ps``. A flow is a row with one route; a collective step is one row for all of its flows in lockstep.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, vstack


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Columns over operations; edges are int64 [n, 2] pairs (earlier, later).

    ``delay_ps`` int64; ``on_network`` bool: the delay is the network's, not a computation; ``bits`` float64;
    ``row`` int64, -1 for no transfer; ``start_ps`` int64, the earliest start; ``acquire``, ``release`` int64: the
    serial stream taken at the start and given back at the finish, -1 for none.
    """

    delay_ps: np.ndarray
    on_network: np.ndarray
    bits: np.ndarray
    row: np.ndarray
    start_ps: np.ndarray
    acquire: np.ndarray
    release: np.ndarray
    finish_edges: np.ndarray
    start_edges: np.ndarray
    loads: csr_array

    def __len__(self) -> int:
        return len(self.delay_ps)


class ProgramBuilder:
    """Collects operations one by one."""

    def __init__(self, trunks: int) -> None:
        self._columns: list[tuple[int, bool, float, int, int, int, int]] = []
        self._finish_edges: list[np.ndarray] = []
        self._start_edges: list[np.ndarray] = []
        self._rows: list[csr_array] = []
        self._row_count = 0
        self._streams = 0
        self._trunks = trunks

    def rows(self, loads: csr_array) -> int:
        """Add rows [n, trunks] of loads and return the number of the first."""
        self._rows.append(loads)
        first = self._row_count
        self._row_count += int(loads.shape[0])
        return first

    def stream(self) -> int:
        """Return a new serial stream."""
        self._streams += 1
        return self._streams - 1

    def add(
        self,
        *,
        delay_ps: int = 0,
        on_network: bool = False,
        bits: float = 0.0,
        row: int = -1,
        start_ps: int = 0,
        acquire: int = -1,
        release: int = -1,
        after: Iterable[int] = (),
    ) -> int:
        """Add one operation that starts when all of ``after`` have finished; return its number."""
        number = len(self._columns)
        self._columns.append((delay_ps, on_network, bits, row, start_ps, acquire, release))
        before = np.fromiter(after, np.int64)
        self.finish_edges(before, np.full(len(before), number))
        return number

    def finish_edges(self, earlier: np.ndarray, later: np.ndarray) -> None:
        """Let ``later[i]`` start when ``earlier[i]`` has finished."""
        if len(earlier):
            self._finish_edges.append(np.stack([earlier, later], axis=1))

    def start_edges(self, earlier: np.ndarray, later: np.ndarray) -> None:
        """Let ``later[i]`` start when ``earlier[i]`` has started."""
        if len(earlier):
            self._start_edges.append(np.stack([earlier, later], axis=1))

    def build(self) -> Program:
        """Return the program."""
        delay_ps, on_network, bits, row, start_ps, acquire, release = zip(*self._columns, strict=True)
        loads = vstack(self._rows, format="csr") if self._rows else csr_array((0, self._trunks))
        return Program(
            delay_ps=np.array(delay_ps, np.int64),
            on_network=np.array(on_network, bool),
            bits=np.array(bits, float),
            row=np.array(row, np.int64),
            start_ps=np.array(start_ps, np.int64),
            acquire=np.array(acquire, np.int64),
            release=np.array(release, np.int64),
            finish_edges=_distinct(self._finish_edges),
            start_edges=_distinct(self._start_edges),
            loads=csr_array(loads),
        )


def _distinct(edges: list[np.ndarray]) -> np.ndarray:
    """Return the distinct edges: a collective of p ranks names the same predecessors many times."""
    if not edges:
        return np.zeros((0, 2), np.int64)
    return np.unique(np.concatenate(edges).astype(np.int64), axis=0)
