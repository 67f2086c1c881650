"""What a network is worth in every phase: masks that hold, seeds that decide, and rows that say what was counted."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from orchestrator_compress.criteria import Magnitude
from orchestrator_compress.gradual import GradualPruning
from orchestrator_compress.schedules import Cubic, CubicConfig, OneShot, OneShotConfig
from orchestrator_compress.vision.glyphs import Pictures, pictures
from orchestrator_compress.vision.networks import KINDS, Kind, Layout, Network
from orchestrator_compress.vision.study import Outcome, Study, examine
from orchestrator_compress.vision.tables import PUBLISHED, chosen, interval, rows, schema
from orchestrator_compress.vision.training import Course, correct, train

CHARACTERS = "02468AXH"
STUDY = Study(
    layout=Layout(size=17, channels=(6, 12), classes=len(CHARACTERS)),
    training=Course(epochs=8, learning_rate=1e-2, batch=32),
    retraining=Course(epochs=3, learning_rate=5e-3, batch=32),
    sparsities=(0.8,),
)


@pytest.fixture(scope="module")
def data() -> tuple[Pictures, Pictures]:
    """Eight characters in three fonts to learn from and another to be tested on."""
    known, unseen = (torch.Generator().manual_seed(seed) for seed in (1, 2))
    return (
        pictures(("DejaVuSans", "DejaVuSerif", "cmr10"), 40, known, size=17, characters=CHARACTERS),
        pictures(("STIXGeneralBol",), 40, unseen, size=17, characters=CHARACTERS),
    )


@pytest.fixture(scope="module")
def outcomes(data: tuple[Pictures, Pictures]) -> dict[Kind, list[Outcome]]:
    return {kind: examine(kind, STUDY, *data, seed=0) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_learns_what_carries_over_to_an_unseen_font(kind: Kind, outcomes: dict[Kind, list[Outcome]]) -> None:
    """Ten standard deviations above guessing among eight."""
    dense = outcomes[kind][0]
    assert (dense.phase, dense.sparsity, dense.pictures) == ("dense", 0.0, 320)
    assert dense.correct > 320 / 8 + 10 * math.sqrt(320 * 7 / 64)


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_costs_and_retraining_pays_back(kind: Kind, outcomes: dict[Kind, list[Outcome]]) -> None:
    """At 80 % the order is the published one: pruned below retrained, retrained at most a little above dense."""
    right = {(one.phase, one.sparsity): one.correct for one in outcomes[kind]}
    assert list(right) == [("dense", 0.0), ("retrained", 0.0), ("pruned", 0.8), ("retrained", 0.8), ("gradual", 0.8)]
    assert right["pruned", 0.8] + 10 < min(right["retrained", 0.8], right["gradual", 0.8])
    assert right["retrained", 0.8] < right["dense", 0.0] + 20


@pytest.mark.parametrize("kind", KINDS)
def test_every_phase_keeps_exactly_what_the_sparsity_leaves(kind: Kind, outcomes: dict[Kind, list[Outcome]]) -> None:
    """Of each layer's n weights round(0.8 n) go, at once and gradually alike, and stay away through training."""
    network = Network(kind, STUDY.layout, torch.Generator())
    left = {name: one.numel() - round(0.8 * one.numel()) for name, one in network.weights().items()}
    biases = sum(one.numel() for one in network.parameters() if one.ndim == 1)
    for one in outcomes[kind]:
        if one.sparsity:
            assert one.parameters == sum(left.values()) + biases
            sides = [side for _, side in STUDY.layout.maps[1:]]
            uses = [side**2 if kind == "convolution" else 1 for side in sides] + [1]
            assert one.multiplications == sum(a * b for a, b in zip(left.values(), uses, strict=True))
        else:
            assert one.parameters == STUDY.layout.parameters(kind)


def test_a_seed_decides_and_other_sparsities_do_not(
    data: tuple[Pictures, Pictures], outcomes: dict[Kind, list[Outcome]]
) -> None:
    """The outcome at 80 % is the same with 50 % beside it; another seed gives another."""
    both = examine("convolution", replace(STUDY, sparsities=(0.5, 0.8)), *data, seed=0)
    assert [one for one in both if one.sparsity != 0.5] == outcomes["convolution"]
    other = examine("convolution", STUDY, *data, seed=1)
    assert [one.correct for one in other] != [one.correct for one in outcomes["convolution"]]


@pytest.mark.parametrize("schedule", [OneShot(OneShotConfig(sparsity=0.7)), Cubic(CubicConfig(final=0.7, every=2))])
def test_masks_stay_through_training(data: tuple[Pictures, Pictures], schedule: OneShot | Cubic) -> None:
    """What is removed is zero after every epoch, its mask only grows, and what is left has moved."""
    generator = torch.Generator().manual_seed(5)
    network = Network("locally_connected", STUDY.layout, generator)
    before = {name: one.detach().clone() for name, one in network.weights().items()}
    pruning = GradualPruning(network.weights(), Magnitude(), schedule)
    seen = []

    def look() -> None:
        for name, one in network.weights().items():
            assert not one.detach()[pruning.masks[name]].any()
        seen.append({name: mask.clone() for name, mask in pruning.masks.items()})

    train(network, data[0], replace(STUDY.training, epochs=4), generator, pruning=pruning, on_epoch=look)
    for name, mask in seen[-1].items():
        assert all(bool((mask | ~earlier[name]).all()) for earlier in seen)
        assert int(mask.sum()) == round(0.7 * mask.numel())
        assert (network.weights()[name].detach() != before[name])[~mask].float().mean() > 0.9


