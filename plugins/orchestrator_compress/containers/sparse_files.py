"""The checkpoint format "sparse": pruned layers in the container that is smallest for each, mask and weights exact.

For a layer P, all streams uint8 as `layout` describes them:

    P.weight_values      kept weights: floats in their own type, [n]; or a stream of codes relative to that of zero
    P.weight_places      where they are, but for `dense`
    P.weight_offsets     of rows, `csr` only
    P.weight_exceptions  kept weights that would look removed, where there are any
    P.weight_scales      [R, G], with codes only; P.weight_zeros a stream of zero points, on asymmetric grids;
    P.weight_groups      int32 [C], where groups are no ranges of inputs

config.json says for each layer which container it is in. The format is for the readers of this project:
compressed-tensors 0.19 reads none of its own sparse formats any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, GridError
from ..grid import SCALE_DTYPES, Grid, QuantizedWeight
from ..weights import LayerWeight, SparseWeight
from .codec import decode, encode
from .formulas import CONTAINERS, Container
from .labelled import LabelledCodec
from .layout import LARGEST, Layout, Pattern
from .parts import Parts, matrix_shape, whole
from .payload import FLOATS, bits_to_floats, code_offsets, float_bits, zero_codes
from .widths import pack, stream_bytes, unpack

METHOD = "orchestrator-sparse"


class SparseCodec(LabelledCodec):
    """Write and read `SparseWeight`s; `container` None takes the smallest for each layer."""

    name = "sparse"
    method = METHOD

    def __init__(self, container: Container | None = None):
        self._container = container

    def check(self, weight: LayerWeight, name: str) -> None:
        """Raise CheckpointError, saying why, where this format cannot hold the layer `name`."""
        if not isinstance(weight, SparseWeight):
            raise CheckpointError(
                f"{name} is a {type(weight).__name__}, which is not pruned; format 'sparse' holds SparseWeight, "
                "'spqr' SpQRWeight, 'compressed-tensors' QuantizedWeight"
            )
        if weight.removed.ndim != 2 or not 1 <= weight.removed.numel() <= LARGEST:
            raise CheckpointError(f"{name} is {list(weight.removed.shape)}; a container holds 1 to 2**32 - 1 weights")
        if weight.values is not None:
            if weight.values.dtype not in FLOATS.values() or weight.values.shape != weight.removed.shape:
                raise CheckpointError(
                    f"{name} holds {weight.values.dtype} {list(weight.values.shape)}; format 'sparse' stores weights "
                    f"{list(weight.removed.shape)} as {', '.join(FLOATS)}: cast them"
                )
            return
        assert weight.codes is not None
        _check_codes(weight.codes, name)
        strange = int(np.count_nonzero(code_offsets(weight.codes)[weight.removed.cpu().numpy()]))
        if strange:
            raise CheckpointError(
                f"{name}: {strange} removed weights have another code than that of zero, which the container does not "
                "store; give them their zero point"
            )

    def tensors(self, name: str, weight: LayerWeight) -> dict[str, Tensor]:
        """Return the tensors that store the layer `name`."""
        self.check(weight, name)
        assert isinstance(weight, SparseWeight)
        bits, value_bits = _bits(weight)
        encoded = encode(bits, ~weight.removed.cpu().numpy(), value_bits, self._container)
        parts = {part: torch.from_numpy(stream) for part, stream in encoded.streams.items()}
        if weight.values is not None:
            parts["values"] = bits_to_floats(parts["values"].numpy(), weight.values.dtype)
        else:
            assert weight.codes is not None
            parts["scales"] = weight.codes.scales.cpu().contiguous()
            if weight.codes.zeros is not None:
                zeros = weight.codes.zeros.cpu().numpy().reshape(-1)
                parts["zeros"] = torch.from_numpy(pack(zeros, weight.codes.grid.bits))
            if weight.codes.groups is not None:
                parts["groups"] = weight.codes.groups.to(device="cpu", dtype=torch.int32).contiguous()
        return {f"{name}.weight_{part}": tensor for part, tensor in parts.items()}

    def stored_bytes(self, weight: LayerWeight) -> int:
        """Return the bytes of the layer's tensors, counted from its mask without writing them."""
        self.check(weight, "the layer")
        assert isinstance(weight, SparseWeight)
        total = self._layout(weight).stored_bits() // 8
        if weight.codes is not None:
            groups = weight.codes.scales.numel()
            total += groups * weight.codes.scales.element_size()
            total += 0 if weight.codes.zeros is None else stream_bytes(groups, weight.codes.grid.bits)
            total += 0 if weight.codes.groups is None else 4 * weight.codes.groups.numel()
        return total

    def _layout(self, weight: SparseWeight) -> Layout:
        bits, value_bits = _bits(weight)
        pattern = Pattern(~weight.removed.cpu().numpy(), bits == 0)
        return pattern.smallest(value_bits) if self._container is None else pattern.layout(self._container, value_bits)

    def _layer(self, name: str, entry: Mapping[str, Any], parts: Parts) -> LayerWeight:
        return _read(name, entry, parts)

    def _entry(self, name: str, weight: LayerWeight) -> dict[str, Any]:
        self.check(weight, name)
        assert isinstance(weight, SparseWeight)
        layout = self._layout(weight)
        entry: dict[str, Any] = {
            "container": layout.container,
            "shape": [layout.rows, layout.columns],
            "entries": layout.entries,
            "exceptions": layout.exceptions,
            "gap_bits": layout.gap_bits,
            "values": "codes" if weight.values is None else str(weight.values.dtype).removeprefix("torch."),
        }
        if weight.codes is not None:
            entry["grid"] = asdict(weight.codes.grid)
            entry["scales"] = str(weight.codes.scales.dtype).removeprefix("torch.")
        return entry


