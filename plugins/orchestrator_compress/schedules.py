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

    sparsity  share of weights that is zero afterwards
    at        share of the run's steps after which it happens; 1: after the last
    """

    sparsity: float = 0.5
    at: float = 0.0

    def __post_init__(self) -> None:
        _check_shares(sparsity=self.sparsity, at=self.at)


@dataclass(frozen=True, kw_only=True)
class CubicConfig:
    """Zhu and Gupta's schedule.

    initial  sparsity at `start`
    final    sparsity from `end` on
    start    share of the run at which weights begin to go
    end      share of the run at which the last go
    every    steps between two removals
    """

    initial: float = 0.0
    final: float = 0.9
    start: float = 0.0
    end: float = 0.75
    every: int = 10

    def __post_init__(self) -> None:
        _check_shares(initial=self.initial, final=self.final, start=self.start, end=self.end)
        if self.final < self.initial or self.end < self.start:
            raise ValueError(
                f"initial={self.initial} final={self.final} start={self.start} end={self.end}; sparsity and time only "
                "grow: masks never come back"
            )
        if self.every < 1:
            raise ValueError(f"every={self.every}; weights are removed every so many steps, at least 1")


class OneShot:
    """Everything at one step."""

    def __init__(self, config: OneShotConfig):
        self._config = config

    def sparsity(self, step: int, steps: int) -> float:
        """Return the sparsity after `step` of `steps` steps."""
        return self._config.sparsity if step >= round(self._config.at * steps) else 0.0


class Cubic:
    """Fast at first, while there is much to choose from, and slower towards the end."""

    def __init__(self, config: CubicConfig):
        self._config = config

    def sparsity(self, step: int, steps: int) -> float:
        """Return the sparsity after `step` of `steps` steps: constant between removals, `final` from `end` on."""
        config = self._config
        first, last = round(config.start * steps), round(config.end * steps)
        if step < first:
            return 0.0
        if step >= last:
            return config.final
        removals = -(-(last - first) // config.every)
        done = (step - first) // config.every / removals
        return config.final + (config.initial - config.final) * (1 - done) ** 3


class Nothing:
    """Never: what is zero when training starts stays zero, and nothing more is removed."""

    def sparsity(self, step: int, steps: int) -> float:  # noqa: ARG002 - the protocol's
        """Return 0."""
        return 0.0


def _check_shares(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}; it is a share and lies in 0..1")
