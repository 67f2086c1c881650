"""Conversion and examination as stages: artifacts, facts, loaders of the formats, and errors for users."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import orchestrator_storage as storage
from orchestrator import StageError
from orchestrator.plugins import installed
from orchestrator.testing import run_stage
from orchestrator_compress import format_stages, load_compressed, plugin

from .format_sources import half, rounded, save_dense, write


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    for component in plugin.orchestrator_components():
        monkeypatch.setitem(installed().components, (component.kind, component.name), component)


@pytest.fixture
def model(tmp_path: Path) -> storage.Model:
    dense = save_dense(tmp_path / "dense")
    write(dense, tmp_path / "compressed", rounded(dense, [half(4, 32), half(8, 32)]), "compressed-tensors")
    return storage.Model(tmp_path / "compressed", digest="0" * 64, meta={"format": "compressed-tensors"})


@pytest.mark.parametrize("form", ["gptq", "gptq_v2", "compressed-tensors", "dense"])
def test_a_converted_model_is_one_that_loads(model: storage.Model, tmp_path: Path, form: str) -> None:
    """The artifact has the new format's name, its loader serves the same logits, and sizes are those of the files."""
    run = run_stage(format_stages.convert, {"format": form}, inputs={"model": model}, home=tmp_path / "home")
    result = run.outputs["result"]
    assert isinstance(result, storage.Model)
    assert result.format == form
    stored = sum(file.stat().st_size for file in result.path.glob("*.safetensors"))
    assert run.metrics["stored_bytes"] == stored
    facts = {row["quantity"]: (row["value"], row["basis"]) for row in run.facts}
    assert facts["stored_bytes"] == (stored, "counted")
    assert facts["bits_per_parameter"][0] == pytest.approx(8 * stored / facts["parameters"][0])
    tokens = torch.arange(16).view(1, 16)
    if form != "dense":
        served = installed().component("model_loader", form).load(result.path)
        with torch.no_grad():
            assert torch.equal(served(input_ids=tokens).logits, load_compressed(model.path)(input_ids=tokens).logits)


def test_examination_is_a_table(model: storage.Model, tmp_path: Path) -> None:
    """Findings with their severities, a row per layer, and metrics that count both."""
    run = run_stage(format_stages.doctor, {}, inputs={"model": model}, home=tmp_path / "home")
    findings, layers = run.outputs["findings"].read(), run.outputs["layers"].read()  # type: ignore[attr-defined]
    assert findings.column_names == ["code", "severity", "layer", "message", "fix"]
    assert layers.num_rows == run.metrics["layers"] == 7
    assert run.metrics["errors"] == 0
    assert run.metrics["warnings"] == findings["severity"].to_pylist().count("warning") == 1


def test_findings_may_fail_a_run(model: storage.Model, tmp_path: Path) -> None:
    """fail_on: error passes what is only odd and stops what is wrong, naming the first; warning stops both."""
    inputs = {"model": model}
    run_stage(format_stages.doctor, {"fail_on": "error"}, inputs=inputs, home=tmp_path / "home")
    with pytest.raises(StageError, match=r"0 errors and 1 warnings; the first: \[tensor-parallel\]"):
        run_stage(format_stages.doctor, {"fail_on": "warning"}, inputs=inputs, home=tmp_path / "home")
    config = json.loads((model.path / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 2
    (model.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(StageError, match=r"\[wrong-shape\]"):
        run_stage(format_stages.doctor, {"fail_on": "error"}, inputs=inputs, home=tmp_path / "home")
    run = run_stage(format_stages.doctor, {}, inputs=inputs, home=tmp_path / "home")
    assert run.metrics["errors"] >= 1


def test_errors_are_for_users(model: storage.Model, tmp_path: Path) -> None:
    """A dense model and a layer that does not fit are told apart, each with a way out."""
    dense = storage.Model(tmp_path / "dense", digest="1" * 64, meta={"format": "dense"})
    with pytest.raises(StageError, match="takes a compressed model"):
        run_stage(format_stages.convert, {}, inputs={"model": dense}, home=tmp_path / "home")
    weights = rounded(tmp_path / "dense", [half(4, 32, symmetric=False)])
    write(tmp_path / "dense", tmp_path / "asymmetric", weights, "gptq_v2")
    asymmetric = storage.Model(tmp_path / "asymmetric", digest="2" * 64, meta={"format": "gptq_v2"})
    with pytest.raises(StageError, match="'gptq_v2'"):
        run_stage(format_stages.convert, {"format": "gptq"}, inputs={"model": asymmetric}, home=tmp_path / "home")
