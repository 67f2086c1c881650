"""Blocks that are calibrated already: in memory, or a file each in a folder, whole or not there.

What is in files is mapped, not read: a model's matrices are larger than its blocks, and whoever solves needs one at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .calibration import Calibration, SharedInput
from .errors import CalibrationError
from .ownership import claim


class CalibratedBlocks:
    """Keep the inputs of blocks in a folder that belongs to `owner`, see `ownership`; without a folder, in memory.

    Workers may share a folder: one of them saves, and `refresh` shows the others what it has saved.
    """

    def __init__(self, folder: Path | None, owner: str = ""):
        self._folder = None if folder is None else Path(folder)
        self._inputs: dict[int, tuple[SharedInput, ...]] = {}
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self.refresh()
            claim(self._folder, owner, len(self._inputs), "blocks of another calibration")

    def refresh(self) -> None:
        """Look again at what the folder holds."""
        if self._folder is None:
            return
        for file in self._folder.glob("block-*.safetensors"):
            block = int(file.stem.removeprefix("block-"))
            if block not in self._inputs:
                try:
                    self._inputs[block] = Calibration.load(file).inputs
                except CalibrationError:
                    # Cut short by a full disk: calibrated again rather than trusted.
                    file.unlink(missing_ok=True)

    def has(self, block: int) -> bool:
        """Tell whether a block is done."""
        return block in self._inputs

    def save(self, block: int, inputs: Sequence[SharedInput]) -> None:
        """Keep the inputs of a block; in a folder they exist whole or not at all."""
        if self._folder is None:
            self._inputs[block] = tuple(inputs)
            return
        temporary = self._folder / f"block-{block}.{os.getpid()}.partial"
        Calibration(inputs=tuple(inputs)).save(temporary)
        file = self._folder / f"block-{block}.safetensors"
        temporary.replace(file)
        self._inputs[block] = Calibration.load(file).inputs

    def calibration(self) -> Calibration:
        """Return all that is known, in the order of blocks."""
        return Calibration(inputs=tuple(one for block in sorted(self._inputs) for one in self._inputs[block]))
