"""What the ledger reads: quality tables, training tables and facts, as records that know their coordinates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator_evaluate.amounts import NOTHING, Amount, weakest

Axes = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One table of ``evaluate.accuracy``: per problem, in the order of ``problem_ids``, the verdict and what it took."""

    label: str
    axes: dict[str, Any]
    model_digest: str
    problem_ids: tuple[str, ...]
    solved: Any
    prompt_tokens: Any
    cached_tokens: Any
    completion_tokens: Any
    calls: Any
    n_seeds: int = 1

    def aligned(self, problem_ids: Sequence[str]) -> Quality:
        """Return the same table in another order of problems.

        Raises:
            ValueError: the problems differ, so that no paired comparison is possible.
        """
        if set(problem_ids) != set(self.problem_ids):
            missing = len(set(problem_ids) - set(self.problem_ids))
            raise ValueError(
                f"quality {self.label!r} was scored on other problems than the baseline ({missing} of {len(problem_ids)} are "
                "missing): a paired comparison needs the same ones; use one task, split, number of problems and seed"
            )
        where = {problem: index for index, problem in enumerate(self.problem_ids)}
        order = np.array([where[problem] for problem in problem_ids])
        arrays = ("solved", "prompt_tokens", "cached_tokens", "completion_tokens", "calls")
        return replace(self, problem_ids=tuple(problem_ids), **{name: getattr(self, name)[order] for name in arrays})


@dataclass(frozen=True, kw_only=True)
class Training:
    """One simulated training step: a row of ``network.simulate`` with its coordinates."""

    label: str
    axes: dict[str, Any]
    columns: dict[str, Any]

    def seconds(self, name: str) -> float | None:
        """Return a column of picoseconds in seconds, None where the column is absent or null."""
        value = self.columns.get(name)
        return None if value is None else float(value) / 1e12

    def number(self, name: str) -> float | None:
        """Return a column as a float, None where it is absent or null."""
        value = self.columns.get(name)
        return None if value is None else float(value)


def read_quality(label: str, axes: Axes, table: Any) -> Quality:
    """Read an accuracy table (pyarrow).

    Raises:
        ValueError: it is empty, a problem stands twice, or it speaks of several models.
    """
    columns = table.to_pydict()
    ids = tuple(columns["problem_id"])
    digests = set(columns["model_digest"])
    if not ids or len(set(ids)) != len(ids):
        raise ValueError(
            f"quality {label!r} has {len(ids)} rows and {len(set(ids))} problems: it needs one row per problem"
        )
    if len(digests) != 1:
        raise ValueError(f"quality {label!r} speaks of {len(digests)} models: it needs exactly one")
    zeros = [0] * len(ids)
    return Quality(
        label=label,
        axes=dict(axes),
        model_digest=digests.pop() or "",
        problem_ids=ids,
        solved=np.asarray(columns["solved"], dtype=np.float64),
        prompt_tokens=np.asarray(columns["prompt_tokens"], dtype=np.int64),
        cached_tokens=np.asarray(columns.get("cached_tokens", zeros), dtype=np.int64),
        completion_tokens=np.asarray(columns["completion_tokens"], dtype=np.int64),
        calls=np.asarray(columns["calls"], dtype=np.int64),
        n_seeds=max(1, len(set(columns.get("seed", [0])))),
    )


def read_training(label: str, axes: Axes, table: Any) -> list[Training]:
    """Read the rows of a simulation table (pyarrow); several rows get the axis ``row``."""
    rows = table.to_pylist()
    if not rows:
        raise ValueError(f"training {label!r} has no rows: it needs at least one simulated step")
    if len(rows) == 1:
        return [Training(label=label, axes=dict(axes), columns=rows[0])]
    return [Training(label=label, axes={**axes, "row": n}, columns=row) for n, row in enumerate(rows)]


class FactBook:
    """Look up facts.v1 rows by subject and quantity."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = list(rows)

    def of(self, subject: str, quantity: str) -> Amount:
        """Return the fact of a subject; where several stages observed it, the median of them."""
        return _median([row for row in self._rows if row["subject"] == subject and row["quantity"] == quantity])

    def observed(self, subject: str, quantity: str, axes: Axes, label: str) -> tuple[Amount, str]:
        """Return a fact about a model as seen by one member of a family, and the hardware that it names.

        Several evaluations observe the same model (at 1 and at 8 samples); the one with the member's coordinates is meant,
        then the one whose stage the label names, then the median of what is left.
        """
        rows = [row for row in self._rows if row["subject"] == subject and row["quantity"] == quantity]
        rows = [row for row in rows if _coordinates(row) == dict(axes)] or rows
        rows = [row for row in rows if row.get("stage") == label.partition("/")[0]] or rows
        return _median(rows), next((row["hardware"] for row in rows if row.get("hardware")), "")

    def holder(self, subject: str, quantity: str) -> str | None:
        """Return the model that carries a quantity for this one: itself, or else the only model that has it.

        Facts do not say which model came from which. Where several models carry the quantity and none is this one, the
        ancestor is not known: None, and the figure stays blank.
        """
        subjects = {row["subject"] for row in self._rows if row["quantity"] == quantity}
        if subject in subjects:
            return subject
        return subjects.pop() if len(subjects) == 1 else None

    def history(self, subject: str) -> dict[str, str]:
        """Return the stages of a model's making, ``train_s sft_s rl_s`` in that order -> the model that each produced.

        A model that carries one of these itself ends its history there: the base model was never fine-tuned.
        """
        found: dict[str, str] = {}
        for quantity in ("train_s", "sft_s", "rl_s"):
            holder = self.holder(subject, quantity)
            if holder is not None:
                found[quantity] = holder
            if holder == subject:
                break
        return found


def _coordinates(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the coordinates that a fact row is stamped with; they are JSON in the table."""
    axes = row.get("axes") or {}
    return json.loads(axes) if isinstance(axes, str) else dict(axes)


def _median(rows: Sequence[Mapping[str, Any]]) -> Amount:
    """Return the median value with the weakest basis; nothing for no rows."""
    if not rows:
        return NOTHING
    return Amount(float(np.median([row["value"] for row in rows])), weakest(*(row["basis"] for row in rows)))


def distinct(members: list[Any], axis: str) -> list[Any]:
    """Give members that share their coordinates an axis of their own, valued by label, so that a ladder can name them."""
    seen = [written(member.axes) for member in members]
    return [
        replace(member, axes={**member.axes, axis: member.label}) if seen.count(mine) > 1 else member
        for member, mine in zip(members, seen, strict=True)
    ]


def join(first: Axes, second: Axes) -> dict[str, Any] | None:
    """Return the union of two members' coordinates, None where they contradict each other."""
    if any(first[axis] != second[axis] for axis in first.keys() & second.keys()):
        return None
    return {**first, **second}


def written(axes: Axes) -> str:
    """Write coordinates as labels are written: ``variant:gptq4/samples:8``."""
    return "/".join(f"{axis}:{value}" for axis, value in axes.items())
