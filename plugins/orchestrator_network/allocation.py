"""Jobs on the boards of a HammingMesh: who gets which virtual sub-mesh (arXiv:2209.01346, job allocation).

Jobs own their boards alone and share no link below the upper levels of the row and column trees. Invariants: no board
belongs to two jobs, failed boards to none, and a job owns every crossing of its rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator_network.board_grid import BoardGrid, SubMesh, bits, greedy_rows, pick_columns, ring_hops
from orchestrator_network.errors import WorkloadError

OPTIONS = ("transpose", "aspect_ratio", "sort", "locality", "defragment")
ASPECT_RATIO = 8.0


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

    def lift(self, number: int) -> None:
        """Take the boards of a job back."""
        mesh = self.placed.pop(number)
        for row in mesh.rows:
            self.free[row] |= mesh.mask

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
        fits = any(rows <= grid.rows and columns <= grid.columns for rows, columns in shapes_of(jobs[number], options))
        if options.defragment and fits and jobs[number].boards <= min(floor.room, too_large - 1):
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
    """Return the grid with the newcomer and all running jobs, as few of them moved as doubling finds, or None.

    The 1, 2, 4, ... smallest running jobs give up their boards, small ones being the cheapest to restart and those that
    fragment the grid; then they and the newcomer are placed anew, large jobs first. The last attempt packs all anew.
    """
    running = sorted(floor.placed, key=lambda number: (jobs[number].boards, number))
    count = 1
    while running:
        lifted = running[:count]
        fresh = _Floor(grid=floor.grid, options=floor.options, free=floor.free.copy(), placed=floor.placed.copy())
        for number in lifted:
            fresh.lift(number)
        order = sorted([*lifted, newcomer], key=lambda number: (-jobs[number].boards, number))
        if all(fresh.place(number, jobs[number]) for number in order):
            return fresh
        if count >= len(running):
            break
        count *= 2
    return None
