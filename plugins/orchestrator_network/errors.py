"""The two ways a simulation can be asked for something that cannot be."""

from __future__ import annotations


class TopologyError(ValueError):
    """A network that cannot be built: too few ports, no capacity, not connected."""


class WorkloadError(ValueError):
    """Traffic that cannot be carried: unknown hosts, unmatched messages, operations that wait for one another."""
