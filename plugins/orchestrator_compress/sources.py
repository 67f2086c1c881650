"""Where the H of each layer comes from while a model is compressed block by block.

NoInputs     nothing is known of the inputs (methods without data)
Prepared     a calibration made before: blocks are independent of one another
Propagated   three streams of hidden states: calibration tokens through the model as it is being compressed
             (what is solved on), the same through the dense model, and held-out ones through the dense model
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from torch import Tensor, nn

from .calibration import Calibration, SharedInput
from .errors import CalibrationError
from .expert_inputs import EnteredExperts, ExpertPolicy, every_token, expert_places
from .linears import LinearView
from .memory import release
from .moments import Moments
from .settings import Settings
from .staged import Run, StagedPass
from .streams import Stream
from .sums import Alone, Team


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Layers that read one input, its H in the three streams (dense is own where they are the same), and its tokens.

    None: nothing is known of it in that stream.
    """

    names: tuple[str, ...]
    tokens: int = 0
    own: Tensor | None = None
    dense: Tensor | None = None
    heldout: Tensor | None = None
    #: What is solved on where too few tokens were seen; "": what was seen.
    fallback: str = ""
    #: tr(W H W^T) by layer and stream, where somebody keeps what was computed before.
    energies: dict[tuple[str, str], float] | None = None


class Source(Protocol):
    """Gives each block's inputs in turn."""

    #: Whether a block needs the compressed weights of those before it.
    sequential: bool
    #: Whether a layer needs those of the layers before it in its block.
    staged: bool

    def visit(
        self, block: nn.Module, index: int, views: Mapping[str, LinearView], *, done: bool, team: Team
    ) -> Iterable[Inputs]:
        """Return the inputs of the layers in `views`; for a block that is done only its names are needed.

        Where `staged` is set, the layers of each are compressed, and in the model, before the next is asked for.
        """
        ...

    def leave(self, block: nn.Module, index: int) -> None:
        """Pass the block, whose weights are the compressed ones now where that matters."""
        ...


def measured(one: SharedInput, names: Sequence[str], energies: dict[tuple[str, str], float] | None = None) -> Inputs:
    """Return what a calibration knows of the input of some layers."""
    hessian = one.hessian if one.tokens else None
    return Inputs(
        names=tuple(names),
        tokens=one.tokens,
        own=hessian,
        dense=hessian,
        heldout=one.heldout,
        energies=energies,
    )


def solved_on(one: SharedInput) -> Inputs:
    """Return what is solved on by those who have no say in it: of experts with too few tokens, what is the default."""
    policy = ExpertPolicy(Settings())
    return policy.fill(measured(one, one.names), policy.lack_of(one, one.names, expert=False))


class NoInputs:
    """Give every layer for itself and nothing about it."""

    sequential = False
    staged = False

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
    staged = False

    def __init__(
        self,
        calibration: Calibration,
        experts: ExpertPolicy,
        energies: dict[tuple[str, str], float] | None = None,
    ):
        self._energies = energies
        self._calibration = calibration
        self._experts = experts

    def visit(
        self,
        block: nn.Module,
        index: int,
        views: Mapping[str, LinearView],
        *,
        done: bool,  # noqa: ARG002
        team: Team,  # noqa: ARG002
    ) -> list[Inputs]:
        """Return the block's inputs, without layers that are not wanted."""
        found = []
        experts = expert_places(block, views)
        for one in self._calibration.of_block(index):
            names = tuple(name for name in one.names if name in views)
            if names:
                lack = self._experts.lack_of(one, names, expert=names[0] in experts)
                found.append(self._experts.fill(measured(one, names, self._energies), lack))
        return found

    def leave(self, block: nn.Module, index: int) -> None:
        """Do nothing."""


