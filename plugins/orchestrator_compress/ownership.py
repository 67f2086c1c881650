"""Folders of unfinished work: each belongs to one model, its settings and its tokens, and goes on with nothing else."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from .blocks import decoder_blocks
from .errors import CompressionError
from .residence import Residence

_OWNER = "owner.txt"


def digest(model: nn.Module, residence: Residence, described: object, tensors: Iterable[Tensor | None]) -> str:
    """Return a digest of what finished pieces depend on: weights, tensors, and whatever else `described` shows.

    Every weight is read, one block at a time: two models of one shape differ in nothing else.
    """
    found = hashlib.sha256(repr(described).encode())
    for tensor in tensors:
        _add(found, tensor)
    blocks = decoder_blocks(model)
    leads = tuple(f"{name}." for name, _ in blocks)
    with residence.rest():
        for name, tensor in model.state_dict().items():
            if not name.startswith(leads) and tensor.device.type != "meta":
                found.update(name.encode())
                _add(found, tensor)
    for index, (name, block) in enumerate(blocks):
        with residence.block(index):
            for leaf, tensor in block.state_dict(prefix=f"{name}.").items():
                found.update(leaf.encode())
                _add(found, tensor)
    return found.hexdigest()


def _add(found: hashlib._Hash, tensor: Tensor | None) -> None:
    if tensor is None:
        found.update(b"-")
        return
    found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def claim(folder: Path, owner: str, pieces: int, what: str) -> None:
    """Take a folder that holds no pieces yet, or raise CompressionError where its `pieces` (`what` they are) are another's."""
    if not owner:
        return
    file = folder / _OWNER
    held = file.read_text() if file.exists() else None
    if held is None and not pieces:
        temporary = file.with_suffix(f".{os.getpid()}.partial")
        temporary.write_text(owner)
        temporary.replace(file)
    elif held != owner:
        raise CompressionError(
            f"the scratch folder {folder.name} holds {pieces} {what} (other settings, tokens or model); give another "
            "folder, or empty this one"
        )
