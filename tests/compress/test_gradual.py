"""Schedules, masks that grow while a model trains, the exhaustive oracle, and parameter efficiency."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from orchestrator_compress.criteria import OBD, Fisher, LayerStatistics, Magnitude
from orchestrator_compress.efficiency import mean_relative_quality, parameter_efficiency
from orchestrator_compress.elements import NEURON, masks_of
from orchestrator_compress.errors import PruningError
from orchestrator_compress.gradual import GradualPruning
from orchestrator_compress.objective import quadratic
from orchestrator_compress.oracle import leave_k_out
from orchestrator_compress.schedules import Cubic, CubicConfig, OneShot, OneShotConfig
from orchestrator_compress.selection import smallest
from orchestrator_compress.surgeon import least_squares

from .test_solver import problem


@pytest.mark.parametrize("steps", [40, 100, 1000])
@pytest.mark.parametrize("every", [1, 7, 10])
@pytest.mark.parametrize("initial", [0.0, 0.2])
def test_the_cubic_schedule_has_its_ends_and_its_formula(steps: int, every: int, initial: float) -> None:
    """Nothing before the start, s_i at it, s_f from the end on, never falling, and the published formula between."""
    schedule = Cubic(CubicConfig(initial=initial, final=0.9, start=0.1, end=0.7, every=every))
    values = [schedule.sparsity(step, steps) for step in range(steps + 1)]
    first, last = round(0.1 * steps), round(0.7 * steps)
    assert values[:first] == [0.0] * first
    assert values[first] == pytest.approx(initial)
    assert values[last:] == [0.9] * (steps + 1 - last)
    assert values == sorted(values)
    removals = -(-(last - first) // every)
    for removal in range(removals):
        step = first + removal * every
        expected = 0.9 + (initial - 0.9) * (1 - (step - first) / (removals * every)) ** 3
        assert values[step : min(step + every, last)] == pytest.approx([expected] * (min(step + every, last) - step))


def test_one_shot_is_one_step() -> None:
    """Dense before, final from then on."""
    schedule = OneShot(OneShotConfig(sparsity=0.6, at=0.25))
    assert [schedule.sparsity(step, 8) for step in range(5)] == [0, 0, 0.6, 0.6, 0.6]


@pytest.mark.parametrize(
    ("config", "fields"),
    [(CubicConfig, {"final": 1.2}), (CubicConfig, {"initial": 0.95}), (CubicConfig, {"end": 0.1, "start": 0.2}),
     (CubicConfig, {"every": 0}), (OneShotConfig, {"sparsity": -0.1}), (OneShotConfig, {"at": 2})],
)  # fmt: skip
def test_schedules_that_cannot_be_are_refused(config: type, fields: dict[str, float]) -> None:
    """The field is named when the recipe is read."""
    with pytest.raises(ValueError, match=next(iter(fields))):
        config(**fields).filled()


def regression(seed: int = 0) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """Build a small network and data from a sparse teacher."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 4))
        inputs = torch.randn(128, 12)
        targets = torch.tanh(inputs[:, :4] @ torch.randn(4, 4))
    return model, inputs, targets


