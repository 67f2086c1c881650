"""What the stages of the family run: the model loaded, the work done here or by workers, results and facts gathered."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from orchestrator import Context, GangMember, StageError, component
from orchestrator_storage import Model, Table, Tensors, Tokens

from .blockwise import Compression, compress_model, finished_compression
from .calibrated_blocks import CalibratedBlocks
from .calibrating import calibrate
from .calibration import Calibration, token_windows
from .compress import Report, check_format, fitted, stored_dtype, write_report
from .errors import CompressionError
from .figures import error_by_layer
from .precision import ForwardDtype
from .records import LayerRecord
from .report_file import fingerprint
from .residence import InMemory, Residence, open_checkpoint
from .settings import Settings
from .team import join_team

if TYPE_CHECKING:
    from .calibration_stages import CalibrateConfig


log = logging.getLogger(__name__)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn the library's errors, which name value, rule and fix, into messages for the user."""
    try:
        yield
    except CompressionError as error:
        raise StageError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Job:
    """One compression or calibration as plain data, for workers: folders, settings, and which tokens to take.

    `hessians` is a folder of Tensors with its index; windows are (sequences, length), 0 sequences: none.
    """

    model: Path
    model_format: str
    tokens: Path | None
    calibration: tuple[int, int]
    heldout: tuple[int, int]
    settings: Settings | None = None
    form: str = "compressed-tensors"
    hessians: tuple[Path, str] | None = None
    scratch: Path | None = None
    expert_tokens: int | None = None
    forward_dtype: ForwardDtype = "float32"

    def open(self) -> tuple[Any, Residence]:
        """Return the model and where its weights are: a dense one's stay in their files until they are needed."""
        if self.model_format == "dense":
            return open_checkpoint(self.model)
        return component("model_loader", self.model_format).load(self.model), InMemory()

    def windows(self, split: str) -> torch.Tensor | None:
        """Return the token ids [N, T] of a split."""
        sequences, length = self.calibration if split == "train" else self.heldout
        if self.tokens is None or sequences == 0:
            return None
        return token_windows(Tokens(self.tokens).read(split).tokens, sequences, length)

    def inputs(self) -> torch.Tensor | Calibration | None:
        """Return what layers are solved on."""
        if self.hessians is None:
            return self.windows("train")
        folder, index = self.hessians
        return Calibration.mapped(Tensors(folder).file, index)


def compress(
    ctx: Context,
    config: Any,
    method: str,
    model: Model,
    calibration: Tokens | None,
    hessians: Tensors | None,
    plan: Table | None = None,
) -> tuple[Model, Table]:
    """Run one of the methods of `Settings` as a stage and return its outputs."""
    _check_inputs(method, model, hessians)
    with user_errors():
        settings, form = fitted(_settings(config, method, plan), config.format)
    result = ctx.new(Model, "result", format=form)
    job = Job(
        model=model.path,
        model_format=model.format,
        tokens=calibration.path if calibration is not None else None,
        calibration=(config.calibration_sequences, config.sequence_length),
        heldout=(config.heldout_sequences, config.sequence_length),
        settings=settings,
        form=form,
        hessians=None if hessians is None else (hessians.path, str(hessians.meta.get("index"))),
        scratch=ctx.scratch / "layers",
    )
    started_s = time.perf_counter()
    with user_errors():
        compression = _run(ctx, job)
        # Of a calibration made before, what the artifact's own digest says.
        told = fingerprint(job.windows("train")) if hessians is None else hessians.digest
        report = write_report(model.path, result.path, compression, settings, form, calibration=told)
    # What an earlier, killed attempt spent on layers counts too: the greater of the two is the cost of the result.
    elapsed_s = max(time.perf_counter() - started_s, report.seconds)
    publish(ctx, report, f"{method}, {_title(settings)}", elapsed_s)
    if plan is not None:
        _publish_outcome(ctx, plan, report)
    return result, ctx.table(report.layers, "layers")


def _publish_outcome(ctx: Context, plan: Table, report: Report) -> None:
    """Log what became of a plan, in bytes and in errors."""
    from .planning.figures import measured_against_planned
    from .planning.outcome import outcome

    objectives = {row["layer"]: row["objective"] for row in report.layers.to_pylist()}
    metrics, comparison = outcome(plan.read(), objectives, report.size.layers)
    ctx.log_metrics(metrics)
    over = metrics.get("written_over_planned", 0.0)
    if over > 1:
        log.warning(
            "the files take %.1f %% more than was planned: bytes are planned as compressed-tensors (and mixed) store them, and other "
            "formats or types of scales take more; lower bits_per_weight by as much, or leave format out",
            100 * (over - 1),
        )
    if comparison is not None:
        ctx.log_figure("measured_against_planned", measured_against_planned(comparison))


