"""What a plan minimizes and must keep to: weights of layers, layers that share a choice, layers that stay precise.

The objective of a plan is a sum over layers of factor times squared output error. With factor 1 it is the error of all
layers' outputs, in which layers with large outputs count more; `relative` divides by the squared output itself, which
makes all layers alike; factors measured on the model (`calibrate_sensitivity`) come closest to what the loss feels.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from .candidates import Candidate, parse
from .errors import PlanningError

if TYPE_CHECKING:
    import pyarrow as pa

#: Least bits of a layer, or that it stays dense.
Least = int | Literal["dense"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    r"""Say what is minimized and under which constraints.

    `sensitivity` is "absolute", "relative" or a factor for each layer. `column` is the objective of the curves that is
    summed. `tie` holds regular expressions: layers that one of them matches from the start of the name, with equal
    captured groups, get the same candidate (`(.*)\.[qkv]_proj` ties the three of each block, `.*\.(\w+)$` all layers
    of a kind). `keep` maps layer names or `re:` patterns to the least bits of their codes, without pruning, or "dense".
    """

    sensitivity: Literal["absolute", "relative"] | Mapping[str, float] = "absolute"
    column: Literal["objective", "heldout_objective"] = "objective"
    tie: tuple[str, ...] = ()
    keep: Mapping[str, Least] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.sensitivity, str) and self.sensitivity not in ("absolute", "relative"):
            raise PlanningError(
                f"sensitivity={self.sensitivity!r}; it is 'absolute', 'relative' or a factor for each layer"
            )
        if self.column not in ("objective", "heldout_objective"):
            raise PlanningError(f"column={self.column!r}; plans minimize 'objective' or 'heldout_objective'")
        for pattern, least in self.keep.items():
            if least != "dense" and (isinstance(least, str) or not 1 <= least <= 32):
                raise PlanningError(f"keep[{pattern!r}]={least!r}; a layer keeps 1 to 32 bits, or stays 'dense'")


#: The sum of errors as they are, without constraints.
FREE = Terms()


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Hold one measured candidate of a layer."""

    candidate: Candidate
    bytes: int
    objective: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Hold layers that share a choice, the candidates that all of them can have, and what each takes and costs [K].

    `sizes` int64 are bytes, `costs` float64 factor times objective, both summed over the layers.
    """

    layers: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    sizes: np.ndarray
    costs: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Hold a table of curves by layer: points by candidate, shapes, and the factor of each layer."""

    points: dict[str, dict[Candidate, Point]]
    shapes: dict[str, tuple[int, int]]
    factors: dict[str, float]

    @property
    def weights(self) -> int:
        """Return the number of weights of all layers."""
        return sum(rows * columns for rows, columns in self.shapes.values())


