"""Work on all processors whose results come in order, however many there are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from stages.lib.common.cli import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def processors() -> int:
    """The processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Iterator[Result]:
    """Yield `function` of each item, in order; the pool works up to `ahead` items ahead of what was taken."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """Give `count` fresh Python processes that share work; used in a `with` block.

    They end with this process, whatever ends it, and leave Ctrl-C to it. Raises UserError when one of them is ended
    from outside.
    """
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_serve)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a process that starts takes that over
    try:
        for _ in range(count):
            pool.submit(processors)  # each task starts one, while none of them has got so far as to take two
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            "a process that shared the work was ended from outside, mostly for want of memory: close other programs "
            "and run the same command again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _serve() -> None:
    """Begin a process of the pool: it ends when the one that started it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
