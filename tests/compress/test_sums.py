"""Sums over shards: the association is fixed, so that the bits are."""

from __future__ import annotations

import pytest
import torch

from orchestrator_compress.moments import Moments
from orchestrator_compress.sums import Alone


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn((1500, 40), generator=generator) for _ in range(count)]


def test_shards_are_added_in_order() -> None:
    """Within a shard first, then shard by shard: the very sums of adding up each shard's own moments."""
    sums = Alone().sums(40, 3)
    parts = [Moments(40) for _ in range(3)]
    for number, batch in enumerate(batches(9)):
        sums.add(number // 3, batch)
        parts[number // 3].add(batch)
    total = Moments(40)
    for part in parts:
        total.merge(part)
    found = sums.total()
    assert found.tokens == total.tokens == 9 * 1500
    assert torch.equal(found.hessian(), total.hessian())
    exact = torch.cat(batches(9)).double()
    torch.testing.assert_close(found.hessian(), exact.T @ exact / len(exact), rtol=0, atol=1e-6)


def test_a_single_span_is_summed_as_a_settled_one_is() -> None:
    """What was never moved to float64 adds what it adds after it was."""
    first, second = batches(2)
    unsettled, settled, one, other = (Moments(40) for _ in range(4))
    for part in (unsettled, settled):
        part.add(second)
    settled.panels()
    for total, part in ((one, unsettled), (other, settled)):
        total.add(first)
        total.merge(part)
    assert torch.equal(one.hessian(), other.hessian())


def test_shards_do_not_come_back() -> None:
    sums = Alone().sums(40, 2)
    sums.add(1, torch.ones((2, 40)))
    with pytest.raises(ValueError, match="shard 0 come after those of shard 1"):
        sums.add(0, torch.ones((2, 40)))


def test_nothing_reached_it() -> None:
    assert Alone().sums(40, 2).total().tokens == 0
