"""One bad slide never takes the others with it."""

import os
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from wsibench.core.parallel import clock, n_workers, parallel_map, progress


def half(task: int) -> int:
    if task == 3:
        raise ValueError("three")
    if task == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return task // 2


def threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def test_an_exception_is_a_result_in_process_and_in_a_pool():
    for workers in (1, 2):
        one, error, two = parallel_map(half, [2, 3, 4], label="halving", errors="return", workers=workers)
        assert (one, two) == (1, 2)
        assert isinstance(error, ValueError)
        with pytest.raises(ValueError, match="three"):
            parallel_map(half, [2, 3, 4], label="halving", workers=workers)


def test_a_task_that_kills_its_process_is_found_and_the_others_finish():
    results = parallel_map(half, [2, 5, 4, 6, 8], label="halving", errors="return", workers=2)
    assert isinstance(results.pop(1), BrokenProcessPool)
    assert results == [1, 2, 3, 4]


def test_no_tasks_no_pool():
    assert parallel_map(half, [], label="halving") == []


def test_workers_keep_to_one_thread_each():
    assert parallel_map(threads, [1, 2], label="asking", workers=2) == ["1", "1"]


def test_number_of_workers_can_be_set(monkeypatch):
    monkeypatch.setenv("WSIBENCH_WORKERS", "7")
    assert n_workers() == 7
    monkeypatch.delenv("WSIBENCH_WORKERS")
    assert n_workers() == len(os.sched_getaffinity(0))


def test_batch_progress_is_lines_with_the_time_left(capsys, monkeypatch):
    times = iter([0.0, 20.0, 22.0, 26.0, 27.0])
    monkeypatch.setattr("wsibench.core.parallel.time.monotonic", lambda: next(times))
    assert list(progress("abcd", total=4, label="02 tiling")) == ["a", "b", "c", "d"]
    lines = ["02 tiling: 1/4", "02 tiling: 3/4, 0:03 min left", "02 tiling: 4/4, 0:00 min left"]
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(("seconds", "text"), [(4, "0:04 min"), (130, "2:10 min"), (7300, "2 h 01 min")])
def test_clock(seconds, text):
    assert clock(seconds) == text
