"""What a load balancer is: a row of state for a flow and two compiled functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrator_network.packet.layout import ENTROPIES, PATH_RANDOM, PATHS_OWN
from orchestrator_network.packet.transports.base import Fabric


class Balancer:
    """A load balancer; subclass it, and give ``choose`` and ``learn`` compiled with the decorators of those names.

    The row of a flow is int64: the generator for `bits.draw`, the number of entropy values, then ``columns`` of its
    own, which begin as 0. With ``in_switch`` the switch picks the emptiest of its shortest ways for every data packet, or
    for flowlets that pause for ``sticky_ps``; ``by_levels`` it tells four levels of a port apart, else bytes.
    """

    choose: Callable[..., int]
    learn: Callable[..., None]
    columns: int = 0
    power_of_two: bool = False
    in_switch: bool = False
    by_levels: bool = True
    sticky_ps: int = 0

    def columns_for(self, entropies: int) -> int:  # noqa: ARG002 - for those that keep something for every value
        """Return how many columns it needs."""
        return self.columns

    def begin(self, fabric: Fabric, entropies: int, random_states: np.ndarray) -> np.ndarray:  # noqa: ARG002
        """Return the rows int64 [flows, columns] of flows that have not started."""
        if self.power_of_two and entropies & (entropies - 1):
            raise ValueError(f"{entropies} entropy values; this load balancer needs a power of 2, 64 for example")
        rows = np.zeros((len(random_states), PATHS_OWN + self.columns_for(entropies)), np.int64)
        rows[:, PATH_RANDOM] = random_states
        rows[:, ENTROPIES] = entropies
        return rows
