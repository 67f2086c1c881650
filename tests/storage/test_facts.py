"""facts.v1: what a row must say, and the table that readers get."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from orchestrator_storage import FACT_FIELDS, ArtifactError, check_fact, facts_table

ROW = {"subject": "a" * 64, "quantity": "train_s", "value": 2, "unit": "s", "basis": "measured"}


def test_a_row_is_completed_and_its_numbers_are_plain() -> None:
    """Missing fields are filled in, numpy numbers become Python's, recipe names are left out."""
    row = check_fact({**ROW, "value": np.float32(0.5), "n": np.int64(4), "stage": "base", "axes": "{}"})
    assert set(row) == set(FACT_FIELDS) - {"stage", "axes"}
    assert (type(row["value"]), row["value"], type(row["n"]), row["n"]) == (float, 0.5, int, 4)
    assert (row["low"], row["high"], row["phase"], row["source"]) == (None, None, "", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"basis": "guessed"}, "basis 'guessed' is not one of"),
        ({"value": float("nan")}, "must be a finite number"),
        ({"value": True}, "must be a finite number"),
        ({"value": "3"}, "must be a finite number"),
        ({"value": None}, "must be a finite number"),
        ({"low": float("inf")}, "low is inf"),
        ({"unit": ""}, "unit is empty"),
        ({"unit": 3}, "unit is 3"),
        ({"quantity": ""}, "quantity is empty"),
        ({"n": 2.5}, "n is 2.5"),
        ({"n": -1}, "n is -1"),
        ({"subject": "@other"}, "names no output; the outputs are result"),
        ({"subject": "base"}, "neither an artifact's digest"),
        ({"colour": "red"}, "has the field 'colour'"),
    ],
)
def test_a_broken_row_is_refused(change: dict[str, Any], message: str) -> None:
    """The error names the quantity, the value and the rule."""
    with pytest.raises(ArtifactError, match=message):
        check_fact({**ROW, **change}, {"result": "b" * 64})


def test_the_table_has_the_published_columns() -> None:
    """Rows become typed columns in the published order; axes are JSON text."""
    row = check_fact(ROW)
    table = facts_table([{**row, "stage": "small", "axes": {"bits": 2}}, {**row, "stage": "base", "axes": "{}"}, row])
    assert tuple(table.column_names) == FACT_FIELDS
    assert table.column("axes").to_pylist() == ['{"bits":2}', "{}", "{}"]
    assert table.column("value").to_pylist() == [2.0, 2.0, 2.0]
    assert facts_table([]).num_rows == 0
