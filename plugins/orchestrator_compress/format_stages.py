"""The stages about files: conversion between formats and examination of checkpoints."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from orchestrator import Context, StageError, stage
from orchestrator_storage import Model, Table


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """What a recipe may set for a conversion.

    format  what to write: gptq and gptq_v2 for vLLM and GPTQ loaders, compressed-tensors for transformers and vLLM,
            dense for tools that know neither
    repair  read files whose zero points or 3-bit packing are mislabelled as what they are, instead of refusing them
    """

    format: Literal["compressed-tensors", "gptq", "gptq_v2", "dense"] = "gptq"
    repair: bool = False


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What a recipe may set for an examination.

    fail_on  the least severity of a finding that fails the stage; never: report only
    """

    fail_on: Literal["error", "warning", "never"] = "never"


class Examination(NamedTuple):
    """What was found, the worst first, and one row of facts per compressed layer."""

    findings: Table
    layers: Table


@stage("compress.convert", version="1")
def convert(ctx: Context, config: ConvertConfig, model: Model) -> Model:
    """Write a compressed model in another format, code by code: nothing is rounded again."""
    from orchestrator_compress.errors import CompressionError
    from orchestrator_compress.formats.convert import convert as convert_checkpoint

    if model.format == "dense":
        raise StageError("compress.convert takes a compressed model, this one is dense", "compress it first")
    result = ctx.new(Model, "result", format=config.format)
    try:
        size = convert_checkpoint(model.path, result.path, config.format, repair=config.repair)
    except CompressionError as error:
        raise StageError(str(error)) from error
    ctx.log_metrics({"bits_per_parameter": size.bits_per_parameter, "stored_bytes": float(size.stored_bytes)})
    ctx.fact("stored_bytes", size.stored_bytes, "byte", "counted")
    ctx.fact("parameters", size.parameters, "1", "counted")
    ctx.fact("nonzero", size.nonzero, "1", "counted")
    ctx.fact("bits_per_parameter", size.bits_per_parameter, "bit", "counted")
    return result


@stage("compress.doctor", version="1")
def doctor(ctx: Context, config: DoctorConfig, model: Model) -> Examination:
    """Examine the files of a model: labels against tensors, zero points, packings, group indices, limits of kernels."""
    import pyarrow as pa

    from orchestrator_compress.formats.doctor import diagnose

    diagnosis = diagnose(model.path)
    found, errors, warnings = diagnosis.findings, diagnosis.count("error"), diagnosis.count("warning")
    ctx.log_metrics({"errors": float(errors), "warnings": float(warnings), "layers": float(diagnosis.layers.num_rows)})
    failing = errors * (config.fail_on != "never") + warnings * (config.fail_on == "warning")
    if failing:
        raise StageError(
            f"compress.doctor found {errors} errors and {warnings} warnings; the first: [{found[0].code}] {found[0]}",
            "mend the files, or set fail_on: never to report only",
        )
    columns = ("code", "severity", "layer", "message", "fix")
    schema = pa.schema([(column, pa.string()) for column in columns])
    rows = [{column: getattr(finding, column) for column in columns} for finding in found]
    return Examination(
        findings=ctx.table(pa.Table.from_pylist(rows, schema=schema), "findings"),
        layers=ctx.table(diagnosis.layers, "layers"),
    )
