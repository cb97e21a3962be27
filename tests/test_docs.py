"""Numbers that README.md and docs/ quote agree with finished runs."""

import importlib.util
from types import ModuleType

import pytest

from wsibench.core import CHECKOUT


@pytest.fixture(scope="module")
def numbers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quote_results", CHECKOUT / "docs" / "quote_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("study", ["demo", "tcga-brca-hif"])
def test_quoted_numbers_agree_with_the_run(numbers, study):
    if not (numbers.results(study) / "leaderboard.csv").exists():
        pytest.skip(f"the study {study} has not been run in this checkout")
    assert numbers.differences(study) == []


def test_a_number_that_differs_is_found(numbers, tmp_path, monkeypatch):
    page = "<!-- numbers: demo-leaderboard -->\nridge texture 0.25 0.194\n…\n<!-- /numbers -->\n"
    (tmp_path / "README.md").write_text(page)
    monkeypatch.setattr(numbers, "pages", lambda: [tmp_path / "README.md"])
    monkeypatch.setattr(numbers, "fresh", lambda name: "…\nridge texture 0.25 0.206\n")
    assert numbers.differences("demo") == ["README.md, demo-leaderboard: ridge texture: 0.194, now 0.206"]
    monkeypatch.setattr(numbers, "fresh", lambda name: "…\nridge texture 0.25 0.197\n")
    assert numbers.differences("demo") == []
    monkeypatch.setattr(numbers, "fresh", lambda name: "…\nridge colour 0.25 0.194\n")
    assert len(numbers.differences("demo")) == 2


def test_every_block_is_one_that_can_be_made(numbers):
    named = [name for page in numbers.pages() for _, name, _, _ in numbers.BLOCK.findall(page.read_text())]
    assert "demo-leaderboard" in named
    assert set(named) <= set(numbers.BLOCKS)
