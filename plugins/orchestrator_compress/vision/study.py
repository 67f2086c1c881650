"""What one network is worth dense, pruned at once, retrained, and pruned gradually, on pictures of fonts it never saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from ..criteria import Magnitude
from ..elements import Scope
from ..gradual import GradualPruning, SparsitySchedule
from ..schedules import Cubic, CubicConfig, OneShot, OneShotConfig
from .glyphs import Pictures
from .networks import KINDS, Kind, Layout, Network
from .training import Course, correct, train

Phase = Literal["dense", "pruned", "retrained", "gradual"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """The networks' layout, how they are trained and trained again, and what is removed from them.

    Retraining and gradual pruning both start from the dense network and take the same course, so that they differ in
    when weights go and in nothing else. The masks are those of the least magnitudes within a layer, or of all layers.
    """

    layout: Layout
    training: Course
    retraining: Course
    sparsities: tuple[float, ...]
    scope: Scope = "layer"
    every: int = 10

    @property
    def epochs(self) -> int:
        """Return the epochs that one network takes, all phases together."""
        return self.training.epochs + (1 + 2 * len(self.sparsities)) * self.retraining.epochs


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One network in one phase: parameters that are not zero (with biases), multiplications of a picture, and its score.

    `sparsity` is the share of weights that was removed; a retrained network without any is the dense one after as many
    epochs more, which is what retraining has to be compared with.
    """

    network: Kind
    phase: Phase
    sparsity: float
    parameters: int
    multiplications: int
    correct: int
    pictures: int


def examine(
    kind: Kind,
    study: Study,
    known: Pictures,
    unseen: Pictures,
    seed: int,
    *,
    on_epoch: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Train a network on `known`, take weights away in every way, and count what it gets right of `unseen`.

    Equal seeds give equal outcomes, one sparsity's whatever the others are. Raises CompressionError (see `errors`).
    """
    first, second = np.random.SeedSequence([seed, KINDS.index(kind)]).generate_state(2)
    generator = torch.Generator().manual_seed(int(first))
    network = Network(kind, study.layout, generator)
    train(network, known, study.training, generator, on_epoch=on_epoch)
    dense = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made: list[Outcome] = []

    def score(phase: Phase, sparsity: float) -> None:
        _, parameters, multiplications = network.kept()
        made.append(
            Outcome(
                network=kind,
                phase=phase,
                sparsity=sparsity,
                parameters=parameters,
                multiplications=multiplications,
                correct=correct(network, unseen),
                pictures=len(unseen),
            )
        )

    def again(schedule: SparsitySchedule | None) -> None:
        network.load_state_dict(dense)
        pruning = None if schedule is None else _pruning(network, study, schedule)
        order = torch.Generator().manual_seed(int(second))
        train(network, known, study.retraining, order, pruning=pruning, on_epoch=on_epoch)

    score("dense", 0.0)
    again(None)
    score("retrained", 0.0)
    for sparsity in study.sparsities:
        at_once = OneShot(OneShotConfig(sparsity=sparsity))
        network.load_state_dict(dense)
        _pruning(network, study, at_once).advance(0, 1)
        score("pruned", sparsity)
        again(at_once)
        score("retrained", sparsity)
        again(Cubic(CubicConfig(final=sparsity, every=study.every)))
        score("gradual", sparsity)
    return made


def _pruning(network: Network, study: Study, schedule: SparsitySchedule) -> GradualPruning:
    return GradualPruning(network.weights(), Magnitude(), schedule, scope=study.scope)