def test_training_without_a_mask_is_training_with_one_that_removes_nothing(data: tuple[Pictures, Pictures]) -> None:
    """The two paths through the loop give equal weights."""
    made = []
    for masked in (False, True):
        network = Network("convolution", STUDY.layout, torch.Generator().manual_seed(0))
        nothing = GradualPruning(network.weights(), Magnitude(), OneShot(OneShotConfig(sparsity=0.0)))
        order = torch.Generator().manual_seed(1)
        train(network, data[0], replace(STUDY.training, epochs=1), order, pruning=nothing if masked else None)
        made.append(network)
    for one, other in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_right_answers_are_counted(data: tuple[Pictures, Pictures]) -> None:
    """Against a loop over single pictures; batches of the test do not matter."""
    network = Network("convolution", STUDY.layout, torch.Generator().manual_seed(0))
    unseen = data[1]
    many = Pictures(
        images=unseen.images.repeat(4, 1, 1, 1), labels=unseen.labels.repeat(4), fonts=unseen.fonts.repeat(4)
    )
    by_hand = sum(
        int(network(image[None]).argmax()) == int(label)
        for image, label in zip(unseen.images, unseen.labels, strict=True)
    )
    assert correct(network, unseen) == by_hand
    assert correct(network, many) == 4 * by_hand


def test_intervals_are_those_of_the_textbook() -> None:
    """Student's t of 80, 70 and 75 %: t(0.975, 2) = 4.302653, s = 5, so 12.42 %; one run has Wilson's 50 of 100."""
    mean, low, high = interval([(80, 100), (140, 200), (75, 100)])
    assert (mean, mean - low, high - mean) == pytest.approx((0.75, 0.124207, 0.124207), abs=1e-6)
    assert interval([(50, 100)]) == pytest.approx((0.5, 0.403832, 0.596168), abs=1e-6)
    assert interval([(0, 10), (10, 10)])[1:] == (0.0, 1.0)
    assert interval([(0, 10)]) == pytest.approx((0.0, 0.0, 0.277533), abs=1e-6)
    with pytest.raises(ValueError, match="no runs"):
        interval([])


def outcome(network: Kind, phase: str, sparsity: float, parameters: int, right: int) -> Outcome:
    return Outcome(
        network=network, phase=phase, sparsity=sparsity, parameters=parameters, multiplications=2 * parameters,
        correct=right, pictures=100,
    )  # type: ignore[arg-type]  # fmt: skip


def test_rows_join_runs_and_stand_beside_what_is_published() -> None:
    """Means over runs, relative to the dense network of the same kind; published values only where they belong."""
    made = [
        outcome("convolution", "dense", 0.0, 1000, 80),
        outcome("convolution", "pruned", 0.7, 300, 40),
        outcome("convolution", "retrained", 0.7, 300, 60),
        outcome("convolution", "gradual", 0.7, 300, 64),
        outcome("convolution", "retrained", 0.8, 100, 20),
        outcome("mlp", "dense", 0.0, 5000, 50),
        outcome("mlp", "retrained", 0.7, 1500, 50),
    ]
    again = [replace(one, parameters=one.parameters + 10 * (one.sparsity > 0), correct=one.correct + 8) for one in made]
    table = rows([*made, *again])
    assert [(row["network"], row["phase"], row["sparsity"]) for row in table] == [
        (one.network, one.phase, one.sparsity) for one in made
    ]
    held = {(row["network"], row["phase"], row["sparsity"]): row for row in table}
    retrained = held["convolution", "retrained", 0.7]
    assert retrained["accuracy"] == pytest.approx(0.64)
    assert (retrained["parameters"], retrained["multiplications"], retrained["runs"], retrained["pictures"]) == (
        305,
        600,
        2,
        200,
    )
    assert retrained["density"] == pytest.approx(0.305)
    assert retrained["relative_accuracy"] == pytest.approx(0.64 / 0.84)
    assert retrained["pruned_parameter_efficiency"] == pytest.approx(0.64 / 0.84 / 0.305)
    published = {key: row["published"] for key, row in held.items() if row["published"] is not None}
    assert published == {("convolution", *key): value for key, value in PUBLISHED.items()}
    assert all(("ResNet-50" in (row["published_for"] or "")) == (row["published"] is not None) for row in table)
    assert [row["phase"] for row in chosen(table, 0.8)] == ["dense", "retrained", "dense"]
    assert schema().names == list(table[0])
