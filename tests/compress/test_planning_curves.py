"""Curves of layers: objectives from outputs, not from H; layers that share an input; what is refused before solving."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator_compress import system as system_module
from orchestrator_compress.errors import WeightError
from orchestrator_compress.grid import Grid, round_to_nearest
from orchestrator_compress.planning.apply import apply
from orchestrator_compress.planning.candidates import parse
from orchestrator_compress.planning.curves import layer_curve, measure, schema
from orchestrator_compress.planning.errors import PlanningError
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.solver import column_solve
from orchestrator_compress.system import System
from orchestrator_compress.weights import SparseWeight

NAMES = [
    "rtn-3g16-sym",
    "gptq-3g16-sym",
    "gptq-4-asym",
    "spqr-3g16-t0.2",
    "sparsegpt-2:4",
    "sparsegpt-50%",
    "joint-50%-4g16-sym",
    "dense",
]
CANDIDATES = [parse(name) for name in NAMES]


def inputs(columns: int, tokens: int, seed: int) -> Tensor:
    """Draw correlated inputs [tokens, columns]: the same mixing for every seed."""
    mixing = torch.randn((columns, columns), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = torch.randn((tokens, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn @ (mixing * torch.logspace(0, -2, columns, dtype=torch.float64).unsqueeze(1))


def moments(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def layer(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn((rows, columns), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_objectives_are_errors_of_outputs(name: str) -> None:
    """The mean over tokens of the squared difference of outputs, with the weights that are served."""
    calibration, heldout = inputs(32, 300, seed=2), inputs(32, 200, seed=3)
    weight, candidate = layer(20, 32, seed=4), parse(name)
    system = System(moments(calibration))
    row = layer_curve("a", weight, system, [candidate], moments(heldout), dtype=torch.bfloat16).to_pylist()[0]
    served = apply([weight], system, candidate, dtype=torch.bfloat16)[0].weight.dequantize(torch.float64)
    for x, objective, energy in (
        (calibration, "objective", "energy"),
        (heldout, "heldout_objective", "heldout_energy"),
    ):
        lost = (x @ (weight.double() - served).T).square().sum() / len(x)
        output = (x @ weight.double().T).square().sum() / len(x)
        assert row[objective] == pytest.approx(float(lost), rel=1e-9)
        assert row[energy] == pytest.approx(float(output), rel=1e-9)
    assert row["relative_objective"] == pytest.approx(row["objective"] / row["energy"], rel=1e-12)
    assert row["objective"] > 0
    assert (row["rows"], row["columns"], row["fallback"]) == (20, 32, "")


def test_candidates_are_solved_as_the_solver_would() -> None:
    weight, system = layer(20, 32, seed=4), System(moments(inputs(32, 300, seed=2)))
    rtn = apply([weight], system, parse("rtn-3g16-asym"))[0].weight.dequantize()
    assert torch.equal(rtn, round_to_nearest(weight, Grid(bits=3, group_size=16, symmetric=False)).dequantize())
    rule = GroupRounding(Grid(bits=3, group_size=16))
    solution = column_solve(weight, system, rule, damp=0.05)
    gptq = apply([weight], system, parse("gptq-3g16"), damp=0.05)[0].weight.dequantize()
    assert torch.equal(gptq, solution.quantized)
    own = apply([weight], system, parse("gptq-3g16-d0.05"), damp=0.5)[0].weight.dequantize()
    assert torch.equal(own, solution.quantized)


def test_pruned_values_are_judged_in_the_type_that_is_stored() -> None:
    weight, system = layer(20, 32, seed=4), System(moments(inputs(32, 300, seed=2)))
    held = apply([weight], system, parse("sparsegpt-50%"), dtype=torch.bfloat16)[0].weight
    assert isinstance(held, SparseWeight)
    assert held.values is not None
    assert held.values.dtype == torch.bfloat16
    assert held.sparsity == 0.5


def test_layers_that_share_an_input_get_what_they_get_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One factor for each damping and order, whatever the number of layers and candidates."""
    weights = {"q": layer(32, 32, seed=5), "k": 3 * layer(16, 32, seed=6), "v": layer(16, 32, seed=7)}
    shared = System(moments(inputs(32, 300, seed=2)))
    factored = []

    def factor(matrix: Tensor) -> Tensor | None:
        factored.append(len(matrix))
        return inverse_factor(matrix)

    inverse_factor = system_module.inverse_factor_of_reversed
    monkeypatch.setattr(system_module, "inverse_factor_of_reversed", factor)
    together = measure(weights, dict.fromkeys(weights, shared), CANDIDATES)
    # Largest inputs first at damp 0.01 (GPTQ) and at 1 (SpQR), and the natural order of pruning.
    assert factored == [32, 32, 32]
    for name, weight in weights.items():
        alone = layer_curve(name, weight, System(shared.hessian), CANDIDATES).to_pylist()
        stacked = [row for row in together.to_pylist() if row["layer"] == name]
        assert [row["candidate"] for row in stacked] == NAMES
        for one, other in zip(alone, stacked, strict=True):
            assert other == {**one, "objective": pytest.approx(one["objective"], rel=1e-4)} | {
                "relative_objective": pytest.approx(one["relative_objective"], rel=1e-4)
            }


