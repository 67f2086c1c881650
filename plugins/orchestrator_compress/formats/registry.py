"""The formats by name, each imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import CheckpointError
from ..grid import Grid
from .codec import Codec

# Where each format is. Those of containers are resolved at use, so that neither package needs the other to be imported.
CODECS: dict[str, str] = {
    "compressed-tensors": "orchestrator_compress.formats.compressed_tensors:CODEC",
    "gptq": "orchestrator_compress.formats.gptq:V1",
    "gptq_v2": "orchestrator_compress.formats.gptq:V2",
    "spqr": "orchestrator_compress.containers.spqr_files:CODEC",
    "sparse": "orchestrator_compress.containers.sparse_files:CODEC",
    "mixed": "orchestrator_compress.containers.mixed_files:CODEC",
    "dense": "orchestrator_compress.formats.dense:CODEC",
}
READ_ONLY: dict[str, str] = {"awq": "orchestrator_compress.formats.awq:CODEC"}


def codec(name: str) -> Codec:
    """Return the codec of a format; raises CheckpointError, with the nearest name, where there is none."""
    entry = (CODECS | READ_ONLY).get(name)
    if entry is None:
        near = difflib.get_close_matches(name, CODECS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CheckpointError(f"format={name!r}; the formats are {', '.join(CODECS)}{hint}")
    module, attribute = entry.split(":")
    try:
        found: Codec = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not module.startswith(str(error.name)):
            raise
        raise CheckpointError(f"format={name!r} is not part of this installation ({module} is missing)") from error
    return found


def check_grid(name: str, grid: Grid) -> None:
    """Raise GridError or CheckpointError, before any work, where a format cannot hold weights on `grid`."""
    check = getattr(codec(name), "check_grid", None)
    if check is not None:
        check(grid)


#: What kind of weight each format holds; dense holds all.
_HOLDS = {
    "codes": ("compressed-tensors", "gptq", "gptq_v2", "mixed"),
    "spqr": ("spqr", "mixed"),
    "pruned": ("sparse", "mixed"),
    "pruned codes": ("compressed-tensors", "gptq", "gptq_v2", "sparse", "mixed"),
}


def check_holds(name: str, layer: str, kind: str, *, dynamic: bool) -> None:
    """Raise CheckpointError, before any work, where a format cannot hold the weight that a layer will have.

    `kind` is codes, spqr, pruned or pruned codes; `dynamic` says that every input has a group index.
    """
    if name != "dense" and name not in _HOLDS[kind]:
        others = ", ".join(map(repr, (*_HOLDS[kind], "dense")))
        raise CheckpointError(f"{layer} will be {_SAYS[kind]}, which format {name!r} does not hold; write {others}")
    if dynamic and name in ("compressed-tensors", "mixed"):
        raise CheckpointError(
            f"{layer} will have groups that are no ranges of inputs (act_order='dynamic'), which {name} is not "
            "written with; use act_order 'static' or 'group', or format 'gptq_v2'"
        )


_SAYS = {
    "codes": "codes on a grid",
    "spqr": "codes with outliers beside them",
    "pruned": "pruned and not quantized",
    "pruned codes": "pruned and quantized",
}


def recognize(label: Mapping[str, Any], tensor_names: Collection[str]) -> Codec:
    """Return the codec whose label and tensors these are; raises CheckpointError where there is none."""
    method = label.get("quant_method")
    # A container that is not installed cannot be recognized, and its label is then named as unknown.
    for name in CODECS | READ_ONLY:
        try:
            found = codec(name)
        except CheckpointError:
            continue
        if found.recognizes(label, tensor_names):
            return found
    if not label:
        raise CheckpointError("its tensors are packed but config.json has no quantization_config to say how")
    raise CheckpointError(
        f"it is labelled quant_method={method!r:.40}, checkpoint_format={label.get('checkpoint_format')!r:.40}; "
        f"the formats are {', '.join(CODECS | READ_ONLY)}"
    )