class Propagated:
    """Give what streams of hidden states bring to each of `blocks` blocks.

    With `staged`, the layers of a block are solved as a pass of the compressed model reaches them, each on what the
    solved ones before it give (`true_sequential` of the GPTQ code): one pass instead of two. Nothing is run that no
    layer needs: the last block ends where its last layers have their input.
    """

    sequential = True

    def __init__(
        self,
        stream: Stream,
        heldout: Stream | None,
        measure: Literal["full", "own"],
        experts: ExpertPolicy,
        *,
        blocks: int,
        staged: bool = False,
    ):
        self._experts = experts
        self.staged = staged
        self._own = stream
        # The first block's inputs are the embeddings in both models: the streams part only where it ends.
        self._dense = stream.copy() if measure == "full" else None
        self._heldout = heldout
        self._last = blocks - 1
        self._apart = self._moved = False

    def visit(
        self, block: nn.Module, index: int, views: Mapping[str, LinearView], *, done: bool, team: Team
    ) -> Iterator[Inputs]:
        """Yield the inputs in the order of the pass, and move the dense streams past the block."""
        going_on = index != self._last
        if done:
            for passing in (self._dense, self._heldout):
                if passing is not None and going_on:
                    passing.advance(block, index)
            yield Inputs(names=tuple(views))
            return
        groups = self._own.groups(views, block, index)
        dense = own = None
        if self._dense is not None:
            dense = self._dense.collect(views, groups, block, index, team=team, advance=going_on)
        if not self.staged and (self._dense is None or self._apart):
            own = self._own.collect(views, groups, block, index, team=team, advance=False)
        held: list[Moments] | None = None
        if self._heldout is not None:
            held = self._heldout.collect(views, groups, block, index, team=Alone(), advance=going_on)
        others = [_Others(dense, held, place) for place in range(len(groups))]
        if self.staged:
            yield from self._as_reached(views, groups, block, index, others=others, team=team)
            return
        moments = own or dense
        assert moments is not None
        lacks = self._experts.lacks(
            groups, moments, expert_places(block, views), lambda few: every_token(self._own, few, block, index, team)
        )
        for place, names in enumerate(groups):
            seen = others[place].inputs(names, moments[place], apart=own is not None)
            yield self._experts.fill(seen, lacks.get(place))

    def _as_reached(
        self,
        views: Mapping[str, LinearView],
        groups: Sequence[Sequence[str]],
        block: nn.Module,
        index: int,
        *,
        others: Sequence[_Others],
        team: Team,
    ) -> Iterator[Inputs]:
        stream = self._own
        sums = [team.sums(views[names[0]].shape[1], stream.count, views[names[0]].device) for names in groups]
        runs = [
            Run(partial(stream.calls.run_one, block, index, batch), shard, real)
            for shard, batches in stream.shards.items()
            for batch, real in zip(batches, stream.real[shard], strict=True)
        ]
        experts = expert_places(block, views)
        with (
            EnteredExperts(block, runs, stream.count, team, stream.calls.dtype) as entered,
            StagedPass(views, groups, runs, sums) as staged,
        ):
            for place, names in enumerate(groups):
                release()  # the passes have freed what they used on the way here
                seen = sums[place].total()
                lacks = self._experts.lacks([names], [seen], experts, entered.all_moments)
                inputs = self._experts.fill(others[place].inputs(names, seen, apart=True), lacks.get(0))
                del seen
                yield inputs
                del inputs, lacks  # the largest matrices of a block, while the next are summed
                _check_order(staged, index)
                if index == self._last and place == len(groups) - 1:
                    return
                staged.go_on(place)
            _check_order(staged, index)
            outputs = iter(staged.outputs())
        self._own.shards = {shard: [next(outputs) for _ in batches] for shard, batches in stream.shards.items()}
        self._moved = True

    def leave(self, block: nn.Module, index: int) -> None:
        """Move the stream of the compressed model past the block, unless the block's own pass has."""
        if not self._moved and index != self._last:
            self._own.advance(block, index)
        self._apart, self._moved = True, False


def _check_order(staged: StagedPass, index: int) -> None:
    if staged.late:
        raise CalibrationError(
            f"{staged.late} tokens reached a layer of block {index} after it was solved: its layers are called in no "
            "fixed order; use true_sequential=False"
        )


@dataclass(frozen=True, slots=True)
class _Others:
    """The moments of one group in the dense model, of calibration and of held-out tokens."""

    dense: list[Moments] | None
    heldout: list[Moments] | None
    place: int

    def inputs(self, names: Sequence[str], own: Moments, *, apart: bool) -> Inputs:
        """Return them with those that are solved on, which are the dense ones themselves unless `apart`."""
        hessian = _known(own)
        dense = None
        if self.dense is not None:
            dense = _known(self.dense[self.place]) if apart else hessian
        return Inputs(
            names=tuple(names),
            tokens=own.tokens,
            own=hessian,
            dense=dense,
            heldout=None if self.heldout is None else _known(self.heldout[self.place]),
        )


def _known(moments: Moments) -> Tensor | None:
    return moments.hessian() if moments.tokens else None
