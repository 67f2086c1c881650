"""Transports and load balancers by name: from a recipe, from Python, and from another author."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orchestrator import component
from orchestrator_network import FatTree, simulate, workloads
from orchestrator_network.packet.balancing.base import Balancer
from orchestrator_network.packet.catalog_names import CREDITED, LOAD_BALANCERS, ORDERED, TRANSPORTS
from orchestrator_network.packet.transports.base import Fabric, Transport

FABRIC = Fabric(
    rate_bps=100e9, rtt_ps=14_000_000, packet_bytes=4150, header_bytes=64, trimming=True, hops=6, credited=False
)


@pytest.mark.parametrize("name", sorted(TRANSPORTS))
def test_every_transport_is_a_component(name):
    """The registered one is the one that `simulate` finds by name."""
    made = component("transport", name)
    assert isinstance(made, Transport)
    assert made.constants(FABRIC).dtype == float


@pytest.mark.parametrize("name", sorted(LOAD_BALANCERS))
def test_every_load_balancer_is_a_component(name):
    """As above."""
    assert isinstance(component("load_balancer", name), Balancer)


def test_listing_components_loads_no_compiler():
    """`orchestrate list components` and a plan stay quick."""
    program = (
        "import sys\nfrom orchestrator.plugins import installed\n"
        "assert any(kind == 'transport' for kind, _ in installed().components)\n"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_objects_may_take_the_place_of_names():
    """A configured transport, a load balancer made by hand."""
    from orchestrator_network.packet.configs import ConstantConfig
    from orchestrator_network.packet.transports.simple import Constant

    tree = FatTree(hosts=16, tiers=3, link_gbps=100)
    load = workloads.flows([(0, 15, 2_000_000, 0)])
    ends = [
        simulate(
            tree,
            load,
            transport=Constant(ConstantConfig(window_bdp=window)),
            load_balancer=component("load_balancer", "oblivious"),
            fidelity="packet",
        ).summary["end_us"]
        for window in (0.25, 1.0)
    ]
    # A quarter of the bandwidth-delay product sends a quarter of the rate.
    assert ends[0] / ends[1] == pytest.approx(4, rel=0.15)


def test_transports_with_credit_are_known_without_loading_them():
    """A recipe is checked by name, before anything is compiled."""
    assert {name for name in TRANSPORTS if component("transport", name).credit is not None} == CREDITED
    assert {name for name in TRANSPORTS if component("transport", name).ordered} == ORDERED
