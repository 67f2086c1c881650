"""Rows of the ledger: what enters them, what changes them, and their recomputation from the tables alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from orchestrator_evaluate.columns import FIGURES, ledger_schema, table_of
from orchestrator_evaluate.ledger import price_variants, rows
from orchestrator_evaluate.members import FactBook
from orchestrator_evaluate.scopes import Conditions
from tests.evaluate.ledger_case import MODELS, STEP_PS, N, compared, fact, facts, inputs, quality


def table(
    conditions: Conditions | None = None, margin: float = 0.1, **given: Any
) -> dict[tuple[str, str], dict[str, Any]]:
    """The ledger of the case by (scope, variant)."""
    made = table_of(rows(compared(inputs(conditions, **given), margin)), ledger_schema()).to_pylist()
    return {(row["scope"], row["variant"]): row for row in made}


def test_one_row_per_quality_member_here_and_per_pair_at_the_target() -> None:
    """3 models x 2 sample counts here, times 2 topologies at the target; every figure has a basis exactly where it has a value."""
    made = table()
    assert len(made) == 6 + 12
    for row in made.values():
        for name, _ in FIGURES:
            assert (row[name] is None) == (row[f"{name}_basis"] is None), name


def test_scopes_never_share_a_rate() -> None:
    """Rows here are measured or counted and know no network; rows at the target carry no measured time or price."""
    for (scope, _), row in table().items():
        timed = [
            name for name, unit in FIGURES if any(word in unit for word in ("USD", "/s", "h", "s")) and unit != "solved"
        ]
        bases = {row[f"{name}_basis"] for name in timed if row[name] is not None}
        if scope == "here":
            assert bases <= {"measured", "counted"}
            assert row["network_time_share"] is None
            assert row["step_s"] is None
        else:
            assert bases <= {"modelled", "assumed"}


def test_independent_recomputation_here() -> None:
    """The 8-sample row of the reasoner from first principles: seconds of this machine at 0.10 USD an hour."""
    row = table()["here", "variant:reasoner/samples:8"]
    completion = float(((np.arange(N) % 5 + 10) * 8).sum())
    seconds = 13 * N / 9008.0 + completion / (4000.0 * 1.5)
    usd = seconds / 0.5 / 3600 * 0.10 + 0.032 / 3600 * 0.10
    solved = round(0.92 * N)
    assert row["usd_per_solved"] == pytest.approx(usd / solved, rel=1e-12)
    assert row["usd_per_attempt"] == pytest.approx(usd / N, rel=1e-12)
    fixed = (90.0 + 20.0 + 40.0) / 3600 * 0.10
    assert row["usd_per_solved_at_volume"] == pytest.approx(usd / solved + fixed / 1e6, rel=1e-12)
    assert row["solve_rate"] == row["value"] == solved / N


def test_independent_recomputation_at_the_target() -> None:
    """The same row at the target: bf16 weights and cache over the bandwidth, simulated steps at the rent."""
    row = table()["target", "variant:reasoner/samples:8/topology:hx2mesh"]
    completion = float(((np.arange(N) % 5 + 10) * 8).sum())
    context = 13 + completion / (8 * N)
    decode = 64 / ((2e6 + 64 * context * 1024) / (4.8e12 * 0.8) + 1e-5)
    prefill = 64 * 13 / (max(2e6 / (4.8e12 * 0.8), 2 * 1e6 * 64 * 13 / (989.5e12 * 0.5)) + 1e-5)
    usd = (13 * N / prefill + completion / decode) / 0.5 / 3600 * 3.5 + 0.032 / 3600 * 0.10
    assert row["decode_tokens_per_s"] == pytest.approx(decode, rel=1e-12)
    assert row["usd_per_solved"] == pytest.approx(usd / round(0.92 * N), rel=1e-12)
    steps = math.ceil(20 * 1e6 / (8192 * 1024))
    hours = 1024 * steps * STEP_PS["hx2mesh"] / 1e12 / 3600
    tuning = 3e12 / (989.5e12 * 0.5) / 3600 * 3.5
    assert row["device_hours"] == pytest.approx(hours, rel=1e-12)
    assert row["train_usd"] == pytest.approx(hours * 3.5, rel=1e-12)
    assert row["rl_usd"] == pytest.approx(tuning, rel=1e-12)
    assert row["network_time_share"] == pytest.approx(1 - 7 / 9)
    assert row["kwh_train"] == pytest.approx(hours * 0.7 * 1.2)
    assert row["network_capex_share"] == pytest.approx(12e6 / (1024 * 32_000 + 12e6))


def test_each_member_is_priced_with_its_own_measured_rate() -> None:
    """The facts of 1 and of 8 samples about the same model are told apart by their coordinates."""
    made = table()
    for name, (*_, decode) in MODELS.items():
        for samples in (1, 8):
            got = made["here", f"variant:{name}/samples:{samples}"]["decode_tokens_per_s"]
            assert got == pytest.approx(decode * (1 + samples / 16))


def changed_cells(before: dict, after: dict) -> dict[tuple[str, str], set[str]]:
    """The columns that differ, by row."""
    assert before.keys() == after.keys()
    differing = {key: {name for name in before[key] if before[key][name] != after[key][name]} for key in before}
    return {key: names for key, names in differing.items() if names}


def test_the_rent_changes_exactly_the_prices_of_the_target() -> None:
    """Doubling it touches every target row and no row here, and only columns in USD (and where variants break even)."""
    cells = changed_cells(table(), table(Conditions(usd_per_device_hour=7.0)))
    assert {scope for scope, _ in cells} == {"target"}
    assert len(cells) == 12
    dollars = {name for name, unit in FIGURES if unit.startswith("USD")} | {"usd_per_solved_text", "break_even_volume"}
    assert all(names <= dollars for names in cells.values())
    assert all({"train_usd", "usd_per_mtok_out", "usd_per_solved"} <= names for names in cells.values())


def test_the_price_of_this_machine_changes_here_and_the_verifier_alone_at_the_target() -> None:
    """Target rows pay the verifier's CPU and nothing else here."""
    doubled = table(Conditions(cpu_usd_per_hour=0.2))
    cells = changed_cells(table(), doubled)
    assert all("train_usd" in names for (scope, _), names in cells.items() if scope == "here")
    priced = {"usd_per_attempt", "usd_per_solved", "usd_per_solved_low", "usd_per_solved_high", "usd_per_solved_at_volume",
              "usd_per_solved_text", "break_even_volume"}  # fmt: skip
    assert all(names <= priced for (scope, _), names in cells.items() if scope == "target")
    without = [row for row in facts() if row["quantity"] != "verifier_s"]
    free = changed_cells(table(rows=without), table(Conditions(cpu_usd_per_hour=0.2), rows=without))
    assert {scope for scope, _ in free} == {"here"}


