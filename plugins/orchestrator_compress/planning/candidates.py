"""What may be done to one layer: a method with its settings, a short name for tables, and the bytes that it stores.

    rtn-4g128-sym          rounding to nearest, 4 bits, groups of 128 inputs       4g128 is gptq-4g128-sym
    gptq-3-asym            GPTQ, one group a row, with zero points
    spqr-3g16-t0.2         SpQR with bilevel groups and outlier threshold tau
    sparsegpt-2:4          pruned by pattern, or sparsegpt-50%: pruned by share; values in the model's type
    joint-50%-4g128-sym    pruned and rounded in one pass
    dense, dense16         left as it is; the number asks that the model's type has so many bits

A last part `-d0.05` sets the damping, otherwise it is that of the measurement (SpQR: 1, as published).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

import torch

from ..bitstream import words_per_row
from ..errors import CompressionError
from ..grid import Grid
from ..selection import NM, Pattern, Unstructured
from .errors import PlanningError
from .names import METHODS, Method, read_name
from .sizes import SparseBytes, sparse_bytes, spqr_bytes

# The checkpoint records rows and columns of a quantized layer in two int64.
SHAPE_BYTES = 16
_ROUNDING = {"bits", "group_size", "symmetric"}
_PRUNING = {"sparsity", "pattern"}
_FIELDS: dict[str, set[str]] = {
    "rtn": _ROUNDING,
    "gptq": _ROUNDING | {"damp"},
    "spqr": {"bits", "group_size", "tau", "damp"},
    "sparsegpt": _PRUNING | {"damp"},
    "joint": _ROUNDING | _PRUNING | {"damp"},
    "dense": {"bits"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Say what is done to a layer; fields that the method does not have are None, others get its usual values.

    `group_size=-1` is one group a row; `sparsity` is the share of weights removed, to six decimals; `pattern` is "N:M". Raises
    PlanningError for fields that do not go together, GridError and PruningError for values that there are not.
    """

    method: Method
    bits: int | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    sparsity: float | None = None
    pattern: str | None = None
    tau: float | None = None
    damp: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise PlanningError(f"method={self.method!r}; a candidate is one of {', '.join(METHODS)}")
        values = {name: getattr(self, name) for name in sorted(set().union(*_FIELDS.values()))}
        foreign = [name for name, value in values.items() if value is not None and name not in _FIELDS[self.method]]
        if foreign:
            raise PlanningError(f"{self.method} has no {' and no '.join(foreign)}; leave them out")
        for name, value in self._usual().items():
            if values[name] is None:
                object.__setattr__(self, name, value)
        self._check()

    def _usual(self) -> dict[str, object]:
        if self.method == "spqr":
            return {"group_size": 16, "tau": 0.2, "damp": 1.0}
        return {"group_size": -1, "symmetric": True} if self.method in ("rtn", "gptq", "joint") else {}

    def _check(self) -> None:
        if self.method == "dense":
            if self.bits not in (None, 16, 32):
                raise PlanningError(
                    f"dense{self.bits}; models store 16 or 32 bits a weight, or write 'dense' for either"
                )
            return
        if "bits" in _FIELDS[self.method]:
            if self.bits is None:
                raise PlanningError(f"{self.method} needs bits; write {self.method}-4g128, say")
            _ = self.grid
        if self.method in ("sparsegpt", "joint"):
            if (self.sparsity is None) == (self.pattern is None):
                raise PlanningError(
                    f"{self.method} needs either a share or an N:M pattern; write {self.method}-50% or {self.method}-2:4"
                )
            if self.sparsity is not None:
                # Six decimals, so that the name says all of it.
                object.__setattr__(self, "sparsity", round(self.sparsity, 6))
            _ = self.pruning
        if self.tau is not None and not self.tau >= 0:
            raise PlanningError(
                f"tau={self.tau}; the outlier threshold is relative and at least 0 (usual: 0.2; inf: none)"
            )
        if self.damp is not None and not 0 <= self.damp <= 1:
            raise PlanningError(
                f"damp={self.damp}; it is relative to the mean of the Hessian's diagonal and lies in 0..1"
            )

    @property
    def name(self) -> str:
        """Return the short name, from which `parse` makes the same candidate."""
        if self.method == "dense":
            return f"dense{self.bits or ''}"
        parts: list[str] = [self.method]
        if self.sparsity is not None:
            parts.append(f"{_number(round(100 * self.sparsity, 4))}%")
        if self.pattern is not None:
            parts.append(self.pattern)
        if self.bits is not None:
            parts.append(str(self.bits) if self.group_size == -1 else f"{self.bits}g{self.group_size}")
        if self.symmetric is not None:
            parts.append("sym" if self.symmetric else "asym")
        if self.tau is not None:
            parts.append(f"t{_number(self.tau)}")
        if self.damp is not None and self.damp != self._usual().get("damp"):
            parts.append(f"d{_number(self.damp)}")
        return "-".join(parts)

    def __str__(self) -> str:
        return self.name

    @property
    def grid(self) -> Grid | None:
        """Return the grid of the codes, None where nothing is rounded."""
        if self.bits is None or self.method == "dense":
            return None
        assert self.group_size is not None
        return Grid(bits=self.bits, group_size=self.group_size, symmetric=bool(self.symmetric))

    @property
    def pruning(self) -> Pattern | None:
        """Return the pattern by which weights are removed, None where none are."""
        if self.pattern is not None:
            found = re.fullmatch(r"(\d+):(\d+)", self.pattern)
            if found is None:
                raise PlanningError(f"pattern={self.pattern!r}; it is N:M, such as 2:4")
            return NM(keep=int(found[1]), of=int(found[2]))
        return None if self.sparsity is None else Unstructured(sparsity=self.sparsity)

    def check(self, rows: int, columns: int, dtype: torch.dtype) -> None:
        """Raise GridError, PruningError or PlanningError where a layer [rows, columns] stored in `dtype` cannot have it."""
        if rows < 1 or columns < 1:
            raise PlanningError(f"a layer of {rows} x {columns} weights is none")
        if self.method == "dense" and self.bits is not None and self.bits != 8 * dtype.itemsize:
            raise PlanningError(f"{self.name} for a model in {dtype}; weights stay in the model's type: write 'dense'")
        if self.grid is not None:
            self.grid.width(columns)
        if self.pruning is not None:
            self.pruning.check(columns)

    def fits(self, rows: int, columns: int, dtype: torch.dtype) -> bool:
        """Tell whether `check` accepts the layer."""
        try:
            self.check(rows, columns, dtype)
        except CompressionError:
            return False
        return True

    def kept(self, rows: int, columns: int) -> int:
        """Return how many weights of a layer are not removed."""
        if self.pattern is not None:
            keep, of = map(int, self.pattern.split(":"))
            return rows * columns // of * keep
        return rows * columns - round((self.sparsity or 0.0) * columns * rows)

    def stored_bytes(
        self, rows: int, columns: int, dtype: torch.dtype, *, outliers: int = 0, bytes_of: SparseBytes = sparse_bytes
    ) -> int:
        """Return the bytes of a layer [rows, columns] of a model stored in `dtype`, before it is solved.

        Of SpQR, `outliers` is how many there will be, which only a solution knows: without it this is the least.
        Pruned layers take the smallest of the containers behind `bytes_of`.
        """
        self.check(rows, columns, dtype)
        if self.method == "dense":
            return rows * columns * dtype.itemsize
        if self.method == "spqr":
            assert self.bits is not None
            assert self.group_size is not None
            return spqr_bytes(rows, columns, self.bits, self.group_size, outliers)
        if self.pruning is None:
            assert self.grid is not None
            return quantized_bytes(self.grid, rows, columns)
        return pruned_bytes(self.grid, rows, columns, self.kept(rows, columns), dtype, bytes_of)


