"""Many files are looked at: one after another, or where a file system lets each wait, as shared ones do, at once."""

from __future__ import annotations

import contextlib
import gc
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from statistics import median
from typing import Any, TypeVar

from gpupeak.child import Child, Ended, connect, cores

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")

_LONG = 2e-4  # seconds for one: a shared file system takes a millisecond, a local disk 10 us
_TRIED = 16
_THREADS = 64
_PROCESSES, _OF_A_PROCESS = 8, 16  # where each waits: more threads of one process would hinder each other
_TOGETHER = 8  # items that a thread takes: handing one over costs as much as opening a local file
_A_TASK = 256  # items that a process takes
_SECONDS_A_TASK = 120.0
SECONDS_ALONE = 2.0  # processes take half a second to start


def overlapped(
    function: Callable[[_Item], _Found], items: Sequence[_Item], *, processes: bool = False
) -> Generator[_Found]:
    """`function` of each item, in their order: plainly as long as that is quick, by threads where it waits.

    With `processes`, by those where the others will take seconds; then all can be pickled, and what a process that was
    killed had to do is done here. What `function` raises is raised here. Some items are taken ahead.
    """
    left, number = iter(items), len(items)
    while number:
        seconds, waits = [], []
        for item in islice(left, _TRIED):
            began, worked = time.perf_counter(), time.thread_time()
            found = function(item)
            seconds.append(time.perf_counter() - began)
            waits.append(seconds[-1] + worked - time.thread_time())
            yield found
        number -= len(seconds)
        long, waited = median(seconds), median(waits)  # a single one may have been another process's turn
        busy = max(long - waited, 1e-5)
        here = number * (busy + waited / _OF_A_PROCESS)  # seconds: waits overlap
        if processes and long > _LONG and here > SECONDS_ALONE:
            enough = round(2 * cores() * long / (busy * _OF_A_PROCESS))  # for the cores to be busy while others wait
            most = max(cores(), min(enough, _PROCESSES))
            yield from _by_processes(function, left, most, _OF_A_PROCESS if waited > _LONG else 1)
            return
        if waited > _LONG:
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="gpupeak-look") as threads:
                yield from _ahead(threads, 2 * _THREADS, partial(_each, function), _tasks(left, _TOGETHER))
            return


def _ahead(
    threads: ThreadPoolExecutor,
    most: int,
    function: Callable[[list[_Item]], Iterable[_Found]],
    tasks: Iterator[list[_Item]],
) -> Generator[_Found]:
    """What `function` finds of tasks, of which so many are begun ahead."""
    begun = deque(threads.submit(function, task) for task in islice(tasks, most))
    try:
        while begun:
            yield from begun.popleft().result()
            begun.extend(threads.submit(function, task) for task in islice(tasks, 1))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _each(function: Callable[[_Item], _Found], items: Iterable[_Item]) -> list[_Found]:
    return [function(item) for item in items]


def _tasks(items: Iterable[_Item], count: int) -> Iterator[list[_Item]]:
    left = iter(items)
    return iter(lambda: list(islice(left, count)), [])


def _by_processes(
    function: Callable[[_Item], _Found], items: Iterator[_Item], most: int, threads: int
) -> Generator[_Found]:
    tasks = list(_tasks(items, _A_TASK))
    idle: deque[Child] = deque()  # as many as threads

    def answers(task: list[_Item]) -> Iterable[_Found]:
        child = idle.pop()
        try:
            child.send(task)
            found: list[_Found] | Exception = child.receive(_SECONDS_A_TASK)
        except Ended:  # whoever killed it: nothing is lost
            return map(function, task)
        finally:
            idle.append(child)
        if isinstance(found, Exception):
            raise found
        return found

    with contextlib.ExitStack() as begun:  # if one cannot start, those before it end, too
        for _ in range(min(most, len(tasks))):
            idle.append(Child(answer, threads))
            begun.callback(idle[-1].end)
        for child in idle:  # which have all begun: what is large waits until one reads it
            child.send(function)
        yield from _ahead(ThreadPoolExecutor(len(idle)), 2 * len(idle), answers, iter(tasks))


def answer() -> None:
    """What such a process does: tasks come, and what was found goes back."""
    connection, (count,) = connect()
    gc.set_threshold(100_000)  # what is read and sent has no cycles
    function: Callable[[Any], Any] = connection.recv()
    with ThreadPoolExecutor(count) as threads, contextlib.suppress(EOFError):
        while True:
            parts = _tasks(connection.recv(), _A_TASK // count)
            try:
                connection.send([found for part in threads.map(partial(_each, function), parts) for found in part])
            except Exception as error:  # to be raised where it was asked for
                connection.send(error)
