"""Second moments by panels above the diagonal, against the whole product in float64."""

from __future__ import annotations

import pytest
import torch

from orchestrator_compress import moments as module
from orchestrator_compress.moments import Moments


def batches(columns: int, sizes: list[int], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(columns)
    return [torch.randn((2, size, columns), generator=generator).to(dtype) for size in sizes]


@pytest.mark.parametrize("columns", [1, 24, 255, 256, 257, 600])
def test_panels_are_the_whole_product(columns: int) -> None:
    """Whatever the width, every element is that of X^T X / N, and H is exactly symmetric."""
    inputs = batches(columns, [40, 3, 100])
    collected = Moments(columns)
    for batch in inputs:
        collected.add(batch)
    rows = torch.cat([batch.reshape(-1, columns) for batch in inputs]).double()
    assert collected.tokens == len(rows) == 286
    hessian = collected.hessian()
    torch.testing.assert_close(hessian, rows.T @ rows / len(rows), rtol=0, atol=2e-6)
    assert torch.equal(hessian, hessian.T)


def test_sums_beyond_a_span_are_kept_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand small batches after a large one still count, which they would not in float32."""
    large, small = torch.full((1, 8), 4096.0), torch.full((1, 8), 1.0)
    expected = (4096.0**2 + 1000) / 1001
    for span, exact in ((1, True), (10**9, False)):
        monkeypatch.setattr(module, "_SPAN", span)
        collected = Moments(8)
        collected.add(large)
        for _ in range(1000):
            collected.add(small)
        found = float(collected.hessian()[3, 5])
        assert (found == pytest.approx(expected, rel=1e-12)) == exact


def test_how_tokens_are_batched_only_rounds() -> None:
    """Batches of one sequence and of all give the same H to the rounding of float32."""
    (batch,) = batches(300, [50])
    whole, parts = Moments(300), Moments(300)
    whole.add(batch)
    for row in batch:
        parts.add(row)
    torch.testing.assert_close(whole.hessian(), parts.hessian(), rtol=0, atol=2e-6)


def test_reading_does_not_end_collecting() -> None:
    """H may be read between batches."""
    first, second = batches(32, [10, 20])
    collected, once = Moments(32), Moments(32)
    collected.add(first)
    early = collected.hessian()
    collected.add(second)
    once.add(first)
    torch.testing.assert_close(early, once.hessian(), rtol=0, atol=0)
    once.add(second)
    torch.testing.assert_close(collected.hessian(), once.hessian(), rtol=0, atol=1e-6)


def test_halves_are_widened_before_they_are_squared() -> None:
    """300^2 overflows float16."""
    collected = Moments(4)
    collected.add(torch.full((5, 4), 300.0, dtype=torch.float16))
    torch.testing.assert_close(collected.hessian(), torch.full((4, 4), 9e4, dtype=torch.float64))


def test_no_tokens() -> None:
    assert torch.equal(Moments(3).hessian(), torch.zeros((3, 3), dtype=torch.float64))
