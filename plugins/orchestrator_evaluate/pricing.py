"""The formulas of the ledger as plain functions of numbers: device rates, step times, USD per token and per solved problem.

Units are in the names; prices are in USD. A basis is no business of this module: it only computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from orchestrator_evaluate.bootstrap import percentile_interval
from orchestrator_evaluate.statistics import wilson_interval

JOULE_PER_KWH = 3.6e6


def device_rate(
    mode: Literal["rent", "own"],
    *,
    usd_per_device_hour: float | None = None,
    device_capex_usd: float | None = None,
    network_capex_usd: float | None = None,
    devices: int = 1,
    life_h: float = 1.0,
    utilization: float = 1.0,
    power_w: float = 0.0,
    pue: float = 1.0,
    usd_per_kwh: float = 0.0,
) -> float:
    """Return the USD of one device-hour.

    ``rent``: the dated price, with the network inside it. ``own``: (device capex + network capex / N) / (life x utilization)
    + W / 1000 x PUE x USD per kWh.

    Raises:
        ValueError: renting with a capital cost, or owning with a rent: either would count the network twice.
    """
    if mode == "rent":
        if device_capex_usd is not None or network_capex_usd is not None:
            raise ValueError(
                "rent mode was given a device or network capex: the network is inside the rent, adding it counts it twice; "
                "leave the capex out or set mode: own"
            )
        if usd_per_device_hour is None or usd_per_device_hour <= 0:
            raise ValueError(
                f"rent mode needs a positive price per device-hour, not {usd_per_device_hour}; set usd_per_device_hour"
            )
        return usd_per_device_hour
    if usd_per_device_hour is not None:
        raise ValueError(
            "own mode was given a rent: it already pays for the devices; leave the rent out or set mode: rent"
        )
    if device_capex_usd is None or device_capex_usd <= 0:
        raise ValueError(f"own mode needs device_capex_usd above 0, not {device_capex_usd}; set device_capex_usd")
    capital = (device_capex_usd + (network_capex_usd or 0.0) / devices) / (life_h * utilization)
    return capital + power_w / 1000 * pue * usd_per_kwh


def operation_time_s(
    flop: float, size_bytes: float, *, peak_flops: float, eff_compute: float, bytes_per_s: float, eff_memory: float
) -> float:
    """Return max(flop / (peak x eff_c), bytes / (BW x eff_m)): the roofline with efficiencies."""
    return max(flop / (peak_flops * eff_compute), size_bytes / (bytes_per_s * eff_memory))


def usd_per_mtok(rate_usd_per_h: float, devices: int, tokens_per_s: float, utilization: float) -> float:
    """Return the price of a million tokens: 1e6 r N / (3600 tokens/s u)."""
    return 1e6 * rate_usd_per_h * devices / (3600 * tokens_per_s * utilization)


def network_time_share(step_s: float, step_s_infinite: float) -> float:
    """Return the share of a step that the network costs: 1 - T(infinite bandwidth, zero latency) / T."""
    return 1 - step_s_infinite / step_s


def attempt_usd(
    prompt_tokens: Any,
    cached_tokens: Any,
    completion_tokens: Any,
    *,
    usd_per_mtok_in: float,
    usd_per_mtok_out: float,
    cached_price_ratio: float,
    verifier_usd: float = 0.0,
) -> Any:
    """Return the cost of each attempt, float64 [problems]; cached prompt tokens cost ``cached_price_ratio`` of the price in."""
    prompt = np.asarray(prompt_tokens, dtype=np.float64)
    cached = np.asarray(cached_tokens, dtype=np.float64)
    priced_in = (prompt - cached + cached_price_ratio * cached) * usd_per_mtok_in
    return (priced_in + np.asarray(completion_tokens, dtype=np.float64) * usd_per_mtok_out) / 1e6 + verifier_usd


@dataclass(frozen=True, kw_only=True)
class SolvedCost:
    """USD per solved problem. With none solved ``value`` and ``high`` are None and ``low`` is the bound that Wilson supports."""

    value: float | None
    low: float
    high: float | None

    def text(self) -> str:
        """Write it for a table: ``0.0012 [0.0010, 0.0015]``, or ``> 0.0030`` for a bound."""
        if self.value is None:
            return f"> {self.low:.3g}"
        return f"{self.value:.3g} [{self.low:.3g}, {'unbounded' if self.high is None else format(self.high, '.3g')}]"


def cost_per_solved(cost_usd: Any, solved: Any, *, seed: int) -> SolvedCost:
    """Return the cost of all attempts, failures included, over the problems solved.

    The interval is a seeded percentile bootstrap over problems, which resamples cost and verdict together. Its upper end is
    None where more than 2.5 % of the resamples solve nothing. With 0 of n solved the cost exceeds cost / (n x Wilson's upper
    bound of 0 in n).
    """
    cost = np.asarray(cost_usd, dtype=np.float64)
    right = np.asarray(solved, dtype=np.float64)
    if not right.any():
        n = len(right)
        return SolvedCost(value=None, low=float(cost.sum()) / (n * wilson_interval(0, n).high), high=None)
    interval = percentile_interval(solved_ratio(cost, right), len(cost), seed=seed)
    high = interval.high if math.isfinite(interval.high) else None
    return SolvedCost(value=float(cost.sum() / right.sum()), low=interval.low, high=high)


def solved_ratio(cost: Any, solved: Any) -> Any:
    """Return the statistic "cost over solved" of resampled problems; infinite where a resample solves none."""

    def ratio(indices: Any) -> Any:
        count = solved[indices].sum(axis=1)
        return np.divide(cost[indices].sum(axis=1), count, out=np.full(len(indices), np.inf), where=count > 0)

    return ratio


def break_even_volume(fixed_usd: float, unit_usd: float, other_fixed_usd: float, other_unit_usd: float) -> float | None:
    """Return the volume above which the other, dearer to make and cheaper to use, costs less in all; None where there is none."""
    saved = unit_usd - other_unit_usd
    extra = other_fixed_usd - fixed_usd
    return extra / saved if saved > 0 and extra > 0 else None


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Conditions under which tokens are modelled: sequences a batch, tokens of context, seconds of launch a forward pass."""

    batch: int
    context: float
    launch_s: float


def decode_step_s(
    parameters: float, weight_bytes: float, kv_bytes_per_token: float, serving: Serving, **machine: float
) -> float:
    """Return the modelled time of one decode step of ``serving.batch`` sequences.

    max((weight bytes read + B L kv) / (BW eff_m), 2 P B / (peak eff_c)) + launch; ``machine`` is what
    :func:`operation_time_s` takes.
    """
    read = weight_bytes + serving.batch * serving.context * kv_bytes_per_token
    return operation_time_s(2 * parameters * serving.batch, read, **machine) + serving.launch_s


def prefill_s(
    parameters: float, weight_bytes: float, prompt_tokens: float, serving: Serving, **machine: float
) -> float:
    """Return the modelled time in which ``serving.batch`` prompts of ``prompt_tokens`` tokens pass through the model once."""
    flop = 2 * parameters * serving.batch * prompt_tokens
    return operation_time_s(flop, weight_bytes, **machine) + serving.launch_s
