"""Jobs on a HammingMesh: virtual sub-meshes of a grid of boards, found greedily (arXiv:2209.01346, job allocation).

A virtual sub-mesh of u x v boards is any u board rows and v board columns whose u v crossings are all free: row and
column networks are switched, so neither need be adjacent. Jobs own their boards alone.

    M_r   the free boards of row r, one bit a column          R, C  board rows and columns of the grid
    u, v  rows and columns that a job asks for                C_k   the columns that the first k chosen rows share

Greedy: from every starting row, add the row that keeps the most of C_k while at least v columns remain, until u rows
are chosen; the first start that gets there wins. Invariants: C_k is the intersection of the chosen M_r; boards are
taken at most once; failed boards are never free. A start costs O(u R) intersections of C bits, a job O(u R^2). The
search is complete for u <= 2 and a heuristic above: it may miss a sub-mesh that exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from orchestrator_network.errors import TopologyError, WorkloadError

OPTIONS = ("transpose", "aspect_ratio", "sort", "locality", "defragment")
ASPECT_RATIO = 8.0


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
        if self.radix < 4 or self.radix % 2:
            raise TopologyError(f"radix must be an even number of ports, at least 4, got {self.radix}")
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
    """Return which boards of a line hang below each leaf, as masks; a board brings two ends, a leaf takes radix / 2."""
    if 2 * boards <= radix:
        return ((1 << boards) - 1,)
    leaves = [0] * (2 * (boards - 1) // (radix // 2) + 1)
    for board in range(boards):
        leaves[2 * board // (radix // 2)] |= 1 << board
    return tuple(leaf for leaf in leaves if leaf)


def boards_of(accelerators: Iterable[int], *, columns: int, board: int) -> frozenset[tuple[int, int]]:
    """Return the (row, column) of the boards that hold these accelerators; ids run board by board, row-major."""
    return frozenset(divmod(number // (board * board), columns) for number in accelerators)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job that asks for ``rows`` x ``columns`` boards; WorkloadError for a side below 1."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1:
            raise WorkloadError(
                f"a job of {self.rows} x {self.columns} boards has an empty side; ask for at least 1 x 1"
            )

    @property
    def boards(self) -> int:
        """The number of boards."""
        return self.rows * self.columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the allocator may do beyond the greedy search, in the order in which the paper adds it.

    ``transpose``: try v x u, too. ``aspect_ratio``: try every factorisation whose sides differ at most by this factor;
    None: only the job's own. ``sort``: place large jobs first. ``locality``: prefer rows and columns below one leaf.
    ``defragment``: restart running jobs from their checkpoints on other boards where that makes room.
    """

    transpose: bool = False
    aspect_ratio: float | None = None
    sort: bool = False
    locality: bool = False
    defragment: bool = False

    def __post_init__(self) -> None:
        if self.aspect_ratio is not None and not 1 <= self.aspect_ratio < math.inf:
            raise WorkloadError(f"aspect_ratio is {self.aspect_ratio}, it must be at least 1 (square), or None")


@dataclass(frozen=True, slots=True)
class SubMesh:
    """Board rows and columns, ascending; the job owns all their crossings."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def mask(self) -> int:
        """The columns as bits."""
        return sum(1 << column for column in self.columns)


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Where every job went: ``placed`` maps its number (its place in the list of jobs) to a sub-mesh.

    ``refused``: numbers of the jobs that found no room. ``moved``: restarts of running jobs on other boards.
    """

    grid: BoardGrid
    jobs: Sequence[Job]
    placed: dict[int, SubMesh]
    refused: tuple[int, ...]
    moved: int = 0

    @property
    def used(self) -> int:
        """Boards that are in use."""
        return sum(self.jobs[number].boards for number in self.placed)

    @property
    def utilization(self) -> float:
        """Share of the working boards in use, 0 for a grid without one."""
        return self.used / self.grid.working if self.grid.working else 0.0

    @property
    def hops(self) -> tuple[int, int]:
        """Hops between boards of all jobs, and those of them that pass an upper tree level; see `ring_hops`."""
        pairs = [ring_hops(self.grid, mesh) for mesh in self.placed.values()]
        return sum(total for total, _ in pairs), sum(upper for _, upper in pairs)


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


