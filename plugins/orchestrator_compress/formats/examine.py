"""What can be said of one layer whose codes were read: facts for a table, and what will trouble whoever serves it.

Limits of Marlin, the fast kernel that servers choose for these formats: 4 or 8 bits, symmetric, groups of 32, 64, 128
or the whole row, inputs a multiple of 128 and outputs of 64.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from ..grid import Grid, QuantizedWeight
from ..spqr_weight import SpQRWeight
from ..weights import LayerWeight, SparseWeight
from .codec import group_index, middling, zero_points
from .findings import Finding

if TYPE_CHECKING:
    import pyarrow as pa

_MARLIN_GROUPS = (-1, 32, 64, 128)
_RANKS = (2, 4, 8)
# Layers that servers run as one matrix, so that they must be on one grid.
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_EXPERT = re.compile(r"(.*\.experts)\.\d+\.")


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFacts:
    """Describe a stored layer; nulls: the layer could not be read so far, or its form has no such number.

    group_size is -1 for one group per row; zeros and codes are unsigned; scattered tells whether inputs of a group lie
    apart (run-time act-order); dead_outputs counts rows that are zero.
    """

    layer: str
    form: str
    rows: int | None = None
    columns: int | None = None
    bits: int | None = None
    group_size: int | None = None
    groups: int | None = None
    symmetric: bool | None = None
    scale_dtype: str | None = None
    scale_min: float | None = None
    scale_max: float | None = None
    zero_min: int | None = None
    zero_max: int | None = None
    code_min: int | None = None
    code_max: int | None = None
    distinct_codes: int | None = None
    dead_outputs: int | None = None
    scattered: bool | None = None
    stored_bytes: int | None = None
    bits_per_weight: float | None = None


def facts_table(facts: list[LayerFacts]) -> pa.Table:
    """Return the facts as an Arrow table with a fixed schema."""
    import pyarrow as pa

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    schema = pa.schema([(field.name, kinds[str(field.type).partition(" ")[0]]) for field in fields(LayerFacts)])
    rows = [{field.name: getattr(one, field.name) for field in fields(LayerFacts)} for one in facts]
    return pa.Table.from_pylist(rows, schema=schema)


def facts_of(name: str, weight: LayerWeight, stored_bytes: int) -> LayerFacts:
    """Return the facts of a layer in any form, stored in so many bytes."""
    rows, columns = weight.shape
    bits_per_weight = 8 * stored_bytes / (rows * columns)
    if isinstance(weight, SpQRWeight):
        size = columns // weight.groups
        return LayerFacts(
            layer=name,
            form="spqr",
            rows=rows,
            columns=columns,
            bits=weight.bits,
            group_size=size,
            groups=weight.groups,
            symmetric=False,
            stored_bytes=stored_bytes,
            bits_per_weight=bits_per_weight,
        )
    held = weight.codes if isinstance(weight, SparseWeight) else weight
    form = "sparse" if isinstance(weight, SparseWeight) else "quantized"
    if not isinstance(held, QuantizedWeight):
        return LayerFacts(
            layer=name,
            form=form,
            rows=rows,
            columns=columns,
            stored_bytes=stored_bytes,
            bits_per_weight=bits_per_weight,
        )
    counts = torch.bincount(held.codes.reshape(-1).long(), minlength=256)
    present = counts.nonzero().reshape(-1)
    zeros = zero_points(held)
    return LayerFacts(
        layer=name,
        form=form,
        rows=rows,
        columns=columns,
        bits=held.grid.bits,
        group_size=held.grid.group_size,
        groups=held.scales.shape[1],
        symmetric=held.grid.symmetric,
        scale_dtype=str(held.scales.dtype).removeprefix("torch."),
        scale_min=float(held.scales.min()),
        scale_max=float(held.scales.max()),
        zero_min=int(zeros.min()),
        zero_max=int(zeros.max()),
        code_min=int(present[0]),
        code_max=int(present[-1]),
        distinct_codes=len(present),
        dead_outputs=int((held.codes == zeros[:, group_index(held).long()]).all(1).sum()),
        scattered=_scattered(held),
        stored_bytes=stored_bytes,
        bits_per_weight=bits_per_weight,
    )


def findings_of(name: str, weight: QuantizedWeight, *, tied: bool) -> Iterator[Finding]:
    """Yield what is odd about a layer that could be read; `tied`: its model takes the head from the embeddings."""
    rows, columns = weight.shape
    width = columns if weight.grid.group_size == -1 else weight.grid.group_size
    if bool((weight.scales < 0).any()):
        yield Finding(
            code="negative-scale",
            severity="warning",
            layer=name,
            fix="quantize again",
            message=f"{int((weight.scales < 0).sum())} scales are negative; kernels that fold signs serve something else",
        )
    if bool((weight.scales == 0).any()):
        yield Finding(
            code="zero-scale",
            severity="warning",
            layer=name,
            fix="look at the weights that it was made from",
            message=f"{int((weight.scales == 0).sum())} groups have scale 0: all their weights are zero",
        )
    if weight.codes.numel() > 1 and bool((weight.codes == weight.codes.reshape(-1)[0]).all()):
        yield Finding(
            code="dead-layer",
            severity="warning",
            layer=name,
            fix="look at the weights that it was made from",
            message=f"all codes are {int(weight.codes.reshape(-1)[0])}: the layer holds no information",
        )
    if columns % width:
        yield Finding(
            code="ragged-group",
            severity="warning",
            layer=name,
            fix=f"choose a group_size that divides {columns}",
            message=f"the last of {weight.scales.shape[1]} groups has {columns % width} inputs of {width}, which most "
            "kernels refuse",
        )
    if _scattered(weight):
        yield Finding(
            code="g-idx-order",
            severity="warning",
            layer=name,
            fix="quantize with act_order='static' or 'group'",
            message="the inputs of a group lie apart (run-time act-order): kernels gather scales per input, several "
            "times slower, and tensor-parallel ranks need all scales",
        )
    if tied:
        yield Finding(
            code="tied-head",
            severity="warning",
            layer=name,
            fix="untie the embeddings before, or ignore the head",
            message="the head is quantized but tie_word_embeddings is true: loaders overwrite it with the embeddings",
        )
    yield from _parallel(name, columns, width, weight.scales.shape[1])
    limits = _marlin(weight, rows, columns)
    if limits:
        yield Finding(
            code="marlin-limits",
            severity="note",
            layer=name,
            fix="",
            message="not for the Marlin kernels, servers fall back to slower ones: " + ", ".join(limits),
        )


def fused_findings(grids: Mapping[str, Grid], names: Collection[str]) -> Iterator[Finding]:
    """Yield layers that servers fuse and that are on several grids, or dense in part; `names`: all layers there are."""
    for members in _FUSED:
        stems = sorted({name.removesuffix(members[0]) for name in names if name.endswith(f".{members[0]}")})
        for stem in stems:
            if _several([grids.get(stem + member) for member in members if stem + member in names]):
                yield Finding(
                    code="fused-grids",
                    severity="note",
                    layer=stem + members[0],
                    message=f"{', '.join(members)} are on different grids or dense in part; vLLM and others run them as "
                    "one matrix and refuse that",
                    fix="give the layers of one input one grid",
                )
    experts: dict[str, list[Grid | None]] = {}
    for name in sorted(names):
        match = _EXPERT.match(name)
        if match:
            experts.setdefault(match[1], []).append(grids.get(name))
    for stem, members_grids in experts.items():
        if _several(members_grids):
            yield Finding(
                code="fused-grids",
                severity="note",
                layer=stem,
                message="experts of a block are on different grids or dense in part; vLLM and transformers fuse them and "
                "read all on one grid",
                fix="give the experts of a block one grid",
            )


def _several(grids: Sequence[Grid | None]) -> bool:
    return len({grid and (grid.bits, grid.group_size, grid.symmetric) for grid in grids}) > 1


def _parallel(name: str, columns: int, width: int, groups: int) -> Iterator[Finding]:
    if groups == 1:
        return
    unsafe = [ranks for ranks in _RANKS if columns % ranks == 0 and columns // ranks % width]
    if unsafe:
        yield Finding(
            code="tensor-parallel",
            severity="warning" if unsafe[0] == _RANKS[0] else "note",
            layer=name,
            message=f"groups of {width} do not divide {columns} inputs split over {', '.join(map(str, unsafe))} ranks: "
            "loading with that many fails where inputs are split",
            fix="choose a smaller group_size, or fewer ranks",
        )


def _marlin(weight: QuantizedWeight, rows: int, columns: int) -> list[str]:
    limits = []
    if weight.grid.bits not in (4, 8):
        limits.append(f"{weight.grid.bits} bits")
    if not middling(weight):
        limits.append("asymmetric")
    if weight.grid.group_size not in _MARLIN_GROUPS:
        limits.append(f"groups of {weight.grid.group_size}")
    if columns % 128:
        limits.append(f"{columns} inputs, no multiple of 128")
    if rows % 64:
        limits.append(f"{rows} outputs, no multiple of 64")
    return limits


def _scattered(weight: QuantizedWeight) -> bool:
    return weight.groups is not None and bool((weight.groups.cpu().diff() < 0).any())
