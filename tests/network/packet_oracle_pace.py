"""Senders of the plain packet simulator that keep a pace."""

from __future__ import annotations

import math

from orchestrator_network.packet import layout as at
from tests.network.packet_oracle import TIMER


class Paced:
    """For a subclass of `Oracle`: what its flows may send by their windows, they may send when their pace lets them."""

    now = 0

    def is_held_back(self, number):
        """Tell whether a flow has to wait for its pace; one that does is woken in time."""
        flow, window = self.flows[number], self.window[number]
        if not self.control.paced or window[at.NEXT_AT] <= self.now:
            return False
        if not getattr(flow, "waking", False):
            flow.waking = True
            self.push(math.ceil(window[at.NEXT_AT]), TIMER, at.WAKE << 32 | number)
        return True

    def step_on(self, number, size, now):
        """Note that a flow sends so many bytes."""
        if self.control.paced:
            window = self.window[number]
            window[at.NEXT_AT] = max(window[at.NEXT_AT], now) + size * window[at.PACE_OF]

    def pick(self, host, now):
        self.now = now
        return super().pick(host, now)

    def try_send(self, number, now):
        self.now = now
        super().try_send(number, now)

    def timer(self, what, now):
        kind, number = divmod(what, 2**32)
        if kind != at.WAKE:
            super().timer(what, now)
            return
        self.flows[number].waking = False
        if self.flows[number].finished < 0:
            self.try_send(number, now)
