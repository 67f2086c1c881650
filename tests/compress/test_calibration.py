"""Calibration windows: even, disjoint, and honest about streams that are too short."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from orchestrator_compress.calibration import token_windows
from orchestrator_compress.errors import CalibrationError


def test_windows_are_disjoint_and_cover_the_stream() -> None:
    """Windows are runs of the stream, never overlap, and reach from its start to within a stride of its end."""
    windows = token_windows(np.arange(1000, dtype=np.uint16), 7, 10).numpy()
    assert windows.shape == (7, 10)
    assert np.array_equal(np.diff(windows, axis=1), np.ones((7, 9)))
    assert len(np.unique(windows)) == 70
    assert windows[0, 0] == 0
    assert windows[-1, -1] > 1000 - 1000 / 7 - 10


def test_a_short_stream_gives_what_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    """Fewer windows than wanted are announced, none at all is an error."""
    with caplog.at_level(logging.WARNING):
        assert token_windows(np.arange(35, dtype=np.uint32), 8, 10).tolist() == [
            list(range(start, start + 10)) for start in (0, 10, 20)
        ]
    assert "8 sequences of 10 tokens wanted, the split holds 3" in caplog.text
    with pytest.raises(CalibrationError, match="smaller sequence_length"):
        token_windows(np.arange(9), 1, 10)
