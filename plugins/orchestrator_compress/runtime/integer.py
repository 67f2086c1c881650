"""Compiled kernels: packed codes times activations in 16-bit integers, scaled in float32.

For a row with codes q, scale s and zero point z of each segment, and activations x = t n with integers |n| <= 32767
and a unit t of each token and segment,

    y = sum over segments of s t sum_c (q_c - z) n_c

The inner sum is exact in 32 bits (see `lanes`), so that all that is lost is half a unit of t in x, at most
max|x| / 65534 within its segment: 128 times less than what bfloat16 loses of the largest of them. Multiply-and-add of
pairs is one instruction with AVX2 (pmaddwd) and plain vector operations elsewhere, with the same results.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def, call-arg"
from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import vectors
from .vectors import FLOATS, I32, I64, SHORTS, SUMS, filled, load_vector, multiply_add, pairs, splat, total

LANES = 16
LARGEST = 32767
# How far ahead words are asked for, in bytes: about a row, which hides part of the way to memory (measured: a tenth).
_AHEAD_BYTES = 2048
#: Below this the largest activation of a segment counts as zero: its inverse would not be finite.
SMALLEST = 1e-30


def block_inputs(bits: int) -> int:
    """Return the inputs that fill whole words: lcm(16, bits) / bits steps of 16."""
    return math.lcm(16, bits) // bits * LANES


def places(bits: int, step: int) -> list[tuple[int, int, int, int]]:
    """Return where the code of a step of a block is: (word, shift in it, first bit of the code, number of bits)."""
    if bits == 3:
        if step < 15:
            return [(step // 5, step % 5 * 3, 0, 3)]
        return [(word, 15, word, 1) for word in range(3)]
    return [(step * bits // 16, step * bits % 16, 0, bits)]


@intrinsic(prefer_literal=True)
def _row(context, words, scales, zeros, numbers, sums, units, out, row, token, constants):  # noqa: ARG001
    """Store the outputs of one row for the tokens from `token` on; `constants` are literals: see `_write_row`."""
    del context
    arrays = (words, scales, zeros, numbers, sums, units, out)
    literals = tuple(literal.literal_value for literal in constants)

    def generate(context, builder, _signature, arguments):
        held = [vectors.held(context, builder, *pair) for pair in zip(arrays, arguments[:7], strict=True)]
        _write_row(builder, held, arguments[7], arguments[8], zeros.ndim == 2, *literals)
        return context.get_dummy_value()

    return types.void(*arrays, types.int64, types.int64, constants), generate


def _write_row(builder, held, row, token, asymmetric, tokens, bits, segment, span, native, _source):
    """Write the instructions of one output row; loops over spans are left, everything within one is unrolled."""

    def line(array: int, index: Any) -> Any:
        pointer, sizes = held[array]
        width = sizes[1] if len(sizes) == 2 else builder.mul(sizes[1], sizes[2])
        return builder.gep(pointer, [builder.mul(index, width)])

    def number(value: int) -> Any:
        return ir.Constant(I64, value)

    own = [builder.add(token, number(t)) for t in range(tokens)]
    numbers, sums, units = ([line(array, index) for index in own] for array in (3, 4, 5))
    results = [cgutils.alloca_once_value(builder, ir.Constant(FLOATS, None)) for _ in own]
    per_span, words_per_span = span // segment, span * bits // 16
    with cgutils.for_range(builder, builder.sdiv(held[1][1][1], number(per_span))) as loop:
        first_word, first = (builder.mul(loop.index, number(size)) for size in (words_per_span, span))
        words = [
            load_vector(builder, line(0, row), builder.add(first_word, number(offset)), SHORTS)
            for offset in range(0, words_per_span, LANES)
        ]
        for offset in range(0, words_per_span, 32):  # a line of the cache
            vectors.prefetch(builder, line(0, row), builder.add(first_word, number(offset + _AHEAD_BYTES // 2)))
        for part in range(per_span):
            index = builder.add(builder.mul(loop.index, number(per_span)), number(part))
            place = builder.mul(index, number(LANES // 2))
            # The zero points go first: sums start at -z times those of the activations.
            parts = [load_vector(builder, base, place, SUMS) for base in sums]
            if asymmetric:
                zero = builder.zext(builder.load(builder.gep(line(2, row), [index])), I32)
                parts = [builder.mul(value, splat(builder, zero, SUMS)) for value in parts]
            for step in range(part * segment // LANES, (part + 1) * segment // LANES):
                code = _code(builder, words, bits, step)
                offset = builder.add(first, number(LANES * step))
                for t in range(tokens):
                    activations = load_vector(builder, numbers[t], offset, SHORTS)
                    parts[t] = builder.add(parts[t], pairs(builder, code, activations, native))
            scale = builder.load(builder.gep(held[1][0], [index]))
            for t in range(tokens):
                unit = builder.fmul(scale, builder.load(builder.gep(units[t], [index])))
                multiply_add(builder, builder.sitofp(parts[t], FLOATS), splat(builder, unit, FLOATS), results[t])
    for t in range(tokens):
        builder.store(total(builder, builder.load(results[t])), builder.gep(line(6, own[t]), [row]))


def _code(builder: Any, words: list[Any], bits: int, step: int) -> Any:
    """Return the 16 codes of a step of a span."""
    block, inner = divmod(step, block_inputs(bits) // LANES)
    code = None
    for word, shift, bit, count in places(bits, inner):
        part = words[block * block_inputs(bits) * bits // 16 // LANES + word]
        if shift:
            part = builder.lshr(part, filled(SHORTS, shift))
        if shift + count < 16:
            part = builder.and_(part, filled(SHORTS, (1 << count) - 1))
        if bit:
            part = builder.shl(part, filled(SHORTS, bit))
        code = part if code is None else builder.or_(code, part)
    return code


@cache
def products(bits: int, segment: int, span: int, kind: int, native: bool) -> Callable[..., None]:
    """Return the kernel `(words, scales, zeros, numbers, sums, units, out, start, stop)` over rows start..stop.

    words int16 [R, W], scales [R, S], zeros uint8 [R, S] or [0] where the grid is symmetric, numbers int16 [M, C],
    sums int32 [M, S, 8] and units float32 [M, S] from `rounded`, out float32 [M, R].
    """
    four, two, one = ((tokens, bits, segment, span, native, vectors.SOURCE) for tokens in (4, 2, 1))
    held = (kind, vectors.SOURCE)

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def rows(words, scales, zeros, numbers, sums, units, out, start, stop):
        tokens = numbers.shape[0]
        own = np.empty((1, scales.shape[1]), np.float32)
        for row in range(start, stop):
            for index in range(own.shape[1]):
                own[0, index] = vectors.number(scales, row * scales.shape[1] + index, held)
            token = 0
            # Four tokens share a pass over the row, which stays in the first cache for the next four.
            while token + 4 <= tokens:
                _row(words, own, zeros, numbers, sums, units, out, row, token, four)
                token += 4
            if token + 2 <= tokens:
                _row(words, own, zeros, numbers, sums, units, out, row, token, two)
                token += 2
            if token < tokens:
                _row(words, own, zeros, numbers, sums, units, out, row, token, one)

    return rows


@cache
def decoded(bits: int, segment: int) -> Callable[..., None]:
    """Return the kernel `(words, scales, zeros, out, start, stop)` that stores s (q - z) in out float32 [R, padded].

    words uint16 [R, W], scales and zeros float32 [R, S]; one rounding each for difference and product.
    """
    steps, words_per_block = block_inputs(bits) // LANES, block_inputs(bits) * bits // 16
    per_word, mask = 16 // bits, (1 << bits) - 1

    @numba.njit(nogil=True, cache=True, error_model="numpy")
    def rows(words, scales, zeros, out, start, stop):
        for row in range(start, stop):
            for step in range(out.shape[1] // LANES):
                block, inner = step // steps, step % steps
                own = words[row, block * words_per_block : (block + 1) * words_per_block]
                into = out[row, step * LANES : (step + 1) * LANES]
                index = step * LANES // segment
                scale, zero = scales[row, index], zeros[row, index]
                if bits == 3 and inner == 15:  # the highest bits of three words, see `places`
                    for lane in range(LANES):
                        code = own[lane] >> 15 | own[LANES + lane] >> 15 << 1 | own[2 * LANES + lane] >> 15 << 2
                        into[lane] = (np.float32(code) - zero) * scale
                else:
                    word, shift = inner // per_word * LANES, inner % per_word * bits
                    for lane in range(LANES):
                        into[lane] = (np.float32(own[word + lane] >> shift & mask) - zero) * scale

    return rows


@numba.njit(nogil=True, cache=True, error_model="numpy")
def rounded(values, segment, factor, numbers, sums, units):
    """Round activations float32 [M, C] to integers [M, padded] with units [M, S].

    `sums` [M, S, 8] are those of neighbouring integers of each step, times `factor`. A segment with a value that is
    not finite has the unit NaN, so that all outputs of its token are.
    """
    # Magnitudes are ordered like their bits, infinity and NaN last.
    flags, marks = values.view(np.int32), units.view(np.int32)
    for token in range(values.shape[0]):
        for index in range(units.shape[1]):
            first = min(index * segment, values.shape[1])
            last = min(first + segment, values.shape[1])
            largest = np.int32(0)
            for column in range(first, last):
                largest = max(largest, np.int32(flags[token, column] & 0x7FFFFFFF))
            marks[token, index] = largest
            unit = units[token, index]
            into = numbers[token, index * segment : (index + 1) * segment]
            into[:] = 0
            if largest >= 0x7F800000:
                units[token, index] = np.nan
            elif unit < SMALLEST:
                units[token, index] = 0
            else:
                own, inverse = values[token, first:last], np.float32(LARGEST) / unit
                for place in range(len(own)):
                    into[place] = np.int16(np.rint(own[place] * inverse))
                units[token, index] = unit / np.float32(LARGEST)
            lanes = sums[token, index]
            lanes[:] = 0
            for start in range(0, segment, LANES):
                step = into[start : start + LANES]
                for lane in range(LANES // 2):
                    lanes[lane] += np.int32(factor * (np.int32(step[2 * lane]) + np.int32(step[2 * lane + 1])))
