"""What experts are solved on, and what becomes of those that too few calibration tokens reach.

An expert sees the tokens that are routed to it, and its H is theirs; gate and up share one. An expert with n tokens
where `least` are needed (`Settings.expert_tokens`, by default its inputs C, below which H is singular) is handled as
`Settings.expert_fallback` says, and its record tells so:

    pool        H = (n H_routed + (least - n) H_all) / least: what is missing is made up from the mean of all tokens
    all_tokens  H = H_all, as if every token were routed to it
    routed      H = H_routed, singular or nearly so
    rtn         no H: what the method is without compensation

H_all of a down is that of what its own gate and up make of all tokens. No output changes: those tokens are measured
beside the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import CalibrationError
from .experts import UnfusedExperts
from .linears import LinearView
from .moments import Collected, Moments
from .precision import as_read, products_in
from .settings import DATA_DRIVEN, Settings

if TYPE_CHECKING:
    from .calibration import SharedInput
    from .sources import Inputs
    from .staged import Run
    from .streams import Stream
    from .sums import Team

Least = Callable[[Sequence[str], int], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertPlace:
    """Say where a layer is: which expert of which module, and whether it reads what gate and up make (a down)."""

    experts: UnfusedExperts
    index: int
    inner: bool
    columns: int
    device: torch.device

    @property
    def source(self) -> tuple[int, int]:
        """Return what all tokens would be measured for: the states that all experts read are one."""
        return id(self.experts), self.index if self.inner else -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Lack:
    """Say that a group has too few tokens: how many are needed, and H of all tokens [C, C] where that was measured."""

    least: int
    everyone: Tensor | None = None


def expert_places(block: nn.Module, views: Mapping[str, LinearView]) -> dict[str, ExpertPlace]:
    """Return where those layers of a block are that belong to experts, in the order in which a pass reaches them."""
    names = {id(one.module): name for name, one in views.items()}
    places: dict[str, ExpertPlace] = {}
    for experts in block.modules():
        if not isinstance(experts, UnfusedExperts):
            continue
        for index in range(experts.num_experts):
            *outer, down = experts.expert(index).parts()
            for module in (*outer, down):
                if id(module) in names:
                    view = views[names[id(module)]]
                    places[names[id(module)]] = ExpertPlace(
                        experts=experts, index=index, inner=module is down, columns=view.shape[1], device=view.device
                    )
    return places


def expert_groups(
    groups: Sequence[Sequence[str]], views: Mapping[str, LinearView], block: nn.Module
) -> list[list[str]]:
    """Return groups by input in which every expert has its own, whether or not a sample reached it, in their order."""
    places = expert_places(block, views)
    found = [list(names) for names in groups]
    if not places:
        return found
    own: dict[tuple[int, int, bool], list[str]] = {}
    for name, place in places.items():
        own.setdefault((id(place.experts), place.index, place.inner), []).append(name)
    first = next(place for place, names in enumerate(found) if names[0] in places)
    others = [names for names in found if names[0] not in places]
    return [*others[:first], *own.values(), *others[first:]]


def starved(
    groups: Sequence[Sequence[str]], moments: Sequence[Moments], places: Mapping[str, ExpertPlace], least: Least
) -> dict[int, ExpertPlace]:
    """Return the groups that are experts' and have fewer tokens than they need."""
    return {
        number: places[names[0]]
        for number, (names, seen) in enumerate(zip(groups, moments, strict=True))
        if names[0] in places and seen.tokens < least(names, seen.columns)
    }


def every_token(
    stream: Stream, wanted: Mapping[int, ExpertPlace], block: nn.Module, index: int, team: Team
) -> dict[int, Moments]:
    """Return the moments that experts would have if every token of the stream before the block reached them."""
    sources = {place.source: place for place in wanted.values()}
    if not sources:
        return {}
    sums = {source: team.sums(place.columns, stream.count, place.device) for source, place in sources.items()}
    for shard, batches in stream.shards.items():
        for batch, real in zip(batches, stream.real[shard], strict=True):
            run = partial(stream.calls.run_one, block, index, batch)
            for experts, states in _entered(list(sources.values()), run):
                for source, place in sources.items():
                    if place.experts is experts:
                        sums[source].add(shard, _read(place, _real(states, real), stream.calls.dtype))
    totals = {source: one.total() for source, one in sums.items()}
    return {number: totals[place.source] for number, place in wanted.items()}


