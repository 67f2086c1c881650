"""Mixes of jobs: how much they ask for, and in which sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_network.allocation import Job, Options
from orchestrator_network.allocation_trials import Demand, Machine, label_of, options_of, run_trials
from orchestrator_network.errors import WorkloadError
from orchestrator_network.job_mixes import draw_jobs, largest_job, shaped, squarest

SIDE = 16


def draw(mix, seed=0, demand=SIDE * SIDE, **more):
    return draw_jobs(mix, np.random.default_rng(seed), grid_rows=SIDE, grid_columns=SIDE, demand=demand, **more)


@given(st.integers(1, 400))
def test_the_squarest_shape_against_all_shapes(boards):
    """No factorisation has nearer sides."""
    job = squarest(boards)
    assert job.boards == boards
    gaps = [boards // side - side for side in range(1, boards + 1) if boards % side == 0 and side * side <= boards]
    assert job.columns - job.rows == min(gaps)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 150))
@settings(max_examples=100)
def test_a_job_is_raised_to_the_next_mesh_that_fits(rows, columns, boards):
    """At most 2 : 1 and inside the grid, and no smaller size has such a shape."""
    job = shaped(boards, rows, columns)
    meshes = [u * v for u in range(1, rows + 1) for v in range(1, columns + 1) if max(u, v) <= 2 * min(u, v)]
    wanted = min((size for size in meshes if size >= boards), default=None)
    assert (job.boards if job else None) == wanted
    if job:
        assert job.rows <= rows
        assert job.columns <= columns


@pytest.mark.parametrize("mix", ["mlaas", "uniform"])
@pytest.mark.parametrize("seed", range(5))
def test_a_mix_asks_for_the_demand_and_no_more(mix, seed):
    """Sizes of 1 exist, so little stays unasked for; the largest job bounds all but what rounding to a mesh adds."""
    jobs = draw(mix, seed)
    assert 0.95 * SIDE * SIDE <= sum(job.boards for job in jobs) <= SIDE * SIDE
    assert max(job.boards for job in jobs) <= shaped(largest_job(SIDE, SIDE), SIDE, SIDE).boards


def test_a_fixed_mix_repeats_one_size():
    """15 jobs of 4 x 4 in 250 boards, and ten boards that none of them fits."""
    assert draw("fixed", demand=250, boards=16) == [Job(rows=4, columns=4)] * 15


def test_sizes_of_mlaas_follow_the_power_law():
    """The frequencies of 1, 2 and 4 boards of 20 000 jobs stand as n^-1.5, 3 being raised to no other size."""
    generator = np.random.default_rng(1)
    jobs = draw_jobs("mlaas", generator, grid_rows=1000, grid_columns=1000, demand=60_000, boards=8)
    counts = np.bincount([job.boards for job in jobs])
    # 3 = 1 x 3 is not within 2 : 1, so it is raised to 4.
    wanted = np.array([1, 2**-1.5, 3**-1.5 + 4**-1.5])
    assert counts[[1, 2, 4]] / counts[1] == pytest.approx(wanted, rel=0.05)
    assert counts[3] == 0


def test_a_job_larger_than_the_grid_is_refused():
    """With what would fit."""
    with pytest.raises(WorkloadError, match="a job of 257 boards does not fit 16 x 16 boards; use 1 to 256"):
        draw("mlaas", boards=257)
    with pytest.raises(WorkloadError, match="at least 1 board"):
        squarest(0)


def test_machines_lose_what_they_are_told_to():
    """Boards are distinct; accelerators may share a board; more than there are is refused."""
    generator = np.random.default_rng(0)
    assert len(Machine(rows=8, columns=8, failed_boards=40).grid(generator).failed) == 40
    assert Machine(rows=2, columns=2, board=2, failed_accelerators=16).grid(generator).working == 0
    one_to_five = {Machine(rows=8, columns=8, failed_accelerators=5).grid(generator).working for _ in range(20)}
    assert one_to_five <= {59, 60, 61, 62, 63}
    with pytest.raises(WorkloadError, match="failed_boards is 65; this machine has 0 to 64 to lose"):
        Machine(rows=8, columns=8, failed_boards=65)


def test_trials_are_paired_and_do_not_depend_on_their_number():
    """All option sets see the same jobs and failures; two trials are the first two of four."""
    machine, sets = Machine(rows=8, columns=8, failed_boards=5), {"greedy": Options(), "sort": Options(sort=True)}
    two = run_trials(machine, Demand(), sets, trials=2, seed=3)
    four = run_trials(machine, Demand(), sets, trials=4, seed=3)
    assert four.trials[:4] == two.trials
    assert two.trials != run_trials(machine, Demand(), sets, trials=2, seed=4).trials
    for trial in range(4):
        rows = [row for row in four.trials if row["trial"] == trial]
        assert len({(row["working_boards"], row["wanted_boards"], row["jobs"]) for row in rows}) == 1
    assert four.utilization("sort").tolist() == [row["utilization"] for row in four.trials if row["options"] == "sort"]


def test_more_load_is_refused_not_squeezed_in():
    """Twice the boards asked for: no more than all are used, and jobs are refused."""
    sets = {"all": Options(transpose=True, aspect_ratio=8.0, sort=True, defragment=True)}
    for row in run_trials(Machine(rows=8, columns=8), Demand(load=2.0), sets, trials=3, seed=0).trials:
        assert row["wanted_boards"] > row["working_boards"] >= row["used_boards"]
        assert row["refused"] > 0


def test_option_sets_are_named_in_the_papers_order():
    """Whatever the order in which they are listed."""
    assert label_of([]) == "greedy"
    assert label_of(["sort", "transpose"]) == "transpose-sort"
    assert options_of(["aspect_ratio"], 4.0) == Options(aspect_ratio=4.0)
    assert options_of(["transpose", "sort", "locality", "defragment"]) == Options(
        transpose=True, sort=True, locality=True, defragment=True
    )
