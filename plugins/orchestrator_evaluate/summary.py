"""What a ledger says in words: the headline rows, the three numbers, the claim that may be made, and every assumption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator_evaluate.columns import UNITS
from orchestrator_evaluate.ledger import Inputs, Variant, compare, price_variants
from orchestrator_evaluate.perplexity import perplexities
from orchestrator_evaluate.product import Product, walk
from orchestrator_evaluate.scopes import Conditions
from orchestrator_evaluate.selection import Change, baseline_of


@dataclass(frozen=True, kw_only=True)
class Account:
    """A finished ledger: compared variants, one product per scope, and what may be said of them."""

    inputs: Inputs
    variants: list[Variant]
    products: list[Product]
    margin: float

    @property
    def target(self) -> Product | None:
        """The product at the target; None without a training member."""
        return self.products[1] if len(self.products) > 1 else None

    def metrics(self) -> dict[str, float]:
        """Return the three numbers, the best cost of each scope, and the training bills' range."""
        found = three_numbers(self.products[0], self.target)
        for product in self.products:
            cost = product.final.figure(product.metric).value
            if cost is not None:
                found[f"{product.metric}_{product.scope}"] = cost
        bills = [one.figure("train_usd").value for one in self.variants if one.scope == "target"]
        known = [bill for bill in bills if bill is not None]
        return found | ({"train_usd_least": min(known), "train_usd_most": max(known)} if known else {})

    def data(self) -> dict[str, Any]:
        """Return the small JSON beside the table: headline rows, the three numbers, the claim and the assumptions."""
        inputs, here = self.inputs, self.products[0]
        return {
            "headline": headline(self.variants, here.metric, inputs.conditions.volume),
            "three_numbers": three_numbers(here, self.target),
            "claim": claim(here, self.target, inputs.hardware),
            "margin": self.margin,
            "conditions": asdict(inputs.conditions),
            "hardware": asdict(inputs.hardware),
            "assumptions": assumptions(inputs.hardware, inputs.conditions, self.margin, self.variants),
            "interaction": {one.scope: one.interaction for one in self.products},
        }


def account(inputs: Inputs, baseline: Change, ladder: Sequence[Change], *, metric: str, margin: float) -> Account:
    """Price, compare and walk the ladder in every scope that has variants.

    Raises:
        ValueError: what :func:`price_variants` and :func:`walk` refuse.
    """
    priced = price_variants(inputs)
    scopes = [scope for scope in ("here", "target") if any(one.scope == scope for one in priced)]
    baselines = {scope: baseline_of(priced, scope, baseline) for scope in scopes}
    variants = compare(priced, baselines, margin, inputs.conditions)
    conditions = inputs.conditions
    products = [
        walk(variants, scope, baseline, ladder, metric=metric, volume=conditions.volume, seed=conditions.seed)
        for scope in scopes
    ]
    return Account(inputs=inputs, variants=variants, products=products, margin=margin)


def perplexity_by_model(tables: Sequence[Any]) -> Mapping[str, float]:
    """Return model digest -> token perplexity, from tables of ``evaluate.perplexity`` (pyarrow)."""
    found = {}
    for table in tables:
        columns = table.to_pydict()
        sums = (columns[name] for name in ("log_likelihood", "tokens", "bytes", "words"))
        found[columns["model_digest"][0]] = perplexities(*sums).token_perplexity
    return found


def headline(variants: Sequence[Variant], metric: str, volume: float) -> list[dict[str, Any]]:
    """Return one small row per variant: accuracy with its interval, cost with unit, and the basis of the cost."""
    made = []
    for variant in variants:
        cost = variant.figure(metric)
        made.append(
            {
                "variant": variant.name,
                "scope": variant.scope,
                "accuracy": variant.figure("value").value,
                "low": variant.figure("low").value,
                "high": variant.figure("high").value,
                "matched": variant.matched,
                "verdict": variant.verdict,
                "cost": cost.value,
                "cost_text": _cost_text(variant, metric, volume),
                "unit": UNITS[metric],
                "basis": cost.basis or variant.figure("usd_per_solved_low").basis,
            }
        )
    return made


def _cost_text(variant: Variant, metric: str, volume: float) -> str:
    """Write a cost, as a bound where nothing was solved."""
    cost = variant.figure(metric).value
    if cost is not None:
        return f"{cost:.3g}"
    if variant.solved_cost is None or variant.solved_cost.value is not None:
        return "not available"
    fixed = variant.fixed_usd / volume if metric == "usd_per_solved_at_volume" else 0.0
    return f"> {fixed + variant.solved_cost.low:.3g}"


