"""Price times overhead of other networks over that of a mesh: arithmetic, published values, and the stage."""

import pytest

from orchestrator_network.cost_saving import (
    MESHES,
    OTHERS,
    WORKLOADS,
    distances,
    published_saving,
    saving_rows,
    saving_table,
)
from orchestrator_network.saving_figures import draw_savings


def step(usd, devices, exposed_ms):
    """What a simulated step says about price and overhead."""
    return {
        "network_capex_usd": usd,
        "devices": devices,
        "exposed_communication_ps": exposed_ms * 10**9,
        "step_ps_infinite": 10**12,
    }


STEPS = {
    ("mine", "torus"): step(10.0, 10, 4),
    ("gpt3", "fat_tree"): step(300.0, 100, 3),
    ("gpt3", "hx2mesh"): step(100.0, 100, 10),
    ("mine", "hx2mesh"): step(20.0, 10, 8),
    ("gpt3", "dragonfly"): step(480.0, 120, 5),
}


def test_a_saving_is_price_times_overhead():
    """3 times the price and 0.3 of the overhead save 0.9; prices are a device's, where machines differ in size."""
    rows = {(row["workload"], row["machine"]): row for row in saving_rows(STEPS)}
    assert list(rows) == [("gpt3", "fat_tree"), ("gpt3", "dragonfly"), ("mine", "torus")]
    tree = rows["gpt3", "fat_tree"]
    assert (tree["price_ratio"], tree["overhead_ratio"], tree["saving"]) == pytest.approx((3, 0.3, 0.9))
    assert tree["difference"] == pytest.approx(0.9 - 1.41)
    assert tree["difference_share"] == pytest.approx(0.9 / 1.41 - 1)
    assert rows["gpt3", "dragonfly"]["saving"] == pytest.approx(4 * 0.5)
    assert rows["mine", "torus"]["saving"] == pytest.approx(0.25)
    assert rows["mine", "torus"]["published_saving"] is None
    assert saving_table(list(rows.values())).num_rows == 3


def test_published_overheads_follow_from_prices():
    """GPT-3 on a tree had 0.30 of the overhead of an Hx2Mesh; switched networks had 0.77 to 0.82 for ResNet."""
    (row,) = (row for row in saving_rows(STEPS) if row["machine"] == "fat_tree")
    assert row["published_overhead_ratio"] == pytest.approx(0.301, abs=0.001)
    steps = {("resnet", name): step(1.0, 1, 1) for name in (*MESHES, *OTHERS)}
    ratios = [row["published_overhead_ratio"] for row in saving_rows(steps) if row["mesh"] == "hx2mesh"]
    assert all(0.77 < ratio < 0.82 or ratio > 1 for ratio in ratios)


def test_every_published_value_is_there():
    """Five workloads, two meshes, six networks."""
    assert all(
        published_saving(workload, mesh, machine) for workload in WORKLOADS for mesh in MESHES for machine in OTHERS
    )
    assert published_saving("gpt3", "hx2mesh", "ring") is None


def test_a_mesh_without_overhead_has_no_ratio():
    """Nothing is divided by zero."""
    assert saving_rows({("gpt3", "hx2mesh"): step(1.0, 1, 0), ("gpt3", "torus"): step(1.0, 1, 1)}) == []


def test_distances_are_factors_up_or_down():
    """Twice and half as much are equally far; what has no published value does not count."""
    rows = [
        {"workload": "gpt3", "saving": 2.0, "published_saving": 1.0},
        {"workload": "gpt3", "saving": 0.5, "published_saving": 1.0},
        {"workload": "mine", "saving": 0.5, "published_saving": None},
        {"workload": "dlrm", "saving": 0.0, "published_saving": 1.0},
    ]
    assert distances(rows) == pytest.approx({"gpt3": 2})


def test_the_figure_shows_what_has_no_published_value_too():
    """One panel a mesh, the workloads on its axis."""
    figure = draw_savings(saving_rows(STEPS))
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["gpt3", "mine"]


def test_the_stage_names_the_axis_that_is_missing():
    """And the axes that there are."""
    from orchestrator_network.model_stages import CostSavingConfig, axes_told

    with pytest.raises(ValueError, match="has no axis workload, it has topology"):
        axes_told(CostSavingConfig(), {"steps": {"step/topology:torus": {"topology": "torus"}}})


def test_the_stage_takes_one_step_of_a_workload_on_a_machine():
    """A third axis would have the last one win in silence."""
    from orchestrator_network.model_stages import CostSavingConfig, axes_told

    axes = {f"step/{speed}": {"workload": "gpt3", "machine": "torus", "speed": speed} for speed in (100, 1600)}
    with pytest.raises(ValueError, match="step/100 and step/1600 are both gpt3 on torus"):
        axes_told(CostSavingConfig(), {"steps": axes})
