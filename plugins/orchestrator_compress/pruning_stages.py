"""The stages that prune: SparseGPT and Wanda block by block, and any criterion in one shot."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from orchestrator import Context, Ref, Wired, stage
from orchestrator_compress.stages import (
    Compressed,
    ExpertFallback,
    LayersConfig,
    SolverConfig,
    check_damp,
    check_experts,
    check_fallbacks,
    check_grid,
    something_read,
)
from orchestrator_storage import Model, Tensors, Tokens


@dataclass(frozen=True, kw_only=True)
class SparseGPTConfig(SolverConfig):
    """What a recipe may set for SparseGPT, beside the fields of solving.

    sparsity  share of weights that are removed
    pattern   N:M, such as "2:4": N of every M inputs stay; null: anywhere
    damp      added to the Hessian's diagonal, relative to its mean
    bits      code width of the weights that stay, quantized in the same pass; null: they stay in floating point
    group_size, symmetric  of the codes
    format    dense, with its zeros; sparse, which stores what is left; compressed-tensors or gptq_v2 where `bits` is set
    """

    sparsity: float = 0.5
    pattern: str | None = None
    damp: float = 0.01
    bits: Literal[2, 3, 4, 8] | None = None
    group_size: int = 128
    symmetric: bool = True
    format: Literal["dense", "sparse", "compressed-tensors", "gptq_v2"] = "dense"

    def __post_init__(self) -> None:
        SolverConfig.__post_init__(self)
        check_removal(self.sparsity, self.pattern)
        check_damp(self.damp)
        check_grid(self.group_size, self.symmetric, self.format)
        if self.bits is None and self.format in ("compressed-tensors", "gptq_v2"):
            raise ValueError(f"format {self.format!r} holds codes; set bits, or write 'dense' or 'sparse'")


@dataclass(frozen=True, kw_only=True)
class WandaConfig(LayersConfig):
    """What a recipe may set for Wanda: the share to remove of each output row, or an N:M pattern.

    sparsity   share of each output row that is removed
    pattern    N:M, such as "2:4": N of every M inputs stay; null: anywhere in the row
    propagate  quantized: a block sees what the pruned blocks before it give; full_precision: what the dense model gives
    expert_fallback, expert_tokens  for experts that too few tokens reach, as for methods that solve
    max_fallbacks  layers that may fall back before the stage fails; null: any number
    format     dense, with its zeros, or sparse, which stores what is left
    """

    sparsity: float = 0.5
    pattern: str | None = None
    propagate: Literal["quantized", "full_precision"] = "quantized"
    expert_fallback: ExpertFallback = "pool"
    expert_tokens: int | None = None
    max_fallbacks: int | None = None
    format: Literal["dense", "sparse"] = "dense"

    def __post_init__(self) -> None:
        LayersConfig.__post_init__(self)
        check_experts(self.expert_tokens)
        check_fallbacks(self.max_fallbacks)
        check_removal(self.sparsity, self.pattern)


@dataclass(frozen=True, kw_only=True)
class PruneConfig(LayersConfig):
    """What a recipe may set for pruning by a criterion, in one shot and without compensation.

    criterion  what a weight is worth; those that need inputs take `calibration` or `hessians`, those that need
               gradients take `calibration`
    sparsity   share of weights that are removed
    pattern    N:M, such as "2:4": N of every M inputs stay; null: by `sparsity`
    element    what is removed: single weights, neurons (output rows), inputs (columns), blocks of rows x columns, attention
               heads (out of all projections together; other layers stay), or whole layers
    block_rows, block_columns  of a block, where element is block
    scope      among which elements the least salient are sought: of an output row, of a layer (of heads: of an attention), or
               of all layers
    floor      share that every layer keeps where the scope is global
    max_fallbacks  layers whose inputs had to be made up (experts that too few tokens reach) before the stage fails; null: any number
    format     dense, with its zeros, or sparse, which stores what is left
    """

    criterion: Annotated[str, Ref("pruning_criterion")] = "magnitude"
    sparsity: float = 0.5
    pattern: str | None = None
    element: Literal["weight", "neuron", "input", "block", "head", "layer"] = "weight"
    block_rows: int = 1
    block_columns: int = 1
    scope: Literal["row", "layer", "global"] = "layer"
    floor: float = 0.01
    max_fallbacks: int | None = None
    format: Literal["dense", "sparse"] = "dense"

    def __post_init__(self) -> None:
        LayersConfig.__post_init__(self)
        check_removal(self.sparsity, self.pattern)
        check_fallbacks(self.max_fallbacks)
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is {self.floor}; it is a share of elements and lies in 0..1")
        if self.block_rows < 1 or self.block_columns < 1:
            raise ValueError(f"blocks of {self.block_rows} x {self.block_columns} weights; both are at least 1")
        if (self.block_rows, self.block_columns) != (1, 1) and self.element != "block":
            raise ValueError(f"block_rows and block_columns say what a block is; element is {self.element!r}")
        if self.element == "head" and self.scope == "row":
            raise ValueError("scope is row, and a head has many; set scope: layer, heads of an attention, or global")
        if self.element == "neuron" and self.scope == "row":
            raise ValueError("scope is row, and a neuron is one; set scope: layer, or global")
        if self.element == "layer" and (self.scope != "global" or self.floor):
            raise ValueError(
                f"element is layer, of which scope {self.scope} holds one and floor {self.floor:g} keeps every one; set scope: global "
                "and floor: 0"
            )
        if self.pattern is not None and self.element != "weight":
            raise ValueError(f"pattern {self.pattern} is about single weights; element is {self.element!r}")


def check_removal(sparsity: float, pattern: str | None) -> None:
    """Raise ValueError for a share outside 0..1 or a pattern that is not N:M."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity is {sparsity}; it is the share of weights that are removed and lies in 0..1")
    if pattern is None:
        return
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    if match is None or not 0 <= int(match[1]) <= int(match[2]) or int(match[2]) < 1:
        raise ValueError(f"pattern is {pattern!r}; write N:M with N at most M, the weights that stay of each M (2:4)")


