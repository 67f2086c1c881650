"""The orders that compression recipes are about, on a model that they train: the recipes themselves, smaller.

Every order is settled by the interval of a ratio of perplexities, paired document by document; a pair whose interval
holds 1 is undecided and fails the test. `pytest -m slow -s tests/compress/test_recipe_orders.py` prints all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import orchestrator_storage as storage

pytestmark = pytest.mark.slow

#: A Llama of 0.9 M parameters, one token a parameter; one thread, so that results are the same whatever else runs.
BASE = (
    "stages.base.width=128",
    "stages.base.steps=1000",
    "stages.base.batch=4",
    "stages.base.micro_batch=4",
    "stages.base.resources.cpus=1",
    "stages.scores.max_tokens=40000",
    "stages.comparison.published=[]",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all recipes: the base is trained once."""
    return tmp_path_factory.mktemp("home")


def compared(home: Path, recipe: str, *overrides: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run a recipe and return the rows of its comparison, and of the orders that it tested."""
    words = [sys.executable, "-m", "orchestrator", "run", f"recipe=paper/{recipe}", *BASE, *overrides]
    done = subprocess.run(
        [*words, "--executor", "local", "--json"],
        cwd=home,
        env={**os.environ, "ORCHESTRATOR_HOME": str(home / "state"), "ORCHESTRATOR_PLUGINS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    stages = json.loads(done.stdout.strip().splitlines()[-1])["stages"]
    outputs = next(row["outputs"] for row in stages if row["name"] == "comparison")
    result, orders = (storage.Table(Path(outputs[name]["path"])).read().to_pylist() for name in ("result", "orders"))
    for row in orders:
        print(f"{row['verdict']:10} {row['ratio']:.4f} [{row['ratio_low']:.4f}, {row['ratio_high']:.4f}]", end="  ")
        print(f"bytes {row['bytes_ratio']:.3f}  {row['better']} below {row['worse']}")
    return result, orders


def orders_of(*pairs: str) -> str:
    return f"stages.comparison.orders=[{','.join(pairs)}]"


def test_rounding_loses_more_than_gptq_and_fewer_bits_lose_more(home: Path) -> None:
    """At 3 and 2 bits, and in bits at every group size; the smaller groups at 2 bits lose less."""
    rows, orders = compared(
        home,
        "gptq_bits_and_groups",
        "stages.rtn.each.group_size=[-1,32]",
        "stages.gptq.each.group_size=[-1,32]",
        orders_of(
            "{better: {method: gptq, bits: 2}, worse: {method: rtn, bits: 2}, at_most: 0.99}",
            "{better: {method: gptq, bits: 3}, worse: {method: rtn, bits: 3}}",
            "{better: {method: gptq, bits: 3}, worse: {method: gptq, bits: 2}}",
            "{better: {method: gptq, bits: 4}, worse: {method: gptq, bits: 3}}",
            "{better: {method: gptq, bits: 2, group_size: 32}, worse: {method: gptq, bits: 2, group_size: -1}}",
        ),
    )
    assert [row["verdict"] for row in orders] == ["holds"] * 9
    assert len(rows) == 13


def test_spqr_is_near_lossless_and_beats_gptq_at_equal_bytes_with_outlier_channels(home: Path) -> None:
    """At about 4.6 bits within 1 % of dense; with outlier channels below GPTQ that stores more."""
    rows, orders = compared(
        home,
        "spqr",
        "stages.subject.channels=1",  # of 128, the share that two of the recipe's 256 are
        "~stages.subject.each.outliers.activations",
        "~stages.gptq.each.code.b3g16",
        "~stages.gptq.each.code.b4g32",
        "~stages.spqr.each.code.b3many",
        "stages.spqr.each.code.b3few.tau=2.0",  # fewer still: offsets of 128 inputs weigh more than those of 256
        orders_of(
            "{better: {method: spqr, outliers: none, code: b4}, worse: {method: dense, outliers: none}, at_most: 1.01}",
            "{better: {method: spqr, outliers: weights, code: b3few}, "
            "worse: {method: gptq, outliers: weights, code: b4g16}, no_more_bytes: true}",
            "{better: {method: spqr, outliers: weights, code: b3few}, "
            "worse: {method: spqr, outliers: weights, code: b3}}",
        ),
    )
    assert [row["verdict"] for row in orders] == ["holds"] * 3
    dense = {row["axis_outliers"]: row["perplexity"] for row in rows if row["axis_method"] == "dense"}
    assert dense["weights"] == pytest.approx(dense["none"], rel=1e-4)


def test_solving_beats_magnitude_and_gradual_pruning_beats_one_shot(home: Path) -> None:
    """SparseGPT against magnitude at 50 % and 2:4; at 90 %, gradual pruning with training against one shot."""
    _, orders = compared(
        home,
        "sparsity",
        "stages.retrained.steps=200",
        "stages.gradual.steps=200",
        "stages.retrained.resources.cpus=1",
        "stages.gradual.resources.cpus=1",
        orders_of(
            '{better: {method: sparsegpt, removed: "50"}, worse: {method: magnitude, removed: "50"}}',
            '{better: {method: sparsegpt, removed: "2of4"}, worse: {method: magnitude, removed: "2of4"}}',
            "{better: {method: gradual}, worse: {method: magnitude}}",
        ),
    )
    assert [row["verdict"] for row in orders] == ["holds"] * 3
