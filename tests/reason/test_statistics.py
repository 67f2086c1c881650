"""Intervals, pass@k and random numbers by counter."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from orchestrator_reason.drawing import stream, uniforms
from orchestrator_reason.statistics import mean_pass_at_k, pass_at_k, wilson


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (3, 10), (10, 10), (256, 512), (1, 3)])
def test_wilson_agrees_with_scipy(successes: int, total: int) -> None:
    """The interval is scipy's Wilson interval."""
    expected = binomtest(successes, total).proportion_ci(0.95, method="wilson")

    assert wilson(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_observations_says_nothing() -> None:
    """No observation gives the whole range; an impossible count is refused."""
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 of 4"):
        wilson(5, 4)


def test_pass_at_k_equals_enumeration() -> None:
    """The closed formula is the share of k-subsets that hold a correct sample."""
    for samples in range(1, 8):
        for correct in range(samples + 1):
            for k in range(1, samples + 1):
                subsets = list(combinations(range(samples), k))
                share = sum(any(index < correct for index in subset) for subset in subsets) / len(subsets)
                assert pass_at_k(samples, correct, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_published_anchor_and_mean() -> None:
    """N = 10, c = 3: 0.3, 0.533333, 0.916667, 1.0 at k = 1, 2, 5, 8; pass@1 is the mean."""
    values = [pass_at_k(10, 3, k) for k in (1, 2, 5, 8)]

    assert values == pytest.approx([0.3, 0.533333, 0.916667, 1.0], abs=1e-6)
    assert mean_pass_at_k([0, 2, 4], 4, 1) == pytest.approx(0.5)


def test_uniforms_follow_the_published_generator() -> None:
    """The first three outputs of SplitMix64 from state 0 are the reference vector of its authors."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    drawn = [uniforms(np.array([0], dtype=np.uint64), position)[0] for position in range(3)]

    assert drawn == [(value >> 11) * 2.0**-53 for value in expected]


def test_uniforms_do_not_depend_on_the_batch() -> None:
    """A stream's numbers are the same alone, in company and in any order; streams differ from one another."""
    streams = np.array([stream("row", index) for index in range(2000)], dtype=np.uint64)
    together = uniforms(streams, 5)

    assert np.array_equal(uniforms(streams[::-1], 5)[::-1], together)
    assert uniforms(streams[7:8], 5)[0] == together[7]
    assert kstest(together, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(together, uniforms(streams, 6))[0, 1]) < 0.1


def test_stream_names_do_not_run_together() -> None:
    """Numbers and texts, and pieces and their concatenation, name different streams."""
    assert len({stream("a", 1), stream("a1"), stream("a", "1"), stream("a", 11), stream("a", 1, 1)}) == 5
