"""Minimal routes of a HammingMesh from the routes along one row and one column.

A mesh is a product: a minimal path from (r, c) to (r', c') is a minimal path c -> c' along rows and one r -> r' along
columns, their hops interleaved in any order. A hop leads from accelerator to accelerator, over a trace or through a
network. Route costs are such that all minimal paths of one pair on a line have equally many hops, m along the row and
n along the column, so there are P Q binom(m + n, m) paths, with P and Q those of the lines. The share of a row's trunk
that serves hop i of a fraction R_i of the P paths, in the row that a fraction C_j of the Q paths reach after j hops, is

    sum_ij R_i C_j binom(i + j, i) binom(m - i - 1 + n - j, n - j) / binom(m + n, m)

and likewise for columns. Nothing here grows with the machine but the number of pairs on a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LineShape:
    """Lines of boards, all alike; trunk of the forward trace k of line l is ``trace`` + l (board - 1) boards + k.

    ``backward`` is the first backward trace. Line l owns the trunks from ``network`` + l ``network_stride``: up and down
    of every end, then up and down of every leaf where there is a spine. ``ends_a_leaf`` counts ends under one switch.
    """

    board: int
    boards: int
    trace: int
    backward: int
    network: int
    network_stride: int
    ends_a_leaf: int
    leaves: int

    @property
    def hosts(self) -> int:
        """Accelerators on a line."""
        return self.board * self.boards


class Costs(NamedTuple):
    """Route costs of a trace, of a crossing below one leaf, and of one through the spine."""

    trace: int
    leaf: int
    spine: int


class _Hop(NamedTuple):
    """One hop: where it leads, its trunks as (first, stride a line), its links."""

    to: int
    trunks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class LineTables:
    """What the minimal paths of every pair (from, to) of a line use; pair = from * hosts + to.

    ``hops``, ``links`` [pairs]. Trunks: rows ``trunk_start[pair]`` to ``trunk_start[pair + 1]`` of ``trunk`` int64 [n, 3]
    (first, stride, hop number) with ``trunk_share`` [n]. Places: the same for ``place`` [n, 2] (host, hops before it).
    """

    hosts: int
    hops: np.ndarray
    links: np.ndarray
    trunk_start: np.ndarray
    trunk: np.ndarray
    trunk_share: np.ndarray
    place_start: np.ndarray
    place: np.ndarray
    place_share: np.ndarray


def line_tables(shape: LineShape, costs: Costs) -> LineTables:
    """Enumerate the minimal paths of every pair of a line: across the board, or out of one end and in at another."""
    hops, links, trunks, trunk_shares, places, place_shares = [], [], [], [], [], []
    trunk_start, place_start = [0], [0]
    for start in range(shape.hosts):
        for end in range(shape.hosts):
            paths = _minimal(_candidates(shape, start, end), costs)
            share = 1 / len(paths)
            for path in paths:
                at = [start, *(hop.to for hop in path)]
                places += [(host, number) for number, host in enumerate(at)]
                trunks += [(*trunk, number) for number, hop in enumerate(path) for trunk in hop.trunks]
            trunk_shares += [share] * (len(trunks) - trunk_start[-1])
            place_shares += [share] * (len(places) - place_start[-1])
            trunk_start.append(len(trunks))
            place_start.append(len(places))
            hops.append(len(paths[0]))
            links.append(sum(len(hop.trunks) for hop in paths[0]))
    return LineTables(
        hosts=shape.hosts,
        hops=np.array(hops),
        links=np.array(links),
        trunk_start=np.array(trunk_start),
        trunk=np.array(trunks, np.int64).reshape(-1, 3),
        trunk_share=np.array(trunk_shares),
        place_start=np.array(place_start),
        place=np.array(places, np.int64).reshape(-1, 2),
        place_share=np.array(place_shares),
    )


def _candidates(shape: LineShape, start: int, end: int) -> list[list[_Hop]]:
    board, target = start // shape.board, end // shape.board
    found = [_walk(shape, start, end)] if board == target else []
    for out in (2 * board, 2 * board + 1):
        for into in (2 * target, 2 * target + 1):
            if out != into:
                crossing = _Hop(_host_of(shape, into), _crossing(shape, out, into))
                before, after = _walk(shape, start, _host_of(shape, out)), _walk(shape, crossing.to, end)
                found.append([*before, crossing, *after])
    return found


def _minimal(paths: list[list[_Hop]], costs: Costs) -> list[list[_Hop]]:
    price = {1: costs.trace, 2: costs.leaf, 4: costs.spine}
    totals = [sum(price[len(hop.trunks)] for hop in path) for path in paths]
    return [path for path, total in zip(paths, totals, strict=True) if total == min(totals)]


def _walk(shape: LineShape, start: int, end: int) -> list[_Hop]:
    """Return the traces from one accelerator to another of the same board."""
    inner = shape.board - 1
    stride = inner * shape.boards
    path = []
    while start != end:
        to = start + (1 if end > start else -1)
        left = min(start, to)
        trace = left // shape.board * inner + left % shape.board
        path.append(_Hop(to, (((shape.trace if to > start else shape.backward) + trace, stride),)))
        start = to
    return path


def _host_of(shape: LineShape, end: int) -> int:
    return end // 2 * shape.board + (shape.board - 1) * (end % 2)


def _crossing(shape: LineShape, out: int, into: int) -> tuple[tuple[int, int], ...]:
    ends, stride = 2 * shape.boards, shape.network_stride
    up, down = shape.network + out, shape.network + ends + into
    from_leaf, to_leaf = out // shape.ends_a_leaf, into // shape.ends_a_leaf
    if from_leaf == to_leaf:
        return ((up, stride), (down, stride))
    first = shape.network + 2 * ends
    return ((up, stride), (first + from_leaf, stride), (first + shape.leaves + to_leaf, stride), (down, stride))


def product_shares(
    along: LineTables, along_pair: np.ndarray, across: LineTables, across_pair: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (flow, trunk, share) of the trunks on lines of ``along``, with the line given by a place of ``across``."""
    trunks = along.trunk_start[along_pair + 1] - along.trunk_start[along_pair]
    places = across.place_start[across_pair + 1] - across.place_start[across_pair]
    flow, number = _expand(trunks * places)
    trunk_number, place_number = np.divmod(number, places[flow])
    at = along.trunk_start[along_pair[flow]] + trunk_number
    line = across.place_start[across_pair[flow]] + place_number
    first, stride, i = along.trunk[at].T
    host, j = across.place[line].T
    m, n = along.hops[along_pair[flow]], across.hops[across_pair[flow]]
    orders = _binomials(int(along.hops.max() + across.hops.max()))
    woven = orders[i + j, i] * orders[m - i - 1 + n - j, n - j] / orders[m + n, m]
    return flow, first + host * stride, along.trunk_share[at] * across.place_share[line] * woven


def _expand(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for counts (2, 0, 3), the owners (0, 0, 2, 2, 2) and their numbers (0, 1, 0, 1, 2)."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _binomials(size: int) -> np.ndarray:
    return np.array([[comb(n, k) for k in range(size + 1)] for n in range(size + 1)], float)
