"""The stage about sparse storage, and its picture."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.stage import spec_of
from orchestrator.testing import run_stage
from orchestrator_compress import container_stages, plugin
from orchestrator_compress.containers.figures import storage_by_density
from orchestrator_compress.containers.formulas import CONTAINERS, crossovers


def test_the_table_has_every_container_at_every_density(tmp_path: Path) -> None:
    run = run_stage(container_stages.storage, {}, inputs={}, home=tmp_path)
    rows = run.outputs["result"].read().to_pylist()
    assert len(rows) == 8 * len(CONTAINERS)
    best = {row["density"]: row for row in rows if row["best"]}
    assert [row["container"] for row in best.values()] == ["bitmap"] * 2 + ["delta"] * 6
    assert f"{best[0.05]['ratio_to_dense']:.1f}" == "14.0"
    assert all(row["ratio_to_dense"] * row["bits_per_parameter"] == pytest.approx(16) for row in rows)
    assert run.metrics["crossover.delta.bitmap"] == pytest.approx(0.233, abs=5e-4)
    assert run.metrics["crossover.bitmap.dense"] == pytest.approx(15 / 16)
    # 24 + 16 bits against 20 + 16 and as many fillers as make up for it: 1 + f = 40 / 36, q = 1 / 10.
    assert run.metrics["crossover.coo.delta"] == pytest.approx(-math.expm1(math.log(0.1) / 2**20))
    assert set(run.figures) == {"storage_by_density.svg"}


def test_sizes_are_those_of_the_layer_that_is_asked_for(tmp_path: Path) -> None:
    config = {"densities": [0.05, 1.0], "value_bits": 4, "rows": 64, "columns": 48}
    rows = run_stage(container_stages.storage, config, inputs={}, home=tmp_path).outputs["result"].read().to_pylist()
    sizes = {(row["container"], row["density"]): row["bits_per_parameter"] for row in rows}
    # 153.6 of 3072 weights are kept: 6 bits for a column, 8 for an offset, 12 for a place.
    assert sizes["csr", 0.05] == pytest.approx(0.05 * (6 + 4) + 8 * 65 / 3072)
    assert sizes["coo", 0.05] == pytest.approx(0.05 * (12 + 4))
    assert [row["container"] for row in rows if row["best"] and row["density"] == 1.0] == ["dense"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("densities", ()),
        ("densities", (0.0, 0.5)),
        ("densities", (1.5,)),
        ("densities", (0.5, 0.5)),
        ("densities", (float("nan"),)),
        ("value_bits", 0),
        ("value_bits", 65),
        ("rows", 0),
        ("columns", 2**33),
        ("rows", 2**24),
    ],
)
def test_ranges_are_checked_at_plan_time(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        container_stages.StorageConfig(**{field: value})  # type: ignore[arg-type]


def test_the_stage_is_offered_and_light() -> None:
    """It is registered, and neither it nor the formulas load torch before it runs."""
    assert "compress.storage" in [spec_of(each).name for each in plugin.orchestrator_stages()]
    code = (
        "import sys; import orchestrator_compress.container_stages, orchestrator_compress.containers.formulas; "
        "sys.exit(', '.join({'torch', 'matplotlib', 'pyarrow'} & set(sys.modules)) or None)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not found.returncode, found.stderr


@pytest.mark.parametrize("value_bits", [4, 16])
def test_the_picture_has_a_line_for_each_and_marks_where_they_cross(value_bits: int) -> None:
    axes = storage_by_density(value_bits).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [*CONTAINERS, "entropy floor"]
    marks = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert sorted(marks) == [part.low for part in crossovers(value_bits)[1:]]
