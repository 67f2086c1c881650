"""Finished layers of a compression that may be killed: one safetensors file each, whole or not there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .ownership import claim
from .records import LayerRecord
from .weights import LayerWeight, freeze, thaw


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A layer that is done: its weight, its record, and the seconds that it took."""

    weight: LayerWeight
    record: LayerRecord
    seconds: float


class Stash:
    """Keep layers in a folder that belongs to one model, settings and tokens; without a folder, in memory.

    `owner` says which: a folder with layers of another one is refused with CompressionError. Workers may share a folder:
    `refresh` shows what others have finished.
    """

    def __init__(self, folder: Path | None, owner: str = ""):
        self._folder = None if folder is None else Path(folder)
        self._kept: dict[str, Finished] = {}
        self._names: set[str] = set()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.refresh()
            claim(self._folder, owner, len(self._names), "layers of another compression")

    def refresh(self) -> None:
        """Look again at what the folder holds."""
        if self._folder is not None:
            self._names |= {
                path.stem
                for path in self._folder.glob("*.safetensors")
                if path.stem not in self._names and _readable(path)
            }

    def has(self, name: str) -> bool:
        """Tell whether a layer is done."""
        return name in self._names or name in self._kept

    def save(self, name: str, layer: Finished) -> None:
        """Keep a layer; in a folder it exists whole or not at all."""
        if self._folder is None:
            self._kept[name] = layer
            return
        tensors, description = freeze(layer.weight)
        metadata = {
            "form": json.dumps(description),
            "record": json.dumps(asdict(layer.record)),
            "seconds": repr(layer.seconds),
        }
        temporary = self._folder / f"{name}.{os.getpid()}.partial"
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(self._folder / f"{name}.safetensors")
        self._names.add(name)

    def load(self, name: str) -> Finished:
        """Return a layer that is done."""
        if name in self._kept:
            return self._kept[name]
        assert self._folder is not None
        with safe_open(self._folder / f"{name}.safetensors", framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        return Finished(
            weight=thaw(tensors, json.loads(metadata["form"])),
            record=LayerRecord(**json.loads(metadata["record"])),
            seconds=float(metadata["seconds"]),
        )


def _readable(path: Path) -> bool:
    # A file cut short by a full disk is solved again rather than trusted.
    try:
        with safe_open(path, framework="pt") as file:
            return "record" in (file.metadata() or {})
    except SafetensorError:
        return False
