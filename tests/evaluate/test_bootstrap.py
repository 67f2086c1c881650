"""The bootstrap against scipy, its coverage, and its edge cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from orchestrator_evaluate.bootstrap import (
    bca_interval,
    mean_interval,
    paired_difference,
    percentile_interval,
    quantile,
    resample,
)
from orchestrator_evaluate.statistics import wilson_interval

SKEWED = np.random.default_rng(7).exponential(size=60)


def mean_of_skewed(indices: np.ndarray) -> np.ndarray:
    """The mean of the skewed sample over resampled items."""
    return SKEWED[indices].mean(axis=1)


@pytest.mark.parametrize(("ours", "method"), [(percentile_interval, "percentile"), (bca_interval, "BCa")])
def test_intervals_agree_with_scipy(ours, method: str) -> None:
    """Both methods agree with scipy's on a skewed sample within the noise of 20,000 resamples."""
    expected = stats.bootstrap(
        (SKEWED,), np.mean, method=method, n_resamples=20_000, rng=np.random.default_rng(0)
    ).confidence_interval
    got = ours(mean_of_skewed, len(SKEWED), seed=1, resamples=20_000)
    assert got.low == pytest.approx(expected.low, rel=0.01)
    assert got.high == pytest.approx(expected.high, rel=0.01)


def test_bca_differs_from_percentile_on_skewed_data() -> None:
    """The correction moves the interval to the right for right-skewed data."""
    percentile = percentile_interval(mean_of_skewed, 60, seed=1)
    corrected = bca_interval(mean_of_skewed, 60, seed=1)
    assert corrected.low > percentile.low
    assert corrected.high > percentile.high


def test_same_seed_same_interval_and_another_seed_another() -> None:
    """Resampling is a function of its seed."""
    assert mean_interval(SKEWED, seed=3) == mean_interval(SKEWED, seed=3)
    assert mean_interval(SKEWED, seed=3) != mean_interval(SKEWED, seed=4)


def test_blocks_of_indices_draw_every_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing in small blocks returns the full number of resamples with the right mean."""
    monkeypatch.setattr("orchestrator_evaluate.bootstrap.BLOCK_ENTRIES", 600)
    values = resample(mean_of_skewed, 60, seed=0, resamples=1005)
    assert values.shape == (1005,)
    assert values.mean() == pytest.approx(SKEWED.mean(), abs=0.02)


def test_coverage_of_a_ratio_of_sums() -> None:
    """95 % intervals of a ratio cover the truth in about 95 % of 300 samples."""
    generator = np.random.default_rng(11)
    covered = 0
    for trial in range(300):
        size = generator.integers(1, 30, size=80).astype(float)
        cost = size * 2 + generator.normal(size=80)

        def ratio(indices: np.ndarray, cost: np.ndarray = cost, size: np.ndarray = size) -> np.ndarray:
            return cost[indices].sum(axis=1) / size[indices].sum(axis=1)

        interval = bca_interval(ratio, 80, seed=trial, resamples=600)
        covered += interval.low <= 2 <= interval.high
    assert 0.9 <= covered / 300 <= 0.985


def test_quantile_keeps_infinity_where_it_belongs() -> None:
    """An infinite tail gives an infinite upper end and leaves the finite part alone."""
    values = np.array([1.0, 2.0, 3.0, np.inf])
    assert quantile(values, 0.5) == 2.5
    assert quantile(values, 0.99) == np.inf
    assert quantile(np.arange(5.0), 0.3) == pytest.approx(np.quantile(np.arange(5.0), 0.3))


def test_paired_difference_beats_the_unpaired_spread() -> None:
    """Items of very different difficulty: only the paired comparison sees the effect of 0.05."""
    generator = np.random.default_rng(5)
    first = generator.normal(scale=1.0, size=200)
    second = first + 0.05 + generator.normal(scale=0.05, size=200)
    result = paired_difference(first, second, seed=0)
    assert result.distinguishable
    assert result.low < 0.05 < result.high
    assert result.p_value is None
    assert stats.ttest_ind(first, second).pvalue > 0.3


def test_paired_difference_of_outcomes_carries_mcnemar() -> None:
    """For solved or not, the p-value comes from the discordant pairs."""
    first = [1] * 10 + [0] * 10
    second = [1] * 9 + [0] + [1] * 6 + [0] * 4
    result = paired_difference(first, second, seed=0)
    assert result.delta == pytest.approx(5 / 20)
    assert result.p_value == pytest.approx(stats.binomtest(1, 7).pvalue)


def test_equal_outcomes_do_not_claim_certainty() -> None:
    """No discordant pair in n still leaves Wilson's bound of 0 in n on either side."""
    result = paired_difference([1, 0] * 20, [1, 0] * 20, seed=0)
    bound = wilson_interval(0, 40).high
    assert (result.delta, result.low, result.high) == (0.0, -bound, bound)
    assert not result.distinguishable


def test_constant_difference_has_an_interval_of_that_value() -> None:
    """A jackknife without spread falls back to the percentile interval."""
    result = paired_difference([0.0, 1.0, 2.0], [0.5, 1.5, 2.5], seed=0)
    assert (result.low, result.high) == (0.5, 0.5)


def test_unequal_items_are_refused() -> None:
    """A paired comparison of different items is an error that counts them."""
    with pytest.raises(ValueError, match="2 and 3 items"):
        paired_difference([1, 0], [1, 0, 1], seed=0)
