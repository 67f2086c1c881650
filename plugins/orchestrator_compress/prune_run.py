"""Pruning by a criterion as a library call and as a stage: statistics where they are needed, masks, files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from orchestrator import Context, StageError
from orchestrator_storage import Model, Table, Tensors, Tokens

from .blocks import block_linears, check_tokens, decoder_blocks
from .blockwise import Compression, check_fallbacks
from .calibrating import calibrate
from .calibration import Calibration, token_windows
from .compress import stored_dtype, write_report
from .criteria import STATISTICS, LayerStatistics
from .elements import INPUT, LAYER, NEURON, WEIGHT, Element, Scope
from .errors import CompressionError, PruningError
from .expert_layers import dense_layers
from .experts import on_unfused, warn_of_fused
from .gradients import OnSequence, loss_gradients
from .heads import attention_heads
from .linears import LinearView, transposed_names
from .methods import Solved, kept_values
from .prune import Criterion, prune_state
from .records import LayerRecord, record
from .report_file import fingerprint
from .selection import NM
from .settings import Settings, parse_pattern, selected
from .sources import Inputs, solved_on
from .stage_run import publish, user_errors
from .system import System
from .weights import SparseWeight

if TYPE_CHECKING:
    from .pruning_stages import PruneConfig

_ELEMENTS = {"weight": WEIGHT, "neuron": NEURON, "input": INPUT, "layer": LAYER}


@on_unfused
def prune_model(
    model: nn.Module,
    criterion: Criterion,
    sparsity: float | NM,
    *,
    name: str,
    tokens: Tensor | None = None,
    calibration: Calibration | None = None,
    ignore: tuple[str, ...] = (),
    element: Element | str = WEIGHT,
    scope: Scope = "layer",
    floor: float = 0.01,
    stored: torch.dtype = torch.float32,
    on_sequence: OnSequence | None = None,
) -> Compression:
    """Remove the least salient elements of a decoder's linear layers in place and return what is left.

    `element` may be "weight", "neuron", "input", "layer" or "head" (see `heads`), of which only the projections of attention
    take part, and all else stays as it is.
    `tokens` [N, T] give gradients to criteria that need them, and `calibration` the H of every layer, also for the
    objectives that records tell. `name` is the criterion's; `on_sequence(done, total)` follows gradients. Raises CompressionError (see `errors`).
    """
    started_s = time.perf_counter()
    blocks = decoder_blocks(model)
    views = {layer: view for lead, block in blocks for layer, view in block_linears(lead, block).items()}
    chosen = {layer: views[layer] for layer in selected(views, ignore)}
    warn_of_fused(model)
    heads, kind = None, element if isinstance(element, Element) else _ELEMENTS.get(element)
    if kind is None and element != "head":
        raise PruningError(
            f"element={element!r}; it is one of {', '.join(map(repr, (*_ELEMENTS, 'head')))}, or an Element"
        )
    if element == "head":
        heads = attention_heads(model.config, {layer: view.shape for layer, view in chosen.items()})
        chosen = {layer: view for layer, view in chosen.items() if any(layer in own.shares for own in heads.values())}
    statistics = _statistics(model, chosen, criterion, tokens, calibration, on_sequence)
    weights = {layer: view.weight.to(torch.float32) for layer, view in chosen.items()}
    pruned = prune_state(
        weights,
        list(weights),
        criterion,
        sparsity,
        statistics=statistics,
        element=kind or WEIGHT,
        scope=scope,
        floor=floor,
        heads=heads,
    )
    settings = Settings(method="magnitude", measure="own")
    index_of = {layer: index for index, (lead, block) in enumerate(blocks) for layer in block_linears(lead, block)}
    forms: dict[str, SparseWeight] = {}
    records: list[LayerRecord] = []
    for layer, view in chosen.items():
        forms[layer] = SparseWeight(removed=pruned.masks[layer], values=kept_values(pruned.state[layer], stored))
        system = statistics[layer].hessian if layer in statistics else None
        held = system if isinstance(system, System) else None
        solved = Solved(weight=forms[layer], solution=None, rows=slice(0, view.shape[0]))
        inputs = _inputs(layer, calibration)
        row = record(layer, weights[layer], solved, inputs, held, block=index_of[layer], settings=settings)
        records.append(replace(row, method=name, fallback=inputs.fallback))
        view.assign(forms[layer].dequantize())
    return Compression(
        weights=dict(forms),
        records=records,
        ignored=dense_layers(model, forms),
        transposed=transposed_names(chosen),
        seconds=time.perf_counter() - started_s,
    )


def _statistics(
    model: nn.Module,
    chosen: Mapping[str, LinearView],
    criterion: Criterion,
    tokens: Tensor | None,
    calibration: Calibration | None,
    on_sequence: OnSequence | None,
) -> dict[str, LayerStatistics]:
    needs = set(getattr(criterion, "needs", STATISTICS))
    systems: dict[str, System] = {}
    if calibration is not None:
        calibration.check({name: view.shape for name, view in chosen.items()})
        for one in calibration.inputs:
            known = solved_on(one).own
            if known is not None and any(name in chosen for name in one.names):
                systems |= dict.fromkeys(one.names, System(known))
    gradients: dict[str, tuple[Tensor, Tensor]] = {}
    if tokens is not None and needs & {"gradient", "fisher"}:
        gradients = loss_gradients(model, chosen, tokens, on_sequence)
    none: tuple[Tensor | None, Tensor | None] = (None, None)
    found = {}
    for name in chosen:
        gradient, fisher = gradients.get(name, none)
        found[name] = LayerStatistics(hessian=systems.get(name), gradient=gradient, fisher=fisher)
    return found


def _inputs(layer: str, calibration: Calibration | None) -> Inputs:
    for one in calibration.inputs if calibration is not None else ():
        if layer in one.names:
            return solved_on(one)
    return Inputs(names=(layer,))


def prune_stage(
    ctx: Context, config: PruneConfig, model: Model, tokens: Tokens | None, hessians: Tensors | None
) -> tuple[Model, Table]:
    """Run `prune_model` as a stage."""
    if model.format != "dense":
        raise StageError(f"compress.prune takes a model of format 'dense', this one is {model.format!r}")
    if hessians is not None and hessians.meta.get("model") != model.digest:
        raise StageError("the hessians were calibrated on another model", "wire the same model to compress.calibrate")
    criterion = ctx.component("pruning_criterion", config.criterion)
    loaded = ctx.component("model_loader", model.format).load(model.path)
    name = config.criterion if isinstance(config.criterion, str) else str(getattr(config.criterion, "name", "pruning"))
    started_s = time.perf_counter()
    with user_errors():
        windows = None
        if tokens is not None:
            windows = token_windows(tokens.read("train").tokens, config.calibration_sequences, config.sequence_length)
            check_tokens(loaded, windows)
        compression = prune_model(
            loaded,
            criterion,
            config.sparsity if config.pattern is None else parse_pattern(config.pattern),
            name=name,
            tokens=windows,
            calibration=_calibration(ctx, config, loaded, windows, tokens, hessians),
            ignore=config.ignore,
            element=Element(rows=config.block_rows, columns=config.block_columns)
            if config.element == "block"
            else config.element,
            scope=config.scope,
            floor=config.floor,
            stored=stored_dtype(model.path),
            on_sequence=_progress(ctx, "sequences"),
        )
        check_fallbacks(compression.records, config.max_fallbacks)
        result = ctx.new(Model, "result", format=config.format)
        told = fingerprint(windows) if hessians is None else hessians.digest
        report = write_report(
            model.path,
            result.path,
            compression,
            Settings(method="magnitude"),
            config.format,
            calibration=told,
            said=asdict(config) | {"criterion": name},
        )
    publish(
        ctx, report, f"{name}, {config.pattern or f'{config.sparsity:.0%} removed'}", time.perf_counter() - started_s
    )
    return result, ctx.table(report.layers, "layers")


def _calibration(
    ctx: Context,
    config: PruneConfig,
    loaded: Any,
    windows: Tensor | None,
    tokens: Tokens | None,
    hessians: Tensors | None,
) -> Calibration | None:
    if hessians is not None:
        return Calibration.mapped(hessians.file, str(hessians.meta.get("index")))
    if windows is None or tokens is None:
        return None
    heldout = None
    if config.heldout_sequences:
        heldout = token_windows(tokens.read("heldout").tokens, config.heldout_sequences, config.sequence_length)

    try:
        return calibrate(loaded, windows, heldout, on_block=_progress(ctx, "blocks"), scratch=ctx.scratch / "inputs")
    except CompressionError as error:
        raise StageError(str(error)) from error


def _progress(ctx: Context, unit: str) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        ctx.progress(done, total, unit)
        ctx.check_cancelled()

    return progress
