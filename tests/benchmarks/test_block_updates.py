"""What updating columns in blocks buys over updating all the rest after every column.

    make bench PYTEST_ARGS="-k block_updates"

Both do the same R C^2 / 2 multiply-adds and choose the same codes up to rounding at boundaries. With blocks of one
column each is a rank-1 update that reads and writes the whole rest of the layer, so that memory decides; with blocks
of 128 the rest is read once for 128 columns by one matrix product (Frantar et al. 2022, arXiv:2210.17323, "lazy
batch-updates", an order of magnitude on a GPU). The factor of H is at hand in both; processor seconds are counted.
"""

from __future__ import annotations

import time

import pytest
import torch

from orchestrator_compress import GroupRounding, System, column_solve
from orchestrator_compress.grid import Grid

pytestmark = pytest.mark.slow  # only `make bench` measures; the slow suite sees that they run
BLOCKS = (1, 16, 128)


def solve_s(weight: torch.Tensor, system: System, block_size: int, rounds: int) -> tuple[float, torch.Tensor]:
    """Return the least processor seconds of several solves, and the result."""
    seconds = []
    for _ in range(rounds):
        rule = GroupRounding(Grid(bits=4, group_size=128))
        started_s = time.process_time()
        solution = column_solve(weight, system, rule, block_size=block_size)
        seconds.append(time.process_time() - started_s)
    assert not solution.fallback
    return min(seconds), solution.quantized


@pytest.mark.parametrize("size", [1024, 2048, 4096])
def test_block_updates(benchmark, size):
    """A square layer, GPTQ at 4 bits, by the number of columns between two updates of all the rest."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((2 * size, size // 4), generator=generator) @ torch.randn(
        (size // 4, size), generator=generator
    )
    inputs += 0.1 * torch.randn(inputs.shape, generator=generator)
    weight, system = torch.randn((size, size), generator=generator), System(inputs.T @ inputs / len(inputs))
    solve_s(weight, system, 128, 1)  # factors H once for all
    found = {block: solve_s(weight, system, block, 1 if block == 1 else 3) for block in BLOCKS}
    benchmark.pedantic(
        lambda: column_solve(weight, system, GroupRounding(Grid(bits=4, group_size=128))), rounds=1, warmup_rounds=0
    )
    objective = {
        block: float((((weight - made) @ system.hessian) * (weight - made)).sum()) for block, (_, made) in found.items()
    }
    assert objective[1] == pytest.approx(objective[128], rel=0.01)
    benchmark.extra_info |= {f"block_{block}_s": seconds for block, (seconds, _) in found.items()} | {
        "ratio_1_to_128": found[1][0] / found[128][0]
    }
