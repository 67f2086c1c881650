"""The columns of the ledger and of its product: names, units and what they mean, as Arrow schemas."""

from __future__ import annotations

from typing import Any

#: Figure columns (name, unit); each is followed by ``<name>_basis``. A basis speaks of the physical quantity: prices,
#: efficiencies and conditions are assumptions of the whole table and are listed beside it.
FIGURES: tuple[tuple[str, str], ...] = (
    ("value", "1"),
    ("low", "1"),
    ("high", "1"),
    ("n_items", "1"),
    ("n_seeds", "1"),
    ("paired_delta", "1"),
    ("delta_low", "1"),
    ("delta_high", "1"),
    ("token_perplexity", "1"),
    ("parameters", "1"),
    ("nonzero", "1"),
    ("stored_bytes", "byte"),
    ("bits_per_parameter", "bit"),
    ("train_tokens", "token"),
    ("flop", "flop"),
    ("step_s", "s"),
    ("exposed_comm_s", "s"),
    ("network_time_share", "1"),
    ("device_hours", "h"),
    ("train_usd", "USD"),
    ("compress_usd", "USD"),
    ("rl_usd", "USD"),
    ("served_parameters", "1"),
    ("batch", "1"),
    ("context", "token"),
    ("prefill_tokens_per_s", "token/s"),
    ("decode_tokens_per_s", "token/s"),
    ("usd_per_mtok_in", "USD/Mtok"),
    ("usd_per_mtok_out", "USD/Mtok"),
    ("calls", "1"),
    ("search_tokens", "token"),
    ("usd_per_attempt", "USD"),
    ("solve_rate", "1"),
    ("usd_per_solved", "USD/solved"),
    ("usd_per_solved_low", "USD/solved"),
    ("usd_per_solved_high", "USD/solved"),
    ("usd_per_solved_at_volume", "USD/solved"),
    ("break_even_volume", "solved"),
    ("kwh_train", "kWh"),
    ("kwh_per_solved", "kWh/solved"),
    ("network_capex_usd", "USD"),
    ("network_capex_share", "1"),
)
UNITS = dict(FIGURES)

IDENTITY = (
    "variant",
    "scope",
    "model_digest",
    "changes_vs_baseline",
    "hardware",
    "metric",
    "verdict",
    "usd_per_solved_text",
)

PRODUCT_FIGURES: tuple[tuple[str, str], ...] = (
    ("cost_before", ""),
    ("cost", ""),
    ("factor", "1"),
    ("factor_low", "1"),
    ("factor_high", "1"),
    ("cumulative", "1"),
    ("alone", "1"),
    ("paired_delta", "1"),
    ("delta_low", "1"),
    ("delta_high", "1"),
)


def ledger_schema() -> Any:
    """Return the schema of the result: identity, then each figure with its unit in the field's metadata and its basis."""
    import pyarrow as pa

    fields = [pa.field(name, pa.string()) for name in IDENTITY]
    fields.append(pa.field("matched", pa.bool_()))
    for name, unit in FIGURES:
        fields += [pa.field(name, pa.float64(), metadata={"unit": unit}), pa.field(f"{name}_basis", pa.string())]
    return pa.schema(fields, metadata={"schema": "ledger.v1"})


def product_schema() -> Any:
    """Return the schema of the product: one row per scope and rung; the unit of the costs is in ``unit``."""
    import pyarrow as pa

    fields = [
        pa.field("scope", pa.string()),
        pa.field("hardware", pa.string()),
        pa.field("rung", pa.int64()),
        pa.field("change", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("cost_metric", pa.string()),
        pa.field("unit", pa.string()),
        pa.field("state", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("matched", pa.bool_()),
    ]
    for name, unit in PRODUCT_FIGURES:
        fields += [pa.field(name, pa.float64(), metadata={"unit": unit}), pa.field(f"{name}_basis", pa.string())]
    return pa.schema(fields, metadata={"schema": "ledger_product.v1"})


def table_of(rows: list[dict[str, Any]], schema: Any) -> Any:
    """Make the Arrow table of rows; what a row leaves out is null."""
    import pyarrow as pa

    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