class EnteredExperts:
    """Keep what experts are given in the passes of a block, one a batch: for a pass that cannot be run again.

    `runs` are those passes in their order, of `shards` shards that a team shares, `dtype` the type of their products. Use
    as a context manager.
    """

    def __init__(self, block: nn.Module, runs: Sequence[Run], shards: int, team: Team, dtype: torch.dtype):
        self._modules = [one for one in block.modules() if isinstance(one, UnfusedExperts)]
        self._runs, self._shards, self._team, self._dtype = runs, shards, team, dtype
        self._states: dict[int, list[Tensor]] = {id(one): [] for one in self._modules}
        self._sums: dict[tuple[int, int], Moments] = {}
        self._stack = ExitStack()

    def __enter__(self) -> EnteredExperts:
        for module in self._modules:
            self._stack.callback(_on_entry(module, lambda one, states: self._states[id(one)].append(states)))
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    def moments(self, place: ExpertPlace) -> Moments:
        """Return the moments of all tokens at a place, with the weights that the expert has now."""
        if place.source not in self._sums:
            sums = self._team.sums(place.columns, self._shards, place.device)
            for states, run in zip(self._states[id(place.experts)], self._runs, strict=True):
                sums.add(run.shard, _read(place, _real(states, run.real), self._dtype))
            self._sums[place.source] = sums.total()
        return self._sums[place.source]

    def all_moments(self, places: Mapping[int, ExpertPlace]) -> dict[int, Moments]:
        """Return the moments of all tokens at some places, by their numbers."""
        return {number: self.moments(place) for number, place in places.items()}


@dataclass(frozen=True, slots=True)
class ExpertPolicy:
    """Say what a group of layers is solved on where too few tokens reached it."""

    settings: Settings

    def least(self, names: Sequence[str], columns: int) -> int:
        """Return how many tokens a group needs; 0 where none of its layers is solved on inputs."""
        if not any(self.settings.of(name).method in DATA_DRIVEN for name in names):
            return 0
        return columns if self.settings.expert_tokens is None else self.settings.expert_tokens

    @property
    def measures(self) -> bool:
        """Tell whether all tokens have to be measured."""
        return self.settings.expert_fallback in ("pool", "all_tokens")

    def calibrated(self, names: Sequence[str]) -> int | None:
        """Return `expert_tokens` for a calibration that is made for these layers; 0 where it need not care."""
        return self.settings.expert_tokens if self.measures and self.least(names, 1) else 0

    def lacks(
        self,
        groups: Sequence[Sequence[str]],
        moments: Sequence[Moments],
        places: Mapping[str, ExpertPlace],
        measure: Callable[[Mapping[int, ExpertPlace]], Mapping[int, Moments]],
    ) -> dict[int, Lack]:
        """Return what groups of experts lack; `measure` returns the moments of all tokens."""
        wanted = starved(groups, moments, places, self.least)
        extra = measure(wanted) if wanted and self.measures else {}
        return {
            number: Lack(
                least=self.least(groups[number], place.columns),
                everyone=extra[number].hessian() if number in extra else None,
            )
            for number, place in wanted.items()
        }

    def lack_of(self, one: SharedInput, names: Sequence[str], *, expert: bool) -> Lack | None:
        """Return what an input of a calibration lacks; CalibrationError where it would have to know more."""
        least = self.least(names, len(one.hessian))
        if not (expert or one.everyone is not None) or one.tokens >= least:
            return None
        if self.measures and one.everyone is None and expert:
            raise CalibrationError(
                f"{names[0]} has {one.tokens} of {least} tokens, and the calibration has not measured all tokens for "
                f"it; calibrate with expert_tokens={least} or more, or use expert_fallback='routed' or 'rtn'"
            )
        return Lack(least=least, everyone=one.everyone)

    def fill(self, found: Inputs, lack: Lack | None) -> Inputs:
        """Return what is solved on in place of what was found, and why."""
        if lack is None:
            return found
        said = f"{found.tokens} tokens reached the expert, which needs {lack.least}"
        if self.settings.expert_fallback == "rtn":
            return replace(found, own=None, fallback=said)
        if lack.everyone is None or self.settings.expert_fallback == "routed":
            return replace(found, fallback=f"{said}: solved on those")
        everyone = lack.everyone
        if self.settings.expert_fallback == "all_tokens" or found.own is None:
            return replace(found, own=everyone, fallback=f"{said}: solved on all tokens")
        share = found.tokens / lack.least
        own = found.own * share + everyone.to(found.own) * (1 - share)
        return replace(found, own=own, fallback=f"{said}: the rest made up from all tokens")


def _entered(places: Sequence[ExpertPlace], run: Callable[[], object]) -> list[tuple[UnfusedExperts, Tensor]]:
    """Run a block up to where its last experts are entered, and return what each of them is given."""
    waiting = {id(place.experts): place.experts for place in places}
    found: list[tuple[UnfusedExperts, Tensor]] = []

    def note(module: UnfusedExperts, states: Tensor) -> None:
        found.append((module, states))
        waiting.pop(id(module), None)
        if not waiting:
            raise Collected

    with ExitStack() as stack:
        for module in list(waiting.values()):
            stack.callback(_on_entry(module, note))
        with suppress(Collected):
            run()
    return found


def _on_entry(module: UnfusedExperts, note: Callable[[UnfusedExperts, Tensor], None]) -> Callable[[], None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        note(module, args[0] if args else kwargs["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _read(place: ExpertPlace, states: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the layer at a place would multiply, in the pass's type of products."""
    with torch.no_grad(), products_in(dtype, states.device):
        return as_read(place.experts.inner(place.index, states) if place.inner else states)


def _real(states: Tensor, real: Tensor | None) -> Tensor:
    return states if real is None else states[real.reshape(-1).to(states.device)]
