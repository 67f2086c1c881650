"""The format "mixed": a plan whose layers are in different forms is stored as planned, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import orchestrator_storage as storage
from orchestrator import StageError
from orchestrator.testing import run_stage
from orchestrator_compress import planning_stages, stages
from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.formats.doctor import diagnose
from orchestrator_compress.formats.read import load_compressed, read_checkpoint
from orchestrator_compress.grid import QuantizedWeight
from orchestrator_compress.planning.candidates import parse
from orchestrator_compress.planning.outcome import outcome
from orchestrator_compress.spqr_weight import SpQRWeight
from orchestrator_compress.weights import SparseWeight

from .conftest import sample_tokens
from .test_family import components, hessians, inputs  # noqa: F401 (fixtures: loaders; a calibration; a model and tokens)

SETTINGS = ("method", "bits", "group_size", "symmetric", "sparsity", "pattern", "tau", "damp")
CANDIDATES = ("gptq-4g32-sym", "spqr-3g16-t0.2", "sparsegpt-50%", "joint-50%-4g32-sym", "dense")


@pytest.fixture(scope="module")
def planned(
    inputs: dict[str, storage.Artifact],  # noqa: F811 (the fixture)
    hessians: storage.Artifact,  # noqa: F811 (the fixture)
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """A plan in which every form of a layer stands, whatever is best, and what it was made from."""
    home = tmp_path_factory.mktemp("plan")
    given = inputs | {"hessians": hessians}
    run = run_stage(planning_stages.plan, {"candidates": CANDIDATES, "bits_per_weight": 20.0}, inputs=given, home=home)
    curves = run.outputs["curves"].read().to_pylist()
    chosen = run.outputs["result"].read()
    rows = chosen.to_pylist()
    for place, row in enumerate(rows):
        candidate = CANDIDATES[place % len(CANDIDATES)]
        point = next(one for one in curves if one["layer"] == row["layer"] and one["candidate"] == candidate)
        made = parse(candidate)
        row.update({name: getattr(made, name) for name in SETTINGS} | {"candidate": made.name})
        row.update({name: point[name] for name in ("bytes", "objective")})
    path = tmp_path_factory.mktemp("table")
    storage.Table.write(path, pa.Table.from_pylist(rows, schema=chosen.schema))
    return {
        "rows": {row["layer"]: row for row in rows},
        "inputs": {"model": inputs["model"], "hessians": hessians, "plan": storage.Table(path, digest="2" * 64)},
    }


@pytest.fixture(scope="module")
def carried_out(planned: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_stage(stages.gptq, {"format": "mixed"}, inputs=planned["inputs"], home=tmp_path_factory.mktemp("home"))


def test_every_layer_is_in_the_form_that_the_plan_gives_it(planned: dict[str, Any], carried_out: Any) -> None:
    """Codes, outliers, zeros, both, and dense ones, which stay what they were."""
    kinds = {"gptq": QuantizedWeight, "spqr": SpQRWeight, "sparsegpt": SparseWeight, "joint": SparseWeight}
    read = read_checkpoint(carried_out.outputs["result"].path).weights
    dense = {layer for layer, row in planned["rows"].items() if row["method"] == "dense"}
    assert dense
    assert read.keys() == planned["rows"].keys() - dense
    for layer, weight in read.items():
        assert type(weight) is kinds[planned["rows"][layer]["method"]]
    codes = [weight.codes is not None for weight in read.values() if isinstance(weight, SparseWeight)]
    assert set(codes) == {True, False}


def test_it_takes_the_bytes_that_were_planned(planned: dict[str, Any], carried_out: Any) -> None:
    """But for 16 bytes of a shape beside codes, and with the errors that were planned, on the same inputs."""
    rows = planned["rows"].values()
    expected = sum(row["bytes"] for row in rows if row["method"] != "dense")
    shapes = 16 * sum(row["method"] == "gptq" for row in rows)
    assert carried_out.metrics["planned_bytes"] == expected
    assert expected <= carried_out.metrics["written_bytes"] <= expected + shapes
    assert carried_out.metrics["measured_over_planned"] == pytest.approx(1, rel=1e-3)
    assert "measured_against_planned.svg" in carried_out.figures


def test_it_is_served_and_found_in_order(carried_out: Any) -> None:
    """The loader's logits are those of the weights, and the doctor has nothing to say."""
    path = carried_out.outputs["result"].path
    tokens = sample_tokens(4, 32, seed=3)
    with torch.no_grad():
        exact, fast = (load_compressed(path, compute)(input_ids=tokens).logits for compute in ("exact", "fast"))
    assert torch.allclose(exact, fast, atol=2e-2)
    assert [finding for finding in diagnose(path).findings if finding.severity == "error"] == []


def test_other_formats_refuse_the_plan_before_work(planned: dict[str, Any], tmp_path: Path) -> None:
    """With the format that holds it."""
    with pytest.raises(StageError, match="which format 'compressed-tensors' does not hold; write .*'mixed'"):
        run_stage(stages.gptq, {}, inputs=planned["inputs"], home=tmp_path)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"version": 2}, "version=2"),
        ({"parts": {}}, "at least one part"),
        ({"parts": {"awq": {}}}, "has a part 'awq'"),
        ({"parts": {"sparse": 3}}, "has a part 'sparse'"),
    ],
)
def test_a_label_that_was_edited_is_refused(
    label: dict[str, Any], message: str, carried_out: Any, tmp_path: Path
) -> None:
    """By what is wrong with it."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(carried_out.outputs["result"].path, copy)
    (copy / "config.json").chmod(0o644)
    config = json.loads((copy / "config.json").read_text())
    config["quantization_config"] |= label
    (copy / "config.json").unlink()
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(copy)


def test_plans_by_hand_and_ignored_layers_are_carried_out(planned: dict[str, Any]) -> None:
    """What a plan does not say, or nobody compressed, is not compared with anything."""
    rows = planned["rows"]
    table = pa.Table.from_pylist(list(rows.values()))
    sizes = {layer: row["bytes"] for layer, row in rows.items() if row["method"] != "dense"}
    objectives = {layer: 2 * row["objective"] for layer, row in rows.items()}
    metrics, comparison = outcome(table, objectives, sizes)
    assert metrics["written_over_planned"] == 1
    assert comparison is not None
    assert comparison.ratio == pytest.approx(2)
    first, *rest = sizes
    fewer, _ = outcome(table, objectives, {layer: sizes[layer] for layer in rest})
    assert fewer["planned_bytes"] == metrics["planned_bytes"] - sizes[first]
    assert outcome(table, objectives, {}) == ({}, None)
    assert outcome(table.drop_columns(["bytes"]), objectives, sizes) == ({}, None)
    assert outcome(table, objectives | {first: float("nan")}, sizes)[1] is None