@pytest.mark.parametrize("scope", ["layer", "global", "row"])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, lambda parameters, lr: torch.optim.SGD(parameters, lr, 0.9)])
def test_removed_weights_never_come_back(optimizer: object, scope: str) -> None:
    """Through training with momentum, masks only grow, sparsity is exact after each removal, and zeros stay zeros."""
    model, inputs, targets = regression()
    descent = optimizer(model.parameters(), lr=1e-2)  # type: ignore[operator]
    parameters = {name: one for name, one in model.named_parameters() if one.ndim == 2}
    schedule = Cubic(CubicConfig(final=0.8, end=0.6, every=5))
    pruning = GradualPruning(parameters, Magnitude(), schedule, scope=scope)  # type: ignore[arg-type]
    previous = pruning.masks
    for step in range(60):
        if pruning.advance(step, 60):
            assert all(bool((pruning.masks[name] >= previous[name]).all()) for name in parameters)
            assert pruning.check() == pytest.approx(pruning.target, abs=0.05)
            previous = pruning.masks
        descent.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        descent.step()
        pruning.apply(descent)
        pruning.check()
        for name, one in parameters.items():
            for held in descent.state[one].values():
                if isinstance(held, torch.Tensor) and held.shape == one.shape:
                    assert not bool(held[pruning.masks[name]].any())
    assert pruning.check() == pytest.approx(0.8, abs=0.05)
    with torch.no_grad():
        parameters["0.weight"].add_(1)
    with pytest.raises(PruningError, match=r"removed weights of 0\.weight came back"):
        pruning.check()


def test_neurons_go_gradually_too() -> None:
    """Structured masks grow by whole rows and contain their predecessors."""
    model, _, _ = regression()
    parameters = {"0.weight": model[0].weight}
    pruning = GradualPruning(parameters, Magnitude(), Cubic(CubicConfig(final=0.5, end=1.0, every=1)), element=NEURON)
    previous = pruning.masks["0.weight"]
    for step in range(9):
        pruning.advance(step, 8)
        mask = pruning.masks["0.weight"]
        assert torch.equal(mask.all(1), mask.any(1))
        assert bool((mask >= previous).all())
        previous = mask
    assert int(previous.all(1).sum()) == 12


def test_gradual_with_retraining_beats_one_shot() -> None:
    """At 85 % on a small regression, removing step by step while training ends lower than all at once at the end."""
    losses = {}
    for name, schedule in (
        ("gradual", Cubic(CubicConfig(final=0.85, start=0.2, end=0.7, every=5))),
        ("one_shot", OneShot(OneShotConfig(sparsity=0.85, at=1.0))),
    ):
        model, inputs, targets = regression()
        parameters = {key: one for key, one in model.named_parameters() if one.ndim == 2}
        descent = torch.optim.Adam(model.parameters(), lr=1e-2)
        pruning = GradualPruning(parameters, Magnitude(), schedule)
        for step in range(151):
            pruning.advance(step, 150)
            if step < 150:
                descent.zero_grad()
                (model(inputs) - targets).square().mean().backward()
                descent.step()
                pruning.apply(descent)
        assert pruning.check() == pytest.approx(0.85, abs=0.01)
        losses[name] = float((model(inputs) - targets).square().mean().detach())
    assert losses["gradual"] < 0.5 * losses["one_shot"]


@pytest.mark.parametrize("k", [0, 1, 3])
def test_the_oracle_tries_every_subset(k: int) -> None:
    """Its losses are those of masking by hand, its best is their least, and the network ends as it began."""
    weight, hessian = problem(2, 4, rank=2)
    layer = weight.clone()
    found = leave_k_out({"w": layer}, lambda: quadratic(weight - layer, hessian), k)
    assert torch.equal(layer, weight)
    by_hand = {}
    for subset in itertools.combinations(range(8), k):
        mask = torch.zeros(8, dtype=torch.bool)
        mask[list(subset)] = True
        by_hand[subset] = quadratic(weight.masked_fill(~mask.view(2, 4), 0), hessian)
        assert found.loss_of(subset) == pytest.approx(by_hand[subset])
    assert len(found.losses) == len(by_hand)
    assert found.best == pytest.approx(min(by_hand.values()))
    assert quadratic(weight.masked_fill(~found.masks["w"], 0), hessian) == pytest.approx(found.best)


