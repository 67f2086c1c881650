"""The example of a third party's congestion control works as its README says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.plugins import installed
from orchestrator_network import FatTree, simulate, workloads

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "aimd_transport"


@pytest.fixture
def plugin(monkeypatch):
    """The package as if it were installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield __import__("orchestrator_aimd.plugin", fromlist=["plugin"])
    for name in [name for name in sys.modules if name.startswith("orchestrator_aimd")]:
        del sys.modules[name]


def test_it_reacts_to_marks_and_finishes_a_permutation(plugin):
    """Below the constant window in losses, above the bound in time."""
    (offered,) = plugin.orchestrator_components()
    tree = FatTree(hosts=128, tiers=3, oversubscription=8, link_gbps=100)
    load = workloads.permutation(128, bytes=2**20, seed=1)
    aimd = simulate(tree, load, transport=offered.build(), fidelity="packet").summary
    constant = simulate(tree, load, transport="constant", fidelity="packet").summary
    assert aimd["trims"] < constant["trims"] / 10
    assert 1 <= aimd["end_us"] / aimd["bound_us"] < 1.5


def test_its_name_is_free_and_its_kind_is_known(plugin):
    """Nothing built in is shadowed."""
    (offered,) = plugin.orchestrator_components()
    assert (offered.kind, offered.name) not in installed().components
    assert offered.kind in {kind for kind, _ in installed().components}