def three_numbers(here: Product, target: Product | None) -> dict[str, float]:
    """Return the headline: measured here, modelled at target, and the excluded factor of the wider scope."""
    widest = target or here
    return {
        "measured_here": here.value,
        "modelled_at_target": 1.0 if target is None else target.value,
        "excluded": widest.excluded,
    }


def claim(here: Product, target: Product | None, hardware: Any) -> str:
    """Return the only sentence that the ledger lets one say."""
    if target is None:
        return f"{_lower(here)} here, measured, at matched quality, under the assumptions listed"
    what = {"usd_per_solved_at_volume": "USD per solved at volume", "usd_per_solved": "USD per solved"}.get(
        target.metric, target.metric
    )
    if target.value <= 1:
        return f"no counted rung lowers the modelled {what} at {hardware.name}; {here.value:.3g} x is measured here"
    measured = (
        f"of which {here.value:.3g} x measured here"
        if here.value <= target.value
        else f"{here.value:.3g} x measured here"
    )
    return (
        f"{target.value:.3g} x lower modelled {what} at {hardware.name}, {measured}, at matched quality, under the "
        "assumptions listed"
    )


def _lower(product: Product) -> str:
    return f"{product.value:.3g} x lower {product.metric}" if product.value > 1 else f"no lower {product.metric}"


def assumptions(hardware: Any, conditions: Conditions, margin: float, variants: Sequence[Variant]) -> list[str]:
    """Return every price, efficiency and condition that the figures rest on, and what is left out."""
    if conditions.mode == "own":
        price = f"own: device {conditions.device_capex_usd or hardware.device_capex_usd:g} USD plus the network, over {hardware.life_h:g} h at {hardware.utilization:g}"
    elif conditions.usd_per_device_hour is not None:
        price = (
            f"rent: {conditions.usd_per_device_hour:g} USD per device-hour, set by the recipe; the network is inside"
        )
    else:
        price = (
            f"rent: {hardware.usd_per_device_hour:g} USD per device-hour of {hardware.price_date} ({hardware.price_source}); "
            "the network is inside"
        )
    context = (
        "the mean length of the variant's calls" if conditions.context is None else f"{conditions.context:g} tokens"
    )
    efficiencies = (
        f"efficiencies at target, assumed: {hardware.eff_compute:g} of peak flop/s, {hardware.eff_memory:g} of memory "
        f"bandwidth, {conditions.launch_s:g} s of launch per forward pass"
    )
    serving = (
        f"serving: batch {conditions.batch}, context {context}, one device a replica, utilization "
        f"{conditions.utilization:g}; a cached prompt token costs {conditions.cached_price_ratio:g} of a computed one"
    )
    steps = (
        f"{conditions.tokens_per_parameter:g} tokens per parameter in simulated steps"
        if conditions.train_steps is None
        else f"{conditions.train_steps:,} simulated steps"
    )
    training = f"training at target: {steps}; one-off costs are spread over {conditions.volume:,.0f} solved problems"
    lines = [
        f"target {hardware.name}: {hardware.devices} x {hardware.accelerator}; {hardware.basis}: {hardware.source}",
        price,
        f"here: {conditions.cpu_usd_per_hour:g} USD per hour of this machine, assumed; the verifier's CPU costs the same at target",
        efficiencies,
        serving,
        training,
        f"matched quality: paired lower bound of the accuracy difference above -{margin:g}, 95 % bootstrap over problems",
        "compression at target is not modelled and left out; fine-tuning there is its counted flop on one device",
        "intervals cover the choice of problems, not the noise of timing",
    ]
    scaled = [one for one in variants if _is_scaled(one)]
    if scaled:
        served = scaled[0].figure("served_parameters").value
        lines.append(
            f"the target trains and serves the model of the simulated step, {served:.3g} parameters, at this model's bits per "
            "parameter; its quality and its tokens per problem are taken to be those measured here"
        )
    if any(variant.figure("decode_tokens_per_s").basis == "assumed" for variant in variants):
        lines.append(
            "compressed weights are taken to be read at their stored bytes; no kernel was timed to do so, hence their costs "
            "at target are assumed and enter no product"
        )
    if conditions.weights_read == "dense":
        lines.append("compressed weights are read as dense bf16 at target, because no kernel was timed to skip bytes")
    return lines


def _is_scaled(variant: Variant) -> bool:
    served, own = variant.figure("served_parameters").value, variant.figure("parameters").value
    return served is not None and own is not None and served != own