def test_layers_measured_apart_make_the_same_table() -> None:
    """A caller may spread layers over workers and put the tables together."""
    import pyarrow as pa

    weights = {"a": layer(8, 32, seed=5), "b": layer(12, 16, seed=6)}
    systems = {"a": System(moments(inputs(32, 300, seed=2))), "b": System(moments(inputs(16, 300, seed=2)))}
    calls: list[tuple[int, int]] = []
    whole = measure(weights, systems, CANDIDATES, progress=lambda done, total: calls.append((done, total)))
    parts = [layer_curve(name, weights[name], systems[name], CANDIDATES) for name in weights]
    assert pa.concat_tables(parts) == whole
    assert whole.schema == schema()
    assert calls[-1] == (16, 16)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_a_layer_keeps_the_candidates_that_it_can_have() -> None:
    weights = {"narrow": layer(8, 24, seed=5), "wide": layer(8, 32, seed=6)}
    systems = {name: System(moments(inputs(weight.shape[1], 200, seed=2))) for name, weight in weights.items()}
    table = measure(weights, systems, [parse("4g16"), parse("4")])
    found = [(row["layer"], row["candidate"]) for row in table.to_pylist()]
    assert found == [("narrow", "gptq-4-sym"), ("wide", "gptq-4g16-sym"), ("wide", "gptq-4-sym")]


def test_bytes_of_pruned_layers_come_from_the_container() -> None:
    weight, system = layer(8, 32, seed=5), System(moments(inputs(32, 200, seed=2)))
    table = layer_curve("a", weight, system, [parse("sparsegpt-2:4"), parse("4")], bytes_of=lambda sparse: 7)
    assert table["bytes"].to_pylist()[0] == 7
    assert table["bytes"].to_pylist()[1] > 7


def test_what_the_solver_did_instead_is_told() -> None:
    """A matrix that no damping makes definite ends in rounding to nearest: the curve says so."""
    hessian = torch.eye(8)
    hessian[0, 1] = hessian[1, 0] = 5
    row = layer_curve("a", layer(4, 8, seed=5), System(hessian), [parse("4")]).to_pylist()[0]
    assert row["fallback"].endswith("rounded to nearest")


def test_what_is_refused_before_solving(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, system = layer(8, 24, seed=5), System(moments(inputs(24, 200, seed=2)))
    four = [parse("4")]
    monkeypatch.setattr("orchestrator_compress.planning.curves.apply", lambda *_args, **_more: pytest.fail("solved"))
    with pytest.raises(PlanningError, match="layer 'b' has no second moments"):
        measure({"a": weight, "b": weight}, {"a": system}, four)
    with pytest.raises(PlanningError, match="layer 'a' has no held-out second moments"):
        measure({"a": weight}, {"a": system}, four, heldout={})
    with pytest.raises(PlanningError, match=r"layer 'a' \[8, 24\] can have none of gptq-4g16-sym"):
        measure({"a": weight}, {"a": system}, [parse("4g16")])
    with pytest.raises(PlanningError, match=r"'a' is \[8, 16\] and its H has \[24\]"):
        measure({"a": weight[:, :16]}, {"a": system}, four)
    with pytest.raises(PlanningError, match="each once"):
        measure({"a": weight}, {"a": system}, four * 2)
    with pytest.raises(PlanningError, match="0 layers"):
        measure({}, {}, four)
    with pytest.raises(WeightError, match="a has 1 weights"):
        measure({"a": weight + bad(8, 24)}, {"a": system}, four)
    with pytest.raises(PlanningError, match="damp=2"):
        measure({"a": weight}, {"a": system}, four, damp=2)


def bad(rows: int, columns: int) -> Tensor:
    """Return zeros with one NaN."""
    values = torch.zeros(rows, columns)
    values[1, 2] = torch.nan
    return values


def test_errors_of_solving_name_layer_and_candidate() -> None:
    weight = layer(4, 8, seed=5) * 1e30
    with pytest.raises(ValueError, match="a, gptq-4-sym: .* does not fit float16"):
        layer_curve("a", weight, System(torch.eye(8)), [parse("4")])
