"""Run compiled functions over ranges of rows on the threads of torch's own OpenMP team.

After a parallel operation of torch its threads spin for about a millisecond, longer than a layer takes: threads beside
them would wait for their cores (measured on 2 cores: half the speed). So where torch brings GNU's OpenMP, its
`GOMP_parallel` is asked to run a Python function on that team, and compiled functions release the interpreter's lock.
Elsewhere a pool of threads takes its place. Ranges are taken one by one, so that a smaller team does the same work.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

# A range with fewer products than this takes less time than waking a thread for it.
_LEAST_WORK = 1 << 19


def over_rows(run: Callable[..., Any], arguments: tuple[Any, ...], rows: int, products: int) -> None:
    """Call `run(*arguments, start, stop)` for ranges of `rows` that run at once; `products` is the work in all."""
    threads = max(1, min(torch.get_num_threads(), rows, products // _LEAST_WORK))
    if threads == 1:
        run(*arguments, 0, rows)
        return
    edges = [rows * part // threads for part in range(threads + 1)]
    ranges = pairwise(edges)
    team = _team() or _pool
    errors = team(lambda: _take(run, arguments, ranges), threads)
    if errors:
        raise errors[0]


def _take(run: Callable[..., Any], arguments: tuple[Any, ...], ranges: Iterator[tuple[int, int]]) -> None:
    for start, stop in ranges:  # the interpreter's lock makes taking the next one atomic
        run(*arguments, start, stop)


Team = Callable[[Callable[[], None], int], list[BaseException]]


@cache
def _team() -> Team | None:
    """Return what runs a function on every thread of torch's team, None where torch has no GNU OpenMP of its own."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    if not found:
        return None
    parallel = ctypes.CDLL(str(found[0])).GOMP_parallel
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    parallel.argtypes = [body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None

    def team(function: Callable[[], None], threads: int) -> list[BaseException]:
        errors: list[BaseException] = []

        def guarded(_data: int | None) -> None:
            try:
                function()
            except BaseException as error:
                errors.append(error)

        parallel(body(guarded), None, threads, 0)
        return errors

    return team


@cache
def _executor(process: int) -> ThreadPoolExecutor:
    del process  # threads do not survive a fork, so that each process has its own
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="compressed-rows")


def _pool(function: Callable[[], None], threads: int) -> list[BaseException]:
    others = [_executor(os.getpid()).submit(function) for _ in range(threads - 1)]
    errors: list[BaseException] = []
    try:
        function()
    except BaseException as error:
        errors.append(error)
    return errors + [failed for other in others if (failed := other.exception()) is not None]
