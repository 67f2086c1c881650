"""The `model_loader` component of the formats that this project writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


class Loader:
    """Load compressed checkpoints through this project's own reader, decompressed to float32."""

    def load(self, path: Path) -> nn.Module:
        """Return the model under `path` in eval mode; raises CheckpointError for files that are not what they say."""
        from .formats.read import load_compressed

        return load_compressed(path)
