"""Hamiltonian cycles of a torus."""

from math import gcd

import pytest

from orchestrator_network.rings import hamiltonian_cycles

SHAPES = [(rows, columns) for rows in range(2, 13) for columns in range(2, 13)]


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_cycles_visit_every_place_once_and_share_no_edge(rows, columns):
    """Each cycle is closed, moves to neighbours only, covers the torus, and no edge serves two cycles."""
    used = set()
    for cycle in hamiltonian_cycles(rows, columns):
        places = [tuple(place) for place in cycle.tolist()]
        assert sorted(places) == [(row, column) for row in range(rows) for column in range(columns)]
        for here, there in zip(places, places[1:] + places[:1], strict=True):
            down, right = (there[0] - here[0]) % rows, (there[1] - here[1]) % columns
            assert (down, right) in {(0, 1), (0, columns - 1), (1, 0), (rows - 1, 0)}
            edge = frozenset((here, there))
            # On a side of two, both directions join the same two places by different edges.
            assert min(rows, columns) == 2 or edge not in used
            used.add(edge)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_two_cycles_are_found_wherever_the_condition_holds(rows, columns):
    """The longer side is a multiple k of the shorter and shares no factor with the shorter less one."""
    long, short = max(rows, columns), min(rows, columns)
    constructible = long % short == 0 and gcd(long, short - 1) == 1
    assert (len(hamiltonian_cycles(rows, columns)) == 2) == constructible


def test_a_line_is_one_cycle_and_an_odd_torus_may_have_none():
    """Lines run end to end; odd sides that do not divide each other are left to the two-dimensional algorithm."""
    assert [cycle.tolist() for cycle in hamiltonian_cycles(1, 3)] == [[[0, 0], [0, 1], [0, 2]]]
    assert hamiltonian_cycles(3, 5) == []