def _check_codes(codes: QuantizedWeight, name: str) -> None:
    if codes.scales.dtype not in SCALE_DTYPES.values():
        raise CheckpointError(
            f"{name} has scales of {codes.scales.dtype}; they are stored as {', '.join(SCALE_DTYPES)}"
        )
    if (codes.zeros is None) != codes.grid.symmetric:
        raise CheckpointError(
            f"{name} has {'no ' if codes.zeros is None else ''}zero points on a grid of symmetric={codes.grid.symmetric}"
        )
    for what, numbers in (("code", codes.codes), ("zero point", codes.zeros)):
        if numbers is not None and int(numbers.max()) > codes.grid.max_code:
            raise CheckpointError(f"{name} has {what} {int(numbers.max())}, which {codes.grid.bits} bits do not hold")


def _bits(weight: SparseWeight) -> tuple[np.ndarray, int]:
    if weight.values is not None:
        return float_bits(weight.values), 8 * weight.values.element_size()
    assert weight.codes is not None
    return code_offsets(weight.codes), weight.codes.grid.bits


def _read(name: str, entry: Mapping[str, Any], parts: Parts) -> SparseWeight:
    rows, columns = matrix_shape(entry, name)
    container, values = entry.get("container"), entry.get("values")
    if container not in CONTAINERS or values not in ("codes", *FLOATS):
        raise CheckpointError(
            f"{name}: container={container!r}, values={values!r} in quantization_config; containers are "
            f"{', '.join(CONTAINERS)}, values codes or {', '.join(FLOATS)}"
        )
    grid = _grid(name, entry.get("grid"), columns) if values == "codes" else None
    layout = Layout(
        container=container,
        rows=rows,
        columns=columns,
        value_bits=grid.bits if grid is not None else 8 * FLOATS[values].itemsize,
        entries=whole(entry, "entries", name),
        exceptions=whole(entry, "exceptions", name),
        gap_bits=whole(entry, "gap_bits", name),
    )
    layout.verify(name)
    streams = {}
    for part, size in layout.stream_bytes().items():
        if part == "values" and grid is None:
            stored = parts.take(name, part, FLOATS[values], (layout.entries,))
            streams[part] = float_bits(stored).view(np.uint8)
        else:
            streams[part] = parts.take(name, part, torch.uint8, (size,)).numpy()
    bits, kept = decode(layout, streams, name)
    removed = torch.from_numpy(~kept)
    if grid is None:
        return SparseWeight(removed=removed, values=bits_to_floats(bits, FLOATS[values]))
    return SparseWeight(removed=removed, codes=_read_codes(name, bits, grid, entry.get("scales"), parts))


def _read_codes(name: str, offsets: np.ndarray, grid: Grid, scale_type: Any, parts: Parts) -> QuantizedWeight:
    rows, columns = offsets.shape
    groups = columns // grid.width(columns)
    if scale_type not in tuple(SCALE_DTYPES):
        raise CheckpointError(
            f"{name}: scales={scale_type!r} in quantization_config; they are stored as {', '.join(SCALE_DTYPES)}"
        )
    scales = parts.take(name, "scales", SCALE_DTYPES[scale_type], (rows, groups))
    if not bool(torch.isfinite(scales).all()):
        raise CheckpointError(
            f"{name}.weight_scales has scales that are not finite: damaged, or written by something else"
        )
    zeros = index = None
    if not grid.symmetric:
        stream = parts.take(name, "zeros", torch.uint8, (stream_bytes(rows * groups, grid.bits),))
        numbers = unpack(stream.numpy(), grid.bits, rows * groups, f"{name}.weight_zeros")
        zeros = torch.from_numpy(numbers.reshape(rows, groups))
    if parts.has(name, "groups"):
        index = parts.take(name, "groups", torch.int32, (columns,))
        if int(index.min()) < 0 or int(index.max()) >= groups:
            raise CheckpointError(
                f"{name}.weight_groups goes from {int(index.min())} to {int(index.max())}; there are {groups} groups"
            )
    empty = QuantizedWeight(grid=grid, codes=torch.from_numpy(offsets), scales=scales, zeros=zeros, groups=index)
    codes = (offsets + zero_codes(empty)) & np.uint8(grid.max_code)
    return QuantizedWeight(grid=grid, codes=torch.from_numpy(codes), scales=scales, zeros=zeros, groups=index)


def _grid(name: str, entry: Any, columns: int) -> Grid:
    keys = {"bits": int, "group_size": int, "symmetric": bool, "scale_dtype": str}
    if (
        not isinstance(entry, Mapping)
        or set(entry) != set(keys)
        or not all(type(entry[key]) is kind for key, kind in keys.items())
    ):
        raise CheckpointError(f"{name}: grid={entry!r} in quantization_config; it has {', '.join(keys)}")
    try:
        grid = Grid(**entry)
        grid.width(columns)
    except GridError as error:
        raise CheckpointError(f"{name}: {error}") from error
    return grid


CODEC = SparseCodec()