@stage(
    "compress.sparsegpt",
    version="4",
    workers_allowed=True,
    workers="execution",
    cites=["arXiv:2301.00774"],
    check=something_read,
)
def sparsegpt(
    ctx: Context,
    config: SparseGPTConfig,
    model: Model,
    calibration: Tokens | None = None,
    hessians: Tensors | None = None,
) -> Compressed:
    """Remove the weights whose loss the others can best make up for, and let them; quantize in the same pass if asked."""
    from orchestrator_compress.stage_run import compress

    return Compressed(*compress(ctx, config, "sparsegpt", model, calibration, hessians))


@stage("compress.wanda", version="4", cites=["arXiv:2306.11695"], check=something_read)
def wanda(
    ctx: Context,
    config: WandaConfig,
    model: Model,
    calibration: Tokens | None = None,
    hessians: Tensors | None = None,
) -> Compressed:
    """Remove the weights of each output with the least |w| times the norm of their input."""
    from orchestrator_compress.stage_run import compress

    return Compressed(*compress(ctx, config, "wanda", model, calibration, hessians))


#: The inputs that criteria of this package can be computed from; those of others are asked when they run.
_READS = {
    "wanda": ("calibration", "hessians"),
    "obd": ("calibration", "hessians"),
    "obs": ("calibration", "hessians"),
    "first_order": ("calibration",),
    "fisher": ("calibration",),
}


def what_the_criterion_reads(config: PruneConfig, wired: Wired) -> None:
    """Refuse a criterion without the inputs that it is made of."""
    reads = _READS.get(str(config.criterion))
    if reads and not wired.keys() & set(reads):
        raise ValueError(
            f"criterion {config.criterion} needs {' or '.join(reads)}, which {'are' if len(reads) > 1 else 'is'} not wired; wire "
            "it, or use magnitude"
        )


@stage("compress.prune", version="4", cites=["arXiv:2102.00554"], check=what_the_criterion_reads)
def prune(
    ctx: Context,
    config: PruneConfig,
    model: Model,
    calibration: Tokens | None = None,
    hessians: Tensors | None = None,
) -> Compressed:
    """Remove the least salient elements by a criterion, all at once and without compensation."""
    from orchestrator_compress.prune_run import prune_stage

    parts: tuple[Any, Any] = prune_stage(ctx, config, model, calibration, hessians)
    return Compressed(*parts)
