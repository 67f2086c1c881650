"""Pictures of characters: glyphs of many fonts, each turned, sheared, scaled, shifted, thinned and thickened at random.

A glyph is rasterized once as a master; pictures are samples of masters under random affine maps, all at once. Stroke
widths change by thresholding a blurred master higher or lower; contrast, brightness, a slope of the background and
noise come on top. Training and test pictures are of different font files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .fonts import TEST_FONTS, TRAINING_FONTS, font_file

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

#: Side of a master in pixels, and height of an em in it: capitals are about 0.7 em high, the widest 1.13 em wide.
_MASTER, _EM = 64, 52.0
#: Pictures are sampled so much finer than they are, and averaged.
_SUPERSAMPLING = 2
#: Pictures that are warped at a time, which bounds memory.
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Pictures [N, 1, size, size] in float32, around zero, the index of each one's character [N], and that of its font [N]."""

    images: Tensor
    labels: Tensor
    fonts: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Warp:
    """How far pictures differ: the ends of uniform distributions, angles in radians, shifts as shares of the picture.

    `threshold` moves the edge of strokes in a blurred glyph (0.5: where it was), `noise` is a standard deviation of
    pixels, `slope` how much brighter one side of the background is than the other, in units of the contrast.
    """

    turn: float = math.radians(12)
    shear: float = 0.2
    scale: tuple[float, float] = (0.85, 1.2)
    shift: float = 0.12
    threshold: tuple[float, float] = (0.3, 0.65)
    contrast: tuple[float, float] = (0.5, 1.0)
    slope: float = 0.4
    noise: float = 0.15


@lru_cache(maxsize=4)
def masters(fonts: tuple[str, ...], characters: str = CHARACTERS) -> Tensor:
    """Rasterize every character of every font [fonts, characters, 64, 64], 0 paper and 1 ink, centred by their outlines.

    Heights are those of the font: a glyph is not blown up to fill its square. Raises CompressionError for a missing font.
    """
    import matplotlib as mpl

    # Styles of the user (a dark background, no antialiasing) must not change what networks are shown.
    with mpl.rc_context():
        mpl.rcdefaults()
        return _rasterized(fonts, characters)


def _rasterized(fonts: tuple[str, ...], characters: str) -> Tensor:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    rows, columns = len(fonts), len(characters)
    figure = Figure(figsize=(columns * _MASTER / 100, rows * _MASTER / 100), dpi=100)
    canvas: Any = FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set_xlim(0, columns * _MASTER)
    axes.set_ylim(rows * _MASTER, 0)
    for row, font in enumerate(fonts):
        face = FontProperties(fname=str(font_file(font)))
        for column, character in enumerate(characters):
            outline = TextPath((0, 0), character, size=_EM, prop=face)
            # Points that close an outline have no place of their own.
            points = np.asarray(outline.vertices)[np.asarray(outline.codes) != outline.CLOSEPOLY]
            middle = (points.min(0) + points.max(0)) / 2
            centre = Affine2D().translate(-middle[0], -middle[1]).scale(1, -1)
            place = centre.translate((column + 0.5) * _MASTER, (row + 0.5) * _MASTER)
            axes.add_artist(PathPatch(outline.transformed(place), linewidth=0, color="black"))
    canvas.draw()
    ink = 1 - np.asarray(canvas.buffer_rgba())[..., 0].astype(np.float32) / 255
    return torch.from_numpy(ink.reshape(rows, _MASTER, columns, _MASTER).transpose(0, 2, 1, 3).copy())


