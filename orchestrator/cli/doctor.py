"""``orchestrate doctor``: what is installed, what is broken, what is left over."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import click

from orchestrator.cli._output import json_option, print_json, print_table, size
from orchestrator.errors import HomeError, PluginError
from orchestrator.home import Home
from orchestrator.runs import list_runs

PACKAGES = (
    "torch",
    "ray",
    "mlflow",
    "hydra-core",
    "pluggy",
    "pyarrow",
    "transformers",
    "tokenizers",
    "compressed-tensors",
    "numba",
)
OPTIONAL_PACKAGES = ("numba",)
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FREE_DISK_BYTES = 5 * 2**30
FREE_SHARED_MEMORY_BYTES = 256 * 2**20

Row = tuple[str, str, str]  # what, status (ok, warning, error), detail


@click.command(short_help="Check this installation, its plugins and its home.")
@json_option
def command(as_json: bool) -> int:
    """Check versions, the home, plugins, the command on PATH, Chromium, disk, threads and runs whose driver died.

    Exit code 0 when nothing is wrong (warnings allowed), 2 when the home cannot be used, 5 when a plugin is broken.

    \b
    Examples:
      orchestrate doctor
      orchestrate doctor --json
    """  # noqa: D301 - the backslash is click's mark for text to leave as it is
    rows = list(examine())
    if as_json:
        print_json([{"what": what, "status": status, "detail": detail} for what, status, detail in rows])
    else:
        print_table(["WHAT", "STATUS", "DETAIL"], rows)
    broken = {what.partition(" ")[0] for what, status, _ in rows if status == "error"}
    return (
        HomeError.exit_code if "home" in broken else PluginError.exit_code if "plugin" in broken else 1 if broken else 0
    )


def examine() -> Iterator[Row]:
    """Yield one row for each thing looked at."""
    from orchestrator import __version__

    yield "orchestrator", "ok", __version__
    yield "python", "ok", f"{platform.python_version()} at {sys.executable}"
    yield from _packages()
    yield from _home()
    yield from _plugins()
    yield _script(Path(sysconfig.get_path("scripts")), os.environ.get("PATH", ""))
    browser = next((path for path in map(shutil.which, CHROMIUM) if path), None)
    yield "chromium", "ok" if browser else "warning", browser or "not found: browser tests skip"
    yield _threads()
    yield from _shared_memory()


def _packages() -> Iterator[Row]:
    for name in PACKAGES:
        try:
            yield name, "ok", importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "warning" if name in OPTIONAL_PACKAGES else "error", "not installed"


def _home() -> Iterator[Row]:
    try:
        home = Home.locate()
    except HomeError as error:
        yield "home", "error", str(error).replace("\n ", ";")
        return
    yield "home", "ok", str(home.path)
    free = shutil.disk_usage(home.path).free
    yield "free disk", "ok" if free >= FREE_DISK_BYTES else "warning", f"{size(free)} for the home"
    yield _dead_runs(home)


def _dead_runs(home: Home) -> Row:
    from orchestrator_storage import Holder

    running = [run for run in list_runs(home) if run.status == "running"]
    dead = [run.id for run in running if Holder.from_json(run.record["driver"]).alive() is False]
    if dead:
        return (
            "runs",
            "warning",
            f"{len(dead)} of a dead driver, closed as killed when the next run starts: {', '.join(dead[:5])}",
        )
    return "runs", "ok", f"{len(running)} running, none dead"


def _plugins() -> Iterator[Row]:
    from orchestrator.plugins import installed

    for record in installed().plugins:
        status = {"ok": "ok", "blocked": "warning"}.get(record.status, "error")
        yield (
            f"plugin {record.name}",
            status,
            f"{record.distribution} {record.version}" + (f": {record.error}" if record.error else ""),
        )


def _script(own: Path, path: str) -> Row:
    """Find the first ``orchestrate`` on PATH: another program of that name may shadow ours."""
    candidates = [Path(folder) / "orchestrate" for folder in path.split(os.pathsep) if folder]
    first = next((one for one in candidates if os.access(one, os.X_OK) and one.is_file()), None)
    if first is None:
        return (
            "command",
            "warning",
            f"orchestrate is not on PATH; it is {own / 'orchestrate'}, or use python -m orchestrator",
        )
    if first.parent.resolve() != own.resolve():
        return (
            "command",
            "warning",
            f"{first} comes first on PATH and is not of this environment ({own}); use python -m orchestrator",
        )
    return "command", "ok", str(first)


def _threads() -> Row:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS")
    text = f"{cores} cores; a stage gets one torch thread for each CPU that it asks for" + (
        f"; OMP_NUM_THREADS={limit}" if limit else ""
    )
    return "threads", "ok", text


def _shared_memory() -> Iterator[Row]:
    folder = Path("/dev/shm")  # noqa: S108 - the mount that Ray puts its object store on
    if folder.is_dir():
        free = shutil.disk_usage(folder).free
        enough = free >= FREE_SHARED_MEMORY_BYTES
        yield (
            "shared memory",
            "ok" if enough else "warning",
            size(free) + ("" if enough else ": Ray falls back to files, which is slow"),
        )
