"""Second moments of bfloat16 inputs by the processor's own products, against float64 and against widened inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator_compress import moments as module
from orchestrator_compress.moment_kernel import MomentKernel, moment_kernel
from orchestrator_compress.moments import Moments

HEIGHT = 32


@pytest.fixture
def kernel() -> MomentKernel:
    found = moment_kernel()
    if found is None:
        pytest.skip("the processor lacks AVX512-BF16, the instruction of this kernel")
    return found


def inputs(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn((rows, columns), generator=generator).mul_(3).bfloat16()


def empty(columns: int, height: int = HEIGHT) -> list[Tensor]:
    return [torch.zeros(min(height, columns - start), columns - start) for start in range(0, columns, height)]


def whole(panels: list[Tensor], columns: int, height: int = HEIGHT) -> Tensor:
    """Return the upper half of the sum, with zeros below."""
    found = torch.zeros(columns, columns)
    for start, panel in zip(range(0, columns, height), panels, strict=True):
        found[start : start + len(panel), start:] = panel
    return found.triu()


@pytest.mark.parametrize("columns", [16, 32, 48, 80, 272, 1008])
@pytest.mark.parametrize("rows", [1, 2, 7, 255, 256, 258, 1030])
def test_sums_are_those_of_float64(kernel: MomentKernel, rows: int, columns: int) -> None:
    """Every width of the last tile, depths that end anywhere, odd numbers of rows; added to what was there."""
    x = inputs(rows, columns)
    panels = empty(columns)
    kernel.add(x, panels, HEIGHT)
    kernel.add(x[: rows // 2], panels, HEIGHT)
    wide = x.double()
    expected = (wide.T @ wide + wide[: rows // 2].T @ wide[: rows // 2]).triu()
    torch.testing.assert_close(whole(panels, columns).double(), expected, rtol=0, atol=2e-6 * float(expected.max()))


def test_products_are_exact(kernel: MomentKernel) -> None:
    """Products of whole numbers of 8 bits and their sums below 2^24 come out to the last bit."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-128, 129, (512, 96), generator=generator)
    panels = empty(96)
    kernel.add(x.bfloat16(), panels, HEIGHT)
    assert torch.equal(whole(panels, 96), (x.T @ x).triu().float())


def test_threads_change_no_bit(kernel: MomentKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each panel is the work of one thread."""
    x = inputs(600, 512)
    found = []
    for count in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        panels = empty(512)
        kernel.add(x, panels, HEIGHT)
        found.append(whole(panels, 512))
    assert torch.equal(*found)


def test_rows_may_lie_anywhere(kernel: MomentKernel) -> None:
    """Every second row, and columns of a wider tensor."""
    x = inputs(128, 96)
    expected, apart = empty(48), empty(48)
    kernel.add(x[::2, 16:64].clone(), expected, HEIGHT)
    kernel.add(x[::2, 16:64], apart, HEIGHT)
    assert torch.equal(whole(expected, 48), whole(apart, 48))


def test_what_is_not_finite_shows(kernel: MomentKernel) -> None:
    """NaN and overflow reach their rows and columns, and no others."""
    x = inputs(64, 64)
    x[3, 5], x[9, 40] = float("nan"), float("inf")
    panels = empty(64)
    kernel.add(x, panels, HEIGHT)
    bad = ~whole(panels, 64).isfinite()
    expected = torch.zeros(64, 64, dtype=torch.bool)
    for column in (5, 40):
        expected[column] = expected[:, column] = True
    assert torch.equal(bad, expected.triu())


@pytest.mark.parametrize("columns", [40, 256, 272, 600])
def test_moments_are_those_of_widened_inputs(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel, without it, and where the width is none of its widths: H differs by the rounding of float32."""
    x = inputs(500, columns)
    found = []
    for batches in (x.float().split(100), x.split(100)):
        collected = Moments(columns)
        for batch in batches:
            collected.add(batch)
        found.append(collected.hessian())
    monkeypatch.setattr(module, "moment_kernel", lambda: None)
    without = Moments(columns)
    for batch in x.split(100):
        without.add(batch)
    assert torch.equal(without.hessian(), found[0])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5)
    assert torch.equal(found[1], found[1].T)


def test_what_does_not_fit_is_refused_before_memory_is_touched(kernel: MomentKernel) -> None:
    """Widths, types, places and shapes; the machine code itself looks at none of them."""
    x = inputs(8, 32)
    for rows, panels in (
        (x, empty(64)),
        (x, empty(16)),
        (x.float(), empty(32)),
        (x[:, :0], []),
        (x[:, :24], empty(32)),
        (x.to("meta"), empty(32)),
        (x, [panel.double() for panel in empty(32)]),
        (x, [torch.zeros(32, 32).T[:, ::1].T.expand(32, 32)[:, :31]]),
        (x, [panel.to("meta") for panel in empty(32)]),
    ):
        with pytest.raises(ValueError, match=r"inputs of|columns"):
            kernel.add(rows, panels, HEIGHT)
    with pytest.raises(ValueError, match="inputs of 32 columns for moments of 16"):
        Moments(16).add(x)


def test_a_default_device_is_not_taken_for_the_inputs(kernel: MomentKernel) -> None:
    """Memory of its own lies where the inputs are."""
    x, panels = inputs(8, 32), empty(32)
    with torch.device("meta"):
        kernel.add(x, panels, HEIGHT)
    wide = x.double()
    torch.testing.assert_close(whole(panels, 32).double(), (wide.T @ wide).triu(), rtol=1e-6, atol=1e-4)


def test_moments_elsewhere_are_summed_as_before() -> None:
    """Sums on another device than the inputs are torch's own error, not ours to touch."""
    with pytest.raises(RuntimeError, match="device"):
        Moments(32, torch.device("meta")).add(inputs(8, 32))


def test_a_lower_target_of_numba_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for results of any processor gets them."""
    monkeypatch.setattr("numba.config.CPU_NAME", "generic")
    assert moment_kernel.__wrapped__() is None
