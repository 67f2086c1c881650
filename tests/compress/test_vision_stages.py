"""The stage `compress.panels`: its table and pictures, going on after a kill, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Context
from orchestrator.errors import Cancelled
from orchestrator.stage import spec_of
from orchestrator.testing import run_stage
from orchestrator_compress import plugin, vision_stages
from orchestrator_compress.vision.figures import accuracy_against_parameters, panels, samples
from orchestrator_compress.vision.glyphs import split
from orchestrator_compress.vision.networks import KINDS, Layout

TINY = {
    "sparsities": (0.7, 0.9), "repeats": 2, "pictures": 1, "test_pictures": 1, "channels": (2, 3), "epochs": 1,
    "retrain_epochs": 1, "batch": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_stage(vision_stages.panels, TINY, inputs={}, home=tmp_path_factory.mktemp("home"), seed=5)


def test_the_table_has_every_network_in_every_phase(run: Any) -> None:
    """Eight rows a network, its sizes those of the formula, and the panels' rows first in the report."""
    table = run.outputs["result"].read().to_pylist()
    phases = [("dense", 0.0), ("retrained", 0.0)] + [
        (phase, sparsity) for sparsity in (0.7, 0.9) for phase in ("pruned", "retrained", "gradual")
    ]
    assert [(row["network"], row["phase"], row["sparsity"]) for row in table] == [
        (kind, *phase) for kind in KINDS for phase in phases
    ]
    layout = Layout(channels=(2, 3))
    for row in table:
        assert (row["runs"], row["pictures"]) == (2, 2 * 6 * 36)
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
        if row["phase"] == "dense":
            assert row["parameters"] == layout.parameters(row["network"])
            assert row["multiplications"] == layout.multiplications(row["network"])
    headline = run.outputs["result"].data()["headline"]
    assert [row["variant"] for row in headline if row["published"] is not None] == [
        "convolution, dense",
        "convolution, pruned at 70%",
        "convolution, retrained at 70%",
    ]
    assert len(headline) == 4 * len(KINDS)
    assert set(run.figures) == {"panels.svg", "accuracy_against_parameters.svg", "pictures.svg"}
    assert run.metrics["convolution.dense"] == next(
        row["accuracy"] for row in table if row["network"] == "convolution" and row["phase"] == "dense"
    )
    assert [row["quantity"] for row in run.facts] == ["train_s"]


class Reported(Context):
    """A context that remembers progress and is cancelled at a given epoch."""

    def __init__(self, scratch: Path, stop: int | None = None, seed: int = 5):
        super().__init__(scratch=scratch, seed=seed)
        self.seen: list[tuple[float, float]] = []
        self._stop = stop

    def progress(self, done: float, total: float, unit: str = "") -> None:
        assert unit == "epochs"
        self.seen.append((done, total))

    def check_cancelled(self) -> None:
        if self._stop is not None and len(self.seen) >= self._stop:
            raise Cancelled("the run was cancelled")


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path: Path, run: Any) -> None:
    """A network takes 1 + 5 epochs: two are finished when the third is cut off, and are not trained again."""
    config = vision_stages.PanelsConfig(**TINY)  # type: ignore[arg-type]
    cut = Reported(tmp_path, stop=15)
    with pytest.raises(Cancelled):
        vision_stages.panels(cut, config)
    assert cut.seen[-1] == (15, 36)
    assert sorted(path.name for path in cut.scratch.iterdir()) == ["locally_connected-0.json", "mlp-0.json"]
    more = Reported(tmp_path)
    again = vision_stages.panels(more, config)
    assert more.seen == [(done, 36) for done in range(13, 37)]
    whole = run.outputs["result"].path
    for name in sorted(path.name for path in whole.iterdir()):
        assert (again.path / name).read_bytes() == (whole / name).read_bytes()


def test_the_seed_decides(tmp_path: Path) -> None:
    """Of the first network, equal seeds give the same outcomes, and another seed gives others."""
    config = vision_stages.PanelsConfig(**TINY)  # type: ignore[arg-type]
    found = []
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        context = Reported(tmp_path / name, stop=7, seed=seed)
        with pytest.raises(Cancelled):
            vision_stages.panels(context, config)
        found.append(json.loads((context.scratch / "mlp-0.json").read_text())["outcomes"])
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sparsities", ()), ("sparsities", (0.0,)), ("sparsities", (0.7, 1.0)), ("sparsities", (0.7, 0.7)),
        ("panel", 0.6), ("repeats", 0), ("pictures", 0), ("test_pictures", 0), ("channels", (8,)),
        ("channels", (8, 0)), ("epochs", 0), ("retrain_epochs", 0), ("batch", 0), ("learning_rate", 0.0),
        ("retrain_learning_rate", float("nan")),
    ],
)  # fmt: skip
def test_ranges_are_checked_at_plan_time(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        vision_stages.PanelsConfig(**{field: value})  # type: ignore[arg-type]


def test_the_fonts_are_in_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings do not change the fingerprint, the bytes of a font file do, and where files lie does not."""
    from orchestrator_compress.vision import fonts

    monkeypatch.setenv("ORCHESTRATOR_HOME", str(tmp_path / "home"))
    inspect = spec_of(vision_stages.panels).inspect
    assert inspect is not None
    known = inspect(vision_stages.PanelsConfig()).fingerprint
    assert inspect(vision_stages.PanelsConfig(epochs=3)).fingerprint == known
    real = fonts.font_file

    def copied(name: str) -> Path:
        path = tmp_path / real(name).name
        path.write_bytes(real(name).read_bytes() + changed)
        return path

    monkeypatch.setattr(fonts, "font_file", copied)
    changed = b""
    assert inspect(vision_stages.PanelsConfig()).fingerprint == known
    changed = b"\0"
    assert inspect(vision_stages.PanelsConfig()).fingerprint != known


def test_the_stage_is_offered_and_light() -> None:
    """It is registered, and planning it loads neither torch nor matplotlib."""
    assert "compress.panels" in [spec_of(each).name for each in plugin.orchestrator_stages()]
    code = (
        "import sys; import orchestrator_compress.vision_stages as one; one.inspect_fonts(one.PanelsConfig()); "
        "sys.exit(', '.join({'torch', 'matplotlib', 'numpy', 'scipy'} & set(sys.modules)) or None)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not found.returncode, found.stderr


def test_the_pictures_show_every_number(run: Any) -> None:
    """Bars have the table's heights, published ones beside, and every network is a line from its dense parameters."""
    table = run.outputs["result"].read().to_pylist()
    held = {(row["network"], row["phase"], row["sparsity"]): row for row in table}
    figure = panels(table, 0.7, 3)
    for axes, phase, published in zip(figure.axes, ("dense", "pruned", "retrained"), (76.0, 36.1, 71.4), strict=True):
        heights = [bar.get_height() for bar in axes.patches]
        at = 0.0 if phase == "dense" else 0.7
        assert heights == pytest.approx([100 * held[kind, phase, at]["accuracy"] for kind in KINDS] + [published])
    assert [len(axes.patches) for axes in panels(table, 0.9, 1).axes] == [4, 3, 3]
    chart = accuracy_against_parameters(table).axes[0]
    starts = {line.get_xdata()[0] for line in chart.lines if line.get_marker() == "s"}
    assert starts == {Layout(channels=(2, 3)).parameters(kind) for kind in KINDS}
    assert chart.get_xscale() == "log"
    known, unseen = split(0, 1, 1)
    assert len(samples(known, unseen, rows=2).axes) == 2
