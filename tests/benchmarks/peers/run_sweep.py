"""Twelve settings of GPTQ on one calibration against one setting: `python run_sweep.py job.json`."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from measure import Phases, job
from safetensors.torch import load_file
from settings_of import settings_of, warm_up
from transformers import AutoModelForCausalLM

from orchestrator_compress import calibrate, compress_sweep

settings, phases = job(), Phases()
torch.set_num_threads(settings["threads"])
model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32).eval()
tokens = load_file(settings["tokens"])["calibration"]
warm_up()


def solve_points(points: list) -> list[float]:
    """Calibrate once and solve every layer at every point; return the summed damped objective of each point."""
    calibration = calibrate(model, tokens)
    return [
        sum(record.damped_objective for record in compression.records)
        for compression in compress_sweep(model, points, calibration)
    ]


point = settings_of(settings)
group = point.group_size
points = [
    replace(point, bits=bits, group_size=size, damp=damp)
    for bits, size, damp in product((2, 3, 4), (group // 2, group), (point.damp, 10 * point.damp))
]
with phases.phase("one point"):
    single = solve_points([point])
with phases.phase(f"{len(points)} points"):
    every = solve_points(points)
# The point that both hold must come out the same: that is what makes the comparison one of time alone.
assert every[points.index(point)] == single[0]
with phases.phase("one point, again"):
    solve_points([point])
phases.write(
    settings["result"],
    damped_objectives=[
        {"bits": at.bits, "group_size": at.group_size, "damp": at.damp, "objective": value}
        for at, value in zip(points, every, strict=True)
    ],
)
