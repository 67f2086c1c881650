"""The ledger: variants of both scopes, priced and compared with the baseline, as rows of the published schema.

One row per quality member in scope ``here``, one per quality and training member in scope ``target``. Counts (tokens,
bytes, parameters) and the verifier's CPU seconds serve both, because the verifier runs on a CPU in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator_evaluate.amounts import NOTHING, Amount, times, total, weakest
from orchestrator_evaluate.bootstrap import PairedDifference, paired_difference
from orchestrator_evaluate.columns import FIGURES
from orchestrator_evaluate.members import FactBook, Quality, Training, distinct, join, written
from orchestrator_evaluate.pricing import SolvedCost, attempt_usd, break_even_volume, cost_per_solved, usd_per_mtok
from orchestrator_evaluate.scopes import Conditions, Offer, Scope, kwh_of_tokens, offer_here, offer_target
from orchestrator_evaluate.statistics import wilson_interval


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row in the making: coordinates, figures, and the per-problem costs from which intervals are drawn."""

    scope: Scope
    axes: dict[str, Any]
    quality: Quality
    training: Training | None
    hardware: str
    figures: dict[str, Amount]
    attempt_usd: Any = None
    solved_cost: SolvedCost | None = None
    fixed_usd: float = 0.0
    matched: bool | None = None
    verdict: str = ""
    changes: str = ""

    @property
    def name(self) -> str:
        """The coordinates as a label, or the quality member's own label where it has none."""
        return written(self.axes) or self.quality.label

    def figure(self, column: str) -> Amount:
        """Return a figure, nothing where the row does not have it."""
        return self.figures.get(column, NOTHING)

    def known(self, column: str) -> float:
        """Return the value of a figure that the row is known to have."""
        value = self.figure(column).value
        assert value is not None, column
        return value


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that the ledger reads; ``perplexity`` maps a model's digest to its token perplexity."""

    qualities: Sequence[Quality]
    trainings: Sequence[Training]
    facts: FactBook
    hardware: Any
    conditions: Conditions
    perplexity: Mapping[str, float] = field(default_factory=dict)


def price_variants(inputs: Inputs) -> list[Variant]:
    """Return the priced variants, scope ``here`` first, in recipe order.

    Raises:
        ValueError: no quality table, tables of different problems, or a quality member without a training member.
    """
    if not inputs.qualities:
        raise ValueError("the ledger needs at least one quality table")
    problems = inputs.qualities[0].problem_ids
    qualities = distinct([quality.aligned(problems) for quality in inputs.qualities], "quality")
    trainings = distinct(list(inputs.trainings), "training")
    facts, conditions = inputs.facts, inputs.conditions
    variants = [
        _price(inputs, "here", quality, None, dict(quality.axes), offer_here(facts, quality, conditions))
        for quality in qualities
    ]
    for quality in qualities:
        joined = [(training, join(quality.axes, training.axes)) for training in trainings]
        fitting = [(training, axes) for training, axes in joined if axes is not None]
        if trainings and not fitting:
            raise ValueError(f"no training member shares the coordinates of {quality.label!r}: {written(quality.axes)}")
        for training, axes in fitting:
            offer = offer_target(facts, quality, training, inputs.hardware, conditions)
            variants.append(_price(inputs, "target", quality, training, axes, offer))
    return variants


def _price(
    inputs: Inputs, scope: Scope, quality: Quality, training: Training | None, axes: dict[str, Any], offer: Offer
) -> Variant:
    """Derive everything that follows from an offer: USD per token, per attempt, per solved problem, at volume; energy."""
    conditions = inputs.conditions
    price_in = _usd_per_mtok(offer, offer.prefill, conditions)
    price_out = _usd_per_mtok(offer, offer.decode, conditions)
    figures = {
        **_quality_figures(inputs, quality),
        **offer.figures,
        "prefill_tokens_per_s": offer.prefill,
        "decode_tokens_per_s": offer.decode,
        "usd_per_mtok_in": price_in,
        "usd_per_mtok_out": price_out,
    }
    fixed = total(*(figures.get(name, NOTHING) for name in ("train_usd", "compress_usd", "rl_usd")))
    variant = Variant(
        scope=scope,
        axes=axes,
        quality=quality,
        training=training,
        hardware=offer.hardware,
        figures=figures,
        fixed_usd=fixed.value or 0.0,
    )
    if price_in.value is None or price_out.value is None:
        return variant
    verifier, _ = inputs.facts.observed(quality.model_digest, "verifier_s", quality.axes, quality.label)
    verifier_usd = (verifier.value or 0.0) / len(quality.problem_ids) * conditions.cpu_usd_per_hour / 3600
    attempts = attempt_usd(
        quality.prompt_tokens,
        quality.cached_tokens,
        quality.completion_tokens,
        usd_per_mtok_in=price_in.value,
        usd_per_mtok_out=price_out.value,
        cached_price_ratio=conditions.cached_price_ratio,
        verifier_usd=verifier_usd,
    )
    solved = cost_per_solved(attempts, quality.solved, seed=conditions.seed)
    basis = weakest(price_in.basis, price_out.basis)
    spent = kwh_of_tokens(
        float((quality.prompt_tokens - quality.cached_tokens).sum()), float(quality.completion_tokens.sum()), offer
    )
    right = float(quality.solved.sum())
    figures |= {
        "usd_per_attempt": Amount(float(attempts.mean()), basis),
        "usd_per_solved": Amount(solved.value, basis),
        "usd_per_solved_low": Amount(solved.low, basis),
        "usd_per_solved_high": Amount(solved.high, basis),
        "usd_per_solved_at_volume": NOTHING
        if solved.value is None
        else Amount(variant.fixed_usd / conditions.volume + solved.value, weakest(basis, fixed.basis)),
        "kwh_per_solved": times(spent, 1 / right) if right else NOTHING,
    }
    return replace(variant, figures=figures, attempt_usd=attempts, solved_cost=solved)


