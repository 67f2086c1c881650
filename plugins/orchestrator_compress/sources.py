"""Where the H of each layer comes from while a model is compressed block by block.

NoInputs     nothing is known of the inputs (methods without data)
Prepared     a calibration made before: blocks are independent of one another
Propagated   three streams of hidden states: calibration tokens through the model as it is being compressed
             (what is solved on), the same through the dense model, and held-out ones through the dense model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from .calibration import Calibration
from .linears import LinearView
from .moments import Moments
from .streams import Alone, Stream, Team


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Layers that read one input, its H in the three streams (dense is own where they are the same), and its tokens."""

    names: tuple[str, ...]
    tokens: int = 0
    own: Tensor | None = None
    dense: Tensor | None = None
    heldout: Tensor | None = None


class Source(Protocol):
    """Gives each block's inputs in turn."""

    #: Whether a block needs the compressed weights of those before it.
    sequential: bool

    def visit(
        self, block: nn.Module, index: int, views: Mapping[str, LinearView], *, done: bool, team: Team
    ) -> list[Inputs]:
        """Return the inputs of the layers in `views`; for a block that is done only its names are needed."""
        ...

    def leave(self, block: nn.Module, index: int) -> None:
        """Pass the block, whose weights are the compressed ones now where that matters."""
        ...


class NoInputs:
    """Give every layer for itself and nothing about it."""

    sequential = False

    def visit(
        self,
        block: nn.Module,  # noqa: ARG002
        index: int,  # noqa: ARG002
        views: Mapping[str, LinearView],
        *,
        done: bool,  # noqa: ARG002
        team: Team,  # noqa: ARG002
    ) -> list[Inputs]:
        """Return one group a layer."""
        return [Inputs(names=(name,)) for name in views]

    def leave(self, block: nn.Module, index: int) -> None:
        """Do nothing."""


class Prepared:
    """Give what a calibration holds."""

    sequential = False

    def __init__(self, calibration: Calibration):
        self._calibration = calibration

    def visit(
        self,
        block: nn.Module,  # noqa: ARG002
        index: int,
        views: Mapping[str, LinearView],
        *,
        done: bool,  # noqa: ARG002
        team: Team,  # noqa: ARG002
    ) -> list[Inputs]:
        """Return the block's inputs, without layers that are not wanted."""
        found = []
        for one in self._calibration.of_block(index):
            names = tuple(name for name in one.names if name in views)
            if names:
                found.append(
                    Inputs(names=names, tokens=one.tokens, own=one.hessian, dense=one.hessian, heldout=one.heldout)
                )
        return found

    def leave(self, block: nn.Module, index: int) -> None:
        """Do nothing."""


class Propagated:
    """Give what streams of hidden states bring to each block."""

    sequential = True

    def __init__(self, stream: Stream, heldout: Stream | None, measure: Literal["full", "own"]):
        self._own = stream
        # The first block's inputs are the embeddings in both models: the streams part only where it ends.
        self._dense = stream.copy() if measure == "full" else None
        self._heldout = heldout
        self._apart = False

    def visit(
        self, block: nn.Module, index: int, views: Mapping[str, LinearView], *, done: bool, team: Team
    ) -> list[Inputs]:
        """Return the inputs and move the dense streams past the block."""
        if done:
            for passing in (self._dense, self._heldout):
                if passing is not None:
                    passing.advance(block, index)
            return [Inputs(names=tuple(views))]
        groups = self._own.groups(views, block, index)
        dense = own = None
        if self._dense is not None:
            dense = self._dense.collect(views, groups, block, index, team=team, advance=True)
        if self._dense is None or self._apart:
            own = self._own.collect(views, groups, block, index, team=team, advance=False)
        held: list[Moments] | None = None
        if self._heldout is not None:
            held = self._heldout.collect(views, groups, block, index, team=Alone(), advance=True)
        found = []
        for place, names in enumerate(groups):
            moments = own or dense
            assert moments is not None
            hessian = moments[place].hessian()
            others = None if dense is None else (hessian if own is None else dense[place].hessian())
            found.append(
                Inputs(
                    names=tuple(names),
                    tokens=moments[place].tokens,
                    own=hessian,
                    dense=others,
                    heldout=None if held is None else held[place].hessian(),
                )
            )
        return found

    def leave(self, block: nn.Module, index: int) -> None:
        """Move the stream of the compressed model past the block."""
        self._own.advance(block, index)
        self._apart = True
