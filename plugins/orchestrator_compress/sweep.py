"""Many settings on one calibration: each block is visited once, and each factor is made once.

A point of a sweep costs its solves alone. What depends on the input only is shared: the factor of H for each damping
and column order; and what depends on the weights only: their columns, the ranges of their groups, and the energy of
each layer's output, by which errors are made relative.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from .blocks import block_linears, decoder_blocks
from .blockwise import Compression, chosen_layers, gathered
from .calibration import Calibration
from .errors import CompressionError
from .expert_inputs import ExpertPolicy
from .experts import on_unfused
from .linears import LinearView
from .memory import release
from .residence import InMemory, Residence
from .settings import Settings
from .solving import solve_group
from .sources import Inputs, Prepared
from .stack import Stack
from .stash import Finished, Stash
from .sums import Alone
from .system import System

OnBlock = Callable[[int, int], None]


@on_unfused
def compress_sweep(
    model: nn.Module,
    points: Sequence[Settings],
    calibration: Calibration,
    *,
    on_block: OnBlock | None = None,
    stored: torch.dtype = torch.float32,
    residence: Residence | None = None,
) -> list[Compression]:
    """Compress a model at every point on one calibration, as `compress_model` would one by one; it stays dense.

    `on_block(done, total)` follows it; `stored` and `residence` are those of `compress_model`. All results are in
    memory at the end, codes a byte each. Raises CompressionError for points or a calibration that do not fit.
    """
    if not points:
        raise CompressionError("a sweep of no points; give at least one Settings")
    residence = residence or InMemory()
    blocks = decoder_blocks(model)
    finite: set[str] = set()
    chosen = [chosen_layers(model, blocks, settings, residence, finite=finite) for settings in points]
    for layers in chosen:
        calibration.check({name: view.shape for name, view in layers.items()})
    stashes = [Stash(None) for _ in points]
    for index, (lead, block) in enumerate(blocks):
        every = block_linears(lead, block)
        systems: dict[int, System] = {}
        stacks: dict[tuple[str, ...], Stack] = {}
        energies: dict[tuple[str, str], float] = {}
        with residence.block(index):
            for settings, layers, stash in zip(points, chosen, stashes, strict=True):
                views = {name: view for name, view in every.items() if name in layers}
                source = Prepared(calibration, ExpertPolicy(settings), energies)
                for inputs in source.visit(block, index, views, done=False, team=Alone()):
                    _solve(inputs, views, settings, stash, block=index, stored=stored, systems=systems, stacks=stacks)
        release()
        if on_block is not None:
            on_block(index + 1, len(blocks))
    return [gathered(model, layers, stash, apply=False) for layers, stash in zip(chosen, stashes, strict=True)]


def _solve(
    inputs: Inputs,
    views: Mapping[str, LinearView],
    settings: Settings,
    stash: Stash,
    *,
    block: int,
    stored: torch.dtype,
    systems: dict[int, System],
    stacks: dict[tuple[str, ...], Stack],
) -> None:
    started_s = time.perf_counter()
    system = None
    if inputs.own is not None:
        # By identity: the calibration holds each H for as long as this lasts. What is made up for an expert is new.
        system = None if inputs.fallback else systems.get(id(inputs.own))
        if system is None:
            system = System(inputs.own)
            if not inputs.fallback:
                systems[id(inputs.own)] = system
    solved = solve_group(inputs, views, block=block, settings=settings, stored=stored, system=system, stacks=stacks)
    share_s = (time.perf_counter() - started_s) / len(solved)
    for name, (weight, row) in solved.items():
        stash.save(name, Finished(weight=weight, record=row, seconds=share_s))
