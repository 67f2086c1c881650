"""How far the column solver is from the linear algebra that it cannot do without.

    make bench PYTEST_ARGS="-k column_solver"

The floor is one Cholesky factorization of H and one product W H of the same size, in float32 on the same threads,
measured in the same process. By flops, C^3 / 3 + 2 R C^2 of the floor face 2 C^3 / 3 + R C^2 of the solver (factor,
its inverse, updates): on square layers 7 / 3 to 5 / 3, so that a ratio of 1 is slower than peak but no slower than
the library's own routines at these sizes. Processor seconds are counted, because a shared machine stretches others.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from orchestrator_compress import NM, GroupRounding, SparseGPT, SpQR, System, Unstructured, column_solve
from orchestrator_compress.grid import Grid
from orchestrator_compress.solver import Rule

pytestmark = pytest.mark.slow  # only `make bench` measures; the slow suite sees that they run
ROUNDS = 3

RULES: dict[str, Callable[[], Rule]] = {
    "gptq": lambda: GroupRounding(Grid(bits=4, group_size=128)),
    "sparsegpt": lambda: SparseGPT(Unstructured(sparsity=0.5)),
    "sparsegpt_2_4": lambda: SparseGPT(NM()),
    "joint": lambda: SparseGPT(Unstructured(sparsity=0.5), GroupRounding(Grid(bits=4, group_size=128))),
    "spqr": lambda: SpQR(3, 16),
}


def best_s(run: Callable[[], object]) -> float:
    """Return the least processor seconds of several runs."""
    seconds = []
    for _ in range(ROUNDS):
        started_s = time.process_time()
        run()
        seconds.append(time.process_time() - started_s)
    return min(seconds)


@pytest.mark.parametrize("size", [1024, 2048])
@pytest.mark.parametrize("name", RULES)
def test_column_solver(benchmark, name, size):
    """A square layer on inputs of a quarter of its rank, solved with and without its factor at hand."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn((2 * size, size // 4), generator=generator) @ torch.randn(
        (size // 4, size), generator=generator
    )
    inputs += 0.1 * torch.randn(inputs.shape, generator=generator)
    hessian = inputs.T @ inputs / len(inputs)
    weight = torch.randn((size, size), generator=generator)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(size)
    cholesky_s, product_s = best_s(lambda: torch.linalg.cholesky(damped)), best_s(lambda: weight @ hessian)
    make, system = RULES[name], System(hessian)
    solution = benchmark.pedantic(lambda: column_solve(weight, hessian, make()), rounds=ROUNDS, warmup_rounds=1)
    assert not solution.fallback
    column_solve(weight, system, make())
    solve_s = best_s(lambda: column_solve(weight, hessian, make()))
    shared_s = best_s(lambda: column_solve(weight, system, make()))
    benchmark.extra_info |= {
        "cholesky_s": cholesky_s,
        "product_s": product_s,
        "solve_s": solve_s,
        "solve_with_factor_s": shared_s,
        "over_floor": solve_s / (cholesky_s + product_s),
        "over_floor_with_factor": shared_s / (cholesky_s + product_s),
        "identity_error": solution.identity_error,
    }
