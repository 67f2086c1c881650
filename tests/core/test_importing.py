"""artifact.import: foreign content by content, whatever its path and mode."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import StageError, api
from orchestrator.errors import RecipeError
from orchestrator.fingerprint import fingerprint
from orchestrator.importing import declared_format
from orchestrator.runs import open_run


@pytest.fixture
def bring(home: Path, write_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports and returns (status, output object, result)."""
    monkeypatch.setenv("ORCHESTRATOR_NO_TRACKING", "1")

    def go(**fields: str) -> tuple[str, dict[str, Any], Any]:
        write_recipe("stages: {a: " + json.dumps({"uses": "artifact.import", **fields}) + "}\n")
        result = api.run("toy", executor="local", quiet=True)
        row = result.points[0]["stages"][0]
        return row["status"], row["outputs"].get("result", {}), result

    return go


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A tiny Llama checkpoint directory as transformers writes it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path / "my-llama"
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("mode", ["copy", "link", "reference"])
def test_a_checkpoint_becomes_a_model(bring: Any, checkpoint: Path, mode: str) -> None:
    """It loads from the store in every mode."""
    from transformers import AutoModelForCausalLM

    status, output, _ = bring(type="Model", path="my-llama", mode=mode)
    assert (status, output["type"]) == ("executed", "Model")
    AutoModelForCausalLM.from_pretrained(output["path"])


def test_mode_and_place_do_not_matter_content_does(bring: Any, checkpoint: Path, tmp_path: Path) -> None:
    """One key for one content."""
    _, first, _ = bring(type="Model", path="my-llama", mode="copy")
    checkpoint.rename(tmp_path / "moved")
    status, again, _ = bring(type="Model", path=str(tmp_path / "moved"), mode="reference")
    assert (status, again["digest"]) == ("cached", first["digest"])
    config = tmp_path / "moved" / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 16', '"vocab_size": 16 '))
    assert bring(type="Model", path="moved")[0] == "executed"


def test_a_reference_stays_where_it_is_and_is_verified(bring: Any, checkpoint: Path, home: Path) -> None:
    """Nothing is copied; a changed source is noticed."""
    _, output, _ = bring(type="Model", path="my-llama", mode="reference")
    stored = sum(path.stat().st_size for path in (home / "store" / "objects").rglob("*") if path.is_file())
    assert stored < (checkpoint / "model.safetensors").stat().st_size
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(bytes(content))
    status, changed, _ = bring(type="Model", path="my-llama", mode="reference")
    assert status == "executed"
    assert changed["digest"] != output["digest"]


def test_parquet_and_text_become_tables(bring: Any, tmp_path: Path) -> None:
    """A Parquet file keeps its columns; text gives path and text."""
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "data.parquet")
    assert bring(type="Table", path="data.parquet")[0] == "executed"
    assert open_run()["a"].table().to_pydict() == {"x": [1, 2]}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "b.md").write_text("two")
    (tmp_path / "notes" / "a.txt").write_text("one")
    bring(type="Table", path="notes")
    assert open_run()["a"].table().to_pydict() == {"path": ["a.txt", "b.md"], "text": ["one", "two"]}


def test_mistakes_are_named_before_anything_runs(bring: Any, tmp_path: Path) -> None:
    """Unknown type, missing path, empty folder."""
    (tmp_path / "empty").mkdir()
    for fields, says in (
        ({"type": "Modell", "path": "empty"}, "unknown artifact type 'Modell'"),
        ({"type": "Model", "path": "nowhere"}, "does not exist"),
        ({"type": "Model", "path": "empty"}, "holds no files"),
        ({"type": "Model", "path": "empty", "mode": "move"}, "unknown value 'move'"),
    ):
        with pytest.raises(RecipeError, match=says):
            bring(**fields)


def test_pickles_are_refused(bring: Any, tmp_path: Path) -> None:
    """A .bin checkpoint never enters the store."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    status, _, result = bring(type="Model", path="old")
    assert status == "failed"
    assert "pytorch_model.bin" in result.failures[0]["message"]


def test_fingerprints_ignore_where_files_lie(tmp_path: Path, home: Path) -> None:
    """Names below the base and contents count."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("x")
    first = fingerprint([tmp_path / "one" / "a.txt"], tmp_path / "one")
    assert fingerprint([tmp_path / "two" / "a.txt"], tmp_path / "two") == first
    (tmp_path / "two" / "a.txt").write_text("y")
    os.utime(tmp_path / "two" / "a.txt", (1, 1))
    assert fingerprint([tmp_path / "two" / "a.txt"], tmp_path / "two") != first


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (None, "dense"),
        ({}, "dense"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "orchestrator-sparse"}, "sparse"),
        ({"quant_method": "orchestrator-mixed"}, "mixed"),
        ({"bits": 4, "group_size": 128}, "gptq"),
        ({"quant_method": None, "bits": 4}, "gptq"),
    ],
)
def test_a_model_is_of_the_format_that_its_files_declare(label: Any, expected: str, tmp_path: Path) -> None:
    """By the label in config.json; of our own containers, without the project's name before it."""
    (tmp_path / "config.json").write_text(json.dumps({} if label is None else {"quantization_config": label}))
    assert declared_format(tmp_path) == expected
    if not label:
        (tmp_path / "quantize_config.json").write_text("{}")
        assert declared_format(tmp_path) == "gptq"


@pytest.mark.parametrize("text", ["[]", '{"quantization_config": "awq"}', "{"])
def test_a_config_that_says_nothing_readable_is_refused(text: str, tmp_path: Path) -> None:
    """By the name of the folder, whatever JSON it is."""
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(StageError, match=tmp_path.name):
        declared_format(tmp_path)