def test_unsolved_variant_prints_a_bound() -> None:
    """0 solved: no value, a lower bound, no infinity anywhere, and no cost at volume."""
    made = table(rtn4=(0.0, 0.0))
    for row in made.values():
        assert all(value is None or not isinstance(value, float) or math.isfinite(value) for value in row.values())
    row = made["here", "variant:rtn4/samples:1"]
    assert (row["usd_per_solved"], row["usd_per_solved_high"], row["usd_per_solved_at_volume"]) == (None, None, None)
    assert row["usd_per_solved_low"] > made["here", "variant:reasoner/samples:1"]["usd_per_solved"]
    assert row["usd_per_solved_text"] == f"> {row['usd_per_solved_low']:.3g}"


def test_matched_means_that_the_paired_lower_bound_clears_the_margin() -> None:
    """The broken model is inferior at any margin below its loss, the good one is not; the baseline matches itself."""
    made = table(margin=0.1)
    assert made["here", "variant:reasoner/samples:8"]["matched"] is True
    assert made["here", "variant:reasoner/samples:8"]["paired_delta"] == 0.0
    assert made["here", "variant:gptq4/samples:8"]["matched"] is True
    broken = made["here", "variant:rtn4/samples:8"]
    assert broken["matched"] is False
    assert broken["verdict"] == "worse"
    assert made["here", "variant:gptq4/samples:8"]["verdict"] == "not distinguishable"
    assert made["target", "variant:reasoner/samples:8/topology:hx2mesh"]["verdict"] == "baseline quality"
    assert broken["delta_low"] < broken["paired_delta"] < broken["delta_high"] < 0
    assert table(margin=0.001)["here", "variant:gptq4/samples:1"]["matched"] is False


def test_blank_is_not_zero() -> None:
    """Without rates, sizes or power the figures are null; counts and quality remain."""
    made = table(rows=[])
    for row in made.values():
        assert row["decode_tokens_per_s"] is None
        assert row["usd_per_solved"] is None
        assert row["kwh_per_solved"] is None
        assert row["parameters"] is None
        assert row["value"] is not None
        assert row["search_tokens"] > 0


