"""Run compiled functions over ranges of rows on the threads of torch's own OpenMP team.

After a parallel operation of torch its threads spin for milliseconds, longer than a layer takes: threads beside them
would wait for their cores (measured on 2 cores: slower than one thread). So where torch brings GNU's OpenMP, its
`GOMP_parallel` is asked to run a Python function on that team, and compiled functions release the interpreter's lock.
Elsewhere a pool of threads takes its place.

A team ends together: where other processes hold its cores, the caller waits for a turn of the scheduler, many times
what a layer takes. Who has waited like that computes alone for a while. Results do not depend on it: every row is
computed in the same way.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

# A range with fewer products than this takes less time than waking a thread for it.
_LEAST_WORK = 1 << 19
# Ranges for each thread: a slower one takes fewer.
_RANGES = 4

#: Runs a function on several threads at once and returns what went wrong.
Team = Callable[[Callable[[], None], int], list[BaseException]]


class Patience:
    """Count for how many calls the team is left alone, longer each time that it makes its caller wait again."""

    stall_s = 1e-3
    shortest, longest = 32, 4096

    def __init__(self) -> None:
        self._alone, self._length = 0, self.shortest

    def alone(self) -> bool:
        """Tell whether this call does without the team."""
        self._alone = max(0, self._alone - 1)
        return self._alone > 0

    def waited(self, own_s: float, wait_s: float) -> None:
        """Learn for how long a caller computed and then waited for the others."""
        if wait_s <= max(self.stall_s, own_s):
            self._length = self.shortest
            return
        self._alone, self._length = self._length, min(2 * self._length, self.longest)


_patience = Patience()


def over_rows(run: Callable[..., Any], arguments: tuple[Any, ...], rows: int, products: int) -> None:
    """Call `run(*arguments, start, stop)` for ranges of `rows` that run at once; `products` is the work in all."""
    threads = max(1, min(torch.get_num_threads(), rows, products // _LEAST_WORK))
    if threads == 1 or _patience.alone():
        run(*arguments, 0, rows)
        return
    parts = min(rows, threads * _RANGES)
    ranges = pairwise([rows * part // parts for part in range(parts + 1)])
    caller, began_s, ended_s = threading.get_ident(), time.perf_counter(), [0.0]

    def take() -> None:
        _take(run, arguments, ranges)
        if threading.get_ident() == caller:
            ended_s[0] = time.perf_counter()

    errors = (_team() or _pool)(take, threads)
    if errors:
        raise errors[0]
    _patience.waited(ended_s[0] - began_s, time.perf_counter() - ended_s[0])


def _take(run: Callable[..., Any], arguments: tuple[Any, ...], ranges: Iterator[tuple[int, int]]) -> None:
    for start, stop in ranges:  # the interpreter's lock makes taking the next one atomic
        run(*arguments, start, stop)


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
    started = [other for other in others if not other.cancel()]
    return errors + [failed for other in started if (failed := other.exception()) is not None]
