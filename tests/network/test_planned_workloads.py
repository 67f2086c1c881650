"""What a stage refuses of its settings alone is refused when the recipe is planned: workloads, published steps, allocations."""

import itertools

import pytest

from orchestrator.convert import build
from orchestrator.errors import RecipeError
from orchestrator.plugins import installed
from orchestrator_network.allocation_trials import Demand, Machine, label_of, options_of, run_trials
from orchestrator_network.dnn_workloads import workload_step
from orchestrator_network.errors import WorkloadError
from orchestrator_network.machine_stages import LADDER, AllocateConfig, _given
from orchestrator_network.model_stages import WorkloadTrafficConfig
from orchestrator_network.placement import tiled
from orchestrator_network.simulate_config import SimulateConfig
from orchestrator_network.workload_components import Asked
from tests.network.planning import able


def between(builder, asked):
    """Make the flows; ValueError for those of other hosts, which the simulation refuses."""
    made = builder.build(asked)
    if max(made.source.max(), made.target.max()) >= asked.hosts:
        raise ValueError("other hosts")


WORKLOADS = [
    *("permutation", "tornado", "ring_allreduce", "recursive_doubling_allreduce"),
    *({"name": "full_bisection_permutation", "group": group} for group in (1, 2, 3, 8)),
    *({"name": "incast", "fan_in": fan_in, "target": target} for fan_in in (1, 3, 9) for target in (0, 5)),
    *({"name": "outcast_incast", "fan_outs": fan_outs} for fan_outs in ([1], [1, 2], [3, 4])),
    *({"name": "all_to_all", "parallel": parallel} for parallel in (None, 1, 50)),
    *({"name": "double_binary_tree_allreduce", "pieces": pieces} for pieces in (1, 5)),
    *({"name": "hierarchical_allreduce", "per_server": per_server} for per_server in (1, 3, 4)),
]


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_a_plan_refuses_the_workloads_that_cannot_be_made_and_no_more(workload):
    """Over devices and bytes of a flow."""
    components = installed().components
    for devices, flow_bytes in itertools.product(range(1, 20), (1, 3, 7, 16, 4096, 2**63 - 1)):
        said = {"workload": workload, "devices": devices, "flow_bytes": flow_bytes}
        asked = Asked(hosts=devices, flow_bytes=flow_bytes, link_gbps=400.0, seed=3)
        chosen = build(
            SimulateConfig, {"workload": workload, "devices": 4092, "flow_bytes": 4104}, "", components
        ).workload
        builder = components["workload", str(chosen)].build(chosen.config)
        carried = devices > 1 and able(between, builder, asked)
        assert able(build, SimulateConfig, said, "", components) == carried, said
    too_large = {"workload": workload, "devices": 4092, "flow_bytes": 2**63}
    with pytest.raises(RecipeError, match=r"it must be below 2\^63"):
        build(SimulateConfig, too_large, "", components)


@pytest.mark.parametrize("name", ["resnet", "cosmoflow", "dlrm"])
def test_a_plan_refuses_the_steps_that_cannot_be_laid_and_no_more(name):
    """Over devices, tiles and columns."""
    for devices in range(1, 33):
        step = None
        if able(workload_step, name, devices):
            step = workload_step(name, devices)
        for tile, columns in [(1, None), *itertools.product((2, 3, 4), (None, 2, 4, 5, 6))]:
            laid = step is not None and (tile == 1 or able(tiled, step, tile, columns))
            said = {"workload": name, "devices": devices, "tile": tile, "columns": columns}
            assert able(WorkloadTrafficConfig, **said) == laid, said


@pytest.mark.parametrize(("name", "multiple"), [("gpt3", 384), ("gpt3_moe", 1536)])
def test_pipelines_are_planned_in_whole_ones(name, multiple):
    """96 stages of 4 or 16 ranks; the message of the plan is that of the step."""
    assert able(WorkloadTrafficConfig, workload=name)
    for devices in (1, 96, multiple - 1, multiple, multiple + 1, 2 * multiple):
        assert able(WorkloadTrafficConfig, workload=name, devices=devices) == (devices % multiple == 0)
    with pytest.raises(WorkloadError) as planned:
        WorkloadTrafficConfig(workload=name, devices=100)
    with pytest.raises(WorkloadError) as laid:
        workload_step(name, 100)
    assert str(planned.value) == str(laid.value)


def test_an_allocation_that_is_planned_runs():
    """Over small grids, failures, mixes and loads, the extremes among them; what the parts refuse the plan refuses."""
    ran = 0
    for rows, columns, board, radix in itertools.product((0, 1, 3), (1, 4), (0, 1, 2), (3, 4, 64)):
        for failed, mix, load, largest in itertools.product(
            (0, 1, 5, 13), ("mlaas", "fixed"), (0.01, 3.0), (None, 3, 13)
        ):
            said = {
                "grid_rows": rows,
                "grid_columns": columns,
                "board": board,
                "radix": radix,
                "mix": mix,
                "load": load,
                "failed_boards": failed,
                "failed_accelerators": failed,
                "largest_job_boards": largest,
                "trials": 1,
            }
            if not able(AllocateConfig, **said):
                continue
            config = AllocateConfig(**said)
            shape = {"rows": rows, "columns": columns, "board": board, "radix": radix}
            machine = Machine(**shape, failed_boards=failed, failed_accelerators=failed)
            demand = Demand(mix=mix, boards=largest, load=load)
            options = {label_of(names): options_of(names, config.aspect_ratio) for names in LADDER[-1:]}
            run_trials(machine, demand, options, trials=1, seed=0)
            ran += 1
    assert ran > 100
    for jobs in ((0,), (13,), ((3, 5),), ((1, 12),), (12, (4, 3))):
        said = {"grid_rows": 3, "grid_columns": 4, "mix": "given", "jobs": jobs}
        fits = all(0 < (job if isinstance(job, int) else job[0] * job[1]) <= 12 for job in jobs)
        assert able(AllocateConfig, **said) == fits
        if fits:
            demand = Demand(mix="given", given=_given(AllocateConfig(**said)))
            run_trials(Machine(rows=3, columns=4), demand, {"greedy": options_of(())}, trials=1, seed=0)
    assert not able(AllocateConfig, aspect_ratio=float("inf"))
