"""The ledger's formulas against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_evaluate.amounts import NOTHING, Amount, total, weakest
from orchestrator_evaluate.pricing import (
    Serving,
    attempt_usd,
    break_even_volume,
    cost_per_solved,
    decode_step_s,
    device_rate,
    network_time_share,
    operation_time_s,
    usd_per_mtok,
)
from orchestrator_evaluate.statistics import wilson_interval

MACHINE = {"peak_flops": 1e12, "eff_compute": 0.5, "bytes_per_s": 1e9, "eff_memory": 0.8}


def test_rent_is_the_price_and_nothing_else() -> None:
    """The network is inside the rent."""
    assert device_rate("rent", usd_per_device_hour=3.5) == 3.5


@pytest.mark.parametrize("capex", [{"network_capex_usd": 1e6}, {"device_capex_usd": 3e4}])
def test_rent_with_capex_is_refused(capex: dict[str, float]) -> None:
    """Adding the network to a rent counts it twice."""
    with pytest.raises(ValueError, match="counts it twice"):
        device_rate("rent", usd_per_device_hour=3.5, **capex)


def test_owning_with_a_rent_is_refused() -> None:
    """The two modes exclude each other in both directions."""
    with pytest.raises(ValueError, match="own mode was given a rent"):
        device_rate("own", usd_per_device_hour=3.5, device_capex_usd=1.0)


def test_owning_spreads_capital_and_pays_for_energy() -> None:
    """(30000 + 1e6 / 100) / (10000 x 0.5) + 0.7 x 1.2 x 0.1 = 8.084."""
    rate = device_rate(
        "own", device_capex_usd=30_000, network_capex_usd=1e6, devices=100, life_h=10_000, utilization=0.5,
        power_w=700, pue=1.2, usd_per_kwh=0.1,
    )  # fmt: skip
    assert rate == pytest.approx(8.084)


def test_roofline_takes_the_slower_side() -> None:
    """1e12 flop at 0.5e12 /s is 2 s; 4e9 bytes at 0.8e9 /s is 5 s."""
    assert operation_time_s(1e12, 0, **MACHINE) == 2.0
    assert operation_time_s(1e12, 4e9, **MACHINE) == 5.0


def test_decode_step_reads_weights_and_cache_then_launches() -> None:
    """(8e8 + 2 x 100 x 1e6) / 0.8e9 + 0.25 = 1.5 s; with many sequences the flop take over."""
    serving = Serving(batch=2, context=100, launch_s=0.25)
    assert decode_step_s(1e6, 8e8, 1e6, serving, **MACHINE) == pytest.approx(1.5)
    crowd = Serving(batch=10**6, context=0, launch_s=0.0)
    assert decode_step_s(1e6, 8e8, 1e6, crowd, **MACHINE) == pytest.approx(2 * 1e6 * 1e6 / 0.5e12)


def test_price_of_a_million_tokens() -> None:
    """3.6 USD/h on 2 devices at 1000 tokens/s and half use: 4 USD per million."""
    assert usd_per_mtok(3.6, 2, 1000.0, 0.5) == pytest.approx(4.0)


def test_network_share_is_what_an_ideal_network_would_save() -> None:
    """8 ms against 7 ms: an eighth."""
    assert network_time_share(8e-3, 7e-3) == pytest.approx(0.125)


def test_attempt_counts_uncached_cached_and_output_tokens() -> None:
    """(100 - 40 + 0.1 x 40) x 2 + 50 x 8 per million, and the verifier."""
    cost = attempt_usd(
        [100], [40], [50], usd_per_mtok_in=2.0, usd_per_mtok_out=8.0, cached_price_ratio=0.1, verifier_usd=1e-6
    )
    assert cost[0] == pytest.approx((64 * 2 + 50 * 8) / 1e6 + 1e-6)


def test_failures_are_paid_for_by_the_solved() -> None:
    """Ten attempts of 1 USD, four solved: 2.5 USD each, inside its interval."""
    cost = cost_per_solved(np.ones(10), [1] * 4 + [0] * 6, seed=0)
    assert cost.value == 2.5
    assert cost.high is not None
    assert cost.low < 2.5 < cost.high


def test_nothing_solved_gives_a_bound_and_no_infinity() -> None:
    """0 of 20 at 1 USD: more than 20 / (20 x Wilson's upper bound)."""
    cost = cost_per_solved(np.ones(20), np.zeros(20), seed=0)
    bound = 1 / wilson_interval(0, 20).high
    assert (cost.value, cost.high) == (None, None)
    assert cost.low == pytest.approx(bound)
    assert cost.text() == f"> {bound:.3g}"


def test_rarely_solved_has_an_open_upper_end() -> None:
    """1 of 30: over a third of the resamples solve none, so the upper end is None and written as unbounded."""
    cost = cost_per_solved(np.ones(30), [1] + [0] * 29, seed=0)
    assert cost.value == 30.0
    assert cost.high is None
    assert math.isfinite(cost.low)
    assert cost.text().endswith("unbounded]")


def test_break_even_is_where_the_lines_cross() -> None:
    """10 + 3 V against 110 + 1 V: at V = 50; a dearer and costlier variant has none."""
    assert break_even_volume(10, 3, 110, 1) == 50
    assert break_even_volume(10, 3, 110, 3) is None
    assert break_even_volume(10, 3, 5, 1) is None


@given(st.lists(st.sampled_from(["counted", "measured", "modelled", "published", "assumed"]), min_size=1))
def test_a_result_is_as_weak_as_its_weakest_part(bases: list[str]) -> None:
    """One assumption makes the whole assumed; the order does not matter."""
    got = weakest(*bases)
    assert got == weakest(*reversed(bases))
    assert got in bases
    assert ("assumed" in bases) == (got == "assumed")


def test_adding_nothing_is_not_adding_zero() -> None:
    """Blank amounts are left out, and only blanks make a blank."""
    assert total(Amount(2.0, "measured"), NOTHING) == Amount(2.0, "measured")
    assert total(NOTHING, NOTHING) == NOTHING
    with pytest.raises(ValueError, match="basis 'guessed'"):
        weakest("guessed")
