"""From one format to another without rounding anything: codes, scales, zero points and groups are the same numbers.

`dense` is the way out for tools that know none of the formats: the weights that are served, in the type of the other
tensors of the checkpoint. Float32 holds them exactly; half types round once more, as every server in that type does.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .codec import Codec
from .compressed_tensors import CompressedTensors
from .doctor import diagnose
from .files import Size
from .findings import errors
from .gptq import V1, V2
from .model import linear_layers
from .read import CompressedCheckpoint, read_checkpoint
from .registry import codec
from .write import MAX_SHARD_BYTES, Contents, write_contents


def convert(
    source: str | Path,
    destination: str | Path,
    format: str,  # noqa: A002 (the word that Model artifacts use)
    *,
    repair: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Size:
    """Write the compressed checkpoint under `source` in `format` under `destination` and return its size.

    `repair` reads files that the doctor found mislabelled as what they are: zero points of the other GPTQ version, and
    3 bits packed as before compressed-tensors 0.19. Raises CheckpointError, naming the layer and the reason, for what
    the format cannot hold exactly and for files that are wrong in other ways.
    """
    source, destination = Path(source), Path(destination)
    target = codec(format)
    checkpoint = _read(source, repair)
    if not checkpoint.weights:
        raise CheckpointError(
            f"{source.name} is dense: there are no codes to convert; compress it with a method such as gptq or rtn"
        )
    for name, weight in checkpoint.weights.items():
        target.check(weight, name)
    linear, conv1d = _linear(checkpoint, source, needed=format in ("dense", "compressed-tensors"))
    dtype = _float_type(checkpoint)
    contents = Contents(
        config=checkpoint.config,
        dense=checkpoint.dense,
        weights={
            name: target.served_alike(name, weight) if isinstance(target, CompressedTensors) else weight
            for name, weight in checkpoint.weights.items()
        },
        dtypes=lambda _name: dtype,
        transposed=conv1d,
        ignored=[name for name in linear if name not in checkpoint.weights],
        act_order=_act_order(checkpoint),
    )
    return write_contents(source, destination, contents, format, max_shard_bytes=max_shard_bytes)


def _read(source: Path, repair: bool) -> CompressedCheckpoint:
    try:
        return read_checkpoint(source)
    except CheckpointError:
        if not repair:
            raise
        diagnosis = diagnose(source)
        wrong = {finding.code for finding in errors(diagnosis.findings)}
        readers: dict[tuple[str, frozenset[str]], Codec] = {
            ("gptq", frozenset({"zero-point-mismatch"})): V2,
            ("gptq_v2", frozenset({"zero-point-mismatch"})): V1,
            ("compressed-tensors", frozenset({"padded-packing"})): CompressedTensors(padded=True),
        }
        using = readers.get((diagnosis.format, frozenset(wrong)))
        if using is None:
            raise
        return read_checkpoint(source, using=using)


def _linear(checkpoint: CompressedCheckpoint, source: Path, *, needed: bool) -> tuple[list[str], frozenset[str]]:
    """Return the linear layers of the model and those stored transposed; `needed`: the target cannot do without."""
    try:
        return linear_layers(checkpoint.config, source)
    except CheckpointError as error:
        if needed:
            raise CheckpointError(
                f"{error}; without it, it is unknown which layers this format has to leave out or store transposed"
            ) from error
        # Names of matrices that are not compressed: more than the linear layers, which does no harm in a list of those.
        matrices = [name for name, tensor in checkpoint.dense.items() if tensor.dim() == 2]
        return sorted(name.removesuffix(".weight") for name in matrices if name.endswith(".weight")), frozenset()


def _float_type(checkpoint: CompressedCheckpoint) -> torch.dtype:
    """Return the type of most floating point tensors that are not compressed, float32 where there are none."""
    floats: list[Tensor] = [tensor for tensor in checkpoint.dense.values() if tensor.is_floating_point()]
    counted = Counter(str(tensor.dtype) for tensor in floats)
    if not counted:
        return torch.float32
    most = max(sorted(counted), key=lambda name: counted[name])
    found: torch.dtype = getattr(torch, most.removeprefix("torch."))
    return found


def _act_order(checkpoint: CompressedCheckpoint) -> str | None:
    label: dict[str, Any] = checkpoint.label
    if label.get("static_groups") is True:
        return "static"
    if checkpoint.format == "compressed-tensors":
        orders = {group["weights"].get("actorder") for group in label["config_groups"].values()}
        return "static" if orders == {"static"} else None
    return None
