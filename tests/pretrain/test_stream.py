"""Which tokens a step sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_pretrain.stream import Windows, fixed_windows, my_share


@given(st.integers(5, 400), st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_an_epoch_uses_every_target_once(length, context, seed):
    """Over an epoch no target position comes twice, and those left out are fewer than two windows at the ends."""
    tokens = np.arange(length, dtype=np.uint16)
    windows = Windows(tokens=tokens, context=context, seed=seed)

    targets = windows.read(windows.starts(0, windows.count))[:, 1:].ravel()

    assert len(set(targets.tolist())) == len(targets)
    assert sorted(targets) == list(range(min(targets), max(targets) + 1))
    assert length - len(targets) <= 2 * context + 1


@given(st.integers(1, 7), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_the_stream_does_not_depend_on_the_batch(batch, steps):
    """Steps of any batch size read the same samples in the same order, over several epochs."""
    windows = Windows(tokens=np.arange(60, dtype=np.uint16), context=5, seed=3)

    in_steps = np.concatenate([windows.starts(step, batch) for step in range(steps)])

    assert in_steps.tolist() == windows.starts(0, batch * steps).tolist()


def test_epochs_and_seeds_differ():
    """Each epoch has its own order, and another seed another one."""
    windows = Windows(tokens=np.arange(1001), context=10, seed=0)
    other = Windows(tokens=np.arange(1001), context=10, seed=1)

    epochs = windows.starts(0, 2 * windows.count).reshape(2, -1)

    assert epochs[0].tolist() != epochs[1].tolist()
    assert epochs[0].tolist() != other.starts(0, windows.count).tolist()


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_cover_the_items(count, size):
    """The shares of all ranks, in order, are the items, and differ by at most one."""
    shares = [my_share(np.arange(count), rank, size) for rank in range(size)]

    assert np.concatenate(shares).tolist() == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_held_out_windows_are_spread_and_bounded():
    """At most the limit, from the first window to the last; a short stream gives one short window."""
    windows = fixed_windows(np.arange(1000, dtype=np.uint16), 10, 7)

    assert windows.shape == (7, 11)
    assert (windows[0, 0], windows[-1, 0]) == (0, 980)
    assert fixed_windows(np.arange(5), 10, 7).tolist() == [[0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match="1 tokens"):
        fixed_windows(np.arange(1), 10, 7)


def test_too_little_text_is_refused():
    """A split shorter than a window says what to change."""
    with pytest.raises(ValueError, match="10 tokens, fewer than one window of 10"):
        Windows(tokens=np.arange(10), context=10, seed=0)
