"""GPTQ by this project beside llm-compressor and GPTQModel: the same model, tokens, settings, processors and judge.

    .venv/bin/python tests/benchmarks/compress_peers.py                 # 7M weights, some minutes
    .venv/bin/python tests/benchmarks/compress_peers.py --size 100m     # 103M weights: the acceptance run
    .venv/bin/python tests/benchmarks/compress_peers.py --sweep         # 12 settings of ours against one
    .venv/bin/python tests/benchmarks/compress_peers.py --draws 8       # quality over eight choices of calibration

Each tool runs in a process of its own with its own environment (installed by this script), ours before and after the
peers, so that a machine that slows down shows. Imports, loading and saving are timed apart. A referee then dequantizes
every result by the description of its format and measures all of them on one set of held-out Hessians and tokens.
Processor seconds stand beside wall seconds: other jobs stretch the latter.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from peers import environments, model, table

OURS = ("staged", "blockwise", "full_precision", "bfloat16")
#: Peers whose whole model, weights included, can be in bfloat16 instead.
HALVED = {"llm-compressor-bfloat16": "llm-compressor"}
KNOWN = (*OURS, *environments.PEERS, *HALVED)
ORDER = "staged,llm-compressor,gptqmodel,staged"


def run(python: Path | str, script: str, job: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """Run a script of the `peers` folder with a job, its output to a log; return what it wrote."""
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    result.unlink(missing_ok=True)
    job = job | {"result": str(result)}
    file = folder / f"{name}.job.json"
    file.write_text(json.dumps(job, indent=1))
    threads = str(job["threads"])
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    if python == sys.executable:
        sources = [environments.ROOT, environments.ROOT / "plugins", environments.ROOT / "storage"]
        environment["PYTHONPATH"] = os.pathsep.join(map(str, sources))
    else:
        environment.pop("PYTHONPATH", None)
    with log.open("w") as output:
        done = subprocess.run(
            [python, environments.HERE / script, file],
            env=environment,
            cwd=folder,  # tools leave logs where they are
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode or not result.exists():
        raise click.ClickException(f"{name} failed; its last words, from {log}:\n{log.read_text()[-2000:]}")
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def compare(base: dict[str, Any], tools: list[str], cache: Path, work: Path) -> dict[str, Any]:
    """Run the tools in their order and the referee over all of them."""
    results: dict[str, Any] = {}
    for place, tool in enumerate(tools, 1):
        name = f"{place}-{tool}"
        job = base | {"out": str(work / name), "path": tool}
        script, python = ("run_ours.py", sys.executable)
        if tool not in OURS:
            peer = environments.PEERS[HALVED.get(tool, tool)]
            job |= {"dtype": "bfloat16" if tool in HALVED else "float32"}
            script, python = peer.script, str(environments.python_of(peer, cache))
        click.echo(f"{name} ...", err=True)
        results[name] = run(python, script, job, work, name) | {"out": job["out"], "load_average": os.getloadavg()}
    click.echo("referee ...", err=True)
    judged = {name: {"out": result["out"], "format": result["format"]} for name, result in results.items()}
    verdict = run(sys.executable, "referee.py", base | {"results": judged}, work, "referee")
    for name, result in results.items():
        result["quality"] = verdict[name]
    return {"dense": verdict["dense"], "tools": results}


def warm(tools: list[str], cache: Path, threads: int) -> None:
    """Let every peer compress a tiny model once, because some compile parts of themselves at first use."""
    size = model.SIZES["tiny"]
    folder = cache / "model-tiny"
    for tool in dict.fromkeys(tools):
        if tool in OURS:
            continue
        peer = environments.PEERS[HALVED.get(tool, tool)]
        python = environments.python_of(peer, cache)
        marker = python.parents[1] / "warm"
        if not marker.exists():
            tokens = model.make(folder, size, 256, 4)
            job = settings(folder, tokens, bits=4, group_size=128, damp=0.01, batch=4, threads=threads)
            run(python, peer.script, job | {"out": str(folder / peer.name)}, folder, peer.name)
            marker.touch()


def settings(folder: Path, tokens: Path, **more: Any) -> dict[str, Any]:
    """Return what every tool is told."""
    return {"model": str(folder / "dense"), "tokens": str(tokens), "dtype": "float32", **more}


def machine() -> dict[str, Any]:
    """Return the processor and the versions that timings depend on."""
    import torch

    described = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    names = {line.split(":")[1].strip() for line in described.splitlines() if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "processors": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


@click.command(context_settings={"show_default": True})
@click.option("--size", type=click.Choice(list(model.SIZES)), default="quick", help="model: see peers/model.py")
@click.option("--sequences", type=int, help="calibration sequences; by default those of the size")
@click.option("--length", default=512, help="tokens of a sequence")
@click.option("--batch", default=4, help="sequences in one pass of a peer (ours takes 2048 tokens)")
@click.option("--bits", default=4)
@click.option("--group-size", default=128)
@click.option("--damp", default=0.01)
@click.option("--threads", default=os.cpu_count() or 1, help="of each tool")
@click.option("--tools", default=ORDER, help=f"in this order, of {', '.join(KNOWN)}")
@click.option(
    "--draws", type=click.IntRange(1), default=1, help="choices of calibration tokens; one KL alone is rounding noise"
)
@click.option("--sweep", is_flag=True, help="measure 12 settings of ours against one instead")
@click.option("--environments", "cache", type=click.Path(path_type=Path), default=environments.default_folder())
@click.option(
    "--output", type=click.Path(path_type=Path), help="JSON of everything measured; by default beside the model"
)
def main(
    size: str,
    sequences: int | None,
    length: int,
    batch: int,
    bits: int,
    group_size: int,
    damp: float,
    threads: int,
    tools: str,
    draws: int,
    sweep: bool,
    cache: Path,
    output: Path | None,
) -> None:
    """Compare the time, memory and quality of GPTQ with those of its peers, or of a sweep with those of one point."""
    chosen = tools.split(",")
    for tool in chosen:
        if tool not in KNOWN:
            raise click.BadParameter(f"{tool!r} is none of {', '.join(KNOWN)}", param_hint="--tools")
    shape = model.SIZES[size]
    folder = cache / f"model-{size}"
    tokens = model.make(folder, shape, length, sequences or shape.calibration)
    base = settings(folder, tokens, bits=bits, group_size=group_size, damp=damp, batch=batch, threads=threads)
    work = folder / f"run-{time.strftime('%Y%m%d-%H%M%S')}"
    work.mkdir()
    report: dict[str, Any] = {"machine": machine(), "size": model.describe(shape), "settings": base}
    if sweep:
        report["sweep"] = run(sys.executable, "run_sweep.py", base, work, "sweep")
        click.echo(table.sweep(report))
    else:
        warm(chosen, cache, threads)
        runs = []
        for draw in range(draws):
            tokens = model.make(folder, shape, length, sequences or shape.calibration, draw)
            (inside := work / f"draw{draw}").mkdir()
            runs.append(compare(base | {"tokens": str(tokens)}, chosen, cache, inside))
        report |= runs[0] | {"draws": runs}
        click.echo(table.comparison(report))
        click.echo(table.draws(report) if draws > 1 else "")
    file = output or work / "report.json"
    file.write_text(json.dumps(report, indent=1))
    click.echo(f"\n{file}")


if __name__ == "__main__":
    main()
