"""The stages that quantize: thin adapters over `stage_run.compress`."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from orchestrator import Context, Wired, stage
from orchestrator_storage import Model, Table, Tensors, Tokens

ExpertFallback = Literal["pool", "all_tokens", "routed", "rtn"]
ForwardDtype = Literal["float32", "bfloat16"]
QuantizedFormat = Literal["compressed-tensors", "gptq", "gptq_v2", "dense"]


class Compressed(NamedTuple):
    """A compressed model and one row per compressed layer."""

    result: Model
    layers: Table


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """What every stage of the family may be told.

    ignore                 layer names or re:PATTERNS to leave dense; lm_head and embeddings always are
    calibration_sequences  sequences of the train split that layers are solved and objectives measured on
    heldout_sequences      sequences of the held-out split that objectives are measured on again; 0: none
    sequence_length        tokens per sequence, at most the model's context
    """

    ignore: tuple[str, ...] = ()
    calibration_sequences: int = 128
    heldout_sequences: int = 32
    sequence_length: int = 128

    def __post_init__(self) -> None:
        for name, least in (("calibration_sequences", 1), ("heldout_sequences", 0), ("sequence_length", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class SolverConfig(LayersConfig):
    """What stages that solve layers on their inputs may be told, beside the layers.

    block_size     columns between two updates of all the rest; changes speed, not results
    propagate      quantized: a block is solved on what the compressed blocks before it give; full_precision: on what
                   the dense model gives, blocks in parallel over `workers`. Wired `hessians` are full_precision
    true_sequential  with quantized: each layer of a block on what the compressed layers before it give, in one pass;
                   false: all on what the dense layers of the block give, in two
    forward_dtype  type of the products of forward passes: float32, or bfloat16, about twice as fast where the
                   processor multiplies it and as good within the noise of rounding; hidden states, sums and solving stay wider
    strict         fail where damping would have to grow or a layer go uncompensated, instead of recording it
    max_fallbacks  layers that may fall back before the stage fails; null: any number
    expert_fallback  what experts are solved on that too few tokens reach: pool (the missing ones made up from all
                   tokens), all_tokens, routed (those alone), or rtn (no compensation)
    expert_tokens  how many tokens an expert needs; null: as many as it has inputs
    """

    block_size: int = 128
    propagate: Literal["quantized", "full_precision"] = "quantized"
    true_sequential: bool = True
    forward_dtype: ForwardDtype = "float32"
    strict: bool = False
    max_fallbacks: int | None = None
    expert_fallback: ExpertFallback = "pool"
    expert_tokens: int | None = None

    def __post_init__(self) -> None:
        LayersConfig.__post_init__(self)
        check_experts(self.expert_tokens)
        if self.block_size < 1:
            raise ValueError(f"block_size is {self.block_size}; it is a number of columns")
        check_fallbacks(self.max_fallbacks)


@dataclass(frozen=True, kw_only=True)
class RTNConfig(LayersConfig):
    """What a recipe may set for rounding to nearest, beside the layers.

    bits         code width of every quantized weight
    group_size   inputs that share a scale; must divide every layer's inputs; -1: the whole row
    symmetric    grids around zero; otherwise each group stores a zero point
    scale_dtype  stored type of scales; auto: float16 on symmetric grids and in GPTQ's formats, float32 on others
    format       files to write: compressed-tensors, gptq (symmetric only), gptq_v2, or dense
    """

    bits: Literal[2, 3, 4, 8] = 4
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    format: QuantizedFormat = "compressed-tensors"

    def __post_init__(self) -> None:
        LayersConfig.__post_init__(self)
        check_grid(self.group_size, self.symmetric, self.format)


@dataclass(frozen=True, kw_only=True)
class GPTQConfig(SolverConfig):
    """What a recipe may set for GPTQ: the fields of round to nearest, those of solving, and two of its own.

    bits         code width of every quantized weight
    group_size   inputs that share a scale; must divide every layer's inputs; -1: the whole row
    symmetric    grids around zero; otherwise each group stores a zero point
    scale_dtype  stored type of scales; auto: float16 on symmetric grids and in GPTQ's formats, float32 on others
    format       files to write: compressed-tensors, gptq (symmetric only), gptq_v2, dense, or mixed: each layer in the form
                 that a plan gives it, with outliers or zeros
    act_order  static: largest inputs first, on grids fitted beforehand; group: largest first within groups; dynamic:
               largest first, inputs carry a group index (GPTQ's formats only); none: natural order
    damp       added to the Hessian's diagonal, relative to its mean
    """

    bits: Literal[2, 3, 4, 8] = 4
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    format: Literal["compressed-tensors", "gptq", "gptq_v2", "mixed", "dense"] = "compressed-tensors"
    act_order: Literal["static", "group", "dynamic", "none"] = "static"
    damp: float = 0.01

    def __post_init__(self) -> None:
        SolverConfig.__post_init__(self)
        check_grid(self.group_size, self.symmetric, self.format)
        check_damp(self.damp)
        if self.act_order == "dynamic" and self.format in ("compressed-tensors", "mixed"):
            raise ValueError(
                f"act_order 'dynamic' gives every input a group index, which {self.format} is not written with; "
                "use act_order 'static' or 'group', or format 'gptq_v2'"
            )


@dataclass(frozen=True, kw_only=True)
class SpQRConfig(SolverConfig):
    """What a recipe may set for SpQR, beside the fields of solving.

    bits, group_size           codes, and inputs of what is solved together that share scale and zero point
    tau                        outlier threshold, relative; null: no outliers
    statistic_bits, tile_rows  width of the scales' and zero points' own codes (null: stored as they are), and the
                               output rows that share their second statistics
    damp                       added to the Hessian's diagonal, relative to its mean (the published value is 1)
    format                     spqr, or dense
    """

    bits: Literal[2, 3, 4, 8] = 3
    group_size: int = 16
    tau: float | None = 0.2
    statistic_bits: int | None = 3
    tile_rows: int = 16
    damp: float = 1.0
    format: Literal["spqr", "dense"] = "spqr"

    def __post_init__(self) -> None:
        SolverConfig.__post_init__(self)
        check_grid(self.group_size, symmetric=True, form=self.format)
        check_damp(self.damp)
        if self.tau is not None and not self.tau >= 0:
            raise ValueError(f"tau is {self.tau}; an outlier threshold is at least 0 (usual: 0.2)")
        if self.tile_rows < 1 or (self.statistic_bits is not None and not 1 <= self.statistic_bits <= 8):
            raise ValueError(
                f"statistic_bits={self.statistic_bits}, tile_rows={self.tile_rows}; statistics take 1 to 8 bits, or "
                "null, and a tile has at least one row"
            )


def check_grid(group_size: int, symmetric: bool, form: str) -> None:
    """Raise ValueError for groups that there are not, or a format that cannot hold zero points."""
    if group_size != -1 and group_size < 1:
        raise ValueError(f"group_size is {group_size}; it is a number of inputs, or -1 for one group per row")
    if form == "gptq" and not symmetric:
        raise ValueError(
            "format 'gptq' stores a zero point less one, which no reader agrees on where it is 0; use 'gptq_v2', or "
            "symmetric: true"
        )


def check_experts(tokens: int | None) -> None:
    """Raise ValueError for a number of tokens that is none."""
    if tokens is not None and tokens < 0:
        raise ValueError(f"expert_tokens is {tokens}; it is a number of tokens, or null for as many as inputs")


def check_fallbacks(most: int | None) -> None:
    """Raise ValueError for a number of layers that is none."""
    if most is not None and most < 0:
        raise ValueError(f"max_fallbacks is {most}; it is a number of layers, or null for any")


def check_damp(damp: float) -> None:
    """Raise ValueError for a damping that is no share of the mean diagonal."""
    if not 0 <= damp <= 1:
        raise ValueError(f"damp is {damp}; it is relative to the mean diagonal and lies in 0..1")


def something_read(config: LayersConfig, wired: Wired) -> None:
    """Refuse to solve layers on nothing, and settings of passes that are not made."""
    if "hessians" in wired and getattr(config, "forward_dtype", "float32") != "float32":
        raise ValueError(
            "forward_dtype is set, but hessians are wired, so that no tokens go through the model; set it on compress.calibrate"
        )
    if not wired.keys() & {"calibration", "hessians"}:
        raise ValueError(
            "neither calibration nor hessians is wired: layers are solved on what they read; wire tokens as calibration, or the "
            "result of compress.calibrate as hessians"
        )


@stage("compress.rtn", version="4", cites=["arXiv:2210.17323"])
def rtn(
    ctx: Context,
    config: RTNConfig,
    model: Model,
    calibration: Tokens | None = None,
    hessians: Tensors | None = None,
) -> Compressed:
    """Round every weight to its nearest grid value; calibration serves to measure the error only."""
    from orchestrator_compress.stage_run import compress

    return Compressed(*compress(ctx, config, "rtn", model, calibration, hessians))


@stage(
    "compress.gptq",
    version="6",
    workers_allowed=True,
    workers="execution",
    cites=["arXiv:2210.17323"],
    check=something_read,
)
def gptq(
    ctx: Context,
    config: GPTQConfig,
    model: Model,
    calibration: Tokens | None = None,
    hessians: Tensors | None = None,
    plan: Table | None = None,
) -> Compressed:
    """Quantize weights one transformer block at a time, moving each column's error onto the columns left.

    Layers are solved on calibration tokens or on the hessians of compress.calibrate; a plan of compress.plan says
    how to compress each layer instead of the fields here.
    """
    from orchestrator_compress.stage_run import compress

    return Compressed(*compress(ctx, config, "gptq", model, calibration, hessians, plan))


@stage(
    "compress.spqr",
    version="4",
    workers_allowed=True,
    workers="execution",
    cites=["arXiv:2306.03078"],
    check=something_read,
)
def spqr(
    ctx: Context,
    config: SpQRConfig,
    model: Model,
    calibration: Tokens | None = None,
    hessians: Tensors | None = None,
) -> Compressed:
    """Quantize to small groups with quantized statistics, and keep the weights that matter most beside them."""
    from orchestrator_compress.stage_run import compress

    return Compressed(*compress(ctx, config, "spqr", model, calibration, hessians))
