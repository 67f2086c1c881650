"""The stage that spends a budget of bytes where it buys most."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from orchestrator import Context, Wired, stage
from orchestrator_compress.planning.names import read_name
from orchestrator_compress.stages import check_fallbacks
from orchestrator_storage import Model, Table, Tensors, Tokens

_CANDIDATES = ("gptq-2g64-sym", "gptq-3g64-sym", "gptq-4g64-sym", "gptq-8g64-sym")


class Planned(NamedTuple):
    """The plan, one row a layer, and what every candidate would cost and spoil, one row a layer and candidate."""

    result: Table
    curves: Table


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What a recipe may set for a plan.

    bits_per_weight  budget: bits a weight over all planned layers, scales and all that is stored included
    candidates       what a layer may become, such as gptq-4g128-sym, spqr-3g16-t0.2, sparsegpt-2:4, joint-50%-4g128-sym, dense
    sensitivity      absolute: a layer's output error counts as it is; measured: by the divergence of the model's
                     answers when only that layer is compressed (needs `calibration`, one pass a layer)
    tie              patterns whose layers share a candidate where their groups match alike, such as (.*)[.](?:q|k|v)_proj
    keep             re: patterns of layers that keep at least 8 bits
    ignore           layer names or re:PATTERNS to leave out of the plan, and dense
    max_fallbacks    layers that may fall back in one of their candidates before the stage fails; null: any number
    sequences, sequence_length  held-out tokens that divergences are measured on
    """

    bits_per_weight: float = 4.0
    candidates: tuple[str, ...] = _CANDIDATES
    sensitivity: Literal["absolute", "measured"] = "absolute"
    tie: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    max_fallbacks: int | None = None
    sequences: int = 16
    sequence_length: int = 128

    def __post_init__(self) -> None:
        if not self.bits_per_weight > 0:
            raise ValueError(f"bits_per_weight is {self.bits_per_weight}; a budget is more than nothing")
        if not self.candidates:
            raise ValueError("candidates is empty; name what a layer may become, such as gptq-4g128-sym")
        known: dict[tuple[str, tuple[tuple[str, object], ...]], str] = {}
        for name in self.candidates:
            method, said = read_name(name)
            meant = (method, tuple(sorted(said.items())))
            if meant in known:
                raise ValueError(f"candidates {known[meant]} and {name} are the same; leave one out")
            known[meant] = name
        for setting, patterns in (("keep", self.keep), ("tie", self.tie)):
            for pattern in patterns:
                _check_pattern(setting, pattern)
        precise = any(
            method == "dense" or (method in ("rtn", "gptq", "spqr") and dict(said).get("bits") == 8)
            for method, said in known
        )
        if self.keep and not precise:
            raise ValueError(
                f"keep holds layers at 8 bits, which none of the candidates {', '.join(self.candidates)} has; add one such as "
                "gptq-8g64-sym, or dense"
            )
        check_fallbacks(self.max_fallbacks)
        if self.sequences < 1 or self.sequence_length < 2:
            raise ValueError(
                f"sequences={self.sequences}, sequence_length={self.sequence_length}; divergences are measured on at "
                "least one sequence of two tokens"
            )


def _check_pattern(setting: str, pattern: str) -> None:
    try:
        re.compile(pattern.removeprefix("re:"))
    except re.error as error:
        raise ValueError(f"{setting} has {pattern!r}, which is no regular expression: {error}") from error


def tokens_to_measure(config: PlanConfig, wired: Wired) -> None:
    """Refuse to measure sensitivities on nothing."""
    if config.sensitivity == "measured" and "calibration" not in wired:
        raise ValueError(
            "sensitivity is measured, which runs the model on tokens, and calibration is not wired; wire it, or use absolute"
        )


@stage("compress.plan", version="4", cites=["arXiv:2210.17323"], check=tokens_to_measure)
def plan(
    ctx: Context, config: PlanConfig, model: Model, hessians: Tensors, calibration: Tokens | None = None
) -> Planned:
    """Choose bits, group, sparsity and outliers of every layer for the least error within a budget of bytes.

    Wire the result as `plan` of compress.gptq to carry it out.
    """
    from orchestrator_compress.plan_run import plan_stage

    return Planned(*plan_stage(ctx, config, model, hessians, calibration))