def calibrate_model(ctx: Context, config: CalibrateConfig, model: Model, tokens: Tokens) -> Tensors:
    """Run a calibration as a stage and return its output."""
    job = Job(
        model=model.path,
        model_format=model.format,
        tokens=tokens.path,
        calibration=(config.calibration_sequences, config.sequence_length),
        heldout=(config.heldout_sequences, config.sequence_length),
        scratch=ctx.scratch / "blocks",
        expert_tokens=config.expert_tokens,
        forward_dtype=config.forward_dtype,
    )
    started_s = time.perf_counter()
    with user_errors():
        if ctx.workers == 1:
            made = _calibrate(job, ctx)
        else:
            ctx.gang().run(calibrate_member, job)
            assert job.scratch is not None
            made = CalibratedBlocks(job.scratch).calibration()
    result = ctx.new(Tensors, "result", index=made.index(), model=model.digest)
    Tensors.write(result.path, {name: tensor.numpy() for name, tensor in made.tensors().items()})
    ctx.log_metrics(
        {
            "distinct_inputs": len(made.inputs),
            "layers": sum(len(one.names) for one in made.inputs),
            "tokens": max(one.tokens for one in made.inputs),
            "undercalibrated": sum(len(one.names) for one in made.inputs if one.starved),
        }
    )
    ctx.fact("calibrate_s", time.perf_counter() - started_s, "s", "measured", phase="compress")
    return result


def publish(ctx: Context, report: Report, title: str, elapsed_s: float) -> None:
    """Log the figures of a compression: metrics, the picture, sizes and seconds."""
    ctx.log_metrics(report.metrics)
    ctx.log_figure("error_by_layer", error_by_layer(report.layers, title))
    size = report.size
    ctx.fact("stored_bytes", size.stored_bytes, "byte", "counted")
    ctx.fact("parameters", size.parameters, "1", "counted")
    ctx.fact("nonzero", size.nonzero, "1", "counted")
    ctx.fact("bits_per_parameter", size.bits_per_parameter, "bit", "counted")
    ctx.fact("compress_s", elapsed_s, "s", "measured", phase="compress")


def compress_member(member: GangMember, job: Job) -> None:
    """Compress a worker's part of the layers into the shared scratch folder."""
    assert job.settings is not None
    with user_errors(), join_team(member.rank, member.size, member.init_method) as team:
        model, residence = job.open()
        compress_model(
            model,
            job.settings,
            job.inputs(),
            job.windows("heldout") if job.hessians is None else None,
            scratch=job.scratch,
            on_layer=_follow(member, member.size),
            team=team,
            stored=stored_dtype(job.model),
            residence=residence,
        )


def calibrate_member(member: GangMember, job: Job) -> None:
    """Calibrate on a worker's part of the tokens; the first worker keeps the blocks in the shared scratch folder."""
    assert job.scratch is not None
    with user_errors(), join_team(member.rank, member.size, member.init_method) as team:
        _calibrate(job, member, team)


def _calibrate(job: Job, reporter: Any, team: Any = None) -> Calibration:
    tokens = job.windows("train")
    assert tokens is not None

    def on_block(done: int, total: int) -> None:
        reporter.progress(done, total, "blocks")
        reporter.check_cancelled()

    model, residence = job.open()
    return calibrate(
        model,
        tokens,
        job.windows("heldout"),
        team=team,
        expert_tokens=job.expert_tokens,
        on_block=on_block,
        residence=residence,
        forward_dtype=job.forward_dtype,
        scratch=job.scratch,
    )


def _run(ctx: Context, job: Job) -> Compression:
    assert job.settings is not None
    model, residence = job.open()
    check_format(model, job.settings, job.form, job.model)
    if ctx.workers > 1:
        ctx.gang().run(compress_member, job)
        assert job.scratch is not None
        return finished_compression(model, job.settings, job.scratch, residence)
    return compress_model(
        model,
        job.settings,
        job.inputs(),
        job.windows("heldout") if job.hessians is None else None,
        scratch=job.scratch,
        on_layer=_follow(ctx, 1),
        stored=stored_dtype(job.model),
        residence=residence,
    )


def _follow(reporter: Any, workers: int) -> Any:
    def on_layer(done: int, total: int, _record: LayerRecord) -> None:
        reporter.progress(min(total, done * workers), total, "layers")
        reporter.check_cancelled()

    return on_layer


def _check_inputs(method: str, model: Model, hessians: Tensors | None) -> None:
    if model.format != "dense":
        raise StageError(
            f"compress.{method} takes a model of format 'dense', this one is {model.format!r}", "wire the dense model"
        )
    if hessians is not None and hessians.meta.get("model") != model.digest:
        raise StageError(
            "the hessians were calibrated on another model", "wire the same model to compress.calibrate and here"
        )


def _settings(config: Any, method: str, plan: Table | None) -> Settings:
    known = {field.name for field in fields(Settings)}
    given = {field.name: getattr(config, field.name) for field in fields(config) if field.name in known}
    if given.get("scale_dtype") == "auto":
        given["scale_dtype"] = None
    if "tau" in given and given["tau"] is None:
        given["tau"] = math.inf
    if plan is not None:
        from .planning.execute import plan_settings

        given["overrides"], dense = plan_settings(plan.read())
        given["ignore"] = (*given["ignore"], *dense)
    return Settings(method=method, **given)  # type: ignore[arg-type]


def _title(settings: Settings) -> str:
    parts = [] if settings.grid is None else [f"{settings.grid.bits} bits"]
    if settings.method in ("sparsegpt", "wanda", "magnitude"):
        parts.append(settings.pattern or f"{settings.sparsity:.0%} removed")
    return ", ".join(parts)