def _usd_per_mtok(offer: Offer, tokens_per_s: Amount, conditions: Conditions) -> Amount:
    """Price a million tokens of one device that serves alone; nothing where the rate is not known."""
    if not tokens_per_s.value:
        return NOTHING
    return Amount(
        usd_per_mtok(offer.usd_per_device_hour, 1, tokens_per_s.value, conditions.utilization), tokens_per_s.basis
    )


def _quality_figures(inputs: Inputs, quality: Quality) -> dict[str, Amount]:
    """Return what does not depend on a scope: quality, size and counted tokens."""
    n, solved = len(quality.problem_ids), int(quality.solved.sum())
    interval = wilson_interval(solved, n)
    perplexity = inputs.perplexity.get(quality.model_digest)
    size = {
        name: inputs.facts.of(quality.model_digest, name)
        for name in ("parameters", "nonzero", "stored_bytes", "bits_per_parameter")
    }
    return {
        "value": Amount(solved / n, "measured"),
        "low": Amount(interval.low, "measured"),
        "high": Amount(interval.high, "measured"),
        "n_items": Amount(float(n), "counted"),
        "n_seeds": Amount(float(quality.n_seeds), "counted"),
        "token_perplexity": NOTHING if perplexity is None else Amount(perplexity, "measured"),
        "calls": Amount(float(quality.calls.sum()), "counted"),
        "search_tokens": Amount(float((quality.prompt_tokens + quality.completion_tokens).sum()), "counted"),
        "solve_rate": Amount(solved / n, "measured"),
        **size,
    }


def compare(
    variants: Sequence[Variant], baselines: Mapping[str, Variant], margin: float, conditions: Conditions
) -> list[Variant]:
    """Compare each variant with the baseline of its scope on the same problems.

    ``matched`` is non-inferiority: the paired lower bound of the accuracy difference lies above -margin. Variants that share
    the baseline's quality table are matched without a test, because nothing differs.
    """
    reference = next(iter(baselines.values())).quality
    deltas: dict[str, PairedDifference] = {}
    compared = []
    for variant in variants:
        baseline = baselines.get(variant.scope)
        changes = {
            axis: value for axis, value in variant.axes.items() if baseline is None or baseline.axes.get(axis) != value
        }
        if variant.quality.label == reference.label:
            delta, matched = (
                PairedDifference(delta=0.0, low=0.0, high=0.0, n=len(reference.problem_ids), p_value=1.0),
                True,
            )
        else:
            if variant.quality.label not in deltas:
                deltas[variant.quality.label] = paired_difference(
                    reference.solved, variant.quality.solved, seed=conditions.seed
                )
            delta = deltas[variant.quality.label]
            matched = delta.low > -margin
        verdict = "baseline quality" if variant.quality.label == reference.label else _verdict(delta)
        figures = {
            **variant.figures,
            "paired_delta": Amount(delta.delta, "measured"),
            "delta_low": Amount(delta.low, "measured"),
            "delta_high": Amount(delta.high, "measured"),
            "break_even_volume": _break_even(baseline, variant),
        }
        compared.append(replace(variant, figures=figures, matched=matched, verdict=verdict, changes=written(changes)))
    return compared


def _verdict(delta: PairedDifference) -> str:
    """Say which of the two is better, or that these problems cannot tell."""
    if not delta.distinguishable:
        return "not distinguishable"
    return "better" if delta.delta > 0 else "worse"


def _break_even(baseline: Variant | None, variant: Variant) -> Amount:
    """Return the volume above which the variant costs less than the baseline although it is dearer to make."""
    if baseline is None or baseline is variant:
        return NOTHING
    mine, theirs = variant.figure("usd_per_solved"), baseline.figure("usd_per_solved")
    if mine.value is None or theirs.value is None:
        return NOTHING
    volume = break_even_volume(baseline.fixed_usd, theirs.value, variant.fixed_usd, mine.value)
    return NOTHING if volume is None else Amount(volume, weakest(mine.basis, theirs.basis))


def rows(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """Return the variants as rows of the published schema."""
    made = []
    for variant in variants:
        row: dict[str, Any] = {
            "variant": variant.name,
            "scope": variant.scope,
            "model_digest": variant.quality.model_digest,
            "changes_vs_baseline": variant.changes,
            "hardware": variant.hardware,
            "metric": "accuracy",
            "usd_per_solved_text": None if variant.solved_cost is None else variant.solved_cost.text(),
            "verdict": variant.verdict,
            "matched": variant.matched,
        }
        for name, _ in FIGURES:
            amount = variant.figure(name)
            row[name] = amount.value
            row[f"{name}_basis"] = None if amount.value is None else amount.basis
        made.append(row)
    return made
