"""Criteria by definition and by brute force, elements and scopes, a state dict pruned, and the table of parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from orchestrator_compress import plugin
from orchestrator_compress.criteria import OBD, OBS, FirstOrder, Fisher, LayerStatistics, Magnitude, Wanda
from orchestrator_compress.elements import (
    INPUT,
    LAYER,
    NEURON,
    Element,
    masks_of,
)
from orchestrator_compress.errors import PruningError, WeightError
from orchestrator_compress.factor import damped
from orchestrator_compress.objective import quadratic
from orchestrator_compress.prune import Criterion, prune_state
from orchestrator_compress.selection import NM, Unstructured, smallest
from orchestrator_compress.solver import column_solve
from orchestrator_compress.sparse import SparseGPT
from orchestrator_compress.surgeon import least_squares, surgeon
from orchestrator_compress.taxonomy import PARTS, components

from .test_solver import problem


def one_removed(shape: torch.Size, row: int, column: int) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[row, column] = True
    return mask


def test_obd_and_obs_are_the_objectives_they_stand_for() -> None:
    """Removing each weight in turn costs twice OBD's saliency as it stands, twice OBS's with the best compensation."""
    weight, hessian = problem(3, 8, rank=3)
    statistics = LayerStatistics(hessian=hessian)
    system, _, _ = damped(hessian, 0.01)
    obd, obs = OBD().saliency(weight, statistics), OBS().saliency(weight, statistics)
    for row in range(3):
        for column in range(8):
            mask = one_removed(weight.shape, row, column)
            alone = quadratic(weight.masked_fill(~mask, 0), hessian)
            compensated = quadratic(weight - least_squares(weight, hessian, mask, damp=0.01), system)
            assert 2 * float(obd[row, column]) == pytest.approx(alone, rel=1e-9)
            assert 2 * float(obs[row, column]) == pytest.approx(compensated, rel=1e-7)
    assert torch.equal(surgeon(weight, hessian, 1).sequence[:, 0], obs.argmin(1))


def test_wanda_and_diagonal_obd_rank_alike() -> None:
    """Within a row Wanda's order is OBD's, and both are the SparseGPT rule's where inputs are uncorrelated."""
    weight, hessian = problem(6, 32)
    statistics = LayerStatistics(hessian=hessian)
    wanda, obd = Wanda().saliency(weight, statistics), OBD().saliency(weight, statistics)
    assert torch.equal(wanda.argsort(1), obd.argsort(1))
    assert torch.equal(Wanda().saliency(weight, LayerStatistics(hessian=9 * hessian)).argsort(1), wanda.argsort(1))
    diagonal = torch.diag(hessian.diagonal())
    rule = SparseGPT(Unstructured(sparsity=0.5, width=32))
    solution = column_solve(weight, diagonal, rule, damp=0.0, dtype=torch.float64)
    assert torch.equal(rule.mask(), masks_of({"": wanda}, 0.5)[""])
    torch.testing.assert_close(solution.quantized, weight.masked_fill(rule.mask(), 0))


