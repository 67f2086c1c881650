"""A network of layers with different spectra: planned bits against the same bits for all, at the same bytes."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pytest
import torch
from torch import Tensor

from orchestrator_compress.planning.apply import apply, measured_bytes
from orchestrator_compress.planning.attribution import compare
from orchestrator_compress.planning.candidates import Candidate, parse
from orchestrator_compress.planning.curves import measure
from orchestrator_compress.planning.plan import budget_bytes, choose, uniform
from orchestrator_compress.planning.tables import choices_from_table
from orchestrator_compress.planning.terms import Terms, calibrate_sensitivity
from orchestrator_compress.system import System

FEATURES, HIDDEN, BLOCKS = 48, 96, 4
CANDIDATES = [parse(name) for name in ("2g16", "3g16", "4g16", "8g16", "3", "4", "8", "spqr-3g16-t0.2", "dense")]


class Network:
    """A residual network x + down(relu(up(x))) whose layers differ in gain and in how fast their spectra fall."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        self.weights: dict[str, Tensor] = {}
        for block in range(BLOCKS):
            for name, (rows, columns) in (("up", (HIDDEN, FEATURES)), ("down", (FEATURES, HIDDEN))):
                left, _, right = torch.linalg.svd(torch.randn(rows, columns, generator=generator), full_matrices=False)
                fall = torch.arange(1, FEATURES + 1) ** -float(2 * torch.rand((), generator=generator))
                gain = 3.0 ** float(torch.randn((), generator=generator))
                self.weights[f"blocks.{block}.{name}"] = gain * (left * fall) @ right

    def run(self, x: Tensor, weights: Mapping[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return outputs [N, F] and the inputs of each layer, with some weights replaced."""
        used = self.weights | dict(weights or {})
        read: dict[str, Tensor] = {}
        for block in range(BLOCKS):
            up, down = f"blocks.{block}.up", f"blocks.{block}.down"
            read[up] = x
            read[down] = (x @ used[up].T).relu()
            x = x + read[down] @ used[down].T
        return x, read

    def error(self, x: Tensor, weights: Mapping[str, Tensor]) -> float:
        """Return the mean squared change of the outputs."""
        return float((self.run(x, weights)[0] - self.run(x)[0]).double().square().sum() / len(x))


def drawn(tokens: int, seed: int) -> Tensor:
    return torch.randn(tokens, FEATURES, generator=torch.Generator().manual_seed(seed)) * torch.logspace(
        0, -1.5, FEATURES
    )


def moments(x: Tensor) -> Tensor:
    return (x.double().T @ x.double() / len(x)).float()


@pytest.fixture(scope="module")
def network() -> Network:
    return Network()


@pytest.fixture(scope="module")
def systems(network: Network) -> dict[str, System]:
    return {name: System(moments(x)) for name, x in network.run(drawn(1000, seed=1))[1].items()}


@pytest.fixture(scope="module")
def measured(network: Network, systems: dict[str, System]) -> pa.Table:
    heldout = {name: moments(x) for name, x in network.run(drawn(500, seed=2))[1].items()}
    return measure(network.weights, systems, CANDIDATES, heldout, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def factors(network: Network, systems: dict[str, System], measured: pa.Table) -> dict[str, float]:
    x, reference = drawn(300, seed=3), parse("3g16")

    def divergence(layer: str) -> float:
        return network.error(x, executed(network, systems, {layer: reference}))

    return calibrate_sensitivity(measured, divergence, reference)


def executed(network: Network, systems: Mapping[str, System], choices: Mapping[str, Candidate]) -> dict[str, Tensor]:
    """Return the weights that are served, each layer solved on the inputs of the dense network."""
    return {
        name: apply([network.weights[name]], systems[name], candidate, dtype=torch.bfloat16)[0].weight.dequantize()
        for name, candidate in choices.items()
    }


def test_at_the_bytes_of_four_bits_a_plan_loses_less(
    network: Network, systems: dict[str, System], measured: pa.Table, factors: dict[str, float]
) -> None:
    """Less in the sum that it minimizes, on held-out inputs too, and less in the outputs of the whole network."""
    x = drawn(500, seed=4)
    for terms in (Terms(), Terms(column="heldout_objective"), Terms(sensitivity=factors)):
        four = uniform(measured, parse("4g16"), terms)
        plan = choose(measured, four.bytes, terms)
        assert plan.bytes <= four.bytes
        assert plan.objective < 0.7 * four.objective
    assert len({choice.candidate for choice in plan.layers}) > 2
    error, uniform_error = (network.error(x, executed(network, systems, one.choices)) for one in (plan, four))
    assert error < 0.7 * uniform_error
    # Factors turn the sum into a prediction of the network's error; what it leaves out is the interaction of errors.
    assert error == pytest.approx(plan.objective, rel=0.25)


def test_at_three_bits_on_average_a_plan_loses_less_than_three_bits_each(
    network: Network, systems: dict[str, System], measured: pa.Table, factors: dict[str, float]
) -> None:
    three = uniform(measured, parse("3g16"), Terms(sensitivity=factors))
    integer = {parse(name).name for name in ("2g16", "3g16", "4g16", "8g16")}
    mixed = measured.filter(pa.compute.is_in(measured["candidate"], pa.array(sorted(integer))))
    plan = choose(mixed, three.bytes, Terms(sensitivity=factors))
    assert plan.bits_per_weight <= three.bits_per_weight
    assert plan.objective < 0.7 * three.objective
    x = drawn(500, seed=4)
    error, uniform_error = (network.error(x, executed(network, systems, one.choices)) for one in (plan, three))
    assert error < 0.7 * uniform_error


def test_executing_a_plan_stores_and_loses_what_the_plan_says(
    network: Network, systems: dict[str, System], measured: pa.Table
) -> None:
    plan = choose(measured, budget_bytes(measured, 4.2))
    assert 0 <= plan.budget - plan.bytes < 2000
    objectives, stored = {}, 0
    for name, candidate in choices_from_table(plan.to_table()).items():
        held = apply([network.weights[name]], systems[name], candidate, dtype=torch.bfloat16)[0].weight
        stored += measured_bytes(held)
        x = network.run(drawn(1000, seed=1))[1][name].double()
        lost = x @ (network.weights[name].double() - held.dequantize(torch.float64)).T
        objectives[name] = float(lost.square().sum() / len(x))
    assert stored == plan.bytes
    told = compare(plan, objectives)
    assert told.ratio == pytest.approx(1.0, rel=1e-4)
    assert told.rank_correlation == pytest.approx(1.0)
