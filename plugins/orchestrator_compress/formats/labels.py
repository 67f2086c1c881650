"""What labels say: which grid a layer is on, and how layers on several grids are described by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import CheckpointError, GridError
from ..grid import Grid, QuantizedWeight


def checked_grid(bits: object, group_size: object, symmetric: object, *, where: str) -> Grid:
    """Return the grid of fields out of a label; raises CheckpointError where they have wrong types or values."""
    if (
        not isinstance(bits, int)
        or isinstance(bits, bool)
        or not isinstance(group_size, int)
        or isinstance(group_size, bool)
        or not isinstance(symmetric, bool)
    ):
        raise CheckpointError(
            f"{where}: num_bits={bits!r}, group_size={group_size!r}, symmetric={symmetric!r} are not of their types"
        )
    try:
        # The type of scales is not in labels: it is that of the tensor.
        return Grid(bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype="float32")
    except GridError as error:
        raise CheckpointError(f"{where}: {error}") from error


def by_grid(weights: Mapping[str, QuantizedWeight]) -> list[tuple[Grid, list[str]]]:
    """Return the layers on each distinct grid (the type of scales aside), most layers first, names sorted."""
    layers: dict[tuple[int, int, bool], list[str]] = {}
    for name, weight in sorted(weights.items()):
        grid = weight.grid
        layers.setdefault((grid.bits, grid.group_size, grid.symmetric), []).append(name)
    ordered = sorted(layers.items(), key=lambda item: (-len(item[1]), item[0]))
    return [
        (Grid(bits=bits, group_size=size, symmetric=symmetric, scale_dtype="float32"), names)
        for (bits, size, symmetric), names in ordered
    ]


def exactly(names: Sequence[str]) -> str:
    """Return the regular expression that matches these names and no others."""
    return "^(?:" + "|".join(re.escape(name) for name in names) + ")$"


def matches(pattern: str, name: str, where: str) -> bool:
    """Tell whether a regular expression of a label matches a name from its start; raises CheckpointError for no regex."""
    try:
        return re.match(pattern, name) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{where}: {pattern!r} is no regular expression: {error}") from error


def mapping(value: Any, what: str) -> Mapping[str, Any]:
    """Return a part of a label that must be an object; raises CheckpointError where it is something else."""
    if not isinstance(value, Mapping):
        raise CheckpointError(f"{what} is {value!r:.80} where an object belongs")
    return value
