"""What the layers of a checkpoint take and do, counted in its files: bytes, code widths, weights that are left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from .formats.files import TensorFiles
from .formats.model import linear_layers
from .formats.read import read_checkpoint
from .grid import QuantizedWeight
from .spqr_weight import SpQRWeight
from .weights import LayerWeight, SparseWeight

_HEADS = ("lm_head", "embed_out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """Count the linear layers of a checkpoint's blocks, and the whole of it.

    bits, group_size  of the codes; None where there are none or layers differ
    weights, kept     of the layers, and those of them that were not removed: multiply-accumulates of a token
    layer_bytes       of the layers' tensors in the files: codes, scales, outliers, positions
    head_macs         multiply-accumulates of the head, which stays dense
    file_bytes        of all safetensors files
    """

    bits: int | None
    group_size: int | None
    weights: int
    kept: int
    layer_bytes: int
    head_macs: int
    file_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Return the bits that a weight of the layers takes in the files."""
        return 8 * self.layer_bytes / self.weights


def take_inventory(path: Path) -> Inventory:
    """Count a checkpoint of any format; raises CheckpointError for files that are not what they say."""
    files, checkpoint = TensorFiles(path), read_checkpoint(path)
    linear, _ = linear_layers(checkpoint.config, path)
    layers = [name for name in linear if name.rpartition(".")[2] not in _HEADS]
    weights = kept = layer_bytes = 0
    for name in layers:
        held = checkpoint.weights.get(name)
        if held is None:
            dense = checkpoint.dense[f"{name}.weight"]
            weights, kept = weights + dense.numel(), kept + int(dense.count_nonzero())
        else:
            weights, kept = weights + held.shape[0] * held.shape[1], kept + _kept(held)
        layer_bytes += sum(files.nbytes(tensor) for tensor in _tensors(files, name))
    head = _head(checkpoint.dense)
    return Inventory(
        bits=_only(_bits(one) for one in checkpoint.weights.values()),
        group_size=_only(_group_size(one) for one in checkpoint.weights.values()),
        weights=weights,
        kept=kept,
        layer_bytes=layer_bytes,
        head_macs=0 if head is None else head.numel(),
        file_bytes=sum((path / file).stat().st_size for file in files.files),
    )


def _tensors(files: TensorFiles, layer: str) -> list[str]:
    return [name for name in files if name.startswith(f"{layer}.") and not name.endswith(".bias")]


def _head(dense: dict[str, Tensor]) -> Tensor | None:
    """Return the matrix that makes logits: the head, or the embedding that it shares."""
    names = [f"{head}.weight" for head in _HEADS] + ["model.embed_tokens.weight", "transformer.wte.weight"]
    return next((dense[name] for name in names if name in dense), None)


def _kept(weight: LayerWeight) -> int:
    rows, columns = weight.shape
    return rows * columns - (int(weight.removed.sum()) if isinstance(weight, SparseWeight) else 0)


def _codes(weight: LayerWeight) -> LayerWeight | None:
    return weight.codes if isinstance(weight, SparseWeight) else weight


def _bits(weight: LayerWeight) -> int | None:
    codes = _codes(weight)
    if isinstance(codes, QuantizedWeight):
        return codes.grid.bits
    return codes.bits if isinstance(codes, SpQRWeight) else None


def _group_size(weight: LayerWeight) -> int | None:
    codes = _codes(weight)
    if isinstance(codes, QuantizedWeight):
        return codes.grid.group_size
    return codes.shape[1] // codes.groups if isinstance(codes, SpQRWeight) else None


def _only(values: Iterable[int | None]) -> int | None:
    """Return the value that all share."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