def test_the_oracle_of_a_trained_network() -> None:
    """On a network of two layers, trained, no criterion of training beats the best two weights, and Fisher comes near."""
    _, inputs, targets = regression(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))
    inputs = inputs[:, :4]
    descent = torch.optim.Adam(model.parameters(), lr=3e-2)
    for _ in range(150):
        descent.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        descent.step()
    parameters = {name: one for name, one in model.named_parameters() if one.ndim == 2}
    squares = {name: torch.zeros_like(one) for name, one in parameters.items()}
    for sample, target in zip(inputs, targets, strict=True):
        gradients = torch.autograd.grad((model(sample) - target).square().sum(), list(parameters.values()))
        for total, gradient in zip(squares.values(), gradients, strict=True):
            total.add_(gradient.square())
    found = leave_k_out(parameters, lambda: float((model(inputs) - targets).square().mean().detach()), 2)
    criteria = {"fisher": Fisher(), "magnitude": Magnitude()}
    places = {}
    for name, criterion in criteria.items():
        worth = [
            criterion.saliency(one.detach(), LayerStatistics(fisher=squares[key])) for key, one in parameters.items()
        ]
        chosen = smallest(torch.cat([one.reshape(-1) for one in worth]), 2).nonzero()[:, 0].tolist()
        places[name] = float((found.losses < found.loss_of(chosen)).double().mean())
        assert found.loss_of(chosen) >= found.best
    assert places["fisher"] < 0.25


def test_criteria_against_the_oracle_of_a_layer() -> None:
    """No criterion beats the best three weights of a layer; OBD loses less than magnitude, and compensation gains on all."""
    regrets = {"magnitude": 0.0, "obd": 0.0}
    for seed in range(6):
        weight, hessian = problem(2, 6, rank=2, noise=0.5, seed=seed)
        hessian = hessian * torch.linspace(0.2, 2, 6, dtype=torch.float64).outer(
            torch.linspace(0.2, 2, 6, dtype=torch.float64)
        )
        layer = weight.clone()
        found = leave_k_out({"w": layer}, lambda w=weight, q=layer, h=hessian: quadratic(w - q, h), 3)
        for name, criterion in (("magnitude", Magnitude()), ("obd", OBD())):
            mask = masks_of({"w": criterion.saliency(weight, LayerStatistics(hessian=hessian))}, 3 / 12)["w"]
            loss = found.loss_of(mask.reshape(-1).nonzero()[:, 0].tolist())
            assert loss >= found.best
            regrets[name] += loss - found.best
        # Compensation reaches below the best mask without it.
        assert quadratic(weight - least_squares(weight, hessian, found.masks["w"]), hessian) < found.best
    assert regrets["obd"] < regrets["magnitude"]


def test_the_oracle_counts_before_it_starts() -> None:
    """Too many subsets are refused with their number, another k is named, and a failure leaves the weights alone."""
    weight = torch.ones(64)
    with pytest.raises(PruningError, match="4426165368 subsets"):
        leave_k_out({"w": weight}, lambda: 0.0, 8)
    with pytest.raises(PruningError, match="2 weights are given and 1"):
        leave_k_out({"w": weight}, lambda: 0.0, 1).loss_of([0, 1])

    def fail() -> float:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        leave_k_out({"w": weight}, fail, 1)
    assert bool((weight == 1).all())


def test_parameter_efficiency_is_the_ratio_of_two_ratios() -> None:
    """Accuracy kept per parameter kept; a loss counts by its inverse; a curve by its mean over densities."""
    kept = parameter_efficiency(0.38, 0.76, 0.25)
    assert (kept.relative_quality, kept.efficiency) == (0.5, 2.0)
    assert parameter_efficiency(20.0, 10.0, 0.5, higher_is_better=False).efficiency == 1.0
    assert parameter_efficiency(0.76, 0.76, 1.0).efficiency == 1.0
    curve = [parameter_efficiency(quality, 1.0, density) for density, quality in ((1.0, 1.0), (0.5, 0.8), (0.25, 0.4))]
    assert mean_relative_quality(curve) == pytest.approx((0.5 * 0.9 + 0.25 * 0.6) / 0.75)
    for arguments in ((0.5, 0.76, 0.0), (0.5, 0.0, 0.5), (-0.1, 0.5, 0.5)):
        with pytest.raises(ValueError, match=r"density=|dense_quality="):
            parameter_efficiency(*arguments)
    with pytest.raises(ValueError, match="two or more"):
        mean_relative_quality(curve[:1])


