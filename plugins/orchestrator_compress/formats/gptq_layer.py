"""One layer of a GPTQ checkpoint, read without trust: parts, shapes, zero points and group indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..bitstream import unpack_rows
from ..grid import SCALE_DTYPES, Grid, QuantizedWeight
from .codec import typed
from .findings import Finding, Inspected, fault
from .gptq_label import LayerLabel

PARTS = ("qweight", "qzeros", "scales", "g_idx")


def inspect(name: str, parts: Mapping[str, Tensor | None], label: LayerLabel, version: str) -> Inspected:
    """Return the weight that the parts of a layer hold, read as `version`, with what is wrong or odd about it."""
    grid = label.grid
    if grid is None:
        return fault(name, "label-mismatch", "`dynamic` leaves the layer dense, but its weights are packed")
    qweight, qzeros, scales, index = (parts[part] for part in PARTS)
    if qweight is None or qzeros is None or scales is None or (index is None and label.desc_act):
        absent = [part for part in PARTS if parts[part] is None]
        return fault(name, "missing-part", f"of its parts {absent} are missing", "copy or download it again")
    if qweight.dtype != torch.int32 or qweight.dim() != 2 or qweight.shape[0] * 32 % grid.bits or not qweight.numel():
        return fault(
            name,
            "wrong-shape",
            f"qweight is {qweight.dtype} {list(qweight.shape)}; it must be int32 [C * bits / 32, R]",
        )
    columns, rows = qweight.shape[0] * 32 // grid.bits, qweight.shape[1]
    if grid.group_size > columns:  # one group per row by another name
        grid = replace(grid, group_size=-1)
    width = columns if grid.group_size == -1 else grid.group_size
    groups = -(-columns // width)
    expected: dict[str, tuple[Tensor, tuple[torch.dtype, ...], tuple[int, ...]]] = {
        "qzeros": (qzeros, (torch.int32,), (groups, rows * grid.bits // 32)),
        "scales": (scales, tuple(SCALE_DTYPES.values()), (groups, rows)),
    }
    if index is not None:
        expected["g_idx"] = (index, (torch.int32, torch.int64), (columns,))
    for part, (tensor, dtypes, shape) in expected.items():
        if tensor.dtype not in dtypes or tuple(tensor.shape) != shape or rows * grid.bits % 32:
            return fault(
                name,
                "wrong-shape",
                f"{part} is {tensor.dtype} {list(tensor.shape)}; {rows} x {columns} weights of {grid.bits} bits in groups "
                f"of {width} need {dtypes[0]} {list(shape)}: other bits or group_size than the label's?",
            )
    if not bool(torch.isfinite(scales).all()):
        return fault(name, "bad-scale", "scales have NaN or infinity; they must be finite floats")
    natural = torch.arange(columns, dtype=torch.int32) // width
    if index is not None and (int(index.min()) < 0 or int(index.max()) >= groups):
        return fault(
            name,
            "g-idx-range",
            f"g_idx has values in {int(index.min())}..{int(index.max())}, there are {groups} groups",
        )
    group_of = natural if index is None else index.to(torch.int32)
    zeros, findings = _zeros(name, torch.from_numpy(unpack_rows(qzeros.numpy(), grid.bits, rows)), grid, version)
    trivial = columns % width == 0 and torch.equal(group_of, natural)
    weight = QuantizedWeight(
        grid=typed(grid, scales),
        codes=torch.from_numpy(unpack_rows(np.ascontiguousarray(qweight.numpy().T), grid.bits, columns)),
        scales=scales.T.contiguous(),
        zeros=zeros,
        groups=None if trivial else group_of,
    )
    return Inspected(weight=weight, findings=tuple(findings))


def _zeros(name: str, stored: Tensor, grid: Grid, version: str) -> tuple[Tensor | None, list[Finding]]:
    """Return the zero points [R, G] that stored ones [G, R] mean, None where they are all in the middle as labelled."""
    meant = stored.to(torch.int16) + int(version == "gptq")
    if grid.symmetric:
        if bool((meant == grid.middle).all()):
            return None, []
        return _kept(meant, grid), [_unsymmetric(name, stored, grid, version)]
    findings = []
    other = grid.middle if version == "gptq" else grid.middle - 1
    if bool((stored == other).all()):
        findings.append(
            Finding(
                code="zero-point-mismatch",
                severity="warning",
                layer=name,
                message=f"every zero point is stored as {other}, as symmetric ones of the other version are, but the label "
                f"says {version!r} and sym=False",
                fix="compare outputs with the dense model; if they differ, correct checkpoint_format",
            )
        )
    borrowed = int((meant > grid.max_code).sum())
    if borrowed:
        findings.append(
            Finding(
                code="borrowed-lanes",
                severity="error",
                layer=name,
                message=f"{borrowed} zero points of version 1 are stored as {grid.max_code}: either they are 0 and wrapped "
                "around, or 1 was subtracted from whole words and their neighbours lost 1 as well; the file does not tell",
                fix="quantize again and write 'gptq_v2', or ask for the version 2 file",
            )
        )
    return _kept(meant, grid), findings


def _kept(meant: Tensor, grid: Grid) -> Tensor:
    return meant.clamp(max=grid.max_code).to(torch.uint8).T.contiguous()


def _unsymmetric(name: str, stored: Tensor, grid: Grid, version: str) -> Finding:
    other = {"gptq": ("gptq_v2", grid.middle), "gptq_v2": ("gptq", grid.middle - 1)}[version]
    here = grid.middle - (version == "gptq")
    if bool((stored == other[1]).all()):
        return Finding(
            code="zero-point-mismatch",
            severity="error",
            layer=name,
            message=f"symmetric zero points of {grid.bits} bits are stored as {other[1]}, which is checkpoint_format "
            f"{other[0]!r}; the label says {version!r}, where they are {here}, so that every weight is one step off",
            fix="convert it with repair=True, or correct checkpoint_format in config.json",
        )
    values = sorted(set(stored.reshape(-1).tolist()))
    shown = ", ".join(map(str, values[:4])) + (", ..." if len(values) > 4 else "")
    return Finding(
        code="label-mismatch",
        severity="error",
        layer=name,
        message=f"the label says sym=True, so that zero points are stored as {here}, and they are stored as {shown}",
        fix="correct sym in config.json if the grid is asymmetric",
    )