def shapes_of(job: Job, options: Options) -> list[tuple[int, int]]:
    """Return the (rows, columns) to try, the job's own first, then by growing aspect ratio.

    Without ``transpose`` the longer side stays on the axis where the job has it.
    """
    shapes = [(job.rows, job.columns)]
    if options.aspect_ratio is not None:
        sides = [side for side in range(math.isqrt(job.boards), 0, -1) if job.boards % side == 0]
        allowed = [(side, job.boards // side) for side in sides if job.boards <= options.aspect_ratio * side * side]
        wide = job.rows <= job.columns
        shapes += [shape if wide else shape[::-1] for shape in allowed]
    if options.transpose:
        shapes = [turned for shape in shapes for turned in (shape, shape[::-1])]
    return list(dict.fromkeys(shapes))


@dataclass(kw_only=True)
class _Floor:
    """The free boards while jobs are placed."""

    grid: BoardGrid
    options: Options
    free: list[int]
    placed: dict[int, SubMesh] = field(default_factory=dict)

    @property
    def room(self) -> int:
        return sum(map(int.bit_count, self.free))

    def place(self, number: int, job: Job) -> bool:
        """Give the job boards if the search finds them."""
        for rows, columns in shapes_of(job, self.options):
            if rows <= self.grid.rows and columns <= self.grid.columns:
                mesh = self._find(rows, columns)
                if mesh is not None:
                    self.placed[number] = mesh
                    taken = ~mesh.mask
                    for row in mesh.rows:
                        self.free[row] &= taken
                    return True
        return False

    def _find(self, rows: int, columns: int) -> SubMesh | None:
        if not self.options.locality:
            found = greedy_rows(self.free, rows, columns, range(self.grid.rows))
            leaves: Sequence[int] = ((1 << self.grid.columns) - 1,)
        else:
            found, leaves = None, self.grid.column_leaves
            for row_window, column_window in self._windows(rows * columns):
                free = [mask & column_window for mask in self.free]
                found = greedy_rows(free, rows, columns, row_window)
                if found is not None:
                    break
        if found is None:
            return None
        chosen, shared = found
        return SubMesh(tuple(sorted(chosen)), tuple(bits(pick_columns(shared, columns, leaves))))

    def _windows(self, boards: int) -> Iterator[tuple[tuple[int, ...], int]]:
        """Yield rows and column masks with that many free boards: below one leaf both ways, one way, then all.

        Among alike ones the fullest comes first, which keeps whole leaves free for large jobs.
        """
        every_row, every_column = tuple(range(self.grid.rows)), (1 << self.grid.columns) - 1
        row_leaves = [tuple(bits(leaf)) for leaf in self.grid.row_leaves]
        column_leaves = self.grid.column_leaves
        everything = [(every_row, every_column)]
        stripes = [(rows, every_column) for rows in row_leaves] + [(every_row, columns) for columns in column_leaves]
        stripes = [window for window in stripes if window not in everything]
        blocks = [(rows, columns) for rows in row_leaves for columns in column_leaves]
        blocks = [window for window in blocks if window not in stripes + everything]
        for windows in (blocks, stripes, everything):
            rooms = [sum((self.free[row] & columns).bit_count() for row in rows) for rows, columns in windows]
            order = sorted(range(len(windows)), key=rooms.__getitem__)
            yield from (windows[place] for place in order if rooms[place] >= boards)


def allocate(
    grid: BoardGrid, jobs: Sequence[Job], options: Options = Options(), *, tick: Callable[[], None] | None = None
) -> Allocation:
    """Give every job boards of its own, or refuse it; ``tick`` is called before every job and may raise to stop.

    Jobs come in their order, with ``sort`` large ones first. A job that finds no room is refused and the next one tried.
    """
    floor = _Floor(grid=grid, options=options, free=grid.row_masks())
    order = sorted(range(len(jobs)), key=lambda number: -jobs[number].boards) if options.sort else range(len(jobs))
    refused, moved, too_large = [], 0, math.inf
    for number in order:
        if tick is not None:
            tick()
        if floor.place(number, jobs[number]):
            continue
        # Nothing ends here, so a grid that could not be packed with a job will hardly be packed with a larger one.
        if options.defragment and jobs[number].boards <= min(floor.room, too_large - 1):
            packed = _packed(floor, jobs, number)
            if packed is not None:
                moved += sum(1 for other, mesh in floor.placed.items() if packed.placed[other] != mesh)
                floor = packed
                continue
            too_large = jobs[number].boards
        refused.append(number)
    return Allocation(
        grid=grid, jobs=jobs, placed=dict(sorted(floor.placed.items())), refused=tuple(sorted(refused)), moved=moved
    )


def _packed(floor: _Floor, jobs: Sequence[Job], newcomer: int) -> _Floor | None:
    """Return the grid with all running jobs and the newcomer placed anew, large jobs first, or None."""
    fresh = _Floor(grid=floor.grid, options=floor.options, free=floor.grid.row_masks())
    for number in sorted([*floor.placed, newcomer], key=lambda number: (-jobs[number].boards, number)):
        if not fresh.place(number, jobs[number]):
            return None
    return fresh
