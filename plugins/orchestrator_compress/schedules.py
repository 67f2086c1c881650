"""When weights are removed: the sparsity that a training run has reached at a step. Free of torch.

Sources: one-shot as in Han et al. 2015 (arXiv:1506.02626); the cubic schedule of Zhu and Gupta 2017
(arXiv:1710.01878), equation 1: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3 at t_0, t_0 + dt, ..., t_0 + n dt.
Times are shares of a run, so that one schedule fits runs of any length.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OneShotConfig:
    """Everything at one step.

    sparsity  share of weights that is zero afterwards; null: that of whoever prunes, or a half
    at        share of the run's steps after which it happens (1: after the last); null: when whoever prunes starts, or at once
    """

    sparsity: float | None = None
    at: float | None = None

    def __post_init__(self) -> None:
        _check_shares(sparsity=self.sparsity, at=self.at)

    def filled(self, *, sparsity: float = 0.5, at: float = 0.0) -> OneShotConfig:
        """Return the config with these in the place of what is null."""
        return OneShotConfig(
            sparsity=sparsity if self.sparsity is None else self.sparsity, at=at if self.at is None else self.at
        )


@dataclass(frozen=True, kw_only=True)
class CubicConfig:
    """Zhu and Gupta's schedule; what is null is that of whoever prunes, or as said here.

    initial  sparsity at `start`
    final    sparsity from `end` on; 0.9
    start    share of the run at which weights begin to go; 0
    end      share of the run at which the last go; 0.75
    every    steps between two removals; 10
    """

    initial: float = 0.0
    final: float | None = None
    start: float | None = None
    end: float | None = None
    every: int | None = None

    def __post_init__(self) -> None:
        _check_shares(initial=self.initial, final=self.final, start=self.start, end=self.end)
        final, start, end = (1 if one is None else one for one in (self.final, self.start or 0, self.end))
        if final < self.initial or end < start:
            raise ValueError(
                f"initial={self.initial} final={self.final} start={self.start} end={self.end}; sparsity and time only "
                "grow: masks never come back"
            )
        if self.every is not None and self.every < 1:
            raise ValueError(f"every={self.every}; weights are removed every so many steps, at least 1")

    def filled(self, *, final: float = 0.9, start: float = 0.0, end: float = 0.75, every: int = 10) -> CubicConfig:
        """Return the config with these in the place of what is null."""
        return CubicConfig(
            initial=self.initial,
            final=final if self.final is None else self.final,
            start=start if self.start is None else self.start,
            end=end if self.end is None else self.end,
            every=every if self.every is None else self.every,
        )


class OneShot:
    """Everything at one step."""

    def __init__(self, config: OneShotConfig):
        filled = config.filled()
        assert filled.sparsity is not None
        assert filled.at is not None
        self._sparsity, self._at = filled.sparsity, filled.at

    def sparsity(self, step: int, steps: int) -> float:
        """Return the sparsity after `step` of `steps` steps."""
        return self._sparsity if step >= round(self._at * steps) else 0.0


class Cubic:
    """Fast at first, while there is much to choose from, and slower towards the end."""

    def __init__(self, config: CubicConfig):
        filled = config.filled()
        assert filled.final is not None
        assert filled.start is not None
        assert filled.end is not None
        assert filled.every is not None
        self._initial, self._final = filled.initial, filled.final
        self._start, self._end, self._every = filled.start, filled.end, filled.every

    def sparsity(self, step: int, steps: int) -> float:
        """Return the sparsity after `step` of `steps` steps: constant between removals, `final` from `end` on."""
        first, last = round(self._start * steps), round(self._end * steps)
        if step < first:
            return 0.0
        if step >= last:
            return self._final
        removals = -(-(last - first) // self._every)
        done = (step - first) // self._every / removals
        return self._final + (self._initial - self._final) * (1 - done) ** 3


class Nothing:
    """Never: what is zero when training starts stays zero, and nothing more is removed."""

    def sparsity(self, step: int, steps: int) -> float:  # noqa: ARG002 - the protocol's
        """Return 0."""
        return 0.0


def _check_shares(**shares: float | None) -> None:
    for name, value in shares.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name}={value}; it is a share and lies in 0..1")
