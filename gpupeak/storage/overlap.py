"""Many files are looked at: one after another, or where a file system lets each wait, as shared ones do, at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

_SLOW = 2e-4  # seconds that one waits: a shared file system takes a millisecond, a local disk 10 us
_TRIED = 16
_THREADS = 64
_TOGETHER = 8  # items a task: handing one over costs as much as opening a local file


def overlapped(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> Generator[_Found]:
    """`function` of each item, in their order: plainly as long as it does not wait, else by 64 threads.

    Up to 1024 items are taken ahead. What `function` raises is raised here.
    """
    items = iter(items)

    def of(few: list[_Item]) -> list[_Found]:
        return [function(item) for item in few]

    while True:
        waits = []
        for item in islice(items, _TRIED):
            began = time.perf_counter() - time.thread_time()
            found = function(item)
            waits.append(time.perf_counter() - time.thread_time() - began)
            yield found
        if not waits:
            return
        if sorted(waits)[len(waits) // 2] > _SLOW:  # a single one may have been another process's turn
            break
    tasks = iter(lambda: list(islice(items, _TOGETHER)), [])
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="gpupeak-look") as threads:
        begun = deque(threads.submit(of, task) for task in islice(tasks, 2 * _THREADS))
        try:
            while begun:
                yield from begun.popleft().result()
                begun.extend(threads.submit(of, task) for task in islice(tasks, 1))
        finally:
            threads.shutdown(cancel_futures=True)
