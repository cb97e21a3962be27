"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that this test's studies live in."""
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("WSIBENCH_DATA", str(root))
    monkeypatch.delenv("WSIBENCH_FIGURES", raising=False)
    return root


@pytest.fixture
def real_data() -> Path:
    """The folder of real files; skips, naming the variable, where there is none."""
    folder = os.environ.get("WSIBENCH_REAL_DATA")
    if not folder:
        pytest.skip("WSIBENCH_REAL_DATA is not set")
    return Path(folder)
