"""What a checkpoint format must be able to do, and what the formats of integer codes share.

A codec knows the tensors that store one layer and the `quantization_config` that describes all layers; files, shards
and companions are not its business.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..grid import SCALE_DTYPES, Grid, QuantizedWeight
from ..spqr_weight import SpQRWeight
from ..weights import LayerWeight, SparseWeight

Read = tuple[dict[str, LayerWeight], dict[str, Tensor]]


class Codec(Protocol):
    """Store layer weights as named tensors with a label, and read them back bit by bit."""

    @property
    def name(self) -> str:
        """Return the name of the format, as Model artifacts and recipes use it."""
        ...

    def check(self, weight: LayerWeight, name: str) -> None:
        """Raise CheckpointError, with a format that can, where this one cannot hold the weight exactly."""
        ...

    def tensors(self, name: str, weight: LayerWeight) -> dict[str, Tensor]:
        """Return the tensors that store a layer, by their names in the checkpoint."""
        ...

    def config(
        self, weights: Mapping[str, LayerWeight], ignored: Sequence[str], *, act_order: str | None = None
    ) -> dict[str, Any]:
        """Return the `quantization_config`; `ignored` names the linear layers that stay dense."""
        ...

    def recognizes(self, quantization_config: Mapping[str, Any], tensor_names: Collection[str]) -> bool:
        """Tell whether a label (empty: none) and tensor names are of this format."""
        ...

    def read(self, tensors: Mapping[str, Tensor], quantization_config: Mapping[str, Any]) -> Read:
        """Return the weights by layer and the tensors that belong to none; raises CheckpointError for what is wrong."""
        ...

    def stored_bytes(self, weight: LayerWeight) -> int:
        """Return the bytes of a layer's tensors by formula."""
        ...


def quantized(weight: LayerWeight, name: str, form: str) -> QuantizedWeight:
    """Return the codes on a grid of a weight; raises CheckpointError, with formats that fit, where it has none."""
    if isinstance(weight, QuantizedWeight):
        return weight
    if isinstance(weight, SparseWeight):
        if weight.codes is not None:
            return weight.codes
        raise CheckpointError(
            f"{name} is pruned and not quantized, {form} holds integer codes; write it as 'sparse', or as 'dense' with "
            "its zeros"
        )
    other = "'spqr' or 'dense'" if isinstance(weight, SpQRWeight) else "'dense'"
    raise CheckpointError(f"{name} is a {type(weight).__name__}, which {form} cannot hold; write it as {other}")


def middling(weight: QuantizedWeight) -> bool:
    """Tell whether every zero point is the middle code, so that none has to be known."""
    return weight.zeros is None or bool((weight.zeros == weight.grid.middle).all())


def same_codes(one: QuantizedWeight, other: QuantizedWeight) -> bool:
    """Tell whether two weights have the same codes, zero points, scales (as numbers, bit by bit) and group of every input.

    How scales are typed and whether zero points in the middle are written down makes no difference.
    """
    return (
        one.grid.bits == other.grid.bits
        and torch.equal(one.codes.cpu(), other.codes.cpu())
        and torch.equal(one.scales.cpu().double(), other.scales.cpu().double())
        and torch.equal(zero_points(one), zero_points(other))
        and torch.equal(group_index(one), group_index(other))
    )


def zero_points(weight: QuantizedWeight) -> Tensor:
    """Return the zero points uint8 [R, G], the middle code where none are stored."""
    if weight.zeros is not None:
        return weight.zeros.cpu()
    return torch.full(weight.scales.shape, weight.grid.middle, dtype=torch.uint8)


def group_index(weight: QuantizedWeight) -> Tensor:
    """Return the group of each input, int32 [C]."""
    if weight.groups is not None:
        return weight.groups.cpu().to(torch.int32)
    columns = weight.codes.shape[1]
    return torch.arange(columns, dtype=torch.int32) // (columns // weight.scales.shape[1])


def typed(grid: Grid, scales: Tensor) -> Grid:
    """Return the grid with the type that its scales are stored in."""
    name = next(name for name, dtype in SCALE_DTYPES.items() if dtype == scales.dtype)
    return Grid(bits=grid.bits, group_size=grid.group_size, symmetric=grid.symmetric, scale_dtype=name)