def quantized_bytes(grid: Grid, rows: int, columns: int) -> int:
    """Return the bytes of a layer of codes: codes, scales, zero points, and the recorded shape."""
    return grid.stored_bytes(rows, columns) + SHAPE_BYTES


def pruned_bytes(
    grid: Grid | None, rows: int, columns: int, kept: int, dtype: torch.dtype, bytes_of: SparseBytes = sparse_bytes
) -> int:
    """Return the least bytes of a pruned layer: kept values in `dtype`, or kept codes beside scales and zero points of `grid`."""
    if grid is None:
        return bytes_of(rows, columns, kept, 8 * dtype.itemsize)
    codes = 4 * rows * words_per_row(columns, grid.bits)
    return grid.stored_bytes(rows, columns) - codes + bytes_of(rows, columns, kept, grid.bits)


def parse(name: str) -> Candidate:
    """Return the candidate of a short name, with or without the parts that have usual values.

    Without a method it is GPTQ. Raises PlanningError for a part that is not understood or stands twice, and what
    `Candidate` raises.
    """
    method, fields = read_name(name)
    return Candidate(method=method, **fields)  # type: ignore[arg-type]


def _number(value: float) -> str:
    """Write a number without an exponent, in as many digits as tell it from its neighbours."""
    text = "inf" if value == float("inf") else format(Decimal(repr(float(value))), "f")
    return text.removesuffix(".0")
