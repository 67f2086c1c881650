"""What a compression may be told, and which layers it applies to."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from .bilevel import Bilevel
from .errors import CompressionError
from .grid import Grid
from .order import ACT_ORDERS, ActOrder
from .precision import ForwardDtype, forward_dtype
from .selection import NM, Pattern, Unstructured, check_sparsity

Method = Literal["rtn", "gptq", "spqr", "magnitude", "wanda", "sparsegpt"]
ExpertFallback = Literal["pool", "all_tokens", "routed", "rtn"]
METHODS: tuple[str, ...] = get_args(Method)
PRUNING: tuple[str, ...] = ("magnitude", "wanda", "sparsegpt")
#: Methods that need inputs; without any that reach a layer they are what their rules are without compensation.
DATA_DRIVEN: tuple[str, ...] = ("gptq", "spqr", "wanda", "sparsegpt")

_GRID = ("bits", "group_size", "symmetric", "scale_dtype")
_EXPERTS = ("expert_fallback", "expert_tokens")
#: What says how tokens go through the model; of no use where moments are given.
PASSES = ("propagate", "true_sequential", "forward_dtype")
_PASSES = (*PASSES, *_EXPERTS)
_SOLVER = ("damp", "block_size", "strict", *_PASSES)
_USED: dict[str, tuple[str, ...]] = {
    "rtn": _GRID,
    "gptq": (*_GRID, *_SOLVER, "act_order"),
    "spqr": ("bits", "group_size", *_SOLVER, "tau", "statistic_bits", "tile_rows"),
    "magnitude": (*_GRID, "sparsity", "pattern"),
    "wanda": (*_GRID, "sparsity", "pattern", *_PASSES),
    "sparsegpt": (*_GRID, *_SOLVER, "sparsity", "pattern"),
}
_WHOLE = ("bits", "group_size", "block_size", "statistic_bits", "tile_rows", "expert_tokens", "max_fallbacks")
_NUMBERS = ("damp", "sparsity", "tau")
_FLAGS = ("symmetric", "strict", "true_sequential")
_MAY_BE_NONE = ("bits", "group_size", "statistic_bits", "expert_tokens", "max_fallbacks", "damp")
_ALWAYS = ("method", "ignore", "overrides", "max_fallbacks", "measure")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Say how every selected layer is compressed; what a method does not use it ignores (see `unused`).

    method          rtn, gptq, spqr quantize; magnitude, wanda, sparsegpt prune, and quantize what stays where `bits` is set
    bits            code width; None: 4 for rtn and gptq, 3 for spqr, floating point for methods that prune
    group_size      inputs that share a scale, -1: the whole row; None: 128, 16 for spqr
    symmetric, scale_dtype   see `grid.Grid`
    act_order       order of solving, see `order`
    damp            added to the diagonal of H, relative to its mean; None: 0.01, 1 for spqr
    block_size      columns between two updates of all the rest; changes speed, not results
    sparsity        share of weights removed; pattern ("2:4") keeps N of each M inputs instead
    tau             outlier threshold of SpQR, inf: none; statistic_bits and tile_rows: how its scales and zero points
                    are stored, statistic_bits None: as they are
    propagate       quantized: a block is solved on what the compressed blocks before it give; full_precision: on what
                    the dense model gives, so that blocks are independent and one calibration serves all settings
    true_sequential with propagate "quantized": layers of a block are solved as a pass reaches them, each on what the
                    compressed ones before it give: o on the attention of the quantized q, k, v. One pass; False: all
                    layers of a block on what its dense layers give, in two
    forward_dtype   type of the products of forward passes, float32 or bfloat16, see `precision`
    expert_fallback what experts are solved on that fewer than `expert_tokens` calibration tokens reach (None: than they
                    have inputs): pool (the missing ones made up from all tokens), all_tokens, routed (those alone) or
                    rtn (no compensation); see `expert_inputs`
    ignore          layer names or re:PATTERNS to leave dense; lm_head, embeddings and routers always are
    overrides       changed settings by layer name or re:PATTERN, later ones last
    strict          fail instead of raising the damping or rounding without compensation
    max_fallbacks   layers that may fall back before the compression fails; None: any number
    measure         full: objectives on the dense model's inputs as well, comparable between methods, for one more pass;
                    own: on what is solved only
    """

    method: Method = "gptq"
    bits: int | None = None
    group_size: int | None = None
    symmetric: bool = True
    scale_dtype: str | None = None
    act_order: ActOrder = "static"
    damp: float | None = None
    block_size: int = 128
    sparsity: float = 0.5
    pattern: str | None = None
    tau: float = 0.2
    statistic_bits: int | None = 3
    tile_rows: int = 16
    propagate: Literal["quantized", "full_precision"] = "quantized"
    true_sequential: bool = True
    forward_dtype: ForwardDtype = "float32"
    expert_fallback: ExpertFallback = "pool"
    expert_tokens: int | None = None
    ignore: tuple[str, ...] = ()
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    strict: bool = False
    max_fallbacks: int | None = None
    measure: Literal["full", "own"] = "full"

    def __post_init__(self) -> None:
        self._check_types()
        _one_of("method", self.method, METHODS)
        _one_of("act_order", self.act_order, ACT_ORDERS)
        _one_of("propagate", self.propagate, ("quantized", "full_precision"))
        _one_of("measure", self.measure, ("full", "own"))
        forward_dtype(self.forward_dtype)
        _one_of("expert_fallback", self.expert_fallback, get_args(ExpertFallback))
        if self.expert_tokens is not None and self.expert_tokens < 0:
            raise CompressionError(
                f"expert_tokens={self.expert_tokens}; it is a number of tokens, or None for as many as inputs"
            )
        if self.damp is not None and not 0 <= self.damp <= 1:
            raise CompressionError(
                f"damp={self.damp}; it is relative to the mean of the Hessian's diagonal and must lie in 0..1 (usual: 0.01)"
            )
        if self.block_size < 1:
            raise CompressionError(f"block_size={self.block_size}; it is a number of columns, at least 1 (usual: 128)")
        if self.max_fallbacks is not None and self.max_fallbacks < 0:
            raise CompressionError(f"max_fallbacks={self.max_fallbacks}; it is a number of layers, or None for any")
        if not self.tau >= 0:
            raise CompressionError(f"tau={self.tau}; an outlier threshold is at least 0 (usual: 0.2; inf: no outliers)")
        _ = (self.grid, self.bilevel, self.removal)
        for pattern, changes in self.overrides.items():
            self._changed(pattern, changes)

    def _check_types(self) -> None:
        """Raise CompressionError for values of another type than their fields': callers may write anything."""
        for name in (*_WHOLE, *_NUMBERS):
            value = getattr(self, name)
            kinds = (int,) if name in _WHOLE else (int, float)
            wanted = "a whole number" if name in _WHOLE else "a number"
            if value is None and name in _MAY_BE_NONE:
                continue
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise CompressionError(f"{name}={value!r} is a {type(value).__name__}; it must be {wanted}")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise CompressionError(f"{name}={getattr(self, name)!r}; it is True or False")
        patterns: Any = self.pattern
        if patterns is not None and not isinstance(patterns, str):
            raise CompressionError(f"pattern={patterns!r}; it is a text N:M such as '2:4', or None")
        names: Any = self.ignore
        if not isinstance(names, Sequence) or not all(isinstance(one, str) for one in names):
            raise CompressionError(f"ignore={names!r:.80}; it is a list of layer names or re:PATTERNS")
        if isinstance(self.ignore, str):
            raise CompressionError(f"ignore={self.ignore!r} is one text; give a list: ignore=[{self.ignore!r}]")
        layers: Any = self.overrides
        if not isinstance(layers, Mapping) or not all(isinstance(one, Mapping) for one in layers.values()):
            raise CompressionError(
                f"overrides={layers!r:.80}; it maps layer names or re:PATTERNS to settings, for example "
                '{"re:.*down_proj": {"bits": 8}}'
            )

    @property
    def rounds(self) -> bool:
        """Tell whether weights that stay are quantized."""
        return self.method not in PRUNING or self.bits is not None

    @property
    def grid(self) -> Grid | None:
        """Return the grid of the codes, None where weights stay in floating point; GridError where there is none."""
        if not self.rounds:
            return None
        spqr = self.method == "spqr"
        return Grid(
            bits=self.bits if self.bits is not None else (3 if spqr else 4),
            group_size=self.width,
            symmetric=self.symmetric and not spqr,
            scale_dtype=None if spqr else self.scale_dtype,
        )

    @property
    def width(self) -> int:
        """Return the group size with the method's own default."""
        if self.group_size is not None:
            return self.group_size
        return 16 if self.method == "spqr" else 128

    @property
    def damping(self) -> float:
        """Return the damping with the method's own default."""
        return self.damp if self.damp is not None else (1.0 if self.method == "spqr" else 0.01)

    @property
    def bilevel(self) -> Bilevel | None:
        """Return how SpQR stores scales and zero points."""
        if self.statistic_bits is None:
            return None
        return Bilevel(scale_bits=self.statistic_bits, zero_bits=self.statistic_bits, rows=self.tile_rows)

    @property
    def removal(self) -> Pattern:
        """Return which weights a method that prunes removes; PruningError for a share or pattern that there is not."""
        check_sparsity(self.sparsity)
        return Unstructured(sparsity=self.sparsity) if self.pattern is None else parse_pattern(self.pattern)

    def of(self, layer: str) -> Settings:
        """Return the settings of one layer, with the overrides that match its name."""
        changed = self
        for pattern, changes in self.overrides.items():
            if _matches(pattern, layer, "overrides"):
                changed = changed._changed(pattern, changes)
        return changed

    def unused(self, given: Iterable[str]) -> list[str]:
        """Return which of the given settings no layer's method uses: what a note tells."""
        used = {
            name
            for method in {self.method, *(changes.get("method", self.method) for changes in self.overrides.values())}
            for name in _USED[method]
        }
        if self.pattern is not None:
            used.discard("sparsity")
        return sorted(set(given) - used - set(_ALWAYS))

    def _changed(self, pattern: str, changes: Mapping[str, Any]) -> Settings:
        known = {one.name for one in fields(Settings)} - {
            "ignore",
            "overrides",
            "max_fallbacks",
            "measure",
            *_PASSES,
        }
        unknown = sorted(set(changes) - known)
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise CompressionError(f"overrides[{pattern!r}] sets {unknown[0]!r}, which is no setting of a layer{hint}")
        try:
            return replace(self, overrides={}, **changes)
        except TypeError as error:
            raise CompressionError(f"overrides[{pattern!r}]: {error}") from error


