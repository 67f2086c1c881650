"""The event engine: dependencies and serial streams against plain list scheduling, and times that cannot be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from orchestrator_network.engine import run
from orchestrator_network.errors import WorkloadError
from orchestrator_network.program import ProgramBuilder


@st.composite
def computations(draw):
    """Operations with a duration, a stream or none, an earliest start, and what must finish or start before."""
    rows = []
    for number in range(draw(st.integers(1, 12))):
        before = st.lists(st.integers(0, number - 1), max_size=3, unique=True) if number else st.just([])
        rows.append(
            (draw(st.integers(1, 9)), draw(st.integers(-1, 2)), draw(st.integers(0, 12)), draw(before), draw(before))
        )
    return rows


def list_schedule(rows):
    """Step through time one unit at a time: what is ready starts in the order of numbers when its stream is free."""
    start, finish, now = {}, {}, 0
    while len(finish) < len(rows):
        for number in [number for number in start if number not in finish and start[number] + rows[number][0] == now]:
            finish[number] = now
        progress = True
        while progress:
            progress = False
            for number, (_, stream, earliest, after, beside) in enumerate(rows):
                busy = stream >= 0 and any(rows[other][1] == stream and other not in finish for other in start)
                ready = all(other in finish for other in after) and all(other in start for other in beside)
                if number not in start and ready and earliest <= now and not busy:
                    start[number], progress = now, True
        now += 1
    return [start[number] for number in range(len(rows))], [finish[number] for number in range(len(rows))]


@settings(max_examples=300, deadline=None)
@given(computations())
def test_computations_run_as_plain_list_scheduling(rows):
    """Finish and start dependencies, earliest starts, and one operation at a time on a stream."""
    builder = ProgramBuilder(1)
    streams = [builder.stream() for _ in range(3)]
    for duration, stream, earliest, after, beside in rows:
        held = streams[stream] if stream >= 0 else -1
        number = builder.add(delay_ps=duration, acquire=held, release=held, start_ps=earliest, after=after)
        builder.start_edges(np.array(beside, np.int64), np.full(len(beside), number))
    trace = run(builder.build(), np.ones(1))
    start, finish = list_schedule(rows)
    assert trace.finish_ps.tolist() == finish
    assert trace.start_ps.tolist() == start


def one_transfer(bits=1000.0):
    builder = ProgramBuilder(1)
    row = builder.rows(csr_array(np.array([[1.0]])))
    builder.add(bits=bits, row=row, delay_ps=7, on_network=True)
    return builder


def test_a_transfer_takes_its_bits_and_then_its_delay():
    """1000 bits at 1 Gb/s are a microsecond; the delay follows the last bit."""
    trace = run(one_transfer().build(), np.array([1e9]))
    assert (trace.sent_ps[0], trace.finish_ps[0]) == (10**6, 10**6 + 7)


def test_an_infinite_network_leaves_neither_bits_nor_latency():
    """What is computed stays."""
    builder = one_transfer()
    builder.add(delay_ps=5, after=[0])
    trace = run(builder.build(), np.array([1e9]), sharing="infinite")
    assert trace.finish_ps.tolist() == [0, 5]


def test_progress_can_stop_a_run():
    """The callback is called while events go on, and what it raises ends the run."""
    builder = ProgramBuilder(1)
    for number in range(500):
        builder.add(delay_ps=1, after=[number - 1] if number else [])
    seen = []

    def stop(done, total):
        seen.append((done, total))
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(builder.build(), np.ones(1), progress=stop)
    assert seen == [(63, 500)]  # the first event starts the first operation


def test_operations_that_wait_for_one_another_are_named():
    """A cycle leaves everything on it unfinished."""
    builder = ProgramBuilder(1)
    builder.add(delay_ps=1)
    builder.add(delay_ps=1)
    builder.finish_edges(np.array([0, 1]), np.array([1, 0]))
    with pytest.raises(WorkloadError, match="2 operations wait for one another, the first is operation 0"):
        run(builder.build(), np.ones(1))
