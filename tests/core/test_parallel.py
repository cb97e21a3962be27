"""Parallel execution isolates exceptions and crashes, and ends with its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsibench.core import WsibenchError
from wsibench.core.parallel import clock, n_workers, parallel_map, progress


def half(task: int) -> int:
    if task == 3:
        raise ValueError("three")
    if task == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return task // 2


def threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


@pytest.fixture(autouse=True)
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSIBENCH_WORKERS", str(getattr(request, "param", 2)))


@pytest.mark.parametrize("workers", [0, 1, 2], indirect=True)
def test_an_exception_is_a_result_in_process_and_in_a_pool(workers):
    one, error, two = parallel_map(half, [2, 3, 4], label="halving", errors="return")
    assert (one, two) == (1, 2)
    assert isinstance(error, ValueError)
    with pytest.raises(ValueError, match="three"):
        parallel_map(half, [2, 3, 4], label="halving")


@pytest.mark.parametrize(
    ("items", "workers"), [([2, 5, 4, 6, 8], 2), ([2, 5], 1), ([2, 5], 2), ([5], 2)], indirect=["workers"]
)
def test_a_task_that_kills_its_process_costs_that_task_alone(items, workers):
    results = parallel_map(half, items, label="halving", errors="return")
    for item, result in zip(items, results, strict=True):
        assert ("process was killed" in str(result)) if item == 5 else (result == item // 2)


def test_a_killed_process_is_raised_as_an_error_of_ours():
    with pytest.raises(WsibenchError, match="process was killed"):
        parallel_map(half, [2, 5], label="halving")


SLEEPING = """
import sys, time
sys.path.insert(0, sys.argv[1])
from sleeper import sleep_and_say
from wsibench.core import parallel_map
if __name__ == "__main__":
    parallel_map(sleep_and_say, [1, 2], label="sleeping")
"""


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, kill):
    (tmp_path / "sleeper.py").write_text(
        "import os, pathlib, time\n"
        "def sleep_and_say(item):\n"
        f"    pathlib.Path({str(tmp_path)!r}, f'{{os.getpid()}}.pid').touch()\n"
        "    time.sleep(120)\n"
    )
    (tmp_path / "parent.py").write_text(SLEEPING)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py", tmp_path])
    deadline = time.monotonic() + 60
    while len(found := list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    parent.send_signal(kill)
    parent.wait()
    workers = [Path("/proc", pid.stem) for pid in found]
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, workers))


def _alive(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_tasks_no_pool():
    assert parallel_map(half, [], label="halving") == []


def test_workers_keep_to_one_thread_each():
    assert parallel_map(threads, [1, 2], label="asking") == ["1", "1"]
    assert parallel_map(threads, [1], label="asking") == ["1"]


def test_number_of_workers_can_be_set(monkeypatch):
    monkeypatch.setenv("WSIBENCH_WORKERS", "7")
    assert n_workers() == 7
    monkeypatch.delenv("WSIBENCH_WORKERS")
    assert n_workers() == len(os.sched_getaffinity(0))


def test_batch_progress_is_lines_with_the_time_left(capsys, monkeypatch):
    times = iter([0.0, 20.0, 22.0, 26.0, 27.0])
    monkeypatch.setattr("wsibench.core.parallel.time.monotonic", lambda: next(times))
    assert list(progress("abcd", total=4, label="02 tiling")) == ["a", "b", "c", "d"]
    lines = ["02 tiling: 1/4", "02 tiling: 3/4, 3 s left", "02 tiling: 4/4, 0 s left"]
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize(("seconds", "text"), [(4, "4 s"), (127, "2 min 07 s"), (7300, "2 h 01 min")])
def test_clock(seconds, text):
    assert clock(seconds) == text