def test_the_callback_takes_any_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in ones by its own fields, or by theirs; and those of other packages by name."""
    import sys
    from types import SimpleNamespace

    from orchestrator import Component
    from orchestrator.convert import build
    from orchestrator.plugins import installed
    from orchestrator_compress.gradual_callback import Gradual, GradualConfig

    class Late:
        def sparsity(self, step: int, steps: int) -> float:
            return 0.7 if step == steps else 0.0

    monkeypatch.setitem(sys.modules, "late_schedule", SimpleNamespace(Late=Late))
    late = Component(kind="sparsity_schedule", name="late", version="1", entry="late_schedule:Late")
    monkeypatch.setitem(installed().components, ("sparsity_schedule", "late"), late)

    def reached(schedule: object, step: int) -> float:
        config = build(GradualConfig, {"schedule": schedule, "sparsity": 0.9}, "", installed().components)
        found: float = Gradual(config)._schedule.sparsity(step, 100)
        return found

    assert (reached("cubic", 0), reached("cubic", 100)) == (0.0, 0.9)
    own = {"name": "cubic", "initial": 0.2, "final": 0.6}
    assert (reached(own, 0), reached(own, 100)) == (pytest.approx(0.2), 0.6)
    assert (reached("one_shot", 0), reached("none", 100)) == (0.9, 0.0)
    assert reached({"name": "one_shot", "sparsity": 0.5}, 0) == 0.5
    assert reached({"name": "cubic", "initial": 0.1}, 100) == 0.9
    assert (reached("late", 99), reached("late", 100)) == (0.0, 0.7)


def test_adopted_zeros_stay_whatever_the_schedule_says() -> None:
    """Half of the weights are zero: a schedule that asks for a fifth brings none of them back."""
    weight = nn.Parameter(torch.arange(1.0, 101).view(10, 10))
    with torch.no_grad():
        weight[:5] = 0
    pruning = GradualPruning({"w": weight}, Magnitude(), OneShot(OneShotConfig(sparsity=0.2, at=0.0)))
    pruning.adopt_zeros()
    assert not pruning.advance(5, 10)
    assert pruning.check() == 0.5


def test_the_oracle_names_what_cannot_be() -> None:
    weight = torch.ones(6)
    with pytest.raises(PruningError, match="-1 of 6 weights"):
        leave_k_out({"w": weight}, lambda: 0.0, -1)
    found = leave_k_out({"w": weight}, lambda: float(weight.sum()), 2)
    for wrong in ([1, 1], [1, 99]):
        with pytest.raises(PruningError, match="are no 2 different weights"):
            found.loss_of(wrong)


@pytest.mark.parametrize("sparsity", [0.99, 0.995])
def test_one_threshold_for_all_layers_reaches_a_hundredth(sparsity: float) -> None:
    """Every layer keeps something, and the training does not die of it when it is nearly over."""
    from types import SimpleNamespace

    from orchestrator.convert import build
    from orchestrator.plugins import installed
    from orchestrator_compress.gradual_callback import Gradual, GradualConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 32))
    given = {"sparsity": sparsity, "scope": "global", "every": 1}
    callback = Gradual(build(GradualConfig, given, "", installed().components))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = SimpleNamespace(model=model, steps=10, optimizer=optimizer)
    callback.on_start(trainer)
    for step in range(1, 11):
        callback.after_step(trainer, step)
    callback.on_end(trainer)
    left = [int(layer.weight.count_nonzero()) for layer in model]
    assert sum(left) == 64 * 96 - round(sparsity * 64 * 96)
    assert min(left) > 0
