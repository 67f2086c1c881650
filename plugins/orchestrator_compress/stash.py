"""Finished layers of a compression that may be killed: one safetensors file each, whole or not there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .grid import QuantizedWeight
from .records import LayerRecord
from .settings import Settings


class Stash:
    """Keep layers in a folder that belongs to one model, settings and tokens; without a folder, keep nothing."""

    def __init__(self, folder: Path | None, settings: Settings):
        self._grid = settings.grid
        self._folder = folder
        self._finished: set[str] = set()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._finished = {path.stem for path in folder.glob("*.safetensors") if _readable(path)}

    def has(self, name: str) -> bool:
        """Tell whether a layer was finished by an earlier run."""
        return name in self._finished

    def save(self, name: str, weight: QuantizedWeight, record: LayerRecord, seconds: float) -> None:
        """Write a layer; it exists whole or not at all."""
        if self._folder is None:
            return
        tensors = {"codes": weight.codes, "scales": weight.scales}
        if weight.zeros is not None:
            tensors["zeros"] = weight.zeros
        path = self._folder / f"{name}.safetensors"
        temporary = path.with_suffix(".partial")
        save_file(tensors, temporary, metadata={"record": json.dumps(asdict(record)), "seconds": repr(seconds)})
        temporary.replace(path)

    def load(self, name: str) -> tuple[QuantizedWeight, LayerRecord, float]:
        """Read a finished layer back."""
        assert self._folder is not None
        with safe_open(self._folder / f"{name}.safetensors", framework="pt") as file:
            metadata = file.metadata()
            zeros = None if self._grid.symmetric else file.get_tensor("zeros")
            weight = QuantizedWeight(
                grid=self._grid, codes=file.get_tensor("codes"), scales=file.get_tensor("scales"), zeros=zeros
            )
        return weight, LayerRecord(**json.loads(metadata["record"])), float(metadata["seconds"])


def _readable(path: Path) -> bool:
    # A file cut short by a full disk is solved again rather than trusted.
    try:
        with safe_open(path, framework="pt") as file:
            return "record" in (file.metadata() or {})
    except SafetensorError:
        return False
