"""The seeds of a carried workload one after another, each kept when it is done, so that a killed stage goes on there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator_network.flow_tables import flow_rows, with_seed
from orchestrator_network.samples import Samples
from orchestrator_network.simulation import Result

_SAMPLES = "samples.json"
_SAMPLED, _KNOWN = ("queues", "windows", "received", "ports"), ("every_ps", "bdp_bytes", "packet_bytes")


@dataclass(frozen=True, kw_only=True, eq=False)
class SeedRun:
    """One seed: ``flows`` and ``links`` with the seed as a column, ``summary`` and ``samples`` as from `simulate`."""

    seed: int
    flows: pa.Table
    links: pa.Table
    summary: dict[str, Any]
    samples: Samples | None = None


def run_seeds(
    folder: Path,
    seeds: range,
    carry: Callable[[int, Callable[[int, int], None]], Result],
    progress: Callable[[int, int], None],
    sampled: int | None = None,
) -> Iterator[SeedRun]:
    """Yield a run for every seed; those that ``folder`` holds are read, all others go through ``carry`` and are kept.

    ``carry(seed, progress)`` simulates one seed; ``progress(done, total)`` counts flows over all seeds, those of seeds
    to come as many as the last one had. The seed ``sampled`` is simulated again if it was kept without samples.
    """
    behind = 0
    for number, seed in enumerate(seeds):
        kept, left = folder / f"seed{seed}", len(seeds) - number
        if not kept.is_dir() or (seed == sampled and not (kept / _SAMPLES).exists()):

            def report(done: int, flows: int, behind: int = behind, left: int = left) -> None:
                progress(behind + done, behind + left * flows)

            result = carry(seed, report)
            run = SeedRun(
                seed=seed,
                flows=flow_rows(result.flows, seed),
                links=with_seed(result.links, seed),
                summary=result.summary,
                samples=result.samples,
            )
            _keep(run, kept)
        # What was just simulated is read back, too: a stage that was killed and one that was not take the same way.
        run = _read(kept, seed)
        behind += len(run.flows)
        progress(behind, behind + (left - 1) * len(run.flows))
        yield run


def _keep(run: SeedRun, folder: Path) -> None:
    """Write a run beside its place and move it there, so that a folder is whole or absent."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tables = {"flows": run.flows, "links": run.links}
    if run.samples is not None:
        tables |= {name: getattr(run.samples, name) for name in _SAMPLED}
        known = {name: getattr(run.samples, name) for name in _KNOWN}
        _write(unfinished / _SAMPLES, json.dumps(known).encode())
    for name, table in tables.items():
        content = pa.BufferOutputStream()
        with pa.ipc.new_file(content, table.schema) as writer:
            writer.write_table(table)
        _write(unfinished / f"{name}.arrow", content.getvalue())
    _write(unfinished / "summary.json", json.dumps(run.summary).encode())
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _write(path: Path, content: Any) -> None:
    """Write a file that is on the disk before its folder takes its name, so that no power cut leaves half of it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(folder: Path, seed: int) -> SeedRun:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    samples = None
    if (folder / _SAMPLES).exists():
        known = json.loads((folder / _SAMPLES).read_text(encoding="utf-8"))
        samples = Samples(**_tables(folder, _SAMPLED), **known)
    return SeedRun(seed=seed, summary=summary, samples=samples, **_tables(folder, ("flows", "links")))


def _tables(folder: Path, names: Iterable[str]) -> dict[str, pa.Table]:
    tables = {}
    for name in names:
        with pa.OSFile(str(folder / f"{name}.arrow"), "rb") as file:
            tables[name] = pa.ipc.open_file(file).read_all()
    return tables
