"""The two scopes of the ledger: what training cost and how fast tokens flow, here and at the target.

Scope ``here`` is this machine: seconds are measured, the network plays no part. Scope ``target`` is the hardware of the
recipe: step times are simulated, token rates modelled. No figure of one scope is computed with a rate of the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator_evaluate.amounts import NOTHING, Amount, times, total, weakest
from orchestrator_evaluate.members import FactBook, Quality, Training
from orchestrator_evaluate.pricing import (
    JOULE_PER_KWH,
    Serving,
    decode_step_s,
    device_rate,
    network_time_share,
    prefill_s,
)

BF16_BYTES = 2
Scope = Literal["here", "target"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """The assumptions under which a table is priced; all of them are printed beside it.

    ``context`` None means the mean length of the variant's own calls. ``train_steps`` None means as many simulated steps as
    ``tokens_per_parameter`` asks for (20: Hoffmann et al. 2022). ``weights_read`` says what a modelled decode step reads of
    compressed weights for which no kernel was timed: ``stored`` bytes (then the figure is assumed, and counts for nothing in
    the product) or the ``dense`` bf16 bytes.
    """

    mode: Literal["rent", "own"] = "rent"
    usd_per_device_hour: float | None = None
    device_capex_usd: float | None = None
    network_capex_usd: float | None = None
    cpu_usd_per_hour: float = 0.10
    train_steps: int | None = None
    volume: float = 1e6
    batch: int = 64
    context: float | None = None
    utilization: float = 0.5
    launch_s: float = 1e-5
    cached_price_ratio: float = 0.0
    weights_read: Literal["stored", "dense"] = "stored"
    tokens_per_parameter: float = 20.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a scope says about one variant: its device rate, its token rates, and its figures of training and serving."""

    hardware: str
    usd_per_device_hour: float
    prefill: Amount
    decode: Amount
    figures: dict[str, Amount]
    power_w: float | None = None


def offer_here(facts: FactBook, quality: Quality, conditions: Conditions) -> Offer:
    """Read this machine's seconds and token rates; its hour has a stated price."""
    subject, rate = quality.model_digest, conditions.cpu_usd_per_hour
    prefill, machine = facts.observed(subject, "prefill_tokens_per_s", quality.axes, quality.label)
    decode, _ = facts.observed(subject, "decode_tokens_per_s", quality.axes, quality.label)
    history = facts.history(subject)
    base = history.get("train_s", "")
    hours = times(facts.of(base, "train_s"), 1 / 3600)
    tuned_s = total(*(facts.of(history[name], name) for name in ("sft_s", "rl_s") if name in history))
    figures = {
        "train_tokens": facts.of(base, "train_tokens"),
        "flop": facts.of(base, "flop"),
        "device_hours": hours,
        "train_usd": times(hours, rate),
        "compress_usd": times(facts.of(subject, "compress_s"), rate / 3600),
        "rl_usd": times(tuned_s, rate / 3600),
    }
    return Offer(
        hardware=machine or "this machine", usd_per_device_hour=rate, prefill=prefill, decode=decode, figures=figures
    )


def offer_target(facts: FactBook, quality: Quality, training: Training, hardware: Any, conditions: Conditions) -> Offer:
    """Model the target: the simulated step times the number of steps, and token rates from bytes and flop.

    Fine-tuning is its counted flop at the assumed efficiency of one device. Compression at the target is not modelled and
    stays blank.
    """
    devices = int(training.number("devices") or hardware.devices)
    network = training.number("network_capex_usd")
    rate = target_rate(hardware, conditions, network, devices)
    step_s, ideal_s = training.seconds("step_ps"), training.seconds("step_ps_infinite")
    steps = training_steps(training, conditions)
    scale = size_scale(facts, quality, training)
    hours = NOTHING if steps is None else _modelled(step_s, devices * steps / 3600)
    history = facts.history(quality.model_digest)
    tuned = total(*(facts.of(history[name], "flop") for name in ("sft_s", "rl_s") if name in history))
    device_capex = conditions.device_capex_usd or hardware.device_capex_usd
    known = network is not None and device_capex > 0
    prefill, decode, serving = target_rates(facts, quality, hardware, conditions, scale)
    figures = {
        "train_tokens": _modelled(training.number("tokens_per_step"), steps),
        "flop": _modelled(training.number("flop_per_step"), steps),
        "step_s": _modelled(step_s),
        "exposed_comm_s": _modelled(training.seconds("exposed_communication_ps")),
        "network_time_share": _modelled(
            network_time_share(step_s, ideal_s) if step_s and ideal_s is not None else None
        ),
        "device_hours": hours,
        "train_usd": times(hours, rate),
        "rl_usd": _modelled(tuned.value, scale * rate / 3600 / (hardware.peak_flops * hardware.eff_compute)),
        "kwh_train": times(hours, hardware.power_w * hardware.pue / 1000) if hardware.power_w > 0 else NOTHING,
        "network_capex_usd": _modelled(network),
        "network_capex_share": _modelled(network / (devices * device_capex + network) if known and network else None),
        **serving,
    }
    return Offer(
        hardware=hardware.name,
        usd_per_device_hour=rate,
        prefill=prefill,
        decode=decode,
        figures=figures,
        power_w=hardware.power_w * hardware.pue if hardware.power_w > 0 else None,
    )


