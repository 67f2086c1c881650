"""Closed-form statistics against enumeration and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator_evaluate.statistics import (
    clustered_standard_error,
    mcnemar_exact,
    mean_and_standard_error,
    minimum_items,
    pass_at_k,
    wilson_interval,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (37, 64), (998, 1000)])
def test_wilson_agrees_with_scipy(successes: int, n: int) -> None:
    """The interval is scipy's, at both confidence levels."""
    for confidence in (0.9, 0.95):
        expected = stats.binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
        got = wilson_interval(successes, n, confidence)
        assert got.low == pytest.approx(expected.low, abs=1e-12)
        assert got.high == pytest.approx(expected.high, abs=1e-12)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_stays_in_the_unit_interval(counts: tuple[int, int]) -> None:
    """0 <= low <= share <= high <= 1, and the complement mirrors it."""
    successes, n = counts
    interval = wilson_interval(successes, n)
    mirror = wilson_interval(n - successes, n)
    assert 0 <= interval.low <= successes / n <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirror.high, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    """Counts outside [0, n] are named in the error."""
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


def test_standard_error_agrees_with_scipy() -> None:
    """The plain error uses the n - 1 denominator."""
    values = np.random.default_rng(0).normal(size=31).tolist()
    mean, error = mean_and_standard_error(values)
    assert mean == pytest.approx(np.mean(values))
    assert error == pytest.approx(stats.sem(values))
    assert math.isnan(mean_and_standard_error([1.0])[1])


def test_clustered_error_of_singletons_is_the_plain_error_up_to_its_denominator() -> None:
    """One value a cluster: sqrt((n - 1) / n) times the plain error."""
    values = np.random.default_rng(1).normal(size=20).tolist()
    plain = mean_and_standard_error(values)[1]
    assert clustered_standard_error(values, range(20)) == pytest.approx(plain * math.sqrt(19 / 20))


def test_clustered_error_of_copies_counts_problems_not_samples() -> None:
    """Copying every value eight times within its cluster adds no information."""
    values = np.random.default_rng(2).normal(size=15).tolist()
    copies = [value for value in values for _ in range(8)]
    clusters = [problem for problem in range(15) for _ in range(8)]
    assert clustered_standard_error(copies, clusters) == pytest.approx(clustered_standard_error(values, range(15)))


def test_clustered_error_covers_the_spread_of_simulated_means() -> None:
    """On data with a shared effect per cluster the estimate matches the spread of the mean over replications."""
    generator = np.random.default_rng(3)
    clusters = np.repeat(np.arange(40), 5)
    draws = generator.normal(size=(4000, 40)).repeat(5, axis=1) + generator.normal(size=(4000, 200))
    estimates = [clustered_standard_error(row.tolist(), clusters.tolist()) for row in draws[:200]]
    assert np.mean(estimates) == pytest.approx(draws.mean(axis=1).std(), rel=0.05)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 9), (12, 12), (0, 6), (40, 61)])
def test_mcnemar_agrees_with_the_binomial_test(first: int, second: int) -> None:
    """The p-value is that of a fair coin over the discordant pairs."""
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected)


def test_pass_at_k_matches_the_published_anchor() -> None:
    """N = 10, c = 3: .3, .533333, .916667, 1."""
    got = [pass_at_k(10, 3, k) for k in (1, 2, 5, 8)]
    assert got == pytest.approx([0.3, 0.5333333333, 0.9166666667, 1.0])


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_agrees_with_enumeration(counts: tuple[int, int, int]) -> None:
    """It is the share of k-subsets that hold a right sample."""
    samples, correct, k = counts
    subsets = list(itertools.combinations(range(samples), k))
    hits = sum(any(sample < correct for sample in subset) for subset in subsets)
    assert pass_at_k(samples, correct, k) == pytest.approx(hits / len(subsets))


def test_minimum_items_follows_the_rule_of_7_85() -> None:
    """7.85 sd^2 / effect^2, rounded up."""
    assert minimum_items(0.5, 0.1) == math.ceil(7.8489 * 25)
    with pytest.raises(ValueError, match="effect of 0"):
        minimum_items(1.0, 0.0)
