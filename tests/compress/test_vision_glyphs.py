"""Pictures of characters: the same for a seed, split by font file, and warped by as much as is said."""

from __future__ import annotations

import hashlib
import math

import matplotlib as mpl
import pytest
import torch
from torch.nn import functional

from orchestrator_compress.errors import CompressionError
from orchestrator_compress.vision import fonts, glyphs
from orchestrator_compress.vision.fonts import TEST_FONTS, TRAINING_FONTS, font_file
from orchestrator_compress.vision.glyphs import CHARACTERS, Pictures, Warp, masters, pictures, split

STILL = Warp(turn=0, shear=0, scale=(1, 1), shift=0, threshold=(0.5, 0.5), contrast=(1, 1), slope=0, noise=0)


def draw(seed: int = 0, each: int = 2, warp: Warp | None = None, size: int = 25) -> Pictures:
    generator = torch.Generator().manual_seed(seed)
    return pictures(("DejaVuSans", "cmr10"), each, generator, size=size, warp=warp, characters="F7Q")


def test_equal_seeds_give_equal_pictures_whatever_is_drawn_between() -> None:
    first = draw()
    torch.manual_seed(99)
    torch.rand(3)
    again = draw()
    assert first.images.numpy().tobytes() == again.images.numpy().tobytes()
    assert not torch.equal(first.images, draw(seed=1).images)
    assert len({one.numpy().tobytes() for one in first.images}) == len(first)


def test_training_and_test_are_of_different_font_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, and no copy of a file under another name, is in both; every font draws every character."""
    assert not set(TRAINING_FONTS) & set(TEST_FONTS)
    digests = [hashlib.sha256(font_file(name).read_bytes()).hexdigest() for name in (*TRAINING_FONTS, *TEST_FONTS)]
    assert len(set(digests)) == len(TRAINING_FONTS) + len(TEST_FONTS) == 21
    drawn: list[tuple[str, ...]] = []

    def seen(names: tuple[str, ...], characters: str) -> torch.Tensor:
        drawn.append(names)
        return masters(names, characters)

    monkeypatch.setattr(glyphs, "masters", seen)
    known, unseen = split(0, 1, 2)
    assert drawn == [TRAINING_FONTS, TEST_FONTS]
    assert len(known) == 15 * 36
    assert len(unseen) == 6 * 36 * 2
    for held, each in ((known, 1), (unseen, 2)):
        assert torch.equal(held.labels.bincount(), torch.full((36,), held.fonts.max().item() * each + each))
        assert torch.isfinite(held.images).all()
    again, other = split(0, 1, 2)[1], split(1, 1, 2)[1]
    assert torch.equal(again.images, unseen.images)
    assert not torch.equal(other.images, unseen.images)


def test_every_master_is_whole_and_different() -> None:
    """Characters of a font differ from one another, hold ink, and none is cut off at the border of its square."""
    held = masters((*TRAINING_FONTS, *TEST_FONTS))
    assert held.shape == (21, 36, 64, 64)
    assert float(held.min()) == 0
    assert float(held.max()) == 1
    assert (held.sum((2, 3)) > 64).all()
    border = torch.cat([held[..., 0, :], held[..., -1, :], held[..., :, 0], held[..., :, -1]], -1)
    assert float(border.max()) == 0
    for font in held:
        distances = torch.cdist(font.flatten(1), font.flatten(1)).fill_diagonal_(torch.inf)
        assert float(distances.min()) > 1


def test_masters_do_not_depend_on_styles_of_figures() -> None:
    """A dark style is set and survives, and the glyphs are the same."""
    plain = masters(("DejaVuSans",), "RS")
    with mpl.rc_context({"figure.facecolor": "black", "patch.antialiased": False, "figure.dpi": 37}):
        again = masters.__wrapped__(("DejaVuSans",), "RS")
        assert mpl.rcParams["figure.facecolor"] == "black"
    assert torch.equal(plain, again)


def test_a_picture_that_is_not_warped_is_its_master_made_smaller() -> None:
    """Against average pooling of the master by 2, the labels' own characters match best and closely."""
    still = draw(each=1, warp=STILL, size=32)
    small = functional.avg_pool2d(masters(("DejaVuSans", "cmr10"), "F7Q").flatten(0, 1), 2).flatten(1)
    seen = still.images.flatten(1)
    likeness = torch.corrcoef(torch.cat([seen, small]))[: len(seen), len(seen) :]
    assert torch.equal(likeness.argmax(1), torch.arange(6))
    assert float(likeness.diagonal().min()) > 0.95
    assert torch.equal(still.labels, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert torch.equal(still.fonts, torch.tensor([0, 0, 0, 1, 1, 1]))


def centre(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean place of ink, in pixels."""
    ink = images[:, 0] - images[:, 0].amin((1, 2), keepdim=True)
    places = torch.arange(ink.shape[-1], dtype=torch.float32)
    total = ink.sum((1, 2))
    return (ink.sum(1) * places).sum(1) / total, (ink.sum(2) * places).sum(1) / total


def test_shifts_reach_as_far_as_is_said_and_no_further() -> None:
    """Half of the picture's share on both sides: 0.1 of 32 pixels is up to 3.2 of them."""
    still = draw(each=64, warp=STILL, size=32)
    moved = draw(each=64, warp=Warp(**{**fields(STILL), "shift": 0.1}), size=32)
    for before, after in zip(centre(still.images), centre(moved.images), strict=True):
        # Where the glyph was is the same for all draws of it, so that the first stands for them.
        assert float((after - before).abs().max()) == pytest.approx(3.2, abs=0.25)
        assert float((after - before).mean()) == pytest.approx(0, abs=0.6)


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    """Drawn by the affine maps and by turning the picture; the sign does not matter for the bound on the angle."""
    still = draw(each=1, warp=STILL, size=32).images
    generator = torch.Generator().manual_seed(0)
    turned = pictures(
        ("DejaVuSans", "cmr10"),
        200,
        generator,
        size=32,
        characters="F7Q",
        warp=Warp(**{**fields(STILL), "turn": math.pi / 2}),
    )
    first = turned.images[turned.labels == 0][:200]
    quarter = [float((first - torch.rot90(still[0], way, (1, 2))).square().mean((1, 2, 3)).min()) for way in (1, 3)]
    half = float((first - torch.rot90(still[0], 2, (1, 2))).square().mean((1, 2, 3)).min())
    assert max(quarter) < 0.2 * half


def test_a_lower_threshold_makes_strokes_thicker() -> None:
    inks = [
        float(draw(each=1, warp=Warp(**{**fields(STILL), "threshold": (at, at)})).images.mean())
        for at in (0.65, 0.5, 0.3)
    ]
    assert inks == sorted(inks)
    assert inks[2] - inks[0] > 0.1


def test_a_font_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompressionError, match=r"no font Comic\.ttf"):
        font_file("Comic")
    monkeypatch.setattr(fonts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompressionError, match="matplotlib is not installed"):
        font_file("DejaVuSans")


def fields(warp: Warp) -> dict[str, object]:
    return {name: getattr(warp, name) for name in Warp.__dataclass_fields__}


def test_all_characters_are_letters_and_digits() -> None:
    assert len(set(CHARACTERS)) == 36
    assert CHARACTERS.isalnum()
    assert CHARACTERS.upper() == CHARACTERS