def training_steps(training: Training, conditions: Conditions) -> float | None:
    """Return the steps priced: those of the recipe, or what tokens per parameter ask for; None where the step does not say."""
    if conditions.train_steps is not None:
        return float(conditions.train_steps)
    parameters, tokens = training.number("parameters"), training.number("tokens_per_step")
    if not parameters or not tokens:
        return None
    return float(math.ceil(conditions.tokens_per_parameter * parameters / tokens))


def size_scale(facts: FactBook, quality: Quality, training: Training) -> float:
    """Return how many times larger the model of the simulated step is than the one measured here.

    A recipe may ask what a larger model of the same family would send; the target then trains and serves that model. Counts
    within 1 % are taken as equal: they differ by what each side counts as a parameter.
    """
    simulated, own = training.number("parameters"), facts.of(quality.model_digest, "parameters").value
    if not simulated or not own or abs(simulated / own - 1) < 0.01:
        return 1.0
    return simulated / own


def target_rate(hardware: Any, conditions: Conditions, network_capex_usd: float | None, devices: int) -> float:
    """Return USD per device-hour at the target; overrides of the recipe go before the component's own prices.

    Raises:
        ValueError: the conditions carry a price of the other mode.
    """
    if conditions.mode == "rent":
        return device_rate(
            "rent",
            usd_per_device_hour=conditions.usd_per_device_hour or hardware.usd_per_device_hour,
            device_capex_usd=conditions.device_capex_usd,
            network_capex_usd=conditions.network_capex_usd,
        )
    given = conditions.network_capex_usd
    return device_rate(
        "own",
        usd_per_device_hour=conditions.usd_per_device_hour,
        device_capex_usd=conditions.device_capex_usd or hardware.device_capex_usd,
        network_capex_usd=network_capex_usd if given is None else given,
        devices=devices,
        life_h=hardware.life_h,
        utilization=hardware.utilization,
        power_w=hardware.power_w,
        pue=hardware.pue,
        usd_per_kwh=hardware.usd_per_kwh,
    )


def weight_bytes_read(facts: FactBook, subject: str, weights_read: str) -> Amount:
    """Return what a decode step reads of the weights.

    A fact ``weight_bytes_read`` comes from a timed kernel and is believed. Without one a model stored in fewer bits than bf16
    reads either its stored bytes, which is an assumption, or the dense bytes; a dense model reads bf16, however it is stored.
    """
    timed = facts.of(subject, "weight_bytes_read")
    if timed.value is not None:
        return Amount(timed.value, "modelled")
    parameters, stored = facts.of(subject, "parameters"), facts.of(subject, "stored_bytes")
    if parameters.value is None:
        return NOTHING
    dense = BF16_BYTES * parameters.value
    if weights_read == "stored" and stored.value is not None and stored.value < dense:
        return Amount(stored.value, "assumed")
    return Amount(dense, "modelled")


def target_rates(
    facts: FactBook, quality: Quality, hardware: Any, conditions: Conditions, scale: float = 1.0
) -> tuple[Amount, Amount, dict[str, Amount]]:
    """Model prefill and decode tokens per second of one device; also return the batch and context they hold for.

    ``scale`` enlarges the model at equal bits per parameter; key-value bytes per token grow with depth times width, which
    is the power 2/3 of the parameters where the aspect stays.
    """
    subject = quality.model_digest
    weights = weight_bytes_read(facts, subject, conditions.weights_read)
    parameters = facts.of(subject, "parameters").value
    calls = float(quality.calls.sum())
    if weights.value is None or parameters is None or calls == 0:
        return NOTHING, NOTHING, {}
    prompt = float(quality.prompt_tokens.sum()) / calls
    own_length = prompt + float(quality.completion_tokens.sum()) / calls
    context = own_length if conditions.context is None else conditions.context
    serving = Serving(batch=conditions.batch, context=context, launch_s=conditions.launch_s)
    machine = {
        "peak_flops": hardware.peak_flops,
        "eff_compute": hardware.eff_compute,
        "bytes_per_s": hardware.memory_bytes_per_s,
        "eff_memory": hardware.eff_memory,
    }
    cache = (facts.of(subject, "kv_bytes_per_token").value or 0.0) * scale ** (2 / 3)
    parameters, read = parameters * scale, weights.value * scale
    basis = weakest("modelled", weights.basis)
    decode = serving.batch / decode_step_s(parameters, read, cache, serving, **machine)
    prefill = NOTHING
    if prompt > 0:
        prefill = Amount(serving.batch * prompt / prefill_s(parameters, read, prompt, serving, **machine), basis)
    conditions_of_rates = {
        "served_parameters": Amount(parameters, "modelled"),
        "batch": Amount(float(serving.batch), "assumed"),
        "context": Amount(context, "counted" if conditions.context is None else "assumed"),
    }
    return prefill, Amount(decode, basis), conditions_of_rates


def kwh_of_tokens(uncached: float, completed: float, offer: Offer) -> Amount:
    """Return the energy of generating tokens at an offer's rates; nothing where power or rates are not known."""
    if offer.power_w is None or not offer.prefill.value or not offer.decode.value:
        return NOTHING
    seconds = uncached / offer.prefill.value + completed / offer.decode.value
    return Amount(seconds * offer.power_w / JOULE_PER_KWH, weakest(offer.prefill.basis, offer.decode.basis))


def _modelled(value: float | None, factor: float | None = 1.0) -> Amount:
    """Return a modelled amount, or nothing."""
    return NOTHING if value is None or factor is None else Amount(value * factor, "modelled")
