"""Workloads by name: what each makes of hosts, bytes and a seed, and that planning stays light."""

from __future__ import annotations

import inspect
import subprocess
import sys

import numpy as np
import pytest

from orchestrator import component
from orchestrator.component import Choice
from orchestrator.plugins import installed
from orchestrator_network import workloads
from orchestrator_network.errors import WorkloadError
from orchestrator_network.workload_components import (
    AllToAllConfig,
    Asked,
    HierarchicalConfig,
    IncastConfig,
    LeavingConfig,
    OutcastConfig,
    PoissonConfig,
    TreeConfig,
    WorkloadBuilder,
)

ASKED = Asked(hosts=16, flow_bytes=4096, link_gbps=100.0, seed=3)
NAMES = sorted(name for kind, name in installed().components if kind == "workload")

CASES = {
    "permutation": (None, lambda: workloads.permutation(16, bytes=4096, seed=3)),
    "full_bisection_permutation": (
        LeavingConfig(group=4),
        lambda: workloads.full_bisection_permutation(16, 4096, group=4, seed=3),
    ),
    "incast": (
        IncastConfig(fan_in=4, target=2, senders="next"),
        lambda: workloads.incast([3, 4, 5, 6], target=2, size_bytes=4096),
    ),
    "outcast_incast": (OutcastConfig(fan_outs=(1, 3)), lambda: workloads.outcast_incast([1, 3], 4096)),
    "all_to_all": (AllToAllConfig(parallel=2), lambda: workloads.windowed_all_to_all(16, 4096, parallel=2)),
    "tornado": (None, lambda: workloads.tornado(16, 4096)),
    "poisson": (
        PoissonConfig(load=0.5, duration_us=500.0, sizes="hadoop"),
        lambda: workloads.poisson(16, load=0.5, link_gbps=100, duration_ps=500_000_000, sizes="hadoop", seed=3),
    ),
    "ring_allreduce": (None, lambda: workloads.ring_allreduce(16, 4096)),
    "recursive_doubling_allreduce": (None, lambda: workloads.recursive_doubling_allreduce(16, 4096)),
    "double_binary_tree_allreduce": (
        TreeConfig(pieces=3),
        lambda: workloads.double_binary_tree_allreduce(16, 4096, pieces=3),
    ),
    "hierarchical_allreduce": (HierarchicalConfig(per_server=4), lambda: workloads.hierarchical_allreduce(4, 4, 4096)),
}


def test_every_workload_has_a_case():
    """But the file, which `test_workload_stage` reads."""
    assert sorted({*CASES, "cm", "hpcc_flows"}) == NAMES


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_workload_by_name_is_that_of_the_library(name):
    """The same flows in the same order, with the same dependencies."""
    config, make = CASES[name]
    built, expected = component("workload", Choice(name, "1", config)).build(ASKED), make()
    for column in ("source", "target", "size_bytes", "start_ps", "after"):
        assert np.array_equal(getattr(built, column), getattr(expected, column))


@pytest.mark.parametrize("fan_in", [1, 3, 8, 15])
def test_senders_of_an_incast_are_spread_or_drawn(fan_in):
    """All differ, none is the target; spread ones keep their distance, drawn ones follow the seed."""
    for senders in ("spread", "random"):
        config = IncastConfig(fan_in=fan_in, target=5, senders=senders)
        built = component("workload", Choice("incast", "1", config)).build(ASKED)
        assert len(set(built.source.tolist())) == fan_in
        assert 5 not in built.source
        assert set(built.target.tolist()) == {5}
    spread = component("workload", Choice("incast", "1", IncastConfig(fan_in=3))).build(ASKED)
    assert spread.source.tolist() == [3, 8, 13]


def test_an_incast_needs_its_senders():
    """With the number that there are."""
    config = IncastConfig(fan_in=3, target=16)
    with pytest.raises(WorkloadError, match="16 devices leave 15 senders and hosts 0 to 15"):
        component("workload", Choice("incast", "1", config)).build(ASKED)


def test_the_kind_is_offered_with_its_protocol():
    """A plugin may offer workloads of its own: one method, which every built-in has."""
    assert installed().kinds["workload"] is WorkloadBuilder
    wanted = list(inspect.signature(WorkloadBuilder.build).parameters)
    made = component("workload", "permutation")
    assert list(inspect.signature(type(made).build).parameters) == wanted


def test_listing_workloads_loads_no_numpy():
    """A plan stays quick."""
    program = (
        "import sys\nfrom orchestrator.plugins import installed\n"
        "assert any(kind == 'workload' for kind, _ in installed().components)\n"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'numba', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
