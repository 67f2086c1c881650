"""The formats `gptq` and `gptq_v2`: version 1 and 2 of the checkpoints of GPTQ quantizers, which vLLM and others serve.

For a linear layer P with weights [R, C], b bits and G groups: `P.qweight` int32 [C b / 32, R], every column a
little-endian bit stream along the inputs (3-bit codes straddle words); `P.qzeros` int32 [G, R b / 32], a stream along
the outputs; `P.scales` [G, R]; `P.g_idx` int32 [C], the group of each input. A weight is
scales[g_idx[i], o] * (q[i, o] - zero[g_idx[i], o]).

Version 1 stores zero - 1, version 2 stores zero. Zero points of 0 do not survive version 1: quantizers that subtract
1 from whole words borrow from the next lane, others wrap to the largest code, which readers without a mask take for
2**b. So version 1 is written for symmetric grids only, where every zero is 2**(b-1).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..bitstream import pack_rows
from ..errors import CheckpointError, GridError
from ..grid import Grid
from ..weights import LayerWeight
from .codec import Read, group_index, middling, quantized, zero_points
from .gptq_label import Label, write_label
from .gptq_layer import PARTS, inspect

Version = Literal["gptq", "gptq_v2"]
# In the earliest files checkpoint_format was not written or empty.
_NAMES = {"gptq": ("gptq", "", None), "gptq_v2": ("gptq_v2",)}


class GPTQ:
    """Store integer codes as version 1 ("gptq") or 2 ("gptq_v2"); reading trusts this version, not the label's."""

    def __init__(self, version: Version):
        self._version = version

    @property
    def name(self) -> str:
        """Return the version, as `checkpoint_format` has it."""
        return self._version

    def check_grid(self, grid: Grid) -> None:
        """Raise GridError, before any work, for a grid whose weights `check` would refuse."""
        if grid.scale_dtype != "float16":
            raise GridError(f"scale_dtype={grid.scale_dtype}; {self.name} stores float16: set scale_dtype=float16")
        if self._version == "gptq" and not grid.symmetric:
            raise GridError(
                "symmetric=False; version 1 of gptq cannot store every zero point: write gptq_v2 or compressed-tensors"
            )

    def check(self, weight: LayerWeight, name: str) -> None:
        """Raise CheckpointError for zero points that version 1 cannot store, scales that are not float16, ragged words."""
        held = quantized(weight, name, self.name)
        if self._version == "gptq" and not middling(held):
            raise CheckpointError(
                f"{name} has zero points, of which version 1 of gptq cannot store every one; write it as 'gptq_v2' or "
                "'compressed-tensors'"
            )
        # Where a float32 scale is a float16 number, as after reading another format, nothing is lost.
        if not torch.equal(held.scales.to(torch.float16).double(), held.scales.double()):
            raise CheckpointError(
                f"{name} has scales of {held.grid.scale_dtype} that are not numbers of float16, which {self.name} stores; "
                "compress with scale_dtype=float16, or write it as 'compressed-tensors'"
            )
        for size, what in zip(held.codes.shape, ("outputs", "inputs"), strict=True):
            if size * held.grid.bits % 32:
                raise CheckpointError(
                    f"{name} has {size} {what} of {held.grid.bits} bits, which do not fill words of 32 bits as "
                    f"{self.name} needs; write it as 'compressed-tensors'"
                )

    def tensors(self, name: str, weight: LayerWeight) -> dict[str, Tensor]:
        """Return the four tensors of a layer."""
        self.check(weight, name)
        held = quantized(weight, name, self.name)
        bits = held.grid.bits
        stored = zero_points(held).T.contiguous().numpy() - np.uint8(self._version == "gptq")
        return {
            f"{name}.qweight": torch.from_numpy(pack_rows(held.codes.cpu().numpy(), bits)).T.contiguous(),
            f"{name}.qzeros": torch.from_numpy(pack_rows(stored, bits)),
            f"{name}.scales": held.scales.cpu().to(torch.float16).T.contiguous(),
            # Layers that were solved together share theirs, which files of tensors refuse.
            f"{name}.g_idx": group_index(held).clone(),
        }

    def config(
        self, weights: Mapping[str, LayerWeight], ignored: Sequence[str], *, act_order: str | None = None
    ) -> dict[str, Any]:
        """Return the label, with `dynamic` for layers that differ from the grid that most are on."""
        held = {name: quantized(weight, name, self.name) for name, weight in weights.items()}
        return write_label(held, ignored, self._version, act_order)

    def recognizes(self, quantization_config: Mapping[str, Any], tensor_names: Collection[str]) -> bool:
        """Tell whether the label names GPTQ in this version."""
        del tensor_names
        if quantization_config.get("quant_method", "gptq") != "gptq" or "bits" not in quantization_config:
            return False
        # Some quantizers write `format` beside or instead of `checkpoint_format`.
        told = quantization_config.get("checkpoint_format", quantization_config.get("format"))
        return told in _NAMES[self._version]

    def read(self, tensors: Mapping[str, Tensor], quantization_config: Mapping[str, Any]) -> Read:
        """Return the layers that have a qweight, each on the grid that the label gives it, and all other tensors."""
        label = Label(quantization_config)
        left = dict(tensors)
        names = layer_names(tensors)
        if not names:
            raise CheckpointError(
                "it is labelled gptq but holds no qweight tensor: it is a dense checkpoint with a wrong label"
            )
        weights: dict[str, LayerWeight] = {}
        for name in names:
            parts = {part: left.pop(f"{name}.{part}", None) for part in PARTS}
            weights[name] = inspect(name, parts, label.layer(name), self._version).strict()
        stray = [key for key in sorted(left) if key.rpartition(".")[2] in PARTS]
        if stray:
            raise CheckpointError(f"{stray[0]} has no qweight beside it; copy or download the checkpoint again")
        return weights, left

    def stored_bytes(self, weight: LayerWeight) -> int:
        """Return the bytes of codes, zero points, float16 scales and group indices."""
        held = quantized(weight, "the layer", self.name)
        rows, columns = held.codes.shape
        groups, bits = held.scales.shape[1], held.grid.bits
        return rows * columns * bits // 8 + groups * rows * bits // 8 + groups * rows * 2 + columns * 4


def layer_names(tensors: Collection[str]) -> list[str]:
    """Return the layers that have packed weights."""
    return sorted(key.removesuffix(".qweight") for key in tensors if key.endswith(".qweight"))


V1 = GPTQ("gptq")
V2 = GPTQ("gptq_v2")
