"""Fixtures of the ranking's tests."""

import pytest
import trials


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Workers of their own would spend the test on starting."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


@pytest.fixture
def folder(data_root):
    """Folder of a study with the features tables of `trials.write_tables`."""
    trials.write_tables(data_root / "trial")
    return data_root / "trial"
