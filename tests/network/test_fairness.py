"""Max-min fair rates against exact water-filling in fractions and against the bottleneck property."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from orchestrator_network.fairness import alone_rates, max_min_rates


@st.composite
def networks(draw):
    """Weights in sixteenths [activities, trunks], each activity on at least one trunk, and capacities in whole bits."""
    activities, trunks = draw(st.integers(1, 8)), draw(st.integers(1, 6))
    cell = st.sampled_from([0, 0, 1, 4, 8, 16, 32])
    weights = [draw(st.lists(cell, min_size=trunks, max_size=trunks)) for _ in range(activities)]
    for row in weights:
        if not any(row):
            row[draw(st.integers(0, trunks - 1))] = 16
    capacity = draw(st.lists(st.integers(1, 1000), min_size=trunks, max_size=trunks))
    return [[Fraction(cell, 16) for cell in row] for row in weights], [Fraction(c) for c in capacity]


def exact_rates(weights, capacity):
    """Fill all activities together, freeze those on the first trunk that is full, and go on: one trunk at a time."""
    rates, level = [None] * len(weights), Fraction(0)
    while any(rate is None for rate in rates):
        best = None
        for trunk, limit in enumerate(capacity):
            rising = sum(weights[a][trunk] for a in range(len(weights)) if rates[a] is None)
            if rising:
                fixed = sum(weights[a][trunk] * rates[a] for a in range(len(weights)) if rates[a] is not None)
                reached = (limit - fixed) / rising
                best = reached if best is None else min(best, reached)
        level = best
        for trunk, limit in enumerate(capacity):
            rising = [a for a in range(len(weights)) if rates[a] is None and weights[a][trunk]]
            fixed = sum(weights[a][trunk] * rates[a] for a in range(len(weights)) if rates[a] is not None)
            if rising and fixed + level * sum(weights[a][trunk] for a in rising) == limit:
                for activity in rising:
                    rates[activity] = level
    return rates


def as_arrays(weights, capacity):
    return csr_array(np.array(weights, float)), np.array(capacity, float)


@settings(max_examples=200, deadline=None)
@given(networks())
def test_rates_equal_exact_water_filling(network):
    """Freezing many bottlenecks at once gives the allocation of filling one by one in exact arithmetic."""
    weights, capacity = network
    rates = max_min_rates(*as_arrays(weights, capacity))
    assert rates == pytest.approx([float(rate) for rate in exact_rates(weights, capacity)], rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(networks())
def test_every_activity_has_a_bottleneck(network):
    """The allocation is feasible, and each activity crosses a full trunk on which nobody is faster."""
    weights, capacity = as_arrays(*network)
    rates = max_min_rates(weights, capacity)
    dense = weights.toarray()
    used = rates @ dense
    assert np.all(used <= capacity * (1 + 1e-9))
    for activity, rate in enumerate(rates):
        full = (dense[activity] > 0) & (used >= capacity * (1 - 1e-9))
        assert any(rates[dense[:, trunk] > 0].max() <= rate * (1 + 1e-9) for trunk in np.flatnonzero(full))


def test_the_parking_lot_gives_the_long_flow_its_share():
    """One flow over three links of 12, with one, two and three competitors: 3 for it, the rest to those who can use it."""
    crossing = [[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
    rates = max_min_rates(csr_array(np.array(crossing, float)), np.full(3, 12.0))
    assert rates == pytest.approx([3, 9, 4.5, 4.5, 3, 3, 3])


def test_alone_rate_is_set_by_the_narrowest_trunk():
    """A flow that sends half of itself through a trunk of 10 and all of it through one of 30 gets 20."""
    assert alone_rates(csr_array(np.array([[0.5, 1.0]])), np.array([10.0, 30.0])) == pytest.approx([20])


def test_an_activity_without_trunk_is_refused():
    """Nothing would bound its rate."""
    with pytest.raises(ValueError, match="activity 1 crosses no trunk"):
        max_min_rates(csr_array(np.array([[1.0], [0.0]])), np.array([1.0]))
