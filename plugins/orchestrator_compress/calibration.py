"""What a model's layers read, measured once: the second moments that every method and setting is solved with.

`calibrating.calibrate` keeps one H for each distinct input (four in a Llama block, for seven layers), of the calibration
tokens and of held-out ones. Solving on it (`propagate="full_precision"`) needs no
forward pass: a sweep over bits, groups, dampings and methods costs one calibration, and blocks are independent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import CalibrationError

log = logging.getLogger(__name__)

_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedInput:
    """One distinct input: the layers that read it, H = X^T X / N in float32 [C, C], N, and the same of held-out tokens.

    `everyone` is H of all tokens as if they were routed to it, for experts that too few tokens reach.
    """

    block: int
    names: tuple[str, ...]
    tokens: int
    hessian: Tensor
    heldout: Tensor | None = None
    everyone: Tensor | None = None

    @property
    def starved(self) -> bool:
        """Tell whether fewer tokens than inputs were seen: H then has directions that nothing is known of."""
        return self.tokens < len(self.hessian)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The distinct inputs of a model's blocks, in order."""

    inputs: tuple[SharedInput, ...]

    def of_block(self, block: int) -> list[SharedInput]:
        """Return the inputs of one block."""
        return [one for one in self.inputs if one.block == block]

    def check(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raise CalibrationError unless every layer [R, C] of `shapes` has an H of its width."""
        width = {name: len(one.hessian) for one in self.inputs for name in one.names}
        for name, (_, columns) in shapes.items():
            if width.get(name) != columns:
                found = f"an H of {width[name]} inputs" if name in width else "no H"
                raise CalibrationError(
                    f"the calibration has {found} for {name}, which has {columns} inputs: it was made with another model"
                )

    def tensors(self) -> dict[str, Tensor]:
        """Return the matrices by name: `hessian.<n>`, `heldout.<n>` and `everyone.<n>` of the n-th input."""
        named = {f"hessian.{place}": one.hessian for place, one in enumerate(self.inputs)}
        held = {f"heldout.{place}": one.heldout for place, one in enumerate(self.inputs) if one.heldout is not None}
        # Experts of a block that lack tokens share what is measured of all of them.
        first = {id(one.everyone): place for place, one in reversed(list(enumerate(self.inputs)))}
        every = {f"everyone.{place}": self.inputs[place].everyone for place in first.values()}
        return named | held | {name: tensor for name, tensor in every.items() if tensor is not None}

    def index(self) -> str:
        """Return what `tensors` belong to, as JSON."""
        rows = [[one.block, list(one.names), one.tokens] for one in self.inputs]
        first = {id(one.everyone): place for place, one in reversed(list(enumerate(self.inputs)))}
        shared = {place: first[id(one.everyone)] for place, one in enumerate(self.inputs) if one.everyone is not None}
        return json.dumps({"version": _VERSION, "inputs": rows, **({"everyone": shared} if shared else {})})

    @classmethod
    def restored(cls, index: str, tensors: Mapping[str, Tensor]) -> Calibration:
        """Return the calibration of an index and its tensors; CalibrationError where they do not fit."""
        try:
            read = json.loads(index)
            if read["version"] != _VERSION:
                raise CalibrationError(
                    f"calibration version {read['version']}; this release reads {_VERSION}: calibrate anew"
                )
            everyone = {int(place): tensors[f"everyone.{first}"] for place, first in read.get("everyone", {}).items()}
            inputs = tuple(
                SharedInput(
                    block=int(block),
                    names=tuple(names),
                    tokens=int(tokens),
                    hessian=tensors[f"hessian.{place}"],
                    heldout=tensors.get(f"heldout.{place}"),
                    everyone=everyone.get(place),
                )
                for place, (block, names, tokens) in enumerate(read["inputs"])
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, CalibrationError):
                raise
            raise CalibrationError(f"a calibration that cannot be read ({error!r}): calibrate anew") from error
        return cls(inputs=inputs)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        save_file(dict(sorted(self.tensors().items())), path, metadata={"index": self.index()})

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Map what `save` wrote; CalibrationError for another file."""
        return cls.mapped(path)

    @classmethod
    def mapped(cls, path: str | Path, index: str | None = None) -> Calibration:
        """Return the calibration in a safetensors file, its matrices in memory only as they are used.

        `index` is what the file itself says where it is None. Raises CalibrationError where the two do not fit.
        """
        try:
            with safe_open(path, framework="pt") as file:
                told = (file.metadata() or {}).get("index", "{}") if index is None else index
                return cls.restored(told, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CalibrationError(f"{Path(path).name} is no calibration: {error}") from error


def token_windows(stream: np.ndarray, sequences: int, length: int) -> Tensor:
    """Cut up to `sequences` disjoint windows of `length` tokens from a stream [n], evenly spread.

    The result is int64 [sequences, length]. A stream too short for that many gives as many as it holds, with a
    warning. Raises CalibrationError where it holds none.
    """
    available = len(stream) // length
    if available == 0:
        raise CalibrationError(
            f"the split has {len(stream)} tokens, fewer than one sequence of {length}; use a smaller sequence_length"
        )
    if available < sequences:
        log.warning(
            "%d sequences of %d tokens wanted, the split holds %d: calibrating on those", sequences, length, available
        )
    count = min(sequences, available)
    starts = np.arange(count) * available // count * length
    windows = stream[starts[:, None] + np.arange(length)]
    return torch.from_numpy(windows.astype(np.int64))