def test_compressed_weights_are_assumed_unless_a_kernel_was_timed() -> None:
    """Stored bytes make a target cost assumed; a timed kernel or dense bytes make it modelled."""
    key = ("target", "variant:gptq4/samples:1/topology:fat_tree")
    assumed = table()[key]
    assert assumed["usd_per_solved_basis"] == "assumed"
    timed = [*facts(), fact("digest-gptq4", "weight_bytes_read", 700_000, "measured")]
    assert table(rows=timed)[key]["usd_per_solved_basis"] == "modelled"
    dense = table(Conditions(weights_read="dense"))
    assert dense[key]["usd_per_solved_basis"] == "modelled"
    assert (
        dense[key]["decode_tokens_per_s"]
        == dense["target", "variant:reasoner/samples:1/topology:fat_tree"]["decode_tokens_per_s"]
    )
    assert assumed["decode_tokens_per_s"] > dense[key]["decode_tokens_per_s"]


def test_a_larger_simulated_model_is_the_one_served() -> None:
    """A step of 100 times the parameters is served at 100 times the bytes, at equal bits per parameter."""
    given = inputs()
    larger = [dataclasses.replace(one, columns={**one.columns, "parameters": 100_000_000}) for one in given.trainings]
    variants = {
        one.name: one for one in price_variants(dataclasses.replace(given, trainings=larger)) if one.scope == "target"
    }
    row = variants["variant:reasoner/samples:1/topology:fat_tree"]
    assert row.figure("served_parameters").value == 100_000_000
    context = 13 + 12.0
    cache = 1024 * 100 ** (2 / 3)
    expected = 64 / ((2e8 + 64 * context * cache) / (4.8e12 * 0.8) + 1e-5)
    assert row.figure("decode_tokens_per_s").value == pytest.approx(expected)


def test_owning_lets_the_network_act_through_its_price_too() -> None:
    """In own mode a dearer network raises the rate of its rows."""
    made = table(Conditions(mode="own"))
    fat, mesh = (made["target", f"variant:reasoner/samples:1/topology:{name}"] for name in ("fat_tree", "hx2mesh"))
    assert fat["usd_per_mtok_out"] > mesh["usd_per_mtok_out"]


@pytest.mark.parametrize("conditions", [Conditions(network_capex_usd=1e6), Conditions(device_capex_usd=3e4)])
def test_rent_with_capex_is_refused(conditions: Conditions) -> None:
    """The whole ledger refuses, not only the formula."""
    with pytest.raises(ValueError, match="counts it twice"):
        table(conditions)


def test_other_problems_are_refused() -> None:
    """A quality table over other problems cannot be paired."""
    given = inputs()
    other = dataclasses.replace(quality("gptq4", 1, 0.9), problem_ids=tuple(f"q{i}" for i in range(N)))
    with pytest.raises(ValueError, match="80 of 80 are missing"):
        price_variants(dataclasses.replace(given, qualities=[*given.qualities[:4], other]))


def test_problems_in_another_order_are_the_same_problems() -> None:
    """Rows are paired by problem, not by position."""
    given = inputs()
    last = given.qualities[-1]
    shuffled = last.aligned(tuple(reversed(last.problem_ids)))
    assert not np.array_equal(shuffled.solved, last.solved)
    again = rows(compared(dataclasses.replace(given, qualities=[*given.qualities[:-1], shuffled])))
    assert again == rows(compared(given))


def test_history_ends_at_the_model_itself() -> None:
    """The base is not charged for fine-tuning; a compressed model is charged for all of it; two bases leave a blank."""
    book = FactBook(facts())
    assert book.history("digest-base") == {"train_s": "digest-base"}
    assert list(book.history("digest-gptq4")) == ["train_s", "sft_s", "rl_s"]
    both = FactBook([*facts(), fact("digest-other", "train_s", 5.0, "measured")])
    assert "train_s" not in both.history("digest-gptq4")


def test_perplexity_joins_by_model() -> None:
    """Only rows of the scored model carry it."""
    made = table()
    assert {row["token_perplexity"] for row in made.values() if row["model_digest"] == "digest-reasoner"} == {12.5}
    assert {row["token_perplexity"] for row in made.values() if row["model_digest"] != "digest-reasoner"} == {None}
