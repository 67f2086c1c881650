"""What a recipe may set of a transport or a load balancer; apart from their own modules, which load the compiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class NsccConfig:
    """What may be set of NSCC.

    target_delay_us   of queues, that the window aims at; null: three quarters of the round trip with trimming, all without
    quick_adapt_gate  a window that fell to its 2^gate-th part since the last look is set anew at once (0 to 16)
    gamma             of a multiplicative decrease: how much of what the delay asks for is done
    """

    target_delay_us: float | None = None
    quick_adapt_gate: int = 3
    gamma: float = 0.8

    def __post_init__(self) -> None:
        if self.target_delay_us is not None and self.target_delay_us <= 0:
            raise ValueError(f"target_delay_us is {self.target_delay_us}, it must be above 0")
        if not 0 <= self.quick_adapt_gate <= 16:
            raise ValueError(f"quick_adapt_gate is {self.quick_adapt_gate}, it must be 0 to 16")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma}, it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class ConstantConfig:
    """What may be set of a constant window.

    window_bdp  the window, in bandwidth-delay products
    """

    window_bdp: float = 1.5

    def __post_init__(self) -> None:
        if not self.window_bdp > 0:
            raise ValueError(f"window_bdp is {self.window_bdp}, it must be above 0")


@dataclass(frozen=True, kw_only=True)
class DctcpConfig:
    """What may be set of DCTCP.

    variant  uec reacts to every mark at once, classic once a round trip to their fraction
    """

    variant: Literal["uec", "classic"] = "uec"


@dataclass(frozen=True, kw_only=True)
class SwiftConfig:
    """What may be set of Swift.

    base_target_us     target delay of a path without hops; a hop adds 1/6.55 of it, a small window up to five times it
    additive_increase  packets a round trip that a window below its target grows by
    beta               of the excess over the target that a cut answers, 0 to 1
    max_cut            the most that one cut takes of a window, 0 to 1
    least_window       in packets; what is below one is kept by a pace
    """

    base_target_us: float = 20.0
    additive_increase: float = 1.0
    beta: float = 0.8
    max_cut: float = 0.5
    least_window: float = 0.1

    def __post_init__(self) -> None:
        if self.base_target_us <= 0:
            raise ValueError(f"base_target_us is {self.base_target_us}, it must be above 0")
        if not 0 < self.least_window <= 1:
            raise ValueError(f"least_window is {self.least_window}, it must be above 0 and at most 1 packet")
        if not (0 < self.beta <= 1 and 0 < self.max_cut < 1):
            raise ValueError(f"beta is {self.beta} and max_cut is {self.max_cut}, both must be between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class DcqcnConfig:
    """What may be set of DCQCN; rates are shares of the line.

    gain            weight of the newest marks in the congestion estimate
    cut_every_us    the least time between two cuts
    update_us       after so long without a cut the rate goes up
    counter_bytes   and after so many bytes
    fast_steps      steps back to the rate before the cut, halving the gap each, before rates are added
    additive_share  what a step adds after those
    hyper_share     what a step adds once time and bytes both have taken their fast steps
    least_share     below which the rate is never cut
    """

    gain: float = 1 / 256
    cut_every_us: float = 50.0
    update_us: float = 55.0
    counter_bytes: int = 10_000_000
    fast_steps: int = 5
    additive_share: float = 1 / 20
    hyper_share: float = 1 / 10
    least_share: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("gain", "additive_share", "hyper_share", "least_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be above 0 and at most 1")
        for name in ("cut_every_us", "update_us", "counter_bytes", "fast_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be above 0")


@dataclass(frozen=True, kw_only=True)
class HpccConfig:
    """What may be set of HPCC.

    eta               load of the busiest port that is aimed at
    stages            steps up of `additive_packets` a round trip before the load counts again
    additive_packets  of such a step
    least_share       of the bandwidth-delay product, the smallest window
    """

    eta: float = 0.95
    stages: int = 5
    additive_packets: float = 1.0
    least_share: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.eta <= 1:
            raise ValueError(f"eta is {self.eta}, it must be above 0 and at most 1")
        if self.stages < 0:
            raise ValueError(f"stages is {self.stages}, it cannot be negative")
        if self.additive_packets <= 0 or not 0 < self.least_share <= 1:
            raise ValueError(
                f"additive_packets is {self.additive_packets} and least_share {self.least_share}; the first must be above "
                "0, the second above 0 and at most 1"
            )


@dataclass(frozen=True, kw_only=True)
class BbrConfig:
    """What may be set of BBR.

    high_gain      of pace and window until the bottleneck is full
    window_gain    of the window afterwards, over the bandwidth-delay product
    filter_rtts    how long the least round trip is believed, in unloaded round trips
    probe_rtts     how long it is looked for, with an almost empty window
    first_packets  of the window at the start
    least_packets  of any window
    """

    high_gain: float = 2.885
    window_gain: float = 2.0
    filter_rtts: float = 250.0
    probe_rtts: float = 5.0
    first_packets: int = 10
    least_packets: int = 4

    def __post_init__(self) -> None:
        for name in ("high_gain", "window_gain"):
            if getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be above 1")
        for name in ("filter_rtts", "probe_rtts", "first_packets", "least_packets"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be above 0")


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig:
    """What may be set of switches that choose ports.

    load         levels: below 5, 10 and 20 % of a port, and above, looked at every 0.1 us at most; bytes: all that it holds
    granularity  packet: every packet of data chooses; flowlet: a flow that pauses may move to a port that is less full
    sticky_us    how long a flow has to pause for that
    """

    load: Literal["levels", "bytes"] = "levels"
    granularity: Literal["packet", "flowlet"] = "packet"
    sticky_us: float = 10.0

    def __post_init__(self) -> None:
        if not 1e-6 <= self.sticky_us <= 1e9:
            raise ValueError(f"sticky_us is {self.sticky_us}, it must be 0.000001 to 1e9; 10 is usual")
