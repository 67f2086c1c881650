"""The checkpoint format "spqr": SpQR layers of 2 to 8 bits with outliers as residuals, so that evaluated is served.

For a layer P with codes [R, C] in solve order and G groups in a row (`SpQRWeight.packed`):

    P.weight_codes                                int32 [R, ceil(C b / 32)], a stream for each row
    P.weight_scale_codes, P.weight_zero_codes     int32 [R, ceil(G b_s / 32)], the same for statistics
    P.weight_scale_steps, _origins, P.weight_zero_steps, _origins    float16 [T, G], of tiles of `rows` outputs
    P.weight_scales, P.weight_zeros               float32 [R, G], in place of those without a second level
    P.weight_outlier_offsets, _positions, _residuals    int32 [R + 1], int16 or int32 [n], float16 [n]
    P.weight_order                                int32 [C], the input that each position of the codes multiplies

This is not the layout of the public SpQR kernels (`spqr_tiles` writes and reads that one). Theirs holds 3 bits in
tiles of 16 x 16 and nothing else, computes in float16 what was evaluated in float32, and its converter stores the
whole weight of an outlier where the kernel adds it to what the code there stands for. Here any width and either kind
of statistics is stored, and what is added is what the codes miss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..bilevel import Bilevel, Levels
from ..bitstream import words_per_row
from ..errors import CheckpointError, GridError
from ..outliers import Outliers
from ..spqr_weight import SpQRWeight
from ..weights import LayerWeight
from .labelled import LabelledCodec
from .parts import Parts, matrix_shape, whole

METHOD = "orchestrator-spqr"
BITS = range(2, 9)


class SpQRCodec(LabelledCodec):
    """Write and read `SpQRWeight`s."""

    name = "spqr"
    method = METHOD

    def check(self, weight: LayerWeight, name: str) -> None:
        """Raise CheckpointError, saying why, where this format cannot hold the layer `name`."""
        if not isinstance(weight, SpQRWeight):
            raise CheckpointError(
                f"{name} is a {type(weight).__name__}, which has no outliers; format 'spqr' holds SpQRWeight, 'sparse' "
                "SparseWeight, 'compressed-tensors' QuantizedWeight"
            )
        verify(weight, name)

    def tensors(self, name: str, weight: LayerWeight) -> dict[str, Tensor]:
        """Return the tensors that store the layer `name`."""
        self.check(weight, name)
        assert isinstance(weight, SpQRWeight)
        return {f"{name}.weight_{part}": _tensor(array) for part, array in weight.packed().items()}

    def stored_bytes(self, weight: LayerWeight) -> int:
        """Return the bytes of the layer's tensors by formula."""
        self.check(weight, "the layer")
        assert isinstance(weight, SpQRWeight)
        described = _parts(weight.shape, weight.bits, weight.groups, weight.bilevel, weight.outliers.count)
        return sum(math.prod(shape) * dtype.itemsize for dtype, shape in described.values())

    def _layer(self, name: str, entry: Mapping[str, Any], parts: Parts) -> LayerWeight:
        return _read(name, entry, parts)

    def _entry(self, name: str, weight: LayerWeight) -> dict[str, Any]:
        self.check(weight, name)
        assert isinstance(weight, SpQRWeight)
        return {
            "shape": list(weight.shape),
            "bits": weight.bits,
            "group_size": weight.shape[1] // weight.groups,
            "bilevel": None if weight.bilevel is None else asdict(weight.bilevel),
            "outliers": weight.outliers.count,
        }


def verify(weight: SpQRWeight, name: str) -> None:
    """Raise CheckpointError, naming the layer, where a weight's parts do not go together or hold impossible values."""
    rows, columns = weight.shape
    if weight.bits not in BITS:
        raise CheckpointError(f"{name} has codes of {weight.bits} bits; format 'spqr' holds {BITS[0]} to {BITS[-1]}")
    if min(rows, columns, weight.groups) < 1 or columns % weight.groups:
        raise CheckpointError(f"{name}: {rows} x {columns} weights in {weight.groups} groups for each row")
    for what, tensor, dtype, shape in _held(weight):
        if tensor is None or tensor.dtype != dtype or tuple(tensor.shape) != shape:
            found = "missing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            raise CheckpointError(
                f"{name}: {what} are {found} where {weight.bits} bits, {weight.groups} groups and bilevel="
                f"{weight.bilevel} take {dtype} {list(shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name}: {what} are not all finite: damaged, or written by something else")
    widths = [("codes", weight.codes, weight.bits)]
    if weight.bilevel is not None and isinstance(weight.scales, Levels) and isinstance(weight.zeros, Levels):
        widths.append(("codes of scales", weight.scales.codes, weight.bilevel.scale_bits))
        widths.append(("codes of zeros", weight.zeros.codes, weight.bilevel.zero_bits))
    for what, codes, bits in widths:
        if int(codes.max()) >> bits:
            raise CheckpointError(f"{name}: {what} go up to {int(codes.max())}, which {bits} bits do not hold")
    if not torch.equal(weight.order.cpu().sort().values, torch.arange(columns)):
        raise CheckpointError(f"{name}: the order of inputs is no permutation of 0..{columns - 1}")
    _verify_outliers(name, weight.outliers, columns)


