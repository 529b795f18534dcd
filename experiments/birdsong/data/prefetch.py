"""Preparing batches and other results ahead of their use, in background threads or processes."""

import collections
import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from birdsong.files import Problem

# The function to compute, in a background process
_function: Callable[[Any], Any]


def run_ahead(
    function: Callable[[Any], Any], items: Iterable, threads: int = 0, processes: int = 0, ahead: int | None = None
) -> Iterator:
    """Yield function(item) for each of `items`, in their order, computed ahead in the background.

    The workers are `processes`, or if that is 0, `threads`; if both are 0, the caller computes. In addition to the last
    result yielded, at most `ahead` results exist (default: workers + 2; at least the number of workers). An exception
    in a call is raised here when its result is due; if a process dies, Problem is raised. When the generator is closed
    or deleted, the workers end. Processes are forked, so that `function` can be any function, but its results are
    pickled, which makes processes slower than threads for batches.
    """
    workers = processes or threads
    ahead = max(workers, workers + 2 if ahead is None else ahead)
    if processes:
        context = multiprocessing.get_context('fork')
        pool = concurrent.futures.ProcessPoolExecutor(processes, context, _begin_process, (function, os.getpid()))
        return _run(pool, _call, items, ahead)
    if threads:
        return _run(concurrent.futures.ThreadPoolExecutor(threads, 'feed'), function, items, ahead)
    return map(function, items)


def _run(pool: concurrent.futures.Executor, function: Callable, items: Iterable, ahead: int) -> Iterator:
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except concurrent.futures.BrokenExecutor:
        raise Problem(
            'a background process died or sent unreadable data; is there enough memory? '
            'Try fewer bg_processes, or bg_threads instead'
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_process(function: Callable, parent: int) -> None:
    global _function
    _function = function
    # Ctrl-C is sent to all processes of the group, but the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _call(item: Any) -> Any:
    return _function(item)


def _end_with(parent: int) -> None:
    """End this process soon after its parent was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