def test_criteria_of_training_approach_the_loss() -> None:
    """First order is the loss change of a linear loss, Fisher that of a quadratic one with unit noise."""
    weight = torch.randn((3, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slope = torch.randn((3, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first = FirstOrder().saliency(weight, LayerStatistics(gradient=slope))
    loss = (weight * slope).sum()
    curvature = slope.square()
    fisher = Fisher().saliency(weight, LayerStatistics(fisher=curvature))
    for row in range(3):
        for column in range(4):
            mask = one_removed(weight.shape, row, column)
            without = weight.masked_fill(mask, 0)
            torch.testing.assert_close(first[row, column], (loss - (without * slope).sum()).abs())
            torch.testing.assert_close(fisher[row, column], (curvature * (without - weight) ** 2).sum() / 2)


@pytest.mark.parametrize("name", ["wanda", "obd", "obs", "first_order", "fisher"])
def test_what_a_criterion_lacks_is_named(name: str) -> None:
    """Without its statistics, or with those of another layer, a criterion says what it needs."""
    made = next(part for part in components() if part.name == name).build()
    weight = torch.ones((2, 4))
    with pytest.raises(PruningError, match=f"criterion '{name}' needs"):
        made.saliency(weight)
    foreign = LayerStatistics(hessian=torch.eye(5), gradient=torch.ones((2, 5)), fisher=torch.ones((2, 5)))
    with pytest.raises(PruningError, match=r"\[2, 4\]"):
        made.saliency(weight, foreign)
    with pytest.raises(WeightError, match="NaN"):
        made.saliency(weight * float("nan"), foreign)


@pytest.mark.parametrize(
    "element",
    [
        Element(),
        NEURON,
        INPUT,
        LAYER,
        Element(rows=2, columns=3),
        Element(rows=4, columns=-1),
        Element(rows=-1, columns=6),
    ],
    ids=str,
)
@pytest.mark.parametrize("scope", ["row", "layer", "global"])
def test_elements_go_whole_and_in_exact_numbers(element: Element, scope: str) -> None:
    """Each element of a mask is all True or all False, the least salient are True, and their number is the rounded share."""
    saliency = torch.rand((8, 12), generator=torch.Generator().manual_seed(0))
    mask = masks_of({"a": saliency}, 0.5, element=element, scope=scope, floor=0.0)["a"]  # type: ignore[arg-type]
    means, gone = element.pooled(saliency), element.pooled(mask.double())
    assert set(gone.unique().tolist()) <= {0.0, 1.0}
    if scope == "row":
        assert gone.sum(1).tolist() == [round(0.5 * gone.shape[1])] * len(gone)
    else:
        count = round(0.5 * gone.numel())
        assert int(gone.sum()) == count
        assert not count or count == gone.numel() or float(means[gone == 1].max()) <= float(means[gone == 0].min())


def test_a_global_threshold_spares_every_layer() -> None:
    """One threshold over all layers removes the smallest of all, in exact number, and the floor keeps a weak layer alive."""
    generator = torch.Generator().manual_seed(0)
    saliencies = {
        "strong": 10 + torch.rand((20, 20), generator=generator),
        "weak": torch.rand((10, 20), generator=generator),
    }
    free = masks_of(saliencies, 0.5, scope="global", floor=0.0)
    merged = smallest(torch.cat([one.reshape(-1) for one in saliencies.values()]), 300)
    assert torch.equal(torch.cat([mask.reshape(-1) for mask in free.values()]), merged)
    assert bool(free["weak"].all())
    spared = masks_of(saliencies, 0.5, scope="global")
    assert int((~spared["weak"]).sum()) == 2
    assert int(spared["weak"].sum() + spared["strong"].sum()) == 300
    with pytest.raises(PruningError, match=r"more than floor=0\.5 allows"):
        masks_of(saliencies, 0.8, scope="global", floor=0.5)
    layers = masks_of(saliencies, 0.4, scope="global", element=LAYER, floor=0.0)
    assert bool(layers["weak"].all())
    assert not bool(layers["strong"].any())


@pytest.mark.parametrize(
    ("criterion", "scope"), [(Magnitude(), "layer"), (Magnitude(), "global"), (Wanda(), "row"), (OBD(), "layer")]
)
def test_a_state_dict_is_pruned(criterion: Criterion, scope: str) -> None:
    """Named matrices lose their share, everything else is the same tensor, and the dense state stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 8))
    state = model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    statistics = {
        name: LayerStatistics(hessian=problem(1, state[name].shape[1])[1]) for name in ("0.weight", "2.weight")
    }
    names = list(statistics)
    pruned = prune_state(state, names, criterion, 0.5, statistics=statistics, scope=scope)  # type: ignore[arg-type]
    assert pruned.sparsity == 0.5
    assert pruned.state["0.bias"] is state["0.bias"]
    for name in names:
        assert torch.equal(state[name], before[name])
        assert torch.equal(pruned.state[name] == 0, pruned.masks[name])
        assert torch.equal(pruned.state[name][~pruned.masks[name]], before[name][~pruned.masks[name]])
    model.load_state_dict(pruned.state)
    semi = prune_state(state, names, criterion, NM(keep=1, of=4), statistics=statistics)
    assert bool((semi.masks["0.weight"].view(24, 4, 4).sum(2) == 3).all())
    assert semi.sparsities == {"0.weight": 0.75, "2.weight": 0.75}
    with pytest.raises(PruningError, match=r"\['3\.weight'\] to prune"):
        prune_state(state, ["3.weight"], criterion, 0.5)


@pytest.mark.parametrize("sparsity", [0.13, 0.28, 0.33, 0.5])
def test_whole_elements_of_all_layers_go_in_rounded_numbers(sparsity: float) -> None:
    """Of twenty neurons of two layers, round(sparsity * 20), as within a layer."""
    generator = torch.Generator().manual_seed(0)
    saliencies = {name: torch.rand((10, 64), generator=generator) for name in "ab"}
    masks = masks_of(saliencies, sparsity, element=NEURON, scope="global", floor=0.0)
    assert sum(int(mask.all(1).sum()) for mask in masks.values()) == round(sparsity * 20)


def test_elements_that_cannot_be_are_refused() -> None:
    """Blocks that do not fill a matrix, vectors, scopes and shares are named."""
    saliency = torch.ones((6, 8))
    with pytest.raises(PruningError, match="4 x 8 weights do not fill a matrix of 6 x 8"):
        masks_of({"a": saliency}, 0.5, element=Element(rows=4, columns=-1))
    with pytest.raises(PruningError, match="is no matrix"):
        masks_of({"a": saliency[0]}, 0.5)
    with pytest.raises(PruningError, match="scope='model'"):
        masks_of({"a": saliency}, 0.5, scope="model")  # type: ignore[arg-type]
    with pytest.raises(PruningError, match="sparsity=2"):
        masks_of({"a": saliency}, 2.0)


def test_every_part_of_the_table_is_there() -> None:
    """Each row names something that can be imported; rows with a kind are what the plugin offers."""
    for part in PARTS:
        module, _, attribute = part.entry.partition(":")
        assert hasattr(__import__(module, fromlist=[attribute]), attribute)
    offered = {(one.kind, one.name) for one in plugin.orchestrator_components()}
    assert {(part.kind, part.name) for part in PARTS if part.kind} <= offered
    assert {part.question for part in PARTS} == {"what", "how", "when"}
    assert {part.family for part in PARTS if part.question == "how"} == {"data-free", "data-driven", "training-aware"}
