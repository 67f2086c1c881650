"""The forms in which one compressed layer is held, between the solver, the files and what serves them.

    QuantizedWeight   codes on a grid with groups (GPTQ, RTN)
    SpQRWeight        codes on bilevel groups, and outliers
    SparseWeight      values with zeros, or codes with zeros (magnitude, Wanda, SparseGPT, joint)

All of them answer `shape` and `dequantize`. `freeze` and `thaw` turn any of them into named tensors with a
description in plain JSON and back: what a killed compression goes on from, not a format for others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .bilevel import Bilevel, Levels
from .errors import PruningError
from .grid import Grid, QuantizedWeight
from .outliers import Outliers
from .spqr_weight import SpQRWeight


class LayerWeight(Protocol):
    """Hold one linear layer's weight [R out, C in] in compressed form."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        ...

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weights [R, C] that are served."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseWeight:
    """Hold a pruned weight: `removed` bool [R, C] and what is left, as `values` [R, C] in their stored type or as codes.

    Exactly one of `values` and `codes` is given; removed positions are exactly zero in either. A kept weight may be
    zero too. Raises PruningError where a removed weight is not zero.
    """

    removed: Tensor
    values: Tensor | None = None
    codes: QuantizedWeight | None = None

    def __post_init__(self) -> None:
        if (self.values is None) == (self.codes is None):
            raise ValueError("a sparse weight holds either values or codes")
        left = int((self.dequantize()[self.removed] != 0).sum())
        if left:
            raise PruningError(f"{left} removed weights are not zero")

    @property
    def shape(self) -> tuple[int, int]:
        """Return outputs and inputs."""
        return int(self.removed.shape[0]), int(self.removed.shape[1])

    @property
    def sparsity(self) -> float:
        """Return the share of weights that were removed."""
        return float(self.removed.sum()) / self.removed.numel()

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weights [R, C] with zeros where they were removed."""
        if self.values is not None:
            return self.values.to(dtype)
        assert self.codes is not None
        return self.codes.dequantize(dtype)


def stored_bits(weight: LayerWeight) -> float:
    """Return the bits that a weight takes in the smallest of its own files: scales, outliers, positions of what is left."""
    rows, columns = weight.shape
    if isinstance(weight, QuantizedWeight):
        indices = 0 if weight.groups is None else 8 * weight.groups.nbytes
        return 8 * weight.grid.stored_bytes(rows, columns) + indices
    if isinstance(weight, SpQRWeight):
        return weight.bits_measured() * rows * columns
    if isinstance(weight, SparseWeight):
        from .containers.sparse_files import CODEC

        return 8 * CODEC.stored_bytes(weight)
    raise ValueError(f"{type(weight).__name__} is no form of a compressed layer")


def freeze(weight: LayerWeight) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a weight by name and a JSON description; ValueError for a form that there is not."""
    if isinstance(weight, QuantizedWeight):
        tensors = {"codes": weight.codes, "scales": weight.scales}
        optional = {"zeros": weight.zeros, "groups": weight.groups}
        tensors |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        return _contiguous(tensors), {"form": "quantized", "grid": asdict(weight.grid)}
    if isinstance(weight, SpQRWeight):
        tensors = {"codes": weight.codes, "order": weight.order}
        for name, statistic in (("scales", weight.scales), ("zeros", weight.zeros)):
            if isinstance(statistic, Levels):
                tensors |= {f"{name}.{part}": getattr(statistic, part) for part in ("codes", "steps", "origins")}
            else:
                tensors[name] = statistic
        tensors |= {
            f"outliers.{part}": getattr(weight.outliers, part) for part in ("offsets", "positions", "residuals")
        }
        bilevel = None if weight.bilevel is None else asdict(weight.bilevel)
        return _contiguous(tensors), {"form": "spqr", "bits": weight.bits, "bilevel": bilevel}
    if isinstance(weight, SparseWeight):
        if weight.values is not None:
            return _contiguous({"removed": weight.removed, "values": weight.values}), {"form": "sparse"}
        assert weight.codes is not None
        tensors, description = freeze(weight.codes)
        tensors["removed"] = weight.removed
        return _contiguous(tensors), {"form": "sparse", "codes": description}
    raise ValueError(f"{type(weight).__name__} is no form of a compressed layer")


def thaw(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> LayerWeight:
    """Return the weight that `freeze` took apart."""
    form = description["form"]
    if form == "quantized":
        return QuantizedWeight(
            grid=Grid(**description["grid"]),
            codes=tensors["codes"],
            scales=tensors["scales"],
            zeros=tensors.get("zeros"),
            groups=tensors.get("groups"),
        )
    if form == "spqr":
        bilevel = description["bilevel"]
        return SpQRWeight(
            bits=description["bits"],
            bilevel=None if bilevel is None else Bilevel(**bilevel),
            codes=tensors["codes"],
            scales=_statistic(tensors, "scales"),
            zeros=_statistic(tensors, "zeros"),
            outliers=Outliers(
                offsets=tensors["outliers.offsets"],
                positions=tensors["outliers.positions"],
                residuals=tensors["outliers.residuals"],
            ),
            order=tensors["order"],
        )
    if form == "sparse":
        if "codes" not in description:
            return SparseWeight(removed=tensors["removed"], values=tensors["values"])
        codes = thaw(tensors, description["codes"])
        assert isinstance(codes, QuantizedWeight)
        return SparseWeight(removed=tensors["removed"], codes=codes)
    raise ValueError(f"form {form!r} is none of quantized, spqr, sparse")


def _statistic(tensors: Mapping[str, Tensor], name: str) -> Levels | Tensor:
    if name in tensors:
        return tensors[name]
    return Levels(codes=tensors[f"{name}.codes"], steps=tensors[f"{name}.steps"], origins=tensors[f"{name}.origins"])


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
