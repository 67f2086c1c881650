"""Train a network on pictures, with removed weights held at zero if there are any, and count what it gets right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from ..gradual import GradualPruning
from .glyphs import Pictures
from .networks import Network

_TEST_BATCH = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How long and how to train: AdamW on batches in random order, its rate falling along a half cosine to zero."""

    epochs: int
    learning_rate: float
    batch: int = 128
    weight_decay: float = 0.01


def train(
    network: Network,
    pictures: Pictures,
    course: Course,
    generator: torch.Generator,
    *,
    pruning: GradualPruning | None = None,
    on_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train in place; `pruning` removes weights as its schedule says and keeps what is removed at zero.

    A schedule that asks for something at step 0 is obeyed before the first step. Every epoch leaves out the rest that
    fills no batch, another one each time. Raises PruningError if a removed weight came back.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=course.learning_rate, weight_decay=course.weight_decay)
    batch = min(course.batch, len(pictures))
    per_epoch = len(pictures) // batch
    steps = course.epochs * per_epoch
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    if pruning is not None:
        pruning.advance(0, steps)
    step = 0
    for _ in range(course.epochs):
        order = torch.randperm(len(pictures), generator=generator)[: per_epoch * batch]
        for chosen in order.split(batch):
            loss = functional.cross_entropy(network(pictures.images[chosen]), pictures.labels[chosen])
            loss.backward()
            optimizer.step()
            # At once, so that there are no gradients left to mask: that is a quarter of what masks cost.
            optimizer.zero_grad()
            rates.step()
            step += 1
            if pruning is not None:
                pruning.apply(optimizer)
                if pruning.advance(step, steps):
                    pruning.apply(optimizer)
        on_epoch()
    if pruning is not None:
        pruning.check()


@torch.no_grad()
def correct(network: Network, pictures: Pictures) -> int:
    """Return how many pictures the network names right."""
    parts = zip(pictures.images.split(_TEST_BATCH), pictures.labels.split(_TEST_BATCH), strict=True)
    return sum(int((network(images).argmax(1) == labels).sum()) for images, labels in parts)