def parse_pattern(text: str) -> NM:
    """Return the N:M pattern that a text such as "2:4" names (2 of 4 stay); CompressionError for another text."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise CompressionError(f"pattern={text!r}; write N:M, the weights that stay of each M inputs, such as 2:4")
    return NM(keep=int(match[1]), of=int(match[2]))


def selected(names: Iterable[str], ignore: Iterable[str]) -> list[str]:
    """Return the names that no pattern ignores, in order; CompressionError for a pattern that matches nothing."""
    names = list(names)
    ignored: set[str] = set()
    for pattern in ignore:
        if _matches(pattern, "lm_head", "ignore"):  # never compressed, and named out of habit
            ignored.update(name for name in names if _matches(pattern, name, "ignore"))
        else:
            ignored.update(matching(pattern, names, "ignore"))
    return [name for name in names if name not in ignored]


def matching(pattern: str, names: list[str], what: str) -> list[str]:
    """Return the names that a pattern matches; CompressionError, with the nearest name, where there are none."""
    matched = [name for name in names if _matches(pattern, name, what)]
    if not matched:
        near = difflib.get_close_matches(pattern.removeprefix("re:"), names, n=1, cutoff=0)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise CompressionError(
            f"{what} pattern {pattern!r} matches no layer{hint}; write a full name, or re:REGEX matched from the start "
            "of the name"
        )
    return matched


def _matches(pattern: str, name: str, what: str) -> bool:
    if not pattern.startswith("re:"):
        return pattern == name
    try:
        return re.match(pattern.removeprefix("re:"), name) is not None
    except re.error as error:
        raise CompressionError(f"{what} pattern {pattern!r} is no regular expression: {error}") from error


def _one_of(name: str, value: str, allowed: Iterable[str]) -> None:
    if value not in allowed:
        raise CompressionError(f"{name}={value!r}; it is one of {', '.join(map(repr, allowed))}")
