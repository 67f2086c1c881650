"""Codes in the order in which the compiled kernels read them: 16 lanes of 16-bit words, as many bits as in the file.

Legend: R outputs, C inputs, b bits a code. A *step* is 16 consecutive inputs, one per lane; a *word* of a lane holds
the codes of 16 / b steps, least significant bits first. Three bits do not divide a word: three words hold 16 steps,
five in the low 15 bits of each, and the last step takes the highest bit of each word. A *block* is the least number
of inputs that fill whole words: 128, 256, 64 and 32 at 2, 3, 4 and 8 bits.

A *segment* is a run of inputs with one scale, within which products are summed as integers; a *span* is what the
kernels unroll, the least number of inputs that are whole segments and whole blocks. Rows are padded to whole spans
with codes of zero, which meet inputs of zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..grid import QuantizedWeight
from .integer import LANES, block_inputs, places

#: Inputs whose integer products a lane can sum for certain: 256 / 16 steps of 2 x 255 x 32767 stay below 2^31.
LONGEST_SEGMENT = 256
_LONGEST_SPAN = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Lanes:
    """Describe how rows of `columns` codes of `bits` bits are laid out."""

    bits: int
    columns: int
    segment: int
    span: int

    @property
    def padded(self) -> int:
        """Return the inputs per row with padding."""
        return -(-self.columns // self.span) * self.span

    @property
    def segments(self) -> int:
        """Return the segments per row with padding."""
        return self.padded // self.segment

    @property
    def words(self) -> int:
        """Return the 16-bit words per row."""
        return self.padded * self.bits // 16

    def pack(self, codes: Tensor) -> Tensor:
        """Return codes uint8 [R, C] as int16 [R, words]."""
        rows = len(codes)
        padded = np.zeros((rows, self.padded), dtype=np.uint8)
        padded[:, : self.columns] = codes.cpu().numpy()
        steps = padded.reshape((rows, -1, block_inputs(self.bits) // LANES, LANES))
        words = np.zeros((rows, steps.shape[1], self.bits * steps.shape[2] // 16, LANES), dtype=np.uint16)
        for step in range(steps.shape[2]):
            for word, shift, bit, count in places(self.bits, step):
                part = (steps[:, :, step] >> bit) & ((1 << count) - 1)
                words[:, :, word] |= part.astype(np.uint16) << np.uint16(shift)
        return torch.from_numpy(words.reshape(rows, self.words).view(np.int16))

    def unpack(self, words: Tensor) -> Tensor:
        """Return the codes uint8 [R, C] of packed int16 [R, words], on their device."""
        rows, number = len(words), block_inputs(self.bits) // LANES
        # Words are signed in torch: masked after every shift.
        split = words.to(torch.int32).view(rows, -1, number * self.bits // 16, LANES)
        steps = torch.zeros((rows, split.shape[1], number, LANES), dtype=torch.int32, device=words.device)
        for step in range(number):
            for word, shift, bit, count in places(self.bits, step):
                steps[:, :, step] |= ((split[:, :, word] >> shift) & ((1 << count) - 1)) << bit
        return steps.view(rows, self.padded)[:, : self.columns].to(torch.uint8)


def lanes_for(weight: QuantizedWeight) -> Lanes | str:
    """Return the layout of a weight with the least padding, or why there is none."""
    columns = weight.shape[1]
    number = weight.scales.shape[1]
    if columns % number:
        return f"{number} groups do not divide {columns} inputs"
    group = columns // number
    if weight.groups is not None and bool((torch.bincount(weight.groups.long(), minlength=number) != group).any()):
        return "groups of inputs are of different sizes"
    bits, found = weight.grid.bits, []
    for segment in range(LANES, min(group, LONGEST_SEGMENT) + 1, LANES):
        span = math.lcm(segment, block_inputs(bits))
        if group % segment == 0 and span <= _LONGEST_SPAN:
            lanes = Lanes(bits=bits, columns=columns, segment=segment, span=span)
            found.append((lanes.padded, -segment, lanes))
    if not found:
        return f"groups of {group} inputs do not consist of runs of {LANES}"
    return min(found, key=lambda entry: entry[:2])[2]
