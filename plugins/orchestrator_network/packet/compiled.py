"""Compile with numba, and keep the machine code where it belongs to exactly these sources.

numba's own cache asks only whether the file of the compiled function changed, not the files that it calls; here the
directory of the cache is named by a digest of all of them, of numba and of Python. A function of another package counts
all sources of that package, so that a helper which changes is compiled anew, too.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
from filelock import FileLock, Timeout
from numba import types

#: A congestion control's function: (window of the flow, event, constants) -> nothing; all float64 [n].
REACT = types.void(types.float64[::1], types.float64[::1], types.float64[::1])
#: A load balancer's choice: (paths of the flow, psn, packets in a window, now in ps) -> entropy value.
CHOOSE = types.int64(types.int64[::1], types.int64, types.int64, types.int64)
#: A load balancer's lesson: (paths of the flow, entropy value, verdict, now in ps) -> nothing.
LEARN = types.void(types.int64[::1], types.int64, types.int64, types.int64)


#: Modules of this folder that are never compiled.
INTERPRETED = frozenset(
    [
        "__init__",
        "bounds",
        "catalog",
        "catalog_names",
        "configs",
        "engine",
        "extras",
        "fabric",
        "operations",
        "options",
        "routers",
        "sampling",
        "tables",
        "timing",
    ]
)


def _sources(everything: bool) -> Iterator[Path]:
    """Yield what the machine code comes from; congestion controls and balancers are no part of the loop's."""
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py") if everything else here.glob("*.py")):
        if path.parent != here or path.stem not in INTERPRETED:
            yield path


def author_sources(function: Callable[..., Any]) -> tuple[Path, ...]:
    """Return the sources that a function of another package may call: those of its package, or beside its file."""
    top = function.__module__.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return ()
    folders = [Path(one) for one in getattr(sys.modules.get(top), "__path__", [])]
    if folders:
        return tuple(sorted(path for folder in folders for path in folder.rglob("*.py")))
    return tuple(sorted(Path(function.__code__.co_filename).parent.glob("*.py")))


@cache
def cache_folder(everything: bool = True, more: tuple[Path, ...] = ()) -> Path:
    """Return the folder of compiled code for these sources: of all of them, or of those of the event loop alone.

    ``more`` are sources of another package that count, too.
    """
    digest = hashlib.sha256(f"{numba.__version__} {sys.version}".encode())
    for path in (*_sources(everything), *more):
        digest.update(path.read_bytes())
    home = os.environ.get("NUMBA_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(home) / "orchestrator-network" / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"orchestrator-network-{os.getuid()}" / digest.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextmanager
def _cache_here(everything: bool = True, more: tuple[Path, ...] = ()) -> Iterator[None]:
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder(everything, more))
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called; integer overflow wraps, division by zero is not checked."""
    return numba.njit(error_model="numpy", _nrt=False)(function)


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, for a part of the kernel: nothing in Python can call it, which halves the compiler's work."""
    return numba.njit(error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `inner`, but part of every caller: passing the state costs more than what a small function does."""
    return numba.njit(
        error_model="numpy", _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True
    )(function)


def react(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function of a congestion control: ``(window, event, constants)``, see `layout` for the columns."""
    with _cache_here(more=author_sources(function)):
        return numba.njit(REACT, cache=True, error_model="numpy", _nrt=False)(function)


def choose(function: Callable[..., int]) -> Callable[..., int]:
    """Compile the choice of a load balancer: ``(paths, psn, window_packets, now_ps) -> entropy value``."""
    with _cache_here(more=author_sources(function)):
        return numba.njit(CHOOSE, cache=True, error_model="numpy", _nrt=False)(function)


def learn(function: Callable[..., None]) -> Callable[..., None]:
    """Compile the lesson of a load balancer: ``(paths, entropy, verdict, now_ps)``."""
    with _cache_here(more=author_sources(function)):
        return numba.njit(LEARN, cache=True, error_model="numpy", _nrt=False)(function)


@contextmanager
def first_time(message: str, what: str) -> Iterator[None]:
    """Say on stderr what takes long, unless it has been done on this machine."""
    # numba keeps machine code by the path of its sources, of which there may be several copies.
    copy = hashlib.sha256(str(Path(__file__).parent).encode()).hexdigest()[:8]
    done = cache_folder(everything=False) / f"compiled-{what}-{copy}"
    if done.exists():
        yield
        return
    with _alone(done.with_suffix(".lock")):
        if done.exists():  # another process has compiled it meanwhile
            yield
            return
        began_s = time.perf_counter()
        sys.stderr.write(f"{message} ...\n")
        yield
        done.touch()
        took_s = time.perf_counter() - began_s
        sys.stderr.write(f"... compiled in {took_s:.0f} s, kept in {cache_folder(everything=False)}\n")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let one process of a machine compile, while others wait for what it leaves in the cache."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.stderr.write("another process compiles the packet simulator; waiting for it ...\n")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def compile_now(signature: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile the event loop for one signature, or load it."""
    with _cache_here(everything=False):
        return numba.njit(signature, cache=True, error_model="numpy", _nrt=False)(function)
