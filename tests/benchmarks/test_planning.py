"""Planning a model of 448 layers (64 blocks of seven) with 24 candidates each, and frontiers of it.

make bench PYTEST_ARGS="-k test_planning"
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from orchestrator_compress.planning.curves import schema
from orchestrator_compress.planning.frontier import frontier
from orchestrator_compress.planning.plan import budget_bytes, choose

pytestmark = pytest.mark.slow  # only `make bench` measures; the slow suite sees that they run
SHAPES = [(4096, 4096)] * 4 + [(11008, 4096)] * 2 + [(4096, 11008)]


def model(layers: int, odd_bytes: bool) -> pa.Table:
    """Draw curves whose error falls about fourfold a bit; with `odd_bytes` sizes have no common divisor, as outliers make them."""
    generator = np.random.default_rng(0)
    names = [f"gptq-{bits}g{group}-sym" for bits in (2, 3, 4, 8) for group in (16, 32, 64, 128, 256, 512)]
    rows = []
    for place in range(layers):
        height, width = SHAPES[place % len(SHAPES)]
        gain = float(np.exp(1.5 * generator.normal()))
        for name in names:
            bits, group = map(int, name.removeprefix("gptq-").removesuffix("-sym").split("g"))
            size = height * width * bits // 8 + 2 * height * width // group
            size += 4 * int(generator.integers(0, height * width // 400)) if odd_bytes else 0
            error = gain * height * 4.0**-bits * group**0.25 * float(np.exp(0.3 * generator.normal()))
            rows.append(
                {
                    "layer": f"layers.{place // 7}.{place % 7}",
                    "candidate": name,
                    "rows": height,
                    "columns": width,
                    "bytes": size,
                    "objective": error,
                    "relative_objective": error,
                    "energy": 1.0,
                    "fallback": "",
                }
            )
    return pa.Table.from_pylist(rows, schema=schema())


@pytest.mark.parametrize("odd_bytes", [False, True])
@pytest.mark.parametrize("layers", [448, 3500])
def test_planning(benchmark, layers: int, odd_bytes: bool) -> None:
    """The best plan at four stored bits a weight, reading the table included."""
    curves = model(layers, odd_bytes)
    budget = budget_bytes(curves, 4.0)
    plan = benchmark.pedantic(choose, (curves, budget), rounds=3)
    assert plan.exact
    assert plan.bytes <= budget
    benchmark.extra_info |= {"gap to the relaxation": plan.gap, "unused_bytes": budget - plan.bytes}


def test_planning_in_cells(benchmark) -> None:
    """The same by cells of a megabyte: about 13,000 cells."""
    curves = model(448, odd_bytes=True)
    budget = budget_bytes(curves, 4.0)
    plan = benchmark.pedantic(choose, (curves, budget), {"resolution_bytes": 2**20}, rounds=3)
    assert not plan.exact
    assert plan.gap < 0.1
    benchmark.extra_info |= {"gap to the relaxation": plan.gap}


def test_frontier(benchmark) -> None:
    """64 budgets in one pass over 65,536 cells."""
    line = benchmark.pedantic(frontier, (model(448, odd_bytes=True), 64), rounds=3)
    objective, bound = (np.array(line[name]) for name in ("objective", "lower_bound"))
    benchmark.extra_info |= {"largest gap to the relaxation": float((1 - bound / objective).max())}
