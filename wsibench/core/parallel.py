"""Where per-slide work runs, and how its progress is shown."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any, Literal, TypeVar

T = TypeVar("T")

LINE_EVERY_S = 5.0
"""Seconds between two lines of progress in a batch run."""


def n_workers() -> int:
    """Worker processes for per-slide work: ``WSIBENCH_WORKERS``, else one a usable core."""
    return int(os.environ.get("WSIBENCH_WORKERS") or len(os.sched_getaffinity(0)))


def interactive() -> bool:
    """Whether a person watches this kernel in JupyterLab (a batch run has no server session)."""
    return "JPY_SESSION_NAME" in os.environ


def progress(items: Iterable[T], *, total: int, label: str) -> Iterator[T]:
    """Pass `items` on, showing how many are done and how long the rest will take.

    A widget in JupyterLab; in a batch one line every few seconds, since a bar redrawn in place
    turns an executed notebook into hundreds of outputs.
    """
    if interactive():
        from tqdm.auto import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False)
        return
    started = shown = time.monotonic()
    first = None
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        # Counted from the first item, which carries the start of the worker processes.
        first = first or now
        left = f", {clock((now - first) / (done - 1) * (total - done))} left" if done > 1 else ""
        if now - shown >= LINE_EVERY_S or (done == total and now - started >= 1):
            shown = now
            print(f"{label}: {done}/{total}{left}", file=sys.stdout, flush=True)


def clock(seconds: float) -> str:
    """A duration for reading: ``3:07 min`` or ``2 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes}:{rest:02d} min"


def parallel_map(
    function: Callable[[T], Any],
    items: Sequence[T],
    *,
    label: str,
    errors: Literal["raise", "return"] = "raise",
    workers: int | None = None,
    threads: int | None = None,
) -> list[Any]:
    """Apply a function to every item, in worker processes, and return the results in the order of the items.

    Parameters
    ----------
    function
        A module-level function: worker processes import it by name.
    items
        Picklable arguments of `function`.
    label
        Name of the work in the progress display.
    errors
        ``raise`` the first exception; or ``return`` exceptions in place of results, so that one bad
        slide costs that slide alone. An item that kills its process has a `BrokenProcessPool`.
    workers
        Number of processes; default `n_workers`.
    threads
        Number of threads of this process to use instead of worker processes, for a shared CUDA device.

    Returns
    -------
    list
        One result an item.
    """
    workers = min(n_workers() if workers is None else workers, len(items))
    if threads is not None:
        pairs = _in_threads(function, items, threads)
    elif workers <= 1:
        pairs = _in_process(function, items)
    else:
        pairs = _in_pool(function, items, workers)
    results: dict[int, Any] = {}
    with closing(pairs):
        for index, result in progress(pairs, total=len(items), label=label):
            if errors == "raise" and isinstance(result, BaseException):
                raise result
            results[index] = result
    return [results[index] for index in range(len(items))]


Indexed = Generator[tuple[int, Any], None, None]
"""Pairs of an item's position and its result, or the exception that it raised, as they come."""


def _in_process(function: Callable[[T], Any], items: Sequence[T]) -> Indexed:
    for index, item in enumerate(items):
        try:
            yield index, function(item)
        except Exception as error:
            yield index, error


def _in_threads(function: Callable[[T], Any], items: Sequence[T], threads: int) -> Indexed:
    with ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(function, item): index for index, item in enumerate(items)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.exception() or future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_pool(function: Callable[[T], Any], items: Sequence[T], workers: int) -> Indexed:
    unfinished = set(range(len(items)))
    with _pool(workers) as pool:
        try:
            futures = {pool.submit(function, items[index]): index for index in sorted(unfinished)}
            for future in as_completed(futures):
                if not isinstance(future.exception(), BrokenProcessPool):
                    unfinished.remove(futures[future])
                    yield futures[future], future.exception() or future.result()
        except BrokenProcessPool:  # while submitting
            pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    # A process died and broke the pool. One pool an item finds the item that kills its process.
    for index in sorted(unfinished):
        with _pool(1) as pool:
            future = pool.submit(function, items[index])
            yield index, future.exception() or future.result()


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: torch, numba and OpenSlide hold threads and locks that a fork would copy.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)


def _one_thread() -> None:
    """Keep libraries from starting a thread a core in each of several processes."""
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
