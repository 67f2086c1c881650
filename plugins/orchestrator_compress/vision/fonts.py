"""Which fonts the characters come from, and which of them are only seen in the test. Free of matplotlib at import.

matplotlib brings its fonts along, so that every machine that draws figures has the same data without a download. Only
files that hold plain letters and digits at their codes are used: not the symbol fonts, nor `cmmi10`, whose digits are
old-style figures.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import CompressionError

#: Fifteen files to learn from, and six that no network has seen: upright and slanted, with and without serifs, one of
#: them (cmss10) without any relative among those of training.
TRAINING_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-BoldItalic",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "cmb10",
    "cmr10",
    "cmti10",
)
TEST_FONTS = (
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif-Bold",
    "STIXGeneralItalic",
    "cmss10",
    "cmtt10",
)


def font_file(name: str) -> Path:
    """Return the path of a font that matplotlib brings along; CompressionError where it is not there."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise CompressionError("the characters are drawn with matplotlib's fonts, and matplotlib is not installed")
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    if not path.is_file():
        raise CompressionError(f"the installed matplotlib brings no font {path.name}; install matplotlib 3.9 or later")
    return path


def font_files() -> list[Path]:
    """Return the paths of all fonts, of training first."""
    return [font_file(name) for name in (*TRAINING_FONTS, *TEST_FONTS)]
