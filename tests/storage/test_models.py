"""Model, and the safetensors header that it trusts nobody else to check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator_storage import ArtifactError, Model
from orchestrator_storage.safetensors_header import read_header
from orchestrator_storage.tensors import write_safetensors

META = {"format": "dense"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the directory of a small sound checkpoint."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    write_safetensors(
        path / "model.safetensors", {"a": np.zeros((2, 3), np.float32), "b": np.arange(4, dtype=np.int64)}
    )
    return path


def test_a_sound_checkpoint_passes_without_loading_a_tensor(model: Path) -> None:
    """The header alone tells names, types and shapes."""
    Model.check(model, META)
    header = read_header(model / "model.safetensors")
    assert {name: (entry.dtype, entry.shape) for name, entry in header.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("I64", (4,)),
    }
    assert Model(model, meta=META).format == "dense"


def test_the_header_agrees_with_the_library(tmp_path: Path) -> None:
    """Our reader and safetensors' own read the same header, empty tensors and scalars included."""
    from safetensors import safe_open

    arrays = {
        "scalar": np.array(1.0),
        "empty": np.zeros((0, 4), np.int8),
        "flags": np.array([True, False]),
        "half": np.zeros(5, np.float16),
        "odd": np.zeros((3, 1, 3), np.uint8),
    }
    write_safetensors(tmp_path / "x.safetensors", arrays)
    with safe_open(tmp_path / "x.safetensors", framework="np") as opened:
        expected = {
            name: (opened.get_slice(name).get_dtype(), tuple(opened.get_slice(name).get_shape()))
            for name in sorted(opened.keys())
        }
    found = {name: (entry.dtype, entry.shape) for name, entry in read_header(tmp_path / "x.safetensors").items()}
    assert found == expected


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "sub/state.PKL", "optimizer.pth", "weights.npy"])
def test_files_that_may_run_code_are_refused(model: Path, name: str) -> None:
    """No pickle enters the store, whatever stands beside it."""
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(b"x")
    with pytest.raises(ArtifactError, match="may run code"):
        Model.check(model, META)


def test_what_a_checkpoint_needs_is_named(model: Path) -> None:
    """A missing format, config or weight file each has its own message."""
    with pytest.raises(ArtifactError, match=r"meta\['format'\] is None"):
        Model.check(model, {})
    (model / "config.json").write_text("[1]")
    with pytest.raises(ArtifactError, match="must hold a JSON object"):
        Model.check(model, META)
    (model / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match=r"config\.json is not JSON"):
        Model.check(model, META)
    (model / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"'config\.json' is missing; there is model\.safetensors"):
        Model.check(model, META)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"no \.safetensors file"):
        Model.check(model, META)


def test_an_index_must_fit_its_shards(model: Path) -> None:
    """A tensor that the index places in a wrong or missing file is found before anybody loads it."""
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}))
    Model.check(model, META)
    index.write_text(json.dumps({"weight_map": {"c": "model.safetensors"}}))
    with pytest.raises(ArtifactError, match="does not name it"):
        Model.check(model, META)
    index.write_text(json.dumps({"weight_map": {"a": "model-00002.safetensors"}}))
    with pytest.raises(ArtifactError, match="which is missing"):
        Model.check(model, META)


def _file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _tensor(begin: int, end: int, shape: Any = (4,), dtype: str = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no safetensors file"),
        (b"\x80\x04\x95", "no safetensors file"),
        ((10**12).to_bytes(8, "little") + b"{}", "header should have"),
        (_file(b"not json"), "is not JSON"),
        (_file([1]), "not a JSON object"),
        (_file(b'{"a": 1, "a": 2}'), "appears twice"),
        (_file({"a": {"dtype": "U8"}}), "lacks dtype, shape or data_offsets"),
        (_file({"a": _tensor(0, 4, dtype="OBJECT")}, b"1234"), "has dtype 'OBJECT'"),
        (_file({"a": _tensor(0, 4, shape=[-4])}, b"1234"), "whole numbers >= 0"),
        (_file({"a": _tensor(0, 4, shape=[2.0, 2])}, b"1234"), "whole numbers >= 0"),
        (_file({"a": _tensor(0, 3)}, b"123"), "takes 4 bytes"),
        (_file({"a": _tensor(0, 4)}, b"123"), "was cut short"),
        (_file({"a": _tensor(0, 4)}, b"12345"), "bytes to spare"),
        (_file({"a": _tensor(4, 8)}, b"12345678"), "not at"),
        (_file({"a": _tensor(0, 4), "b": _tensor(2, 6)}, b"123456"), "side by side"),
        (_file({"a": _tensor(0, 4), "b": _tensor(5, 9)}, b"123456789"), "side by side"),
    ],
)
def test_a_false_header_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Every rule of the format is checked: sizes, types, overlaps, holes, truncation."""
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        read_header(tmp_path / "x.safetensors")
