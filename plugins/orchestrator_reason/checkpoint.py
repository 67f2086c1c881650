"""Training state in one file that is either whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

FILE_NAME = "training.safetensors"


def save_state(folder: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write tensors and JSON state to ``folder``, replacing the file of before in one rename."""
    target = folder / FILE_NAME
    temporary = folder / f"{FILE_NAME}.partial"
    save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, metadata={"state": json.dumps(state)})
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    temporary.replace(target)


def load_state(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Read what `save_state` wrote last, or return None."""
    target = folder / FILE_NAME
    if not target.exists():
        return None
    with safe_open(target, framework="pt") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        return tensors, json.loads(handle.metadata()["state"])
