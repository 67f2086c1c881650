"""The settings of a job in this project's words, and a solver that is compiled before time is taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from orchestrator_compress.grid import Grid
from orchestrator_compress.rules import GroupRounding
from orchestrator_compress.settings import Settings
from orchestrator_compress.solver import column_solve

#: Ways through the blocks: two passes, one pass in which layers are solved as they are reached, one dense pass,
#: and the second with bfloat16 products in the pass.
PATHS: dict[str, dict[str, Any]] = {
    "blockwise": {"true_sequential": False},
    "staged": {},
    "full_precision": {"propagate": "full_precision"},
    "bfloat16": {"forward_dtype": "bfloat16"},
}


def settings_of(job: dict[str, Any]) -> Settings:
    """Return the settings that all tools were given, for the way through the blocks that the job names."""
    given = Settings(
        method="gptq",
        bits=job["bits"],
        group_size=job["group_size"],
        act_order="static",
        damp=job["damp"],
        measure="own",
    )
    return replace(given, **PATHS[job.get("path", "blockwise")])


def warm_up() -> None:
    """Solve a small layer, so that everything is compiled and loaded."""
    inputs = torch.randn((256, 128), generator=torch.Generator().manual_seed(0))
    column_solve(inputs[:64], inputs.T @ inputs, GroupRounding(Grid(bits=4, group_size=128)))
