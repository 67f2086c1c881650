"""Perplexities of the same documents and their ratios: closed values, intervals that another bootstrap gives, and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator_compress.latency import median_interval
from orchestrator_compress.paired import perplexity, perplexity_ratio, rate
from orchestrator_evaluate.bootstrap import bca_interval


def scores(documents: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(50, 2000, documents)
    return generator.normal(3.0, 0.6, documents) * tokens, tokens


def test_values_are_those_of_the_whole_text() -> None:
    """Exp of all losses over all tokens, never a mean of documents; a ratio is the quotient of two of them."""
    losses, tokens = scores(40, 0)
    others = losses + 0.01 * tokens
    assert perplexity(losses, tokens).value == pytest.approx(math.exp(losses.sum() / tokens.sum()))
    ratio = perplexity_ratio(others, losses, tokens)
    assert ratio.value == pytest.approx(perplexity(others, tokens).value / perplexity(losses, tokens).value)
    assert (ratio.low, ratio.high) == (pytest.approx(ratio.value), pytest.approx(ratio.value))


@pytest.mark.parametrize("documents", [3, 17, 60])
def test_intervals_are_those_of_the_evaluation(documents: int) -> None:
    """The report shows one interval for one model: this one and that of evaluate.perplexity, computed apart, agree."""
    losses, tokens = scores(documents, documents)
    ours = rate(losses, tokens)
    theirs = bca_interval(lambda places: losses[places].sum(1) / tokens[places].sum(1), documents, seed=0)
    assert (ours.low, ours.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_pairs_tell_apart_what_two_intervals_do_not() -> None:
    """A difference of 1 % on every document is certain, though documents vary by half."""
    losses, tokens = scores(50, 3)
    noise = np.random.default_rng(4).normal(0.01, 0.005, 50) * tokens
    one, other = perplexity(losses, tokens), perplexity(losses + noise, tokens)
    assert other.low is not None
    assert one.high is not None
    assert other.low < one.high
    ratio = perplexity_ratio(losses + noise, losses, tokens)
    assert ratio.low is not None
    assert ratio.low > 1.0


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Of 200 drawn corpora with a known ratio, about 95 % have it in their interval."""
    held = 0
    for seed in range(200):
        generator = np.random.default_rng(1000 + seed)
        tokens = generator.integers(50, 400, 40)
        difference = generator.normal(0.02, 0.05, 40) * tokens
        ratio = perplexity_ratio(difference, np.zeros(40), tokens, seed=seed)
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low <= math.exp(0.02) <= ratio.high
    assert 178 <= held <= 198


def test_one_document_has_no_interval_and_nonsense_is_refused() -> None:
    assert perplexity([300.0], [100]).low is None
    for losses, tokens in (([], []), ([1.0, 2.0], [1]), ([1.0], [0])):
        with pytest.raises(ValueError, match="a document"):
            rate(losses, tokens)


def test_a_median_lies_between_its_order_statistics() -> None:
    """Symmetric ranks; for 100 values the 40th and the 60th (binomial: 96.5 %), for 3 the extremes."""
    found = median_interval([float(one) for one in range(100, 0, -1)])
    assert (found.value, found.low, found.high) == (50.5, 41.0, 60.0)
    assert median_interval([3.0, 1.0, 2.0]).low == 1.0
    assert median_interval([3.0, 1.0, 2.0]).high == 3.0
