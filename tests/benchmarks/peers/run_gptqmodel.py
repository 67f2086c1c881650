"""GPTQ by GPTQModel, in its own environment: `python run_gptqmodel.py job.json`."""

from __future__ import annotations

import os

from measure import Phases, job

settings, phases = job(), Phases()
# Left alone, the tool wants more workers than a small host has processors, and stops; it needs two at least.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, settings["threads"])))

with phases.phase("import"):
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig
    from gptqmodel.version import __version__
    from safetensors.torch import load_file

torch.set_num_threads(settings["threads"])

with phases.phase("load"):
    config = QuantizeConfig(
        bits=settings["bits"],
        group_size=settings["group_size"],
        sym=True,
        desc_act=True,
        static_groups=True,
        act_group_aware=False,
        damp_percent=settings["damp"],
        device="cpu",
    )
    model = GPTQModel.load(settings["model"], config, dtype=torch.float32)
    tokens = load_file(settings["tokens"])["calibration"]
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in tokens]

with phases.phase("quantize"):
    model.quantize(rows, batch_size=settings["batch"])

with phases.phase("save"):
    model.save(settings["out"])

phases.write(settings["result"], tool="GPTQModel", version=__version__, torch=torch.__version__, format="gptq")
