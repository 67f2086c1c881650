"""Target machines without a price: rates are there, and what they cost is asked for, never taken for free."""

from __future__ import annotations

import pytest
import yaml

from orchestrator.plugins import installed
from orchestrator_evaluate.plugin import UNPRICED
from orchestrator_evaluate.scopes import Conditions, target_rate
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", UNPRICED)
def test_a_machine_has_rates_and_says_where_they_come_from(name: str) -> None:
    """Positive rates, a source, and a recipe part that chooses it."""
    machine = installed().component("hardware", name)
    assert machine.name == name
    assert min(machine.peak_flops, machine.memory_bytes, machine.memory_bytes_per_s) > 0
    assert machine.basis == "assumed"
    assert machine.source
    part = yaml.safe_load((REPOSITORY / "recipes" / "hardware" / f"{name}.yaml").read_text())
    assert part == {"vars": {"hardware": name, "devices": machine.devices}}


def test_the_machines_of_the_talk_inject_what_it_says() -> None:
    """1, 1.6, 4.8 and 128 Tb/s an accelerator."""
    talk = {"tpu_v2_1024": 1, "trainium_1024": 1.6, "dgx_a100_1024": 4.8, "dojo_d1_1024": 128}
    for name, tbps in talk.items():
        assert installed().component("hardware", name).injection_bytes_per_s * 8 / 1e12 == pytest.approx(tbps)


@pytest.mark.parametrize(("mode", "message"), [("rent", "set usd_per_device_hour"), ("own", "set device_capex_usd")])
def test_an_unknown_price_is_refused_and_asked_for(mode: str, message: str) -> None:
    """A price of 0 is no price; the recipe's own takes its place."""
    machine = installed().component("hardware", "tpu_v2_1024")
    with pytest.raises(ValueError, match=message):
        target_rate(machine, Conditions(mode=mode), None, 1024)
    given = {"rent": {"usd_per_device_hour": 2.0}, "own": {"device_capex_usd": 1e4}}[mode]
    assert target_rate(machine, Conditions(mode=mode, **given), None, 1024) > 0
