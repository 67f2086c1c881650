"""The format `awq`, read only: AWQ checkpoints of version "gemm", 4 bits packed along the outputs.

For a linear layer P with weights [R, C] and G groups: `P.qweight` int32 [C, R / 8], `P.qzeros` int32 [G, R / 8],
`P.scales` [G, R]. Lane i of a word (bits 4i to 4i + 3) belongs to output (0, 2, 4, 6, 1, 3, 5, 7)[i] of its eight.
Zero points are stored as they are. The scaling of inputs that AWQ chooses is folded into other tensors already, so
that codes convert to any format of codes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..grid import SCALE_DTYPES, Grid, QuantizedWeight
from ..weights import LayerWeight
from .codec import Read, typed
from .findings import Inspected, fault
from .gptq import layer_names
from .labels import checked_grid

PARTS = ("qweight", "qzeros", "scales")
LANES = (0, 2, 4, 6, 1, 3, 5, 7)
_BITS = 4


class AWQ:
    """Read integer codes of AWQ "gemm" checkpoints."""

    name = "awq"

    def check(self, weight: LayerWeight, name: str) -> None:
        """Raise CheckpointError: this format is not written."""
        del weight
        raise CheckpointError(f"{name}: awq is read and not written; write 'gptq_v2' or 'compressed-tensors'")

    def tensors(self, name: str, weight: LayerWeight) -> dict[str, Tensor]:
        """Raise CheckpointError: this format is not written."""
        self.check(weight, name)
        return {}

    def config(
        self, weights: Mapping[str, LayerWeight], ignored: Sequence[str], *, act_order: str | None = None
    ) -> dict[str, Any]:
        """Raise CheckpointError: this format is not written."""
        del ignored, act_order
        for name, weight in weights.items():
            self.check(weight, name)
        return {}

    def recognizes(self, quantization_config: Mapping[str, Any], tensor_names: Collection[str]) -> bool:
        """Tell whether the label names AWQ."""
        del tensor_names
        return quantization_config.get("quant_method") == self.name

    def read(self, tensors: Mapping[str, Tensor], quantization_config: Mapping[str, Any]) -> Read:
        """Return the layers that have a qweight and all other tensors."""
        grid = label_grid(quantization_config)
        left = dict(tensors)
        names = layer_names(tensors)
        if not names:
            raise CheckpointError(
                "it is labelled awq but holds no qweight tensor: a dense checkpoint with a wrong label"
            )
        weights: dict[str, LayerWeight] = {
            name: inspect(name, {part: left.pop(f"{name}.{part}", None) for part in PARTS}, grid).strict()
            for name in names
        }
        return weights, left

    def stored_bytes(self, weight: LayerWeight) -> int:
        """Return the bytes of codes, zero points and float16 scales."""
        assert isinstance(weight, QuantizedWeight)
        rows, columns = weight.codes.shape
        groups = weight.scales.shape[1]
        return rows * columns // 2 + groups * rows // 2 + groups * rows * 2


def label_grid(label: Mapping[str, Any]) -> Grid:
    """Return the one grid of an AWQ label; raises CheckpointError for other versions than "gemm" and other widths."""
    version = label.get("version", "gemm")
    if not isinstance(version, str) or version.lower() != "gemm":
        raise CheckpointError(f"it is labelled awq, version {version!r:.40}; this reader serves 'gemm'")
    bits = label.get("bits", label.get("w_bit"))
    size = label.get("group_size", label.get("q_group_size"))
    zero_point = label.get("zero_point", True)
    grid = checked_grid(bits, size, not zero_point if isinstance(zero_point, bool) else None, where="the awq label")
    if grid.bits != _BITS:
        raise CheckpointError(f"it is labelled awq with {grid.bits} bits; 'gemm' files hold {_BITS}")
    return grid


def inspect(name: str, parts: Mapping[str, Tensor | None], grid: Grid) -> Inspected:
    """Return the weight that the parts of a layer hold, or what stands in the way."""
    qweight, qzeros, scales = (parts[part] for part in PARTS)
    if qweight is None or qzeros is None or scales is None:
        absent = [part for part in PARTS if parts[part] is None]
        return fault(name, "missing-part", f"of its parts {absent} are missing", "copy or download it again")
    if qweight.dtype != torch.int32 or qweight.dim() != 2 or not qweight.numel():
        return fault(
            name, "wrong-shape", f"qweight is {qweight.dtype} {list(qweight.shape)}; it must be int32 [C, R / 8]"
        )
    columns, rows = qweight.shape[0], qweight.shape[1] * 8
    width = columns if grid.group_size == -1 else grid.group_size
    if columns % width:
        return fault(name, "ragged-group", f"group_size={width} does not divide {columns} inputs")
    groups = columns // width
    if qzeros.dtype != torch.int32 or tuple(qzeros.shape) != (groups, rows // 8):
        return fault(
            name,
            "wrong-shape",
            f"qzeros is {qzeros.dtype} {list(qzeros.shape)}; {groups} groups of {rows} outputs need int32 "
            f"{[groups, rows // 8]}: another group_size than the label's?",
        )
    if scales.dtype not in SCALE_DTYPES.values() or tuple(scales.shape) != (groups, rows):
        return fault(name, "wrong-shape", f"scales is {scales.dtype} {list(scales.shape)}; it must be {[groups, rows]}")
    if not bool(torch.isfinite(scales).all()):
        return fault(name, "bad-scale", "scales have NaN or infinity; they must be finite floats")
    zeros = torch.from_numpy(_unpacked(qzeros.numpy()))
    if grid.symmetric and not bool((zeros == grid.middle).all()):
        return fault(name, "label-mismatch", f"the label says zero_point=False, but zero points are not {grid.middle}")
    return Inspected(
        weight=QuantizedWeight(
            grid=typed(grid, scales),
            codes=torch.from_numpy(np.ascontiguousarray(_unpacked(qweight.numpy()).T)),
            scales=scales.T.contiguous(),
            zeros=None if grid.symmetric else zeros.T.contiguous(),
        )
    )


def _unpacked(words: np.ndarray) -> np.ndarray:
    """Return codes uint8 [n, 8 m] of words int32 [n, m], in the order of outputs."""
    lanes = (np.ascontiguousarray(words).view(np.uint32)[:, :, None] >> (np.arange(8, dtype=np.uint32) * 4)) & 15
    codes = np.empty(lanes.shape, dtype=np.uint8)
    codes[:, :, list(LANES)] = lanes
    return codes.reshape(len(words), -1)


CODEC = AWQ()
