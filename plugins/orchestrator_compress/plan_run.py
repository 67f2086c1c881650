"""What `compress.plan` runs: curves from calibrated inputs, factors from divergences, a plan within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from orchestrator import Context, StageError
from orchestrator_storage import Model, Table, Tensors, Tokens

from .blocks import block_linears, check_tokens, decoder_blocks
from .blockwise import check_fallen
from .calibration import Calibration, token_windows
from .compress import stored_dtype
from .containers.sparse_files import CODEC as SPARSE
from .experts import unfuse, warn_of_fused
from .journal import Journal
from .linears import LinearView
from .planning.apply import apply
from .planning.candidates import Candidate, parse
from .planning.curves import measure
from .planning.figures import bits_by_layer, quality_against_bytes
from .planning.frontier import frontier, uniform_line
from .planning.plan import Plan, budget_bytes, check_budget, choose
from .planning.terms import Terms, calibrate_sensitivity, matching, tied
from .settings import selected
from .sources import solved_on
from .stage_run import user_errors
from .system import System

if TYPE_CHECKING:
    from .planning_stages import PlanConfig

_FRONTIER_POINTS = 24


def plan_stage(
    ctx: Context, config: PlanConfig, model: Model, hessians: Tensors, tokens: Tokens | None
) -> tuple[Table, Table]:
    """Measure curves, choose, and return the plan and the curves as tables."""
    if model.format != "dense":
        raise StageError(f"compress.plan takes a model of format 'dense', this one is {model.format!r}")
    if hessians.meta.get("model") != model.digest:
        raise StageError("the hessians were calibrated on another model", "wire the same model to compress.calibrate")
    loaded = ctx.component("model_loader", model.format).load(model.path)
    unfuse(loaded)
    warn_of_fused(loaded)
    with user_errors():
        candidates = [parse(name) for name in config.candidates]
        views = _layers(loaded, config.ignore)
        systems, heldout, lacks = _systems(hessians, views)
        stored = stored_dtype(model.path)
        _check_terms(config, views, candidates, stored)
        windows = None
        if config.sensitivity == "measured":
            assert tokens is not None
            windows = token_windows(tokens.read("heldout").tokens, config.sequences, config.sequence_length)
            check_tokens(loaded, windows, "heldout")
        journal = Journal(ctx.scratch / "points.jsonl")
        curves = measure(
            {name: view.weight for name, view in views.items()},
            systems,
            candidates,
            heldout,
            progress=_progress(ctx, "curve points"),
            dtype=stored,
            bytes_of=SPARSE.stored_bytes,
            journal=journal,
        )
        curves = _with_lacks(curves, lacks)
        fallen = {row["layer"]: row["fallback"] for row in curves.to_pylist() if row["fallback"]}
        check_fallen(fallen, config.max_fallbacks)
        terms = _terms(config)
        if windows is not None:
            reference = _coarsest(candidates, views, stored)
            slopes = calibrate_sensitivity(
                curves, _divergence(ctx, loaded, views, systems, reference, windows, journal), reference
            )
            terms = Terms(tie=terms.tie, keep=terms.keep, sensitivity=slopes)
        made = choose(curves, budget_bytes(curves, config.bits_per_weight), terms)
    ctx.log_metrics({"fallbacks": float(len(fallen))})
    _publish(ctx, made, curves, terms)
    every = _layers(loaded, ())
    ignored = {
        name: (*view.shape, math.prod(view.shape) * stored.itemsize)
        for name, view in every.items()
        if name not in views
    }
    return ctx.table(made.to_table(ignored), "result"), ctx.table(curves, "curves")


def _terms(config: PlanConfig) -> Terms:
    return Terms(tie=config.tie, keep={_as_pattern(pattern): 8 for pattern in config.keep})


def _check_terms(
    config: PlanConfig, views: dict[str, LinearView], candidates: list[Candidate], stored: torch.dtype
) -> None:
    """Refuse, before any layer is solved, patterns that match nothing and a budget that no candidates fit."""
    terms = _terms(config)
    tied(list(views), terms.tie)
    for pattern in terms.keep:
        matching(pattern, views)
    sizes = {}
    for name, view in views.items():
        able = [one.stored_bytes(*view.shape, stored) for one in candidates if one.fits(*view.shape, stored)]
        sizes[name] = min(able, default=0)  # a layer that can have none is refused by name when curves are measured
    if all(one.method in ("dense", "rtn", "gptq") for one in candidates):  # others take what only a solution knows
        weights = sum(math.prod(view.shape) for view in views.values())
        check_budget(math.floor(weights * config.bits_per_weight / 8), sum(sizes.values()))


def _publish(ctx: Context, made: Plan, curves: Any, terms: Terms) -> None:
    weights = sum(choice.rows * choice.columns for choice in made.layers)
    ctx.log_metrics(
        {
            "planned_bytes": made.bytes,
            "planned_bits_per_weight": 8 * made.bytes / weights,
            "objective": made.objective,
            "lower_bound": made.lower_bound,
            "exact": float(made.exact),
        }
    )
    ctx.log_figure(
        "quality_against_bytes",
        quality_against_bytes(frontier(curves, _FRONTIER_POINTS, terms), uniform_line(curves, terms), made),
    )
    ctx.log_figure("bits_by_layer", bits_by_layer(made))


def _layers(model: Any, ignore: tuple[str, ...]) -> dict[str, LinearView]:
    views = {name: view for lead, block in decoder_blocks(model) for name, view in block_linears(lead, block).items()}
    return {name: views[name] for name in selected(views, ignore)}


def _systems(
    hessians: Tensors, views: dict[str, LinearView]
) -> tuple[dict[str, System], dict[str, Tensor] | None, dict[str, str]]:
    """Return by layer what it is solved on, its held-out H (None where one lacks it), and why it is not its own."""
    calibration = Calibration.mapped(hessians.file, str(hessians.meta.get("index")))
    calibration.check({name: view.shape for name, view in views.items()})
    systems: dict[str, System] = {}
    heldout: dict[str, Tensor] = {}
    lacks: dict[str, str] = {}
    for one in calibration.inputs:
        inputs = solved_on(one)
        shared = System(one.hessian if inputs.own is None else inputs.own)
        for name in one.names:
            if name in views:
                systems[name] = shared
                if inputs.fallback:
                    lacks[name] = inputs.fallback
                if one.heldout is not None:
                    heldout[name] = one.heldout
    return systems, heldout if len(heldout) == len(views) else None, lacks


def _with_lacks(curves: Any, lacks: dict[str, str]) -> Any:
    """Return the curves with what inputs lacked before what solving did instead."""
    place = curves.schema.get_field_index("fallback")
    said = [
        "; ".join(filter(None, (lacks.get(layer, ""), fallback)))
        for layer, fallback in zip(curves["layer"].to_pylist(), curves["fallback"].to_pylist(), strict=True)
    ]
    return curves.set_column(place, curves.schema.field(place), [said])


def _coarsest(candidates: list[Candidate], views: dict[str, LinearView], stored: torch.dtype) -> Candidate:
    """Return the candidate with the fewest bytes that every layer can have: the one whose harm shows best."""
    shapes = [view.shape for view in views.values()]
    common = [one for one in candidates if one.method != "dense" and all(one.fits(*shape, stored) for shape in shapes)]
    if not common:
        raise StageError("no candidate fits every layer, so that divergences have no reference", "add gptq-4-sym, say")
    return min(common, key=lambda one: sum(one.stored_bytes(*shape, stored) for shape in shapes))


def _divergence(
    ctx: Context,
    model: Any,
    views: dict[str, LinearView],
    systems: dict[str, System],
    reference: Candidate,
    windows: Tensor,
    journal: Journal,
) -> Callable[[str], float]:
    """Return the function that measures KL(dense || compressed) in nats a token with one layer at the reference."""
    dense = _log_probabilities(model, windows)
    done = 0

    def divergence(layer: str) -> float:
        nonlocal done
        if not journal.has(f"divergence of {layer}"):
            view = views[layer]
            before = view.weight.clone()
            view.assign(apply([before], systems[layer], reference)[0].weight.dequantize())
            systems[layer].forget()
            other = _log_probabilities(model, windows)
            view.assign(before)
            # Rounding can leave a divergence of nothing a little below zero.
            found = max(0.0, float((dense.exp() * (dense - other)).sum(-1).mean()))
            journal.put(f"divergence of {layer}", found)
        done += 1
        ctx.progress(done, len(views), "layers measured")
        ctx.check_cancelled()
        return float(journal.get(f"divergence of {layer}"))

    return divergence


def _log_probabilities(model: Any, windows: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [model(input_ids=part, use_cache=False).logits.log_softmax(-1) for part in windows.split(8)]
    return torch.cat(parts)


def _as_pattern(text: str) -> str:
    return text if text.startswith("re:") else f"re:{text}"


def _progress(ctx: Context, unit: str) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        ctx.progress(done, total, unit)
        ctx.check_cancelled()

    return progress
