"""Packed lanes against their description, and the compiled kernels against sums written out in integers and float64."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator_compress.grid import Grid, QuantizedWeight, round_to_nearest
from orchestrator_compress.runtime import integer, sparse_rows, threads, vectors
from orchestrator_compress.runtime.lanes import Lanes, lanes_for

# Inputs that fill whole words, as the module's description says.
BLOCKS = {2: 128, 3: 256, 4: 64, 8: 32}


def read_code(words: np.ndarray, bits: int, column: int) -> int:
    """Read one code of a row of 16-bit words, from the description of the layout."""
    block, place = divmod(column, BLOCKS[bits])
    step, lane = divmod(place, 16)
    own = words[block * BLOCKS[bits] * bits // 16 :].astype(np.int64)
    if bits == 3:
        if step == 15:
            return sum((int(own[16 * word + lane]) >> 15 & 1) << word for word in range(3))
        return int(own[step // 5 * 16 + lane]) >> step % 5 * 3 & 7
    per_word = 16 // bits
    return int(own[step // per_word * 16 + lane]) >> step % per_word * bits & (2**bits - 1)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([2, 3, 4, 8]), st.sampled_from([16, 32, 48, 64, 128]), st.integers(1, 5), st.integers(0, 99))
def test_every_code_is_where_the_layout_says(bits: int, segment: int, segments: int, seed: int) -> None:
    columns = segment * segments
    generator = torch.Generator().manual_seed(seed)
    weight = round_to_nearest(torch.randn((3, columns), generator=generator), Grid(bits=bits, group_size=segment))
    lanes = lanes_for(weight)
    if isinstance(lanes, str):
        assert bits == 3
        assert np.lcm(16, 256) < np.lcm(segment, 256)
        return
    words = lanes.pack(weight.codes)
    assert words.shape == (3, lanes.padded * bits // 16)
    assert lanes.padded % BLOCKS[bits] == 0
    assert 0 <= lanes.padded - columns < lanes.span
    unsigned = words.numpy().view(np.uint16)
    for row, column in ((0, 0), (1, columns // 2), (2, columns - 1)):
        assert read_code(unsigned[row], bits, column) == int(weight.codes[row, column])
    assert torch.equal(lanes.unpack(words), weight.codes)


def test_groups_that_lanes_cannot_hold_are_named() -> None:
    weight = round_to_nearest(torch.randn(4, 40), Grid(bits=4, group_size=20))
    assert lanes_for(weight) == "groups of 20 inputs do not consist of runs of 16"
    uneven = QuantizedWeight(
        grid=Grid(bits=4, group_size=16),
        codes=torch.zeros((2, 32), dtype=torch.uint8),
        scales=torch.ones((2, 2), dtype=torch.float16),
        zeros=None,
        groups=torch.tensor([0] * 17 + [1] * 15, dtype=torch.int32),
    )
    assert lanes_for(uneven) == "groups of inputs are of different sizes"


def rounded(values: torch.Tensor, lanes: Lanes, factor: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    numbers = np.empty((len(values), lanes.padded), np.int16)
    sums = np.empty((len(values), lanes.segments, 8), np.int32)
    units = np.empty((len(values), lanes.segments), np.float32)
    integer.rounded(values.numpy(), lanes.segment, factor, numbers, sums, units)
    return numbers, sums, units


def test_activations_are_rounded_within_half_a_unit_of_their_segment() -> None:
    """Also where one input is 1000 times the others, where all are zero or tiny, and in what pads the row."""
    values = torch.randn((5, 160), generator=torch.Generator().manual_seed(5))
    values[1, 3] = 1000
    values[2, :32] = 0
    values[3] *= 1e-36
    values[4] *= 3e34
    lanes = Lanes(bits=4, columns=160, segment=32, span=64)
    numbers, sums, units = rounded(values, lanes, -8)
    assert numbers.shape == (5, 192)
    assert not numbers[:, 160:].any()
    restored = numbers.reshape(5, 6, 32).astype(np.float64) * units[:, :, None]
    error = np.abs(restored.reshape(5, 192)[:, :160] - values.double().numpy())
    largest = np.abs(values.double().numpy()).reshape(5, 5, 32).max(2).repeat(32, 1)
    assert (error <= np.where(largest < 1e-30, 1e-30, largest / 65534 * 1.01)).all()
    pairs = numbers.reshape(5, 6, 2, 8, 2).astype(np.int64).sum(axis=(2, 4))
    assert np.array_equal(sums, -8 * pairs)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("bits", "symmetric"), [(8, False), (3, True)])
def test_products_are_the_integer_sums(bits: int, symmetric: bool, native: bool) -> None:
    """With the largest codes and activations of either sign, through every number of tokens at once."""
    if native and not vectors.native_pairs():
        pytest.skip("this processor has no AVX2")
    rows, columns, tokens = 5, 512, 7
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (rows, columns), generator=generator).to(torch.uint8)
    codes[0], codes[1] = 0, 2**bits - 1
    zeros = None if symmetric else torch.tensor([[255, 0]] * rows, dtype=torch.uint8)
    scales = torch.rand((rows, 2), generator=generator)
    grid = Grid(bits=bits, group_size=256, symmetric=symmetric, scale_dtype="float32")
    weight = QuantizedWeight(grid=grid, codes=codes, scales=scales, zeros=zeros)
    lanes = lanes_for(weight)
    assert isinstance(lanes, Lanes)
    values = torch.randn((tokens, columns), generator=generator)
    values[0] = 1
    values[1] = -1
    numbers, sums, units = rounded(values, lanes, -grid.middle if symmetric else -1)
    words, none = lanes.pack(codes).numpy(), np.empty(0, np.uint8)
    held = (words, scales.numpy(), none if zeros is None else zeros.numpy())

    def run(at: slice, with_pmaddwd: bool) -> np.ndarray:
        kernel = integer.products(bits, lanes.segment, lanes.span, vectors.FLOAT32, with_pmaddwd)
        out = np.empty((len(numbers[at]), rows), np.float32)
        kernel(*held, numbers[at], sums[at], units[at], out, 0, rows)
        return out

    out = run(slice(tokens), native)
    zero = grid.middle if zeros is None else zeros.numpy()[:, :, None]
    centred = codes.numpy().astype(np.int64).reshape(rows, 2, 256) - zero
    wide = numbers.astype(np.int64).reshape(tokens, 2, 256)
    scale = scales.numpy().astype(np.float64) * units.astype(np.float64)[:, None, :]
    exact = (np.einsum("rsc,tsc->trs", centred, wide) * scale).sum(2)
    # Integer sums lose nothing but their conversion to float32 and the sum of 16 of them.
    size = (np.einsum("rsc,tsc->trs", np.abs(centred), np.abs(wide)) * scale).sum(2)
    assert (np.abs(out - exact) <= size * 8 * 2.0**-24).all()
    for token in range(tokens):
        assert np.array_equal(run(slice(token, token + 1), native)[0], out[token])
    if native:
        assert np.array_equal(run(slice(tokens), False), out)


def test_a_value_that_is_not_finite_spoils_its_token_alone() -> None:
    lanes = Lanes(bits=4, columns=64, segment=32, span=64)
    values = torch.ones((4, 64))
    values[1, 5], values[2, 40], values[3, 63] = torch.nan, torch.inf, -torch.inf
    _, _, units = rounded(values, lanes, -8)
    assert np.isnan(units).any(1).tolist() == [False, True, True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_sparse_rows_are_the_sums_of_their_entries(dtype: torch.dtype) -> None:
    """One token and eight, with rows that are empty, against float64 sums of the same entries."""
    generator = torch.Generator().manual_seed(1)
    dense = torch.randn((9, 70), generator=generator) * (torch.rand((9, 70), generator=generator) < 0.2)
    dense[4] = 0
    dense = dense.to(dtype)
    rows, columns = dense.nonzero(as_tuple=True)
    offsets = np.searchsorted(rows.numpy(), np.arange(10)).astype(np.int64)
    values = dense[rows, columns]
    held = values.numpy() if dtype == torch.float32 else values.view(torch.int16).numpy()
    kind = {torch.float32: vectors.FLOAT32, torch.float16: vectors.FLOAT16, torch.bfloat16: vectors.BFLOAT16}[dtype]
    one, eight = sparse_rows.products(kind)
    inputs = torch.randn((8, 70), generator=generator)
    exact = (inputs.double() @ dense.double().T).numpy()
    bound = (inputs.double().abs() @ dense.double().abs().T).numpy() * 70 * 2.0**-24
    unsigned = columns.numpy().astype(np.uint16)
    out, turned = np.empty(9, np.float32), np.empty((9, 8), np.float32)
    one(offsets, unsigned, held, inputs[0].numpy(), out, 0, 9)
    eight(offsets, unsigned, held, inputs.T.contiguous().numpy(), turned, 0, 9)
    assert (np.abs(out - exact[0]) <= bound[0]).all()
    assert (np.abs(turned.T - exact) <= bound).all()
    assert out[4] == 0


@pytest.fixture(params=["team", "pool"])
def many_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three threads, of torch's own team and of the pool that stands in where there is none."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    patience = threads.Patience()
    patience.stall_s = math.inf  # whatever else this machine does meanwhile
    monkeypatch.setattr(threads, "_patience", patience)
    if request.param == "pool":
        monkeypatch.setattr(threads, "_team", lambda: None)
    elif threads._team() is None:
        pytest.skip("this torch brings no GNU OpenMP")


@pytest.mark.usefixtures("many_threads")
def test_rows_are_split_among_threads_without_gaps() -> None:
    """Every row once, also where there are fewer rows than ranges, and in one range where the work is small."""
    for rows in (100, 5):
        found: list[tuple[int, int]] = []
        threads.over_rows(lambda start, stop, found=found: found.append((start, stop)), (), rows, 1 << 30)
        found.sort()
        assert len(found) == min(rows, 12)
        assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
        assert found[-1][1] == rows
    found.clear()
    threads.over_rows(lambda start, stop: found.append((start, stop)), (), 100, 1000)
    assert found == [(0, 100)]


@pytest.mark.usefixtures("many_threads")
def test_threads_run_at_once() -> None:
    """Three ranges meet at a barrier that one thread alone would never pass."""
    barrier = threading.Barrier(3, timeout=30)
    met: set[int] = set()

    def meet(start: int, stop: int) -> None:
        if len(met) < 3:
            barrier.wait()
            met.add(threading.get_ident())

    threads.over_rows(meet, (), 3, 1 << 30)
    assert len(met) == 3


@pytest.mark.usefixtures("many_threads")
def test_an_error_of_any_thread_is_raised() -> None:
    def fail(start: int, stop: int) -> None:
        if stop == 120:
            raise RuntimeError(f"row {start}")

    with pytest.raises(RuntimeError, match="row 110"):
        threads.over_rows(fail, (), 120, 1 << 30)


def test_who_waited_for_others_computes_alone_for_longer_and_longer() -> None:
    patience = threads.Patience()

    def calls_alone() -> int:
        count = 0
        while patience.alone():
            count += 1
        return count

    patience.waited(own_s=0.0004, wait_s=0.0009)  # as long as waking a thread may take
    patience.waited(own_s=0.5, wait_s=0.4)  # uneven, but the others did help
    assert calls_alone() == 0
    lengths = []
    for _ in range(10):
        patience.waited(own_s=0.0004, wait_s=0.015)
        lengths.append(calls_alone() + 1)
    assert lengths == [32, 64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096]
    patience.waited(own_s=0.0004, wait_s=0.0001)
    patience.waited(own_s=0.0004, wait_s=0.015)
    assert calls_alone() + 1 == 32
