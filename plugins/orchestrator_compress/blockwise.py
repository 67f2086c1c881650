"""Compress a model one transformer block at a time, each block seeing the outputs of the compressed blocks before it.

Three streams of hidden states go through the blocks: calibration tokens through the compressed model (what GPTQ
solves on), the same tokens through the dense model, and held-out tokens through the dense model (what methods are
compared on). Inputs that several layers read give one H, and those layers are solved stacked: four systems per
Llama block instead of seven.

Source: Frantar et al. 2022 (arXiv:2210.17323), section 3.3 and appendix; stacking and sharing are exact, since
output rows are independent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Calls, block_linears, capture, decoder_blocks
from .errors import CompressionError, SolveError
from .grid import QuantizedWeight, check_finite, round_to_nearest
from .moments import Moments, collect, shared_inputs
from .objective import quadratic
from .records import LayerRecord
from .rules import GroupRounding
from .settings import Settings, selected
from .solver import Solution, column_solve
from .stash import Stash

OnLayer = Callable[[int, int, LayerRecord], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """Hold integer weights by layer name, a record per layer, the linears left dense, and the seconds of solving."""

    weights: dict[str, QuantizedWeight]
    records: list[LayerRecord]
    ignored: list[str]
    seconds: float


@dataclass(slots=True)
class _Streams:
    """Hidden states before the next block; `own` is the compressed model's, the others are the dense model's."""

    own: list[Tensor]
    dense: list[Tensor]
    heldout: list[Tensor]
    calls: Calls
    heldout_calls: Calls | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inputs:
    """The Hessian of one distinct input in the three streams, and the calibration tokens behind it."""

    tokens: int = 0
    own: Tensor | None = None
    dense: Tensor | None = None
    heldout: Tensor | None = None


def compress_model(
    model: nn.Module,
    settings: Settings,
    calibration: Tensor | None = None,
    heldout: Tensor | None = None,
    *,
    scratch: Path | None = None,
    on_layer: OnLayer | None = None,
) -> Compression:
    """Quantize the linear layers of a decoder's blocks in place and return their integer form.

    `calibration` and `heldout` are token ids [N, T]; GPTQ needs the former. `scratch` keeps each finished layer, so
    that a killed compression goes on from there with identical results. `on_layer(done, total, record)` follows it
    and may raise to stop it. Raises CompressionError (see `errors`) for weights, tokens or settings that do not fit
    the model.
    """
    if settings.method == "gptq" and calibration is None:
        raise CompressionError("method 'gptq' needs calibration tokens; give some, or use 'rtn'")
    blocks = decoder_blocks(model)
    chosen = _chosen_layers(model, blocks, settings)
    stash = Stash(scratch, settings)
    streams = _start(model, [block for _, block in blocks], calibration, heldout)
    weights: dict[str, QuantizedWeight] = {}
    records: list[LayerRecord] = []
    seconds, mark_s = 0.0, time.perf_counter()
    for index, (block_name, block) in enumerate(blocks):
        linears = {name: linear for name, linear in block_linears(block_name, block).items() if name in chosen}
        for names, inputs in _visit(block, index, linears, streams, stash):
            group = _recalled(names, stash)
            if group is None:
                solved = _solve_group(names, inputs, linears, index=index, settings=settings)
                # Passes since the last layer belong to this one, so that the parts of a resumed compression add up.
                share_s = (time.perf_counter() - mark_s) / len(names)
                group = {name: (weight, record, share_s) for name, (weight, record) in solved.items()}
                for name, (weight, record, _) in group.items():
                    stash.save(name, weight, record, share_s)
            mark_s = time.perf_counter()
            for name, (weight, record, layer_s) in group.items():
                weights[name] = weight
                records.append(record)
                seconds += layer_s
                if on_layer is not None:
                    on_layer(len(records), len(chosen), record)
        # The block changes only now: until its last input is collected, its layers see each other's dense outputs.
        for name, linear in linears.items():
            linear.weight.data = weights[name].dequantize(linear.weight.dtype).to(linear.weight.device)
        if streams is not None:
            streams.own = streams.calls.run(block, index, streams.own)
    place = {name: number for number, name in enumerate(chosen)}
    records.sort(key=lambda record: place[record.layer])
    ignored = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in weights]
    return Compression(weights=weights, records=records, ignored=ignored, seconds=seconds)


def _recalled(names: list[str], stash: Stash) -> dict[str, tuple[QuantizedWeight, LayerRecord, float]] | None:
    if not all(stash.has(name) for name in names):
        return None
    return {name: stash.load(name) for name in names}


def _chosen_layers(model: nn.Module, blocks: Sequence[tuple[str, nn.Module]], settings: Settings) -> list[str]:
    linears = {
        name: linear for block_name, block in blocks for name, linear in block_linears(block_name, block).items()
    }
    if not linears:
        raise CompressionError(
            f"the blocks of {type(model).__name__} have no torch.nn.Linear layers; other kinds (Conv1D of GPT-2) cannot be quantized"
        )
    chosen = selected(linears, settings.ignore)
    if not chosen:
        raise CompressionError(
            f"no layer of {type(model).__name__} is left to quantize; ignore={list(settings.ignore)} covers them all"
        )
    # Every check that needs no calibration comes first: a bad layer at the end must not cost the work on all before it.
    for name in chosen:
        settings.grid.width(linears[name].in_features)
        check_finite(linears[name].weight, f"{name}.weight")
    return chosen


def _start(
    model: nn.Module, blocks: list[nn.Module], calibration: Tensor | None, heldout: Tensor | None
) -> _Streams | None:
    if calibration is None:
        return None
    hidden, calls = capture(model, blocks, calibration)
    held, held_calls = capture(model, blocks, heldout) if heldout is not None else ([], None)
    return _Streams(own=hidden, dense=hidden, heldout=held, calls=calls, heldout_calls=held_calls)


def _visit(
    block: nn.Module, index: int, linears: Mapping[str, nn.Linear], streams: _Streams | None, stash: Stash
) -> list[tuple[list[str], _Inputs]]:
    """Return the groups of layers that share an input, with its Hessians, and move the dense streams past the block."""
    if streams is None:
        return [([name], _Inputs()) for name in linears]
    calls, heldout_calls = streams.calls, streams.heldout_calls
    # A block that an earlier run finished only has to be passed.
    passed = all(stash.has(name) for name in linears)
    groups = [] if passed else shared_inputs(linears, lambda: calls.run_one(block, index, streams.own[0]))
    # The first block's inputs are the embeddings in both models: one pass serves both streams.
    own = (
        None
        if streams.own is streams.dense
        else collect(linears, groups, lambda: calls.run(block, index, streams.own))[0]
    )
    dense, streams.dense = collect(linears, groups, lambda: calls.run(block, index, streams.dense))
    heldout: list[Moments] = []
    if heldout_calls is not None:
        heldout, streams.heldout = collect(linears, groups, lambda: heldout_calls.run(block, index, streams.heldout))
    if passed:
        return [(list(linears), _Inputs())]
    return [
        (names, _inputs((own or dense)[place], dense[place], heldout[place] if heldout else None))
        for place, names in enumerate(groups)
    ]


def _inputs(own: Moments, dense: Moments, heldout: Moments | None) -> _Inputs:
    own_hessian = own.hessian()
    return _Inputs(
        tokens=own.tokens,
        own=own_hessian,
        dense=own_hessian if dense is own else dense.hessian(),
        heldout=heldout.hessian() if heldout is not None else None,
    )


def _solve_group(
    names: list[str], inputs: _Inputs, linears: Mapping[str, nn.Linear], *, index: int, settings: Settings
) -> dict[str, tuple[QuantizedWeight, LayerRecord]]:
    """Quantize the layers that read one input, stacked, and return weight and record of each."""
    weight = torch.cat([linears[name].weight.data for name in names])
    quantized, solution = _quantize(weight, names, inputs, settings)
    results: dict[str, tuple[QuantizedWeight, LayerRecord]] = {}
    start = 0
    for name in names:
        stop = start + linears[name].out_features
        part = quantized.rows(start, stop)
        record = _record(name, linears[name].weight.data, part, inputs, index=index, settings=settings)
        if solution is not None:
            record = _with_solution(record, solution, float(solution.row_errors[start:stop].sum()), names)
        results[name] = (part, record)
        start = stop
    return results


def _quantize(
    weight: Tensor, names: list[str], inputs: _Inputs, settings: Settings
) -> tuple[QuantizedWeight, Solution | None]:
    if settings.method == "rtn":
        return round_to_nearest(weight, settings.grid), None
    if inputs.own is None or not inputs.tokens:
        if settings.strict:
            raise SolveError(
                f"{', '.join(names)}: no calibration token reached the layer and strict mode forbids rounding to "
                "nearest"
            )
        return round_to_nearest(weight, settings.grid), None
    rule = GroupRounding(settings.grid, act_order=settings.act_order)
    try:
        solution = column_solve(
            weight,
            inputs.own,
            rule,
            damp=settings.damp,
            block_size=settings.block_size,
            strict=settings.strict,
        )
    except CompressionError as error:
        raise type(error)(f"{', '.join(names)}: {error}") from error
    return rule.result(), solution


def _record(
    name: str, weight: Tensor, part: QuantizedWeight, inputs: _Inputs, *, index: int, settings: Settings
) -> LayerRecord:
    rows, columns = weight.shape
    reference = weight.to(torch.float64)
    difference = reference - part.dequantize(torch.float64)
    objectives: dict[str, Any] = {}
    for hessian, suffix in ((inputs.own, ""), (inputs.dense, "_dense"), (inputs.heldout, "_heldout")):
        if hessian is None or not inputs.tokens:
            continue
        objective, scale = quadratic(difference, hessian), quadratic(reference, hessian)
        objectives[f"objective{suffix}"] = objective
        objectives[f"relative{suffix or '_objective'}"] = objective / scale if scale else 0.0
    starved = settings.method == "gptq" and "objective" not in objectives
    return LayerRecord(
        layer=name,
        block=index,
        method=settings.method,
        bits=settings.bits,
        group_size=settings.group_size,
        symmetric=settings.symmetric,
        rows=rows,
        columns=columns,
        bits_per_weight=settings.grid.bits_per_weight(rows, columns),
        weight_error=float(
            difference.square().sum() / reference.square().sum().clamp(min=torch.finfo(torch.float64).tiny)
        ),
        tokens=inputs.tokens,
        fallback="no calibration tokens; rounded to nearest" if starved else "",
        **objectives,
    )


def _with_solution(record: LayerRecord, solution: Solution, damped_objective: float, names: list[str]) -> LayerRecord:
    return replace(
        record,
        damped_objective=damped_objective if solution.identity_error is not None else None,
        identity_error=solution.identity_error,
        damp=solution.damp,
        arithmetic=solution.arithmetic,
        fallback=solution.fallback,
        dead_columns=solution.dead_columns,
        shared_with=" ".join(name for name in names if name != record.layer),
    )
