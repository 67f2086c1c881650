"""Model: a Hugging Face checkpoint directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator_storage.artifact import Artifact, list_files, read_json_object, require
from orchestrator_storage.errors import ArtifactError
from orchestrator_storage.safetensors_header import read_header

#: Formats that run code when they are read, or that nobody here reads.
_REFUSED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack", ".joblib", ".npy", ".npz")
_INDEX = "model.safetensors.index.json"


class Model(Artifact):
    """config.json, one or more ``*.safetensors``, and what else the checkpoint brings (tokenizer.json, generation_config.json, ...).

    ``meta["format"]`` says which model loader reads it: ``dense``, ``compressed-tensors``, or a plugin's.
    """

    type_name = "Model"

    @property
    def format(self) -> str:
        """The name of the model loader that reads this checkpoint."""
        return str(self.meta["format"])

    @classmethod
    def check(cls, path: Path, meta: dict[str, Any]) -> None:
        """Raise ArtifactError unless transformers could read the directory: headers are checked, tensors are not loaded."""
        if not isinstance(meta.get("format"), str) or not meta["format"]:
            raise ArtifactError(
                f"Model: meta['format'] is {meta.get('format')!r}; it names the loader, for example 'dense'"
            )
        require(path, ["config.json"], "Model")
        read_json_object(path / "config.json", "Model")
        tensors: dict[str, set[str]] = {}
        for name in list_files_following(path):
            if name.lower().endswith(_REFUSED):
                raise ArtifactError(
                    f"Model: {name!r} has a format that is not accepted, as it may run code when it is read; save as safetensors"
                )
            if name.endswith(".safetensors"):
                tensors[name] = set(read_header(path / name))
        if not tensors:
            raise ArtifactError(
                "Model: there is no .safetensors file; save the weights with save_pretrained (safe_serialization)"
            )
        if (path / _INDEX).is_file():
            _check_index(path, tensors)
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            if (path / name).is_file():
                read_json_object(path / name, "Model", limit=False)


def list_files_following(path: Path) -> list[str]:
    """Return the relative names of all files, those that a reference points to included."""
    if any(
        one.is_symlink() for one in path.rglob("*")
    ):  # only the store makes such a directory, for an artifact with sources
        return sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file())
    return list_files(path)


def _check_index(path: Path, tensors: dict[str, set[str]]) -> None:
    weights = read_json_object(path / _INDEX, "Model", limit=False).get("weight_map")
    if not isinstance(weights, dict):
        raise ArtifactError(f"Model: {_INDEX} has no weight_map")
    for tensor, file in weights.items():
        if file not in tensors:
            raise ArtifactError(f"Model: {_INDEX} places {tensor!r} in {file!r}, which is missing")
        if tensor not in tensors[file]:
            raise ArtifactError(f"Model: {_INDEX} places {tensor!r} in {file!r}, whose header does not name it")
