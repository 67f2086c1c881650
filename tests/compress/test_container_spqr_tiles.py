"""The layout of the public SpQR kernels, read word by word as its description says."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator_compress.bilevel import Bilevel, Levels
from orchestrator_compress.containers.spqr_tiles import from_public_tiles, to_public_tiles
from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.solver import column_solve
from orchestrator_compress.spqr import SpQR
from orchestrator_compress.spqr_weight import SpQRWeight

from .test_container_spqr_files import assert_equal
from .test_container_spqr_files import weight as random_weight


def weight(rows: int = 48, columns: int = 64, **options: Any) -> SpQRWeight:
    return random_weight(3, rows=rows, columns=columns, groups=columns // 16, **options)


def serve(arrays: dict[str, np.ndarray], rows: int, columns: int) -> np.ndarray:
    """Compute what the public format stands for, float32 [R, C] in the order of inputs, with integers of Python."""
    served = np.zeros((rows, columns), dtype=np.float32)
    words = [int(word) & (2**64 - 1) for word in arrays["dense_weights"]]
    for tile in range(rows * columns // 256):
        mine = words[16 * tile : 16 * tile + 16]
        top, left = tile // (columns // 16) * 16, tile % (columns // 16) * 16
        whole = 0
        for row, word in enumerate(mine):
            whole |= (word >> 54) << (8 * (row // 2))
        scale_step, zero_step, scale_origin, zero_origin = struct.unpack("<4e", whole.to_bytes(8, "little"))
        for row, word in enumerate(mine):
            scale = np.float32(scale_step) * (np.float32(word & 7) - np.float32(scale_origin))
            zero = np.float32(zero_step) * (np.float32(word >> 3 & 7) - np.float32(zero_origin))
            for place in range(16):
                code = word >> (6 + 3 * place) & 7
                served[top + row, left + place] = (np.float32(code) - zero) * scale
    for row in range(rows):
        for packed in arrays["col_vals"][arrays["row_offsets"][row] : arrays["row_offsets"][row + 1]]:
            bits = int(packed) & 0xFFFFFFFF
            served[row, bits & 0xFFFF] += np.float32(struct.unpack("<e", (bits >> 16).to_bytes(2, "little"))[0])
    inputs = [half for pair in arrays["in_perm"] for half in (int(pair) & 0xFFFF, int(pair) >> 16 & 0xFFFF)]
    restored = np.empty_like(served)
    restored[:, inputs] = served
    return restored


def test_a_word_by_hand() -> None:
    """Scale code 5, zero code 2, weights 0..7 twice, and the four numbers of the tile in the bytes of its rows."""
    levels = [
        Levels(
            codes=torch.full((16, 1), code, dtype=torch.uint8),
            steps=torch.tensor([[step]], dtype=torch.float16),
            origins=torch.tensor([[origin]], dtype=torch.float16),
        )
        for code, step, origin in ((5, 1.0, -2.0), (2, 0.5, 4.0))
    ]
    codes = torch.arange(16, dtype=torch.uint8).remainder(8).expand(16, 16).contiguous()
    base = weight(16, 16, share=0.0)
    arrays = to_public_tiles(replace(base, codes=codes, scales=levels[0], zeros=levels[1], order=torch.arange(16)))
    row = 5 | 2 << 3 | sum(code << (6 + 3 * place) for place, code in enumerate([*range(8), *range(8)]))
    # 1.0, 0.5, -2.0, 4.0 in float16 are 3C00, 3800, C000, 4400.
    halves = [0x00, 0x3C, 0x00, 0x38, 0x00, 0xC0, 0x00, 0x44]
    assert [int(word) for word in arrays["dense_weights"]] == [row | halves[place // 2] << 54 for place in range(16)]
    assert arrays["in_perm"].tolist() == [low | (low + 1) << 16 for low in range(0, 16, 2)]
    assert arrays["row_offsets"].tolist() == [0] * 17


@pytest.mark.parametrize("shape", [(16, 16), (48, 64), (64, 32)])
def test_the_words_stand_for_the_weight(shape: tuple[int, int]) -> None:
    """A reader of the description computes the very numbers of `dequantize`, and the round trip is exact."""
    held = weight(*shape)
    arrays = to_public_tiles(held)
    assert np.array_equal(serve(arrays, *shape), held.dequantize().numpy())
    assert_equal(from_public_tiles(arrays), held)


def test_four_bits_for_each_weight_and_32_for_an_outlier() -> None:
    held = weight(256, 128)
    arrays = to_public_tiles(held)
    assert 8 * arrays["dense_weights"].nbytes == 4 * 256 * 128
    assert 8 * arrays["col_vals"].nbytes == 32 * held.outliers.count
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "dense_weights": "int64",
        "row_offsets": "int32",
        "col_vals": "int32",
        "in_perm": "int32",
    }


def test_what_the_solver_evaluated_is_what_the_tiles_add_up_to() -> None:
    """Residuals, added, give the solution; whole weights in their place, as the public converter writes, do not."""
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(200, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    rule = SpQR(3, 16, tau=0.1)
    solution = column_solve(torch.randn(48, 64, generator=generator), inputs.T @ inputs, rule, damp=1.0)
    held = rule.result()
    assert held.outliers.count > 10
    arrays = to_public_tiles(held)
    evaluated = solution.quantized.float().numpy()
    assert np.array_equal(serve(arrays, 48, 64), evaluated)
    rows = torch.arange(48).repeat_interleave(held.outliers.offsets.diff().long())
    whole = solution.quantized[rows, held.order[held.outliers.positions.long()]].to(torch.float16).numpy()
    values = whole.view(np.uint16).astype(np.uint32) << np.uint32(16)
    places = arrays["col_vals"].view(np.uint32) & np.uint32(0xFFFF)
    assert np.abs(serve(arrays | {"col_vals": (values | places).view(np.int32)}, 48, 64) - evaluated).max() > 0.1


def test_without_an_order_inputs_are_as_they_stand() -> None:
    held = replace(weight(), order=torch.arange(64))
    arrays = to_public_tiles(held)
    del arrays["in_perm"]
    assert_equal(from_public_tiles(arrays, shape=(48, 64)), held)
    with pytest.raises(CheckpointError, match="only the shape tells"):
        from_public_tiles(arrays)
    with pytest.raises(CheckpointError, match="is said to be 64 x 48"):
        from_public_tiles(arrays, shape=(64, 48))


def test_shapes_and_bits_that_the_layout_cannot_hold_are_refused() -> None:
    for held, text in (
        (random_weight(4, rows=48), "has 4 bits"),
        (random_weight(3, None, rows=48), "bilevel=None"),
        (random_weight(3, Bilevel(scale_bits=4), rows=48), "scale_bits=4"),
        (random_weight(3, Bilevel(rows=8), rows=48), "rows=8"),
        (random_weight(3, rows=48, groups=2), "groups of 32"),
        (weight(40), "40 x 64; the public tiles hold multiples of 16"),
        (weight(16, 32784, share=0.0), "at most 32768 inputs"),
    ):
        with pytest.raises(CheckpointError, match=text):
            to_public_tiles(held)
    widest = weight(16, 32768, share=0.01)
    assert_equal(from_public_tiles(to_public_tiles(widest)), widest)


def test_hostile_arrays_are_refused() -> None:
    arrays = to_public_tiles(weight())
    words, offsets, outliers, order = (arrays[name] for name in ("dense_weights", "row_offsets", "col_vals", "in_perm"))

    def changed(array: np.ndarray, place: int, value: int) -> np.ndarray:
        copy = array.copy()
        copy[place] = value
        return copy

    for change, text in (
        ({"dense_weights": changed(words, 3, int(words[3]) ^ (1 << 62))}, "bits 62..63"),
        ({"dense_weights": changed(words, 3, int(words[3]) ^ (1 << 54))}, "different bytes"),
        ({"dense_weights": words[:-1]}, "191 words and 49 row offsets"),
        ({"dense_weights": words.astype(np.int32)}, "dense_weights is int32"),
        ({"dense_weights": words[:0]}, "48 x 0"),
        ({"row_offsets": offsets[::16].copy()}, "192 words and 4 row offsets.*ptcsr"),
        ({"row_offsets": offsets[:0]}, "192 words and 0 row offsets"),
        ({"row_offsets": changed(offsets, 5, 10**6)}, "offsets of outliers must rise"),
        ({"row_offsets": changed(offsets, 48, 0)}, "offsets of outliers must rise"),
        ({"col_vals": changed(outliers, 0, 64)}, "positions .* of 64"),
        ({"col_vals": changed(outliers, 0, 0xFFFF)}, "positions -1"),
        ({"col_vals": changed(outliers, 0, 0x7C00 << 16)}, "not all finite"),
        ({"col_vals": outliers.astype(np.float32)}, "col_vals is float32"),
        ({"in_perm": order[:-1]}, "31 pairs for 64 inputs"),
        ({"in_perm": changed(order, 0, int(order[1]))}, "no permutation"),
        ({"in_perm": changed(order, 0, -1)}, "no permutation"),
        ({"in_perm": order[None]}, "in_perm is int32"),
        ({"bits": order}, "bits is no array"),
    ):
        with pytest.raises(CheckpointError, match=text):
            from_public_tiles(arrays | change)
    with pytest.raises(CheckpointError, match="col_vals is missing"):
        from_public_tiles({name: array for name, array in arrays.items() if name != "col_vals"})


def test_turned_bits_never_crash() -> None:
    """A CheckpointError, or a weight that is written back as what was read."""
    arrays = to_public_tiles(weight())
    random = np.random.default_rng(3)
    refused = 0
    for name in sorted(arrays):
        for _ in range(60):
            hostile = {key: array.copy() for key, array in arrays.items()}
            flat = hostile[name].view(np.uint8)
            flat[random.integers(len(flat))] ^= np.uint8(1 << random.integers(8))
            try:
                again = to_public_tiles(from_public_tiles(hostile))
            except CheckpointError:
                refused += 1
                continue
            assert all(np.array_equal(again[key], hostile[key]) for key in hostile)
    assert refused > 100
