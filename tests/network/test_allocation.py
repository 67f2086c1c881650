"""Jobs on grids of boards, against exhaustive search where grids are tiny."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network import HammingMesh
from orchestrator_network.allocation import Job, Options, allocate, shapes_of
from orchestrator_network.board_grid import (
    BoardGrid,
    SubMesh,
    bits,
    boards_of,
    greedy_rows,
    leaf_masks,
    pick_columns,
    ring_hops,
)
from orchestrator_network.errors import TopologyError, WorkloadError

EVERY = Options(transpose=True, aspect_ratio=8.0, sort=True, locality=True, defragment=True)
OPTION_SETS = st.builds(
    Options,
    transpose=st.booleans(),
    aspect_ratio=st.sampled_from([None, 2.0, 8.0]),
    sort=st.booleans(),
    locality=st.booleans(),
    defragment=st.booleans(),
)


@st.composite
def grids(draw, side=8):
    """Grids of up to side x side boards, any of which may have failed, below leaves of one, two or all boards."""
    rows, columns = draw(st.integers(1, side)), draw(st.integers(1, side))
    failed = draw(st.sets(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)), max_size=rows * columns))
    return BoardGrid(rows=rows, columns=columns, radix=draw(st.sampled_from([4, 8, 64])), failed=frozenset(failed))


JOBS = st.lists(st.builds(Job, rows=st.integers(1, 5), columns=st.integers(1, 5)), max_size=12)


def exists(free, rows, columns):
    """Whether any choice of rows shares enough columns, by trying all."""
    return any(
        _shared(free, chosen).bit_count() >= columns for chosen in itertools.combinations(range(len(free)), rows)
    )


def _shared(free, chosen):
    mask = -1
    for row in chosen:
        mask &= free[row]
    return mask


def plain_greedy(free, rows, columns):
    """The search as it is written down, without leaving out any start."""
    for start in range(len(free)):
        chosen, shared = [start], free[start]
        while len(chosen) < rows and shared.bit_count() >= columns:
            left = [row for row in range(len(free)) if row not in chosen]
            if not left:
                break
            best = max(left, key=lambda row: (shared & free[row]).bit_count())
            chosen.append(best)
            shared &= free[best]
        if len(chosen) == rows and shared.bit_count() >= columns:
            return True
    return False


@given(st.lists(st.integers(0, 2**6 - 1), min_size=1, max_size=6), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=100, deadline=None)
def test_the_greedy_search_against_all_sub_meshes(free, rows, columns):
    """What it finds exists; for one or two rows it finds whatever exists; the shortcut changes no answer."""
    found = greedy_rows(free, rows, columns, range(len(free)))
    there = exists(free, rows, columns)
    assert (found is not None) == plain_greedy(free, rows, columns)
    if found is None:
        assert rows > 2 or not there
        return
    chosen, shared = found
    assert len(set(chosen)) == rows
    assert shared == _shared(free, chosen)
    assert shared.bit_count() >= columns
    assert there


def test_the_greedy_search_seldom_misses_what_exists():
    """On 2000 random grids of 6 x 6 boards, half of them free, it finds 95 % of the sub-meshes that exist."""
    generator = np.random.default_rng(0)
    there = found = 0
    for _ in range(2000):
        free = generator.integers(0, 2**6, size=6).tolist()
        if exists(free, 3, 3):
            there += 1
            found += greedy_rows(free, 3, 3, range(6)) is not None
    assert there > 500
    assert found / there > 0.95


@given(grids(), JOBS, OPTION_SETS)
@settings(max_examples=100, deadline=None)
def test_jobs_never_share_boards_or_take_failed_ones(grid, jobs, options):
    """Every placed job owns all crossings of rows x columns in a shape that its options allow; the rest is refused."""
    found = allocate(grid, jobs, options)
    owned = [board for mesh in found.placed.values() for board in itertools.product(mesh.rows, mesh.columns)]
    assert len(owned) == len(set(owned)) == found.used
    assert not grid.failed & set(owned)
    assert sorted([*found.placed, *found.refused]) == list(range(len(jobs)))
    for number, mesh in found.placed.items():
        assert (len(mesh.rows), len(mesh.columns)) in shapes_of(jobs[number], options)
        assert mesh.rows == tuple(sorted(set(mesh.rows)))
        assert 0 <= min(mesh.rows) <= max(mesh.rows) < grid.rows
        assert 0 <= min(mesh.columns) <= max(mesh.columns) < grid.columns
    assert found.utilization <= 1
    assert options.defragment or found.moved == 0


@given(grids(side=5), JOBS)
@settings(max_examples=100, deadline=None)
def test_a_refused_job_of_two_rows_had_no_room(grid, jobs):
    """After plain greedy, no sub-mesh of a refused job's shape is left: free boards only ever become fewer."""
    found = allocate(grid, jobs)
    free = grid.row_masks()
    for mesh in found.placed.values():
        for row in mesh.rows:
            assert free[row] & mesh.mask == mesh.mask
            free[row] ^= mesh.mask
    for number in found.refused:
        if jobs[number].rows <= min(2, grid.rows):
            assert not exists(free, jobs[number].rows, jobs[number].columns)


