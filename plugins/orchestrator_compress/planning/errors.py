"""What can be wrong with a plan, by name."""

from __future__ import annotations

from ..errors import CompressionError


class PlanningError(CompressionError):
    """Report a candidate, a constraint or a budget that no plan can meet."""