def pictures(
    fonts: Sequence[str],
    each: int,
    generator: torch.Generator,
    *,
    size: int = 25,
    warp: Warp | None = None,
    characters: str = CHARACTERS,
) -> Pictures:
    """Draw every character of every font `each` times, in the order of fonts, characters and draws.

    Pixels have about unit scale around zero. Equal generators give equal pictures, whatever else was drawn before.
    """
    held = masters(tuple(fonts), characters)
    count = held.shape[0] * held.shape[1] * each
    glyphs = torch.arange(held.shape[0] * held.shape[1]).repeat_interleave(each)
    random = _Draws(count, generator)
    warp = warp or Warp()
    maps = _affine(random, warp)
    threshold = random.between(*warp.threshold)
    contrast = random.between(*warp.contrast)
    slopes = warp.slope * contrast * random.symmetric(1.0)
    directions = random.symmetric(math.pi)
    noise = torch.randn(count, 1, size, size, generator=generator) * warp.noise
    sources = _blurred(held.flatten(0, 1)[:, None])
    across = torch.linspace(-0.5, 0.5, size)
    fine = size * _SUPERSAMPLING
    places = _places(fine)
    made = []
    for part in torch.arange(count).split(_CHUNK):
        grid = (maps[part] @ places).transpose(1, 2).unflatten(1, (fine, fine))
        soft = functional.grid_sample(sources[glyphs[part]], grid, padding_mode="zeros", align_corners=False)
        ink = torch.sigmoid((soft - _column(threshold[part])) / 0.08)
        ink = functional.avg_pool2d(ink, _SUPERSAMPLING)
        background = _column(slopes[part]) * (
            _column(directions[part].cos()) * across + _column(directions[part].sin()) * across[:, None]
        )
        made.append(2 * (_column(contrast[part]) * (ink - 0.25) + background) + noise[part])
    return Pictures(
        images=torch.cat(made),
        labels=torch.arange(len(characters)).repeat_interleave(each).repeat(len(fonts)),
        fonts=torch.arange(len(fonts)).repeat_interleave(each * len(characters)),
    )


def split(
    seed: int, each: int, test_each: int, *, size: int = 25, characters: str = CHARACTERS
) -> tuple[Pictures, Pictures]:
    """Return pictures to learn from and pictures of other fonts to be tested on; equal seeds give equal pictures."""
    generators = [torch.Generator().manual_seed(int(state)) for state in np.random.SeedSequence(seed).generate_state(2)]
    return (
        pictures(TRAINING_FONTS, each, generators[0], size=size, characters=characters),
        pictures(TEST_FONTS, test_each, generators[1], size=size, characters=characters),
    )


class _Draws:
    """Uniform numbers [N], one for each picture."""

    def __init__(self, count: int, generator: torch.Generator):
        self._count, self._generator = count, generator

    def between(self, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(self._count, generator=self._generator)

    def symmetric(self, most: float) -> Tensor:
        return self.between(-most, most)


def _affine(random: _Draws, warp: Warp) -> Tensor:
    """Return maps [N, 2, 3] from places in a picture to places in its master, both in -1..1."""
    angle, shear, scale = random.symmetric(warp.turn), random.symmetric(warp.shear), random.between(*warp.scale)
    shift = torch.stack([random.symmetric(2 * warp.shift), random.symmetric(2 * warp.shift)], 1)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    slant = torch.stack(
        [torch.stack([torch.ones_like(shear), shear], 1), torch.tensor([0.0, 1.0]).expand(len(shear), 2)], 1
    )
    return torch.cat([turn @ slant, shift[:, :, None]], 2)


def _places(side: int) -> Tensor:
    """Return the middles of pixels in homogeneous coordinates [3, side * side]: x, y in -1..1, and 1; row by row."""
    middles = (2 * torch.arange(side) + 1) / side - 1
    return torch.stack([middles.repeat(side), middles.repeat_interleave(side), torch.ones(side * side)])


def _blurred(ink: Tensor) -> Tensor:
    """Blur masters [N, 1, S, S] by a Gaussian of 1.5 pixels: thresholds then move the edges of strokes."""
    taps = torch.exp(-torch.arange(-4, 5).square() / (2 * 1.5**2))
    taps = taps / taps.sum()
    return functional.conv2d(
        functional.conv2d(ink, taps.view(1, 1, 1, -1), padding=(0, 4)), taps.view(1, 1, -1, 1), padding=(4, 0)
    )


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