@given(grids(), st.builds(Job, rows=st.integers(1, 5), columns=st.integers(1, 5)))
@settings(max_examples=100, deadline=None)
def test_locality_keeps_a_job_below_one_leaf_where_it_fits(grid, job):
    """It only orders the search, so it places what greedy places, and off the upper levels where that is possible."""
    plain, local = allocate(grid, [job]), allocate(grid, [job], Options(locality=True))
    assert set(plain.placed) <= set(local.placed)
    free = grid.row_masks()
    fits = any(
        job.rows <= rows.bit_count() and exists([free[row] & columns for row in bits(rows)], job.rows, job.columns)
        for rows in grid.row_leaves
        for columns in grid.column_leaves
    )
    if job.rows <= 2:
        assert (local.hops[1] == 0 and bool(local.placed)) == fits


@given(st.integers(0, 2**8 - 1), st.integers(1, 8), st.sampled_from([4, 8, 16, 64]))
@settings(deadline=None)
def test_columns_lie_below_as_few_leaves_as_can_be(shared, columns, radix):
    """Against every choice of that many columns."""
    leaves = leaf_masks(8, radix)
    if shared.bit_count() < columns:
        return
    picked = pick_columns(shared, columns, leaves)
    assert picked & ~shared == 0
    assert picked.bit_count() == columns
    choices = [sum(1 << bit for bit in choice) for choice in itertools.combinations(bits(shared), columns)]

    def spanned(mask):
        return sum(1 for leaf in leaves if leaf & mask)

    assert spanned(picked) == min(map(spanned, choices))


@pytest.mark.parametrize(("boards", "radix"), [(3, 8), (8, 8), (16, 64), (33, 64), (64, 64)])
def test_leaves_are_those_of_the_mesh_that_is_simulated(boards, radix):
    """Two boards are below one leaf here exactly if a row switch of `HammingMesh` joins both."""
    mesh = HammingMesh(board_rows=1, board_columns=1, grid_rows=1, grid_columns=boards, radix=radix)
    network = mesh.network
    for leaf in leaf_masks(boards, radix):
        hosts = list(bits(leaf))
        for host in hosts:
            switches = set(network.target[network.source == host].tolist())
            others = set(
                network.source[np.isin(network.target, [one for one in switches if "row" in network.names[one]])]
            )
            assert {one for one in others if one < mesh.hosts} == set(hosts)


@pytest.mark.parametrize(
    ("rows", "columns", "hops", "upper"),
    [
        ((0,), (0,), 0, 0),
        ((0,), (0, 1), 2, 0),
        ((0,), (0, 2), 2, 2),
        ((0, 1), (0, 1), 8, 0),
        ((0, 1, 2), (0, 1, 3), 3 * 3 + 3 * 3, 3 * 2 + 3 * 2),
    ],
)
def test_rings_pass_an_upper_level_once_a_leaf(rows, columns, hops, upper):
    """Leaves of two boards: a ring over k leaves leaves each of them once."""
    grid = BoardGrid(rows=8, columns=8, radix=8)
    assert grid.column_leaves == grid.row_leaves == (0b11, 0b1100, 0b110000, 0b11000000)
    assert ring_hops(grid, SubMesh(rows, columns)) == (hops, upper)


