"""What a compression may be told, and which layers it applies to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .errors import CompressionError
from .grid import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Say how every selected layer is quantized.

    `act_order="static"` solves columns by decreasing H_jj on grids fitted beforehand; "none" solves them in their
    natural order and fits each group on its current values. `ignore` holds layer names or `re:` patterns to leave
    dense; lm_head and embeddings always are. Settings that RTN does not use (act_order, damp, block_size, strict)
    are ignored by it.
    """

    method: Literal["rtn", "gptq"] = "gptq"
    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: str | None = None
    act_order: Literal["static", "none"] = "static"
    damp: float = 0.01
    block_size: int = 128
    ignore: tuple[str, ...] = ()
    strict: bool = False

    def __post_init__(self) -> None:
        if self.method not in ("rtn", "gptq"):
            raise CompressionError(f"method={self.method!r}; the methods are 'rtn' and 'gptq'")
        if self.act_order not in ("static", "none"):
            raise CompressionError(
                f"act_order={self.act_order!r}; columns are ordered by 'static' (largest diagonal first) or 'none'"
            )
        if not 0 <= self.damp <= 1:
            raise CompressionError(
                f"damp={self.damp}; it is relative to the mean of the Hessian's diagonal and must lie in 0..1 (usual: "
                "0.01)"
            )
        if self.block_size < 1:
            raise CompressionError(f"block_size={self.block_size}; it is a number of columns, at least 1 (usual: 128)")
        _ = self.grid

    @property
    def grid(self) -> Grid:
        """Return the grid that these settings describe; raises GridError where there is none."""
        return Grid(bits=self.bits, group_size=self.group_size, symmetric=self.symmetric, scale_dtype=self.scale_dtype)


def selected(names: Iterable[str], ignore: Iterable[str]) -> list[str]:
    """Return the names that no pattern ignores, in order; CompressionError for a pattern that matches nothing."""
    names = list(names)
    ignored: set[str] = set()
    for pattern in ignore:
        matched = [name for name in names if _matches(pattern, name)]
        if not matched:
            near = difflib.get_close_matches(pattern.removeprefix("re:"), names, n=1, cutoff=0)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise CompressionError(
                f"ignore pattern {pattern!r} matches no layer{hint}; write a full name, or re:REGEX matched from the "
                "start of the name"
            )
        ignored.update(matched)
    return [name for name in names if name not in ignored]


def _matches(pattern: str, name: str) -> bool:
    if not pattern.startswith("re:"):
        return pattern == name
    try:
        return re.match(pattern.removeprefix("re:"), name) is not None
    except re.error as error:
        raise CompressionError(f"ignore pattern {pattern!r} is no regular expression: {error}") from error
