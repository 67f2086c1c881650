"""A grid of boards and the virtual sub-meshes in it (arXiv:2209.01346, job allocation).

A virtual sub-mesh of u x v boards is any u board rows and v board columns whose u v crossings are all free: row and
column networks are switched, so neither need be adjacent.

    M_r   the free boards of row r, one bit a column          R, C  board rows and columns of the grid
    u, v  rows and columns that a job asks for                C_k   the columns that the first k chosen rows share

Greedy: from every starting row, add the row that keeps the most of C_k while at least v columns remain, until u rows
are chosen; the first start that gets there wins. Invariant: C_k is the intersection of the chosen M_r. A start costs
O(u R) intersections of C bits, a search O(u R^2). It is complete for u <= 2 and a heuristic above: it may miss a
sub-mesh that exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrator_network.errors import TopologyError
from orchestrator_network.shape_rules import check_radix


@dataclass(frozen=True, kw_only=True)
class BoardGrid:
    """A grid of ``rows`` x ``columns`` boards of ``board`` x ``board`` accelerators; ``failed``: (row, column) of boards.

    ``radix`` is the ports of the switches that join the boards of a row or column. Raises TopologyError for sides below
    1, and for failed boards outside the grid.
    """

    rows: int
    columns: int
    board: int = 2
    radix: int = 64
    failed: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        if min(self.rows, self.columns, self.board) < 1:
            raise TopologyError(
                f"a grid of {self.rows} x {self.columns} boards of {self.board} x {self.board} accelerators has an empty "
                "side; every side is at least 1"
            )
        check_radix(self.radix)
        outside = sorted(at for at in self.failed if not (0 <= at[0] < self.rows and 0 <= at[1] < self.columns))
        if outside:
            raise TopologyError(
                f"failed board {outside[0]} lies outside the grid; rows are 0 to {self.rows - 1}, columns 0 to "
                f"{self.columns - 1}"
            )

    @property
    def boards(self) -> int:
        """All boards, failed ones included."""
        return self.rows * self.columns

    @property
    def working(self) -> int:
        """Boards without a failed accelerator."""
        return self.boards - len(self.failed)

    def row_masks(self) -> list[int]:
        """Return the working boards of every row: bit c of entry r is the board at (r, c)."""
        masks = [(1 << self.columns) - 1] * self.rows
        for row, column in self.failed:
            masks[row] &= ~(1 << column)
        return masks

    @cached_property
    def column_leaves(self) -> tuple[int, ...]:
        """Columns below each leaf switch of a row network, as masks; one mask where all ends fit one switch."""
        return leaf_masks(self.columns, self.radix)

    @cached_property
    def row_leaves(self) -> tuple[int, ...]:
        """Rows below each leaf switch of a column network, as masks."""
        return leaf_masks(self.rows, self.radix)


def leaf_masks(boards: int, radix: int) -> tuple[int, ...]:
    """Return which boards of a line hang below each leaf, as masks; a board brings two ends, a leaf takes radix / 2.

    Where radix / 2 is odd, a board whose ends hang below two leaves counts to that of its first end.
    """
    if 2 * boards <= radix:
        return ((1 << boards) - 1,)
    leaves = [0] * (2 * (boards - 1) // (radix // 2) + 1)
    for board in range(boards):
        leaves[2 * board // (radix // 2)] |= 1 << board
    return tuple(leaf for leaf in leaves if leaf)


def boards_of(accelerators: Iterable[int], *, columns: int, board: int) -> frozenset[tuple[int, int]]:
    """Return the (row, column) of the boards that hold these accelerators; ids run board by board, row-major."""
    return frozenset(divmod(number // (board * board), columns) for number in accelerators)


@dataclass(frozen=True, slots=True)
class SubMesh:
    """Board rows and columns, ascending; the job owns all their crossings."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def mask(self) -> int:
        """The columns as bits."""
        return sum(1 << column for column in self.columns)


def ring_hops(grid: BoardGrid, mesh: SubMesh) -> tuple[int, int]:
    """Return (all, upper) hops when every row and column of a job passes data round a ring over its boards.

    The ring visits boards in ascending order and returns, so k leaves are left k times, or never if there is but one.
    """
    total = upper = 0
    for lines, along, leaves in (
        (len(mesh.rows), mesh.columns, grid.column_leaves),
        (len(mesh.columns), mesh.rows, grid.row_leaves),
    ):
        if len(along) > 1:
            mask = sum(1 << position for position in along)
            spanned = sum(1 for leaf in leaves if leaf & mask)
            total += lines * len(along)
            upper += lines * spanned if spanned > 1 else 0
    return total, upper


def bits(mask: int) -> Iterator[int]:
    """Yield the positions of the set bits, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def greedy_rows(
    free: Sequence[int], rows: int, columns: int, candidates: Iterable[int]
) -> tuple[list[int], int] | None:
    """Return the chosen rows and the mask of the columns they share, or None; ``free`` holds a mask for every row.

    A start with the mask of an earlier one that failed would add the same rows, so it is left out.
    """
    able = [row for row in candidates if free[row].bit_count() >= columns]
    if len(able) < rows:
        return None
    failed: set[int] = set()
    for start in able:
        shared = free[start]
        if shared in failed:
            continue
        chosen, left = [start], [row for row in able if row != start]
        while len(chosen) < rows:
            best = max(left, key=lambda row, shared=shared: (shared & free[row]).bit_count())  # type: ignore[misc]
            if (shared & free[best]).bit_count() < columns:
                break
            shared &= free[best]
            chosen.append(best)
            left.remove(best)
        else:
            return chosen, shared
        failed.add(free[start])
    return None


def pick_columns(shared: int, columns: int, leaves: Sequence[int]) -> int:
    """Return ``columns`` of the shared columns as a mask, below as few leaves as can be.

    One leaf that suffices with the fewest left over, else the fullest leaves first; within a leaf the lowest columns.
    """
    groups = [shared & leaf for leaf in leaves if shared & leaf]
    enough = [group for group in groups if group.bit_count() >= columns]
    order = [min(enough, key=int.bit_count)] if enough else sorted(groups, key=int.bit_count, reverse=True)
    picked = [position for group in order for position in bits(group)][:columns]
    return sum(1 << position for position in picked)