def test_failed_accelerators_take_their_board_out():
    """Ids run as in `HammingMesh`: the board of an accelerator is where the mesh has it."""
    mesh = HammingMesh(board_rows=2, board_columns=2, grid_rows=3, grid_columns=4)
    for host in range(mesh.hosts):
        ((row, column),) = np.argwhere(mesh.hosts_at == host).tolist()
        assert boards_of([host], columns=4, board=2) == {(row // 2, column // 2)}
    assert boards_of([0, 1, 3, 47], columns=4, board=2) == {(0, 0), (2, 3)}


def test_failed_boards_only_cost_what_they_are():
    """Rows and columns need not be adjacent: a failed board in the middle leaves a 3 x 3 job its place on 4 x 4."""
    grid = BoardGrid(rows=4, columns=4, failed=frozenset({(1, 2)}))
    found = allocate(grid, [Job(rows=3, columns=3)])
    assert found.placed == {0: SubMesh((0, 2, 3), (0, 1, 2))}
    assert found.utilization == 9 / 15


def test_every_option_makes_the_room_it_promises():
    """One example each in which the option is what places the last job."""
    grid = BoardGrid(rows=2, columns=4)
    wide, tall, square = Job(rows=1, columns=4), Job(rows=4, columns=1), Job(rows=2, columns=2)
    assert allocate(grid, [tall]).refused == (0,)
    assert allocate(grid, [tall], Options(transpose=True)).refused == ()
    assert allocate(BoardGrid(rows=2, columns=2), [wide]).refused == (0,)
    assert allocate(BoardGrid(rows=2, columns=2), [wide], Options(aspect_ratio=8)).refused == ()
    assert allocate(BoardGrid(rows=2, columns=2), [wide], Options(aspect_ratio=1)).refused == ()
    small_first = [Job(rows=1, columns=1), wide, Job(rows=1, columns=3)]
    assert allocate(BoardGrid(rows=2, columns=4), small_first).refused == ()
    holed = BoardGrid(rows=2, columns=4, failed=frozenset({(0, 3)}))
    assert allocate(holed, [Job(rows=1, columns=3), Job(rows=1, columns=1), square]).refused == (2,)
    one_row = [Job(rows=1, columns=2), wide]
    shared = BoardGrid(rows=2, columns=4, failed=frozenset({(1, 0)}))
    assert allocate(shared, one_row).refused == (1,)
    assert allocate(shared, one_row, Options(sort=True)).refused == ()
    moved = allocate(shared, one_row, Options(defragment=True))
    assert moved.refused == ()
    assert moved.moved == 1
    assert moved.placed[0].rows == (1,)


@given(grids(), JOBS, OPTION_SETS)
@settings(max_examples=100, deadline=None)
def test_restarts_are_counted_and_lose_no_job(grid, jobs, options):
    """Defragmentation places at least every job of the same search without it up to the first refusal."""
    without = allocate(grid, jobs, Options(transpose=options.transpose, aspect_ratio=options.aspect_ratio))
    turned = Options(transpose=options.transpose, aspect_ratio=options.aspect_ratio, defragment=True)
    found = allocate(grid, jobs, turned)
    first = min(without.refused, default=len(jobs))
    assert set(range(first)) <= set(found.placed)
    if not without.refused:
        assert found.placed == without.placed
        assert found.moved == 0


def test_the_tick_stops_the_work():
    """It is called before every job, and what it raises comes out."""
    ticks = []

    def tick():
        ticks.append(1)
        if len(ticks) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        allocate(BoardGrid(rows=4, columns=4), [Job(rows=1, columns=1)] * 9, EVERY, tick=tick)
    assert len(ticks) == 3


def test_shapes_follow_the_options():
    """The job's own shape, then near-square ones first, up to the limit; both ways round with transpose."""
    job = Job(rows=2, columns=8)
    assert shapes_of(job, Options()) == [(2, 8)]
    assert shapes_of(job, Options(transpose=True)) == [(2, 8), (8, 2)]
    assert shapes_of(job, Options(aspect_ratio=8)) == [(2, 8), (4, 4)]
    assert shapes_of(job, Options(aspect_ratio=16)) == [(2, 8), (4, 4), (1, 16)]
    assert shapes_of(Job(rows=8, columns=2), Options(aspect_ratio=16)) == [(8, 2), (4, 4), (16, 1)]
    assert len(shapes_of(job, Options(transpose=True, aspect_ratio=16))) == 5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: BoardGrid(rows=0, columns=2), TopologyError, "every side is at least 1"),
        (lambda: BoardGrid(rows=2, columns=2, radix=7), TopologyError, "even number of ports"),
        (lambda: BoardGrid(rows=2, columns=2, failed=frozenset({(2, 0)})), TopologyError, r"\(2, 0\) lies outside"),
        (lambda: Job(rows=0, columns=1), WorkloadError, "ask for at least 1 x 1"),
        (lambda: Options(aspect_ratio=0.5), WorkloadError, "at least 1"),
    ],
)
def test_what_cannot_be_is_named(make, error, message):
    """Value, rule and fix."""
    with pytest.raises(error, match=message):
        make()
