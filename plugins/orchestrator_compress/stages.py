"""The stages of the compress family: thin adapters over `compress_loaded`."""

import time
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from orchestrator import Context, StageError, stage
from orchestrator_storage import Model, Table, Tokens


class Compressed(NamedTuple):
    """A compressed model and one row per compressed layer."""

    result: Model
    layers: Table


@dataclass(frozen=True, kw_only=True)
class RTNConfig:
    """What a recipe may set for rounding to nearest.

    bits                   code width of every quantized weight
    group_size             inputs that share a scale; must divide every layer's inputs; -1: the whole row
    symmetric              grids around zero; otherwise each group stores a zero point
    scale_dtype            stored type of scales; auto: float16 on symmetric grids, float32 on others
    ignore                 layer names or re:PATTERNS to leave dense; lm_head and embeddings always are
    calibration_sequences  sequences of the train split that objectives are measured on
    heldout_sequences      sequences of the held-out split that they are measured on again; 0: none
    sequence_length        tokens per sequence, at most the model's context
    """

    bits: Literal[2, 3, 4, 8] = 4
    group_size: int = 128
    symmetric: bool = True
    scale_dtype: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    ignore: tuple[str, ...] = ()
    calibration_sequences: int = 128
    heldout_sequences: int = 32
    sequence_length: int = 128

    def __post_init__(self) -> None:
        if self.group_size != -1 and self.group_size < 1:
            raise ValueError(f"group_size is {self.group_size}; it is a number of inputs, or -1 for one group per row")
        for name, least in (("calibration_sequences", 1), ("heldout_sequences", 0), ("sequence_length", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class GPTQConfig(RTNConfig):
    """What a recipe may set for GPTQ, beside the fields of round to nearest.

    act_order   static: largest inputs first, on grids fitted beforehand; none: natural order, grids fitted as groups
    begin
    damp        added to the Hessian's diagonal, relative to its mean
    block_size  columns between two updates of all the rest; changes speed, not results
    strict      fail where damping would have to grow or a layer be rounded to nearest, instead of recording it
    """

    act_order: Literal["static", "none"] = "static"
    damp: float = 0.01
    block_size: int = 128
    strict: bool = False

    def __post_init__(self) -> None:
        RTNConfig.__post_init__(self)
        if not 0 <= self.damp <= 1:
            raise ValueError(f"damp is {self.damp}; it is relative to the mean diagonal and lies in 0..1")
        if self.block_size < 1:
            raise ValueError(f"block_size is {self.block_size}; it is a number of columns")


@stage("compress.rtn", version="1", cites=["arXiv:2210.17323"])
def rtn(ctx: Context, config: RTNConfig, model: Model, calibration: Tokens | None = None) -> Compressed:
    """Round every weight to its nearest grid value; calibration tokens serve to measure the error only."""
    return _compress(ctx, config, model, calibration, "rtn")


@stage("compress.gptq", version="2", cites=["arXiv:2210.17323"])
def gptq(ctx: Context, config: GPTQConfig, model: Model, calibration: Tokens) -> Compressed:
    """Quantize weights one transformer block at a time, moving each column's error onto the columns left."""
    return _compress(ctx, config, model, calibration, "gptq")


def _compress(
    ctx: Context, config: RTNConfig, model: Model, calibration: Tokens | None, method: Literal["rtn", "gptq"]
) -> Compressed:
    from orchestrator_compress.compress import compress_loaded
    from orchestrator_compress.errors import CompressionError
    from orchestrator_compress.figures import error_by_layer

    if model.format != "dense":
        raise StageError(
            f"compress.{method} takes a model of format 'dense', this one is {model.format!r}", "wire the dense model"
        )
    result = ctx.new(Model, "result", format="compressed-tensors")

    def on_layer(done: int, total: int, _record: object) -> None:
        ctx.progress(done, total, "layers")
        ctx.check_cancelled()

    started_s = time.perf_counter()
    try:
        report = compress_loaded(
            ctx.component("model_loader", model.format).load(model.path),
            model.path,
            result.path,
            _settings(config, method),
            calibration=_tokens(calibration, "train", config.calibration_sequences, config.sequence_length),
            heldout=_tokens(calibration, "heldout", config.heldout_sequences, config.sequence_length),
            scratch=ctx.scratch / "layers",
            on_layer=on_layer,
        )
    except CompressionError as error:
        raise StageError(str(error)) from error
    # What an earlier, killed attempt spent on layers counts too: the greater of the two is the cost of the result.
    elapsed_s = max(time.perf_counter() - started_s, report.seconds)
    ctx.log_metrics(report.metrics)
    ctx.log_figure("error_by_layer", error_by_layer(report.layers, f"{method}, {config.bits} bits"))
    size = report.size
    ctx.fact("stored_bytes", size.stored_bytes, "byte", "counted")
    ctx.fact("parameters", size.parameters, "1", "counted")
    ctx.fact("nonzero", size.nonzero, "1", "counted")
    ctx.fact("bits_per_parameter", size.bits_per_parameter, "bit", "counted")
    ctx.fact("compress_s", elapsed_s, "s", "measured", phase="compress")
    return Compressed(result=result, layers=ctx.table(report.layers, "layers"))


def _settings(config: RTNConfig, method: Literal["rtn", "gptq"]) -> Any:
    from orchestrator_compress.settings import Settings

    known = {field.name for field in fields(Settings)}
    given = {field.name: getattr(config, field.name) for field in fields(config) if field.name in known}
    given["scale_dtype"] = None if config.scale_dtype == "auto" else config.scale_dtype
    return Settings(method=method, **given)


def _tokens(tokens: Tokens | None, split: str, sequences: int, length: int) -> Any:
    from orchestrator_compress.calibration import token_windows

    if tokens is None or sequences == 0:
        return None
    return token_windows(tokens.read(split).tokens, sequences, length)