def _held(weight: SpQRWeight) -> list[tuple[str, Tensor | None, torch.dtype, tuple[int, ...]]]:
    """Return every tensor of a weight with the type and shape that it must have."""
    rows, columns = weight.shape
    count, groups = weight.outliers.count, weight.groups
    held: list[tuple[str, Tensor | None, torch.dtype, tuple[int, ...]]] = [
        ("codes", weight.codes, torch.uint8, (rows, columns)),
        ("inputs in order", weight.order, torch.int64, (columns,)),
        ("offsets of outliers", weight.outliers.offsets, torch.int32, (rows + 1,)),
        ("positions of outliers", weight.outliers.positions, position_type(columns), (count,)),
        ("residuals of outliers", weight.outliers.residuals, torch.float16, (count,)),
    ]
    for what, statistic in (("scales", weight.scales), ("zeros", weight.zeros)):
        if weight.bilevel is None:
            held.append((what, statistic if isinstance(statistic, Tensor) else None, torch.float32, (rows, groups)))
            continue
        levels = statistic if isinstance(statistic, Levels) else None
        tiles = (-(-rows // weight.bilevel.rows), groups)
        held += [
            (f"codes of {what}", levels.codes if levels else None, torch.uint8, (rows, groups)),
            (f"steps of {what}", levels.steps if levels else None, torch.float16, tiles),
            (f"origins of {what}", levels.origins if levels else None, torch.float16, tiles),
        ]
    return held


def position_type(columns: int) -> torch.dtype:
    """Return the type of outlier positions in rows of `columns` inputs."""
    return torch.int16 if columns <= 2**15 else torch.int32


def _verify_outliers(name: str, outliers: Outliers, columns: int) -> None:
    offsets, positions = outliers.offsets.cpu().long(), outliers.positions.cpu().long()
    counts = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != outliers.count or bool((counts < 0).any()):
        raise CheckpointError(
            f"{name}: offsets of outliers must rise from 0 to their number, {outliers.count}; they go from "
            f"{int(offsets[0])} to {int(offsets[-1])}, by steps of {int(counts.min())} to {int(counts.max())}"
        )
    if not outliers.count:
        return
    if int(positions.min()) < 0 or int(positions.max()) >= columns:
        raise CheckpointError(
            f"{name}: outliers at positions {int(positions.min())} to {int(positions.max())} of {columns} inputs"
        )
    # Two residuals at one place: which of them would count is up to the reader.
    places = torch.arange(len(counts)).repeat_interleave(counts) * columns + positions
    if bool((places.diff() <= 0).any()):
        raise CheckpointError(f"{name}: positions of outliers must rise within each row")


def _parts(
    shape: tuple[int, int], bits: int, groups: int, bilevel: Bilevel | None, outliers: int
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return type and shape of every stored tensor."""
    rows, columns = shape
    parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "codes": (torch.int32, (rows, words_per_row(columns, bits))),
        "outlier_offsets": (torch.int32, (rows + 1,)),
        "outlier_positions": (position_type(columns), (outliers,)),
        "outlier_residuals": (torch.float16, (outliers,)),
        "order": (torch.int32, (columns,)),
    }
    if bilevel is None:
        return parts | {"scales": (torch.float32, (rows, groups)), "zeros": (torch.float32, (rows, groups))}
    tiles = (-(-rows // bilevel.rows), groups)
    for what, width in (("scale", bilevel.scale_bits), ("zero", bilevel.zero_bits)):
        parts[f"{what}_codes"] = (torch.int32, (rows, words_per_row(groups, width)))
        parts[f"{what}_steps"] = parts[f"{what}_origins"] = (torch.float16, tiles)
    return parts


def _read(name: str, entry: Mapping[str, Any], parts: Parts) -> SpQRWeight:
    shape, bits = matrix_shape(entry, name), whole(entry, "bits", name)
    size, outliers = whole(entry, "group_size", name), whole(entry, "outliers", name)
    if bits not in BITS or size < 1 or shape[1] % size:
        raise CheckpointError(
            f"{name}: bits={bits}, group_size={size} in quantization_config; codes have {BITS[0]} to {BITS[-1]} bits and "
            f"groups share {shape[1]} inputs evenly"
        )
    bilevel, groups = _bilevel(name, entry), shape[1] // size
    arrays = {
        part: parts.take(name, part, dtype, dims).numpy()
        for part, (dtype, dims) in _parts(shape, bits, groups, bilevel, outliers).items()
    }
    padded = [("codes", shape[1] * bits)]
    if bilevel is not None:
        padded += [("scale_codes", groups * bilevel.scale_bits), ("zero_codes", groups * bilevel.zero_bits)]
    for part, used_bits in padded:
        if used_bits % 32 and bool((arrays[part][:, -1].view(np.uint32) >> np.uint32(used_bits % 32)).any()):
            raise CheckpointError(f"{name}.weight_{part} has rows that end in bits other than zero: damaged")
    weight = SpQRWeight.unpacked(arrays, bits, bilevel)
    verify(weight, name)
    return weight


def _bilevel(name: str, entry: Mapping[str, Any]) -> Bilevel | None:
    found = entry.get("bilevel", "missing")
    if found is None:
        return None
    keys = ("scale_bits", "zero_bits", "rows")
    if not isinstance(found, Mapping) or set(found) != set(keys):
        raise CheckpointError(f"{name}: bilevel={found!r} in quantization_config; it has {', '.join(keys)}, or is null")
    numbers = {key: whole(found, key, name) for key in keys}
    if numbers["rows"] >= 2**31:
        raise CheckpointError(f"{name}: tiles of {numbers['rows']} rows in quantization_config; no layer has as many")
    try:
        return Bilevel(**numbers)
    except GridError as error:
        raise CheckpointError(f"{name}: {error}") from error


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


CODEC = SpQRCodec()