def read_curves(table: pa.Table, terms: Terms) -> Curves:
    """Read a table of curves under the terms; PlanningError for rows that stand twice or are no finite numbers."""
    points: dict[str, dict[Candidate, Point]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    energies: dict[str, float | None] = {}
    known: dict[str, Candidate] = {}
    for row in table.to_pylist():
        name, layer = row["candidate"], row["layer"]
        candidate = known.setdefault(name, parse(name))
        cost = row[terms.column]
        if cost is None or not math.isfinite(cost):
            raise PlanningError(
                f"{layer}, {name}: {terms.column} is {cost}; measure it (held-out objectives need `heldout`)"
            )
        if candidate in points.setdefault(layer, {}):
            raise PlanningError(f"{layer}, {name}: two rows of one curve; leave one out")
        points[layer][candidate] = Point(candidate=candidate, bytes=row["bytes"], objective=cost)
        shapes[layer] = (row["rows"], row["columns"])
        energies[layer] = row["energy" if terms.column == "objective" else "heldout_energy"]
    if not points:
        raise PlanningError("the table of curves is empty; measure at least one layer")
    return Curves(points=points, shapes=shapes, factors=_factors(terms.sensitivity, energies))


def groups(curves: Curves, terms: Terms) -> list[Group]:
    """Return the choices to make, in the order of the layers; PlanningError where constraints leave none."""
    allowed = {layer: list(points) for layer, points in curves.points.items()}
    for pattern, least in terms.keep.items():
        for layer in matching(pattern, allowed):
            allowed[layer] = [candidate for candidate in allowed[layer] if _precise(candidate, least)]
            if not allowed[layer]:
                raise PlanningError(
                    f"keep[{pattern!r}]={least!r} leaves {layer} none of its candidates; measure one that is precise enough"
                )
    made = []
    for layers in tied(list(allowed), terms.tie):
        shared = [one for one in allowed[layers[0]] if all(one in allowed[layer] for layer in layers)]
        if not shared:
            raise PlanningError(
                f"{', '.join(layers)} are tied and no candidate was measured for (and is allowed to) all of them"
            )
        chosen = [[curves.points[layer][candidate] for layer in layers] for candidate in shared]
        factors = [curves.factors[layer] for layer in layers]
        made.append(
            Group(
                layers=layers,
                candidates=tuple(shared),
                sizes=np.array([sum(point.bytes for point in row) for row in chosen], dtype=np.int64),
                costs=np.array(
                    [math.fsum(f * p.objective for f, p in zip(factors, row, strict=True)) for row in chosen]
                ),
            )
        )
    return made


def tied(layers: list[str], patterns: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the layers in groups that share a choice, those that two patterns link in one; PlanningError for a pattern without use."""
    head = {layer: layer for layer in layers}

    def find(layer: str) -> str:
        while head[layer] != layer:
            layer = head[layer]
        return layer

    for pattern in patterns:
        first: dict[tuple[str | None, ...], str] = {}
        matched = 0
        for layer in layers:
            found = _compiled(pattern.removeprefix("re:")).match(layer)
            if found is not None:
                matched += 1
                head[find(layer)] = find(first.setdefault(found.groups(), layer))
        if not first:
            raise PlanningError(f"tie pattern {pattern!r} matches no layer{_near(pattern, layers)}")
        if len(first) == matched:
            raise PlanningError(
                f"tie pattern {pattern!r} matches {matched} layers and ties none: layers whose groups match alike are tied, so leave "
                "out of groups what may differ: (.*)[.](?:q|k|v)_proj"
            )
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(find(layer), []).append(layer)
    return [tuple(group) for group in groups.values()]


def matching(pattern: str, layers: Iterable[str]) -> list[str]:
    """Return the layers that are named `pattern`, or match the expression behind `re:`; PlanningError for none."""
    names = list(layers)
    if pattern.startswith("re:"):
        found = [name for name in names if _compiled(pattern.removeprefix("re:")).match(name)]
    else:
        found = [name for name in names if name == pattern]
    if not found:
        raise PlanningError(f"pattern {pattern!r} matches no layer{_near(pattern, names)}")
    return found


def calibrate_sensitivity(
    table: pa.Table,
    divergence: Callable[[str], float],
    reference: Candidate,
    column: Literal["objective", "heldout_objective"] = "objective",
) -> dict[str, float]:
    """Return a factor for each layer: the divergence of the model's outputs per unit of the layer's objective.

    `divergence(layer)` is the KL divergence (or rise of loss) when that layer alone has the candidate `reference`,
    which must be coarse enough to be measured: to first order in the objective KL is proportional to it. `column` is
    the objective that plans will sum. Raises PlanningError where the slope is no finite, non-negative number.
    """
    factors = {}
    for layer, points in read_curves(table, Terms(column=column)).points.items():
        if reference not in points:
            raise PlanningError(f"{layer} was not measured at {reference}; choose a reference that every layer has")
        change, objective = float(divergence(layer)), points[reference].objective
        if not (math.isfinite(change) and change >= 0 and objective > 0):
            raise PlanningError(
                f"{layer} at {reference}: divergence {change} at objective {objective} has no slope; choose a coarser "
                "reference or more tokens"
            )
        factors[layer] = change / objective
    return factors


def _factors(sensitivity: str | Mapping[str, float], energies: Mapping[str, float | None]) -> dict[str, float]:
    if sensitivity == "absolute":
        return dict.fromkeys(energies, 1.0)
    if isinstance(sensitivity, str):
        # A layer whose output is zero cannot lose any of it.
        return {layer: 1 / energy if energy else 1.0 for layer, energy in energies.items()}
    wrong = {layer: sensitivity.get(layer) for layer in energies if not _is_factor(sensitivity.get(layer))}
    unknown = sensitivity.keys() - energies.keys()
    if wrong or unknown:
        problem = f"factors {wrong} are no" if wrong else f"factors for unknown layers {sorted(unknown)}; give"
        raise PlanningError(f"sensitivity has {problem} finite numbers of at least 0 for each layer of the curves")
    return {layer: float(sensitivity[layer]) for layer in energies}


def _is_factor(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value >= 0


def _precise(candidate: Candidate, least: Least) -> bool:
    if candidate.method == "dense":
        return True
    return least != "dense" and candidate.pruning is None and (candidate.bits or 0) >= least


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise PlanningError(f"pattern {pattern!r} is no regular expression: {error}") from error


def _near(pattern: str, layers: list[str]) -> str:
    near = difflib.get_close_matches(pattern.removeprefix("re:"), layers, n=1, cutoff=0)
    return f"; the nearest is {near[0]!r}" if near else ""
