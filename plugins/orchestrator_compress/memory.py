"""Give freed memory back to the system, where the C library keeps it."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from functools import cache

log = logging.getLogger(__name__)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # not the GNU C library
        log.debug("freed memory stays with the process: its C library has no malloc_trim")
        return None
    return found


def release() -> None:
    """Return pages that no tensor uses any more.

    The phases of a block free tensors of other sizes than the next phase asks for: kept for reuse, they made up a
    quarter of the peak. Costs about a millisecond per 100 MB given back.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
