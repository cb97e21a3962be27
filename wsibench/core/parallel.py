"""Parallel execution in worker processes, and the display of its progress."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from typing import Any, Literal, TypeVar

from wsibench.core.errors import WsibenchError

T = TypeVar("T")
# Pairs of an item's position and its result, or the exception that it raised, as they are completed.
Indexed = Generator[tuple[int, Any], None, None]

# Seconds between two lines of progress in a batch run.
LINE_EVERY_S = 5.0
# Seconds between two looks of a worker process at whether its parent is alive.
WATCH_EVERY_S = 2.0


def n_workers() -> int:
    """Return the number of worker processes: ``WSIBENCH_WORKERS`` (0 works in this process), else one a usable core."""
    return int(os.environ.get("WSIBENCH_WORKERS") or len(os.sched_getaffinity(0)))


def progress(items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
    """Iterate over items and show how many are done and how long the rest will take.

    A widget in JupyterLab; in a batch one line every few seconds, since a bar redrawn in place
    turns an executed notebook into hundreds of outputs.

    Parameters
    ----------
    items
        Items to iterate over.
    total
        Number of items.
    label
        Name of the work.
    """
    if "JPY_SESSION_NAME" in os.environ:  # set by a server; a batch run has none
        from tqdm.auto import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False)
        return
    started = shown = time.monotonic()
    first = None
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        # Counted from the first item, which includes the start of the worker processes.
        first = first or now
        left = f", {clock((now - first) / (done - 1) * (total - done))} left" if done > 1 else ""
        if now - shown >= LINE_EVERY_S or (done == total and now - started >= 1):
            shown = now
            print(f"{label}: {done}/{total}{left}", flush=True)


def clock(seconds: float) -> str:
    """Format a duration: ``33 s``, ``3 min 07 s`` or ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def parallel_map(
    function: Callable[[T], Any],
    items: Sequence[T],
    *,
    label: str,
    errors: Literal["raise", "return"] = "raise",
    most: int | None = None,
) -> list[Any]:
    """Apply a function to every item, in worker processes, and return the results in the order of the items.

    A single item and a single worker have a process of their own, too: a crash costs one item, and
    the results do not depend on the number of workers, each of which runs one thread.

    Parameters
    ----------
    function
        A module-level function: worker processes import it by name.
    items
        Picklable arguments of `function`.
    label
        Name of the work in the progress display.
    errors
        ``raise`` the first exception; or ``return`` exceptions in place of results, so that a slide
        that cannot be processed does not stop the others.
    most
        Maximum number of worker processes, such as one for each CUDA device.

    Returns
    -------
    list
        One result an item.
    """
    workers = min(n_workers(), len(items), len(items) if most is None else most)
    pairs = _in_pool(function, items, workers) if workers else _in_process(function, items)
    results: dict[int, Any] = {}
    with closing(pairs):
        for index, result in progress(pairs, total=len(items), label=label):
            if errors == "raise" and isinstance(result, BaseException):
                raise result
            results[index] = result
    return [results[index] for index in range(len(items))]


def _in_process(function: Callable[[T], Any], items: Sequence[T]) -> Indexed:
    for index, item in enumerate(items):
        try:
            yield index, function(item)
        except Exception as error:
            yield index, error


def _completed(pool: Executor, function: Callable[[T], Any], items: dict[int, T]) -> Indexed:
    with pool:
        try:
            futures = {pool.submit(function, item): index for index, item in items.items()}
            for future in as_completed(futures):
                yield futures[future], future.exception() or future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _in_pool(function: Callable[[T], Any], items: Sequence[T], workers: int) -> Indexed:
    unfinished = dict(enumerate(items))
    with suppress(BrokenProcessPool):  # while submitting
        for index, result in _completed(_pool(workers), function, dict(unfinished)):
            if not isinstance(result, BrokenProcessPool):
                del unfinished[index]
                yield index, result
    # A process died and broke the pool. One pool an item finds the item that kills its process.
    for index, item in unfinished.items():
        for _, result in _completed(_pool(1), function, {index: item}):
            yield index, _died() if isinstance(result, BrokenProcessPool) else result


def _died() -> WsibenchError:
    return WsibenchError(
        "The worker process was killed, by a crash in a library or for lack of memory.",
        "Check that the file is complete; with little memory, use fewer --workers.",
    )


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: torch, numba and OpenSlide hold threads and locks that a fork would copy.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),))


def _start_worker(parent: int) -> None:
    """Restrict libraries to one thread in each of several processes, and end with the parent process."""
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_EVERY_S)
    os._exit(1)
