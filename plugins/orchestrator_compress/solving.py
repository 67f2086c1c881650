"""One distinct input of a block and the layers that read it: solved stacked on one system, a record each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .errors import CompressionError, SolveError
from .linears import LinearView
from .methods import solve_stack, stacked
from .records import LayerRecord, record
from .settings import DATA_DRIVEN, Settings
from .sources import Inputs
from .stack import Stack
from .system import System
from .weights import LayerWeight


def solve_group(
    inputs: Inputs,
    views: Mapping[str, LinearView],
    *,
    block: int,
    settings: Settings,
    stored: torch.dtype,
    system: System | None = None,
    stacks: dict[tuple[str, ...], Stack] | None = None,
) -> dict[str, tuple[LayerWeight, LayerRecord]]:
    """Compress the layers that read one input: those with the same settings stacked, all on one system.

    `system` is that of the input where it was made before, with the factors that it keeps, and `stacks` by their layers
    those that were, to which new ones are added.
    """
    try:
        if system is None and inputs.own is not None:
            system = System(inputs.own)
        results: dict[str, tuple[LayerWeight, LayerRecord]] = {}
        for own, names in _alike(inputs.names, settings):
            dead = system is not None and bool(system.dead.all())
            if own.strict and (system is None or dead) and own.method in DATA_DRIVEN:
                nothing = "no input was ever different from 0" if dead else "no calibration token reached the layer"
                said = inputs.fallback or nothing
                raise SolveError(f"{said}, and strict mode forbids going on without")
            weights = [views[name].weight for name in names]
            known = {} if stacks is None else stacks
            if tuple(names) not in known:
                known[tuple(names)] = stacked(weights)
            solved = solve_stack(known[tuple(names)], system, own, stored)
            for name, weight, one in zip(names, weights, solved, strict=True):
                mates = [each for each in names if each != name]
                row = record(name, weight, one, inputs, system, block=block, settings=own, mates=mates)
                results[name] = (one.weight, row)
    except CompressionError as error:
        raise type(error)(f"{', '.join(inputs.names)}: {error}") from error
    return results


def _alike(names: Sequence[str], settings: Settings) -> list[tuple[Settings, list[str]]]:
    """Return the layers by their settings, which an override may change."""
    found: list[tuple[Settings, list[str]]] = []
    for name in names:
        own = settings.of(name)
        for known, members in found:
            if known == own:
                members.append(name)
                break
        else:
            found.append((own, [name]))
    return found
