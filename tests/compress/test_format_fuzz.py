"""Damaged headers and labels: whatever is changed, readers say CheckpointError or read, and the doctor agrees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator_compress.errors import CheckpointError
from orchestrator_compress.formats.doctor import diagnose
from orchestrator_compress.formats.findings import errors
from orchestrator_compress.formats.read import read_checkpoint

from .format_sources import half, rounded, save_dense, write


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dense(tmp_path_factory.mktemp("fuzz") / "dense")


@st.composite
def mutated(draw: st.DrawFn, text: bytes) -> bytes:
    """Cut the bytes, or change a few of them."""
    if draw(st.booleans()):
        return text[: draw(st.integers(0, len(text)))]
    changed = bytearray(text)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.just(2**80), st.text(max_size=3), st.just([]), st.just({}),
    st.just([[1]]), st.just({"a": {}}), st.floats(),
)  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_mutation_crashes_a_reader_or_the_doctor(dense: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Bytes of the header or of config.json, or values of the label: CheckpointError or a model, and then a finding."""
    form = data.draw(st.sampled_from(["compressed-tensors", "gptq", "gptq_v2"]))
    path = tmp_path / form
    if not path.exists():
        write(dense, path, rounded(dense, [half(4, 32), half(8, 16)]), form)
        (path / "quantize_config.json").unlink(missing_ok=True)
        for name in ("config.json", "model.safetensors"):
            (path / f"{name}.kept").write_bytes((path / name).read_bytes())
    for name in ("config.json", "model.safetensors"):
        (path / name).write_bytes((path / f"{name}.kept").read_bytes())
    kind = data.draw(st.sampled_from(["config", "header", "label"]))
    if kind == "config":
        file = path / "config.json"
        file.write_bytes(data.draw(mutated(file.read_bytes())))
    elif kind == "header":
        file = path / "model.safetensors"
        weights = file.read_bytes()
        end = 8 + int.from_bytes(weights[:8], "little")
        file.write_bytes(data.draw(mutated(weights[:end])) + weights[end:])
    else:
        config = json.loads((path / "config.json").read_text())
        place = config["quantization_config"]
        while True:
            key = data.draw(st.sampled_from(sorted(place)))
            if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = data.draw(ODD)
            break
        (path / "config.json").write_text(json.dumps(config))
    diagnosis = diagnose(path)
    assert not [one for one in diagnosis.findings if one.code == "unreadable"]
    try:
        read_checkpoint(path)
    except CheckpointError:
        assert errors(diagnosis.findings) != []
    else:
        assert errors(diagnosis.findings) == []
