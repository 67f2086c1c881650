"""Run compiled functions over ranges of rows on as many threads as torch uses.

The functions release the interpreter's lock. The caller takes the first range itself; the others go to a pool that
lives as long as the process. A forked child makes a pool of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

# A range with fewer products than this takes less time than waking a thread for it.
_LEAST_WORK = 1 << 19


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    del process  # threads do not survive a fork, so that each process has its own
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="compressed-rows")


def over_rows(run: Callable[..., Any], arguments: tuple[Any, ...], rows: int, products: int) -> None:
    """Call `run(*arguments, start, stop)` for ranges of `rows` that run at once; `products` is the work in all."""
    threads = max(1, min(torch.get_num_threads(), rows, products // _LEAST_WORK))
    if threads == 1:
        run(*arguments, 0, rows)
        return
    edges = [rows * part // threads for part in range(threads + 1)]
    pool = _pool(os.getpid())
    others = [pool.submit(run, *arguments, edges[part], edges[part + 1]) for part in range(1, threads)]
    run(*arguments, edges[0], edges[1])
    for other in others:
        other.result()
