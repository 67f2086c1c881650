"""How fast a layer of 4096 x 4096 is served from its compressed form, beside dense layers of torch in the same turns.

    make bench PYTEST_ARGS="-k compress_runtime"
    python -m tests.benchmarks.test_compress_runtime --threads 1

Whole modules are measured, with their Python. All of them take turns, so that what else runs on the machine meets each
alike, and each finds the last cache filled by the others. The floor is the layer's bytes at the bandwidth of reading a
large tensor, measured in the same turns; a layer that stays in a cache can be faster. One thread is measured in
processor seconds, more in wall time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import pytest
import torch
from torch import Tensor, nn

from orchestrator_compress.grid import Grid, round_to_nearest
from orchestrator_compress.runtime import CodesLinear, CSRLinear, DequantizedLinear, Int4Linear
from orchestrator_compress.weights import SparseWeight

pytestmark = pytest.mark.slow  # only `make bench` measures; the slow suite sees that they run
SIZE = 4096
TOKENS = (1, 2, 4, 8, 16, 32, 64)
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.01)
EVERY = 1 << 30


def layers(names: tuple[str, ...] | None = None) -> dict[str, nn.Module]:
    """Return the modules by name; those with a kernel use it for any number of tokens."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn((SIZE, SIZE), generator=generator)

    def sparse(density: float, dtype: torch.dtype) -> CSRLinear:
        removed = torch.rand((SIZE, SIZE), generator=torch.Generator().manual_seed(2)) >= density
        held = SparseWeight(removed=removed, values=weight.masked_fill(removed, 0).to(dtype))
        return CSRLinear(held, few_tokens=EVERY)

    codes = {bits: round_to_nearest(weight, Grid(bits=bits, group_size=128)) for bits in (2, 3, 4, 8)}
    makers: dict[str, Callable[[], nn.Module]] = {
        "float32": lambda: DequantizedLinear(codes[4]),
        "bfloat16": lambda: nn.Linear(SIZE, SIZE, bias=False).to(torch.bfloat16),
        **{f"codes{bits}": lambda held=held: CodesLinear(held, few_tokens=EVERY) for bits, held in codes.items()},
        "chunk": lambda: CodesLinear(codes[4], few_tokens=0),
        "aten int4": lambda: Int4Linear(codes[4], few_tokens=EVERY),
        **{f"csr {share}": lambda share=share: sparse(share, torch.float32) for share in DENSITIES},
        "csr 0.1 bf16": lambda: sparse(0.1, torch.bfloat16),
    }
    return {name: make() for name, make in makers.items() if names is None or name in names}


def in_turns(runs: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the seconds of each run in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began_s = clock()
            run()
            if number:  # the first round warms up
                seconds[name].append(clock() - began_s)
    return seconds


def compare(modules: dict[str, nn.Module], tokens: int, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return for each module best and median seconds, the ratio of bfloat16 to it, and the floor of its bytes."""
    inputs = torch.randn((tokens, SIZE), generator=torch.Generator().manual_seed(3))
    narrow, large = inputs.to(torch.bfloat16), torch.ones(1 << 26)

    def run(name: str, module: nn.Module) -> Callable[[], Tensor]:
        return lambda: module(narrow if name == "bfloat16" else inputs)

    runs: dict[str, Callable[[], object]] = {name: run(name, module) for name, module in modules.items()}
    runs["read"] = large.sum
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            seconds = in_turns(runs, rounds, time.thread_time if threads == 1 else time.perf_counter)
    finally:
        torch.set_num_threads(before)
    bandwidth = large.numel() * 4 / min(seconds.pop("read"))
    rows = {}
    for name, module in modules.items():
        held = sum(tensor.numel() * tensor.element_size() for tensor in [*module.parameters(), *module.buffers()])
        ratios = [dense / own for dense, own in zip(seconds["bfloat16"], seconds[name], strict=True)]
        rows[name] = {
            "best_s": min(seconds[name]),
            "median_s": statistics.median(seconds[name]),
            "over_bfloat16": statistics.median(ratios),
            "bytes": held,
            "floor_s": held / bandwidth,
            "bytes_per_s": bandwidth,
        }
    return rows


@pytest.mark.parametrize("threads", [1, 2])
def test_one_token(benchmark, threads):
    """4-bit codes, torch's 4-bit kernel and dense layers at one token."""
    modules = layers(("float32", "bfloat16", "codes4", "aten int4"))
    rows = compare(modules, 1, threads, rounds=30)
    inputs = torch.randn((1, SIZE))
    benchmark.pedantic(lambda: modules["codes4"](inputs), rounds=30, warmup_rounds=1)
    benchmark.extra_info |= rows
    assert rows["codes4"]["bytes"] * 3.5 < rows["bfloat16"]["bytes"]


@pytest.mark.parametrize("tokens", TOKENS)
def test_tokens(benchmark, tokens):
    """Every form at a number of tokens, one thread."""
    modules = layers()
    benchmark.extra_info |= compare(modules, tokens, 1, rounds=5)
    inputs = torch.randn((tokens, SIZE))
    benchmark.pedantic(lambda: modules["codes4"](inputs), rounds=5, warmup_rounds=1)


@click.command(context_settings={"show_default": True})
@click.option("--threads", default=1)
@click.option("--rounds", default=15)
@click.option("--tokens", default=TOKENS, multiple=True, type=int)
def main(threads: int, rounds: int, tokens: tuple[int, ...]) -> None:
    """Print best milliseconds of every form by tokens, and at one token ratios and floors."""
    modules = layers()
    table = {count: compare(modules, count, threads, rounds) for count in tokens}
    click.echo(
        f"{SIZE} x {SIZE}, {threads} threads, best of {rounds} turns, ms; {torch.backends.cpu.get_cpu_capability()}"
    )
    click.echo(
        f"{'tokens':14}" + "".join(f"{count:9}" for count in tokens) + "   MiB  x bf16  floor, ms (first column)"
    )
    for name in modules:
        best = "".join(f"{1e3 * table[count][name]['best_s']:9.3f}" for count in tokens)
        first = table[tokens[0]][name]
        ends = f"{first['bytes'] / 2**20:6.1f}{first['over_bfloat16']:8.2f}{1e3 * first['floor_s']:8.3f}"
        click.echo(f"{name:14}{best}{ends}")
    click.echo(f"read: {table[tokens[0]]['float32']['bytes_per_s'] / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
