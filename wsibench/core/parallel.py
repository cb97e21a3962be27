"""Where per-slide work runs, and how its progress is shown."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

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


def map_slides(
    function: Callable[[T], Any],
    tasks: Sequence[T],
    *,
    label: str,
    workers: int | None = None,
    threads: int | None = None,
) -> Iterator[tuple[T, Any]]:
    """Run `function` on every task, yielding ``(task, result)`` as they end, in any order.

    A task that raises yields its exception as the result, and one that kills its process yields a
    `BrokenProcessPool`: one bad slide never takes the others with it.  With one worker (or one
    task) everything runs in this process.

    Parameters
    ----------
    function
        A module-level function: worker processes import it by name.
    tasks
        Picklable; one a slide.
    label
        Says in the progress what is being done.
    workers
        Number of processes; `n_workers()` unless given.
    threads
        When given, so many threads of this process instead: for work that shares a CUDA device.
    """
    if threads is not None:
        return progress(_in_threads(function, tasks, threads), total=len(tasks), label=label)
    workers = min(n_workers() if workers is None else workers, len(tasks))
    pairs = _in_process(function, tasks) if workers <= 1 else _in_pool(function, tasks, workers)
    return progress(pairs, total=len(tasks), label=label)


def _in_process(function: Callable[[T], Any], tasks: Sequence[T]) -> Iterator[tuple[T, Any]]:
    for task in tasks:
        try:
            yield task, function(task)
        except Exception as error:
            yield task, error


def _in_threads(function: Callable[[T], Any], tasks: Sequence[T], threads: int) -> Iterator[tuple[T, Any]]:
    with ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(function, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.exception() or future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_pool(function: Callable[[T], Any], tasks: Sequence[T], workers: int) -> Iterator[tuple[T, Any]]:
    unfinished = list(range(len(tasks)))
    with _pool(workers) as pool:
        futures: dict[Future, int] = {}
        try:
            for index in unfinished:
                futures[pool.submit(function, tasks[index])] = index
            pending = set(futures)
            while pending:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    if isinstance(future.exception(), BrokenProcessPool):
                        continue
                    unfinished.remove(futures[future])
                    yield tasks[futures[future]], future.exception() or future.result()
        except BrokenProcessPool:  # while submitting
            pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    # A process died and took the pool with it.  One pool a task tells which of them does that.
    for index in unfinished:
        with _pool(1) as pool:
            future = pool.submit(function, tasks[index])
            yield tasks[index], future.exception() or future.result()


def _pool(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: torch, numba and OpenSlide hold threads and locks that a fork would copy.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread)


def _one_thread() -> None:
    """Keep libraries from starting a thread a core in each of several processes."""
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = "1"
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
