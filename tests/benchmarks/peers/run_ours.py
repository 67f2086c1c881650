"""GPTQ by this project: `python run_ours.py job.json`, with the project on the path.

`path` of the job is one of `settings_of.PATHS`: "blockwise" passes each block twice, once for what its layers read and
once when they are quantized; "staged" passes it once and solves layers as they are reached (`true_sequential`);
"full_precision" passes the dense model once; "bfloat16" is "staged" with the products of the pass in that type.
"""

from __future__ import annotations

from pathlib import Path

from measure import Phases, job

settings, phases = job(), Phases()

with phases.phase("import"):
    import torch
    from safetensors.torch import load_file
    from settings_of import settings_of, warm_up

    from orchestrator_compress.blockwise import compress_model
    from orchestrator_compress.compress import write_report
    from orchestrator_compress.residence import open_checkpoint

torch.set_num_threads(settings["threads"])

with phases.phase("load"):
    model, residence = open_checkpoint(Path(settings["model"]))  # blocks are read while they are compressed
    tokens = load_file(settings["tokens"])["calibration"]
    warm_up()  # machine code of the solver, which peers bring compiled

with phases.phase("quantize"):
    compression = compress_model(model, settings_of(settings), tokens, residence=residence)

with phases.phase("save"):
    report = write_report(
        Path(settings["model"]), Path(settings["out"]), compression, settings_of(settings), "compressed-tensors"
    )

worst = max(record.identity_error or 0.0 for record in compression.records)
phases.write(
    settings["result"],
    tool=f"ours, {settings['path']}",
    version="",
    torch=torch.__version__,
    format="ct",
    identity_error=worst,
    fallbacks=[record.layer for record in compression.records if record.fallback],
)
