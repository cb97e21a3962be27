"""Report: one self-contained page with the numbers of the leaderboard, and notebooks as such pages."""

import re
from html.parser import HTMLParser

import boards
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from boards import BOARD

from wsibench import assembly, cohort, figures, ranking, regression, tiling
from wsibench.cli.run import leaderboard_text
from wsibench.core import Failure, NotReady, Study, record_failures
from wsibench.figures import report

LOADED = re.compile(
    r"""(?:\bsrc|\bsrcset|<link[^>]*\bhref)\s*=\s*["']?\s*(?:https?:)?//"""
    r"""|url\(\s*["']?https?:|@import|\bimport\b[^;\n]*['"]https?:"""
)
"""Patterns that make a page load something from elsewhere."""


class Page(HTMLParser):
    """Rows of all tables as text, attributes of all images, links."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.images, self.links, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.open.append(tag)
        elif tag == "img":
            self.images.append(dict(attrs))
        elif tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def write_study(folder, **sections):
    content = {
        "title": "Forty <patients> & two tables",
        "cohort": {"source": "local", "patients": "patients.csv", "expression": "expression.csv"},
        "features": {"sharp": {"table": "sharp.csv", "tcga": "yes"}, "blunt": {"table": "blunt.csv"}},
        "controls": ["site"],
        "folds": {"n": 4},
        "probes": ["ridge"],
        "ranking": {"bootstrap": 100, "permutations": {"ridge": 5}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content | sections))
    return Study.load(folder.name)


@pytest.fixture
def folder(data_root, monkeypatch):
    """Tables of 40 patients on 8 sites; one gene is the same in all of them."""
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
    folder = data_root / "own"
    folder.mkdir()
    rng = np.random.default_rng(0)
    ids = pd.Index([f"P{i:02}" for i in range(40)], name="patient_id")
    pd.DataFrame({"site": [f"S{i % 8}" for i in range(40)]}, ids).to_csv(folder / "patients.csv")
    latent = rng.normal(size=(40, 3))
    genes = pd.DataFrame(latent @ rng.normal(size=(3, 12)) + 0.5 * rng.normal(size=(40, 12)), ids).add_prefix("GENE")
    genes.assign(FLAT=1.0).to_csv(folder / "expression.csv")
    for name, noise in (("sharp", 0.2), ("blunt", 2.0)):
        pd.DataFrame(latent + noise * rng.normal(size=(40, 3)), ids).add_prefix("f").to_csv(folder / f"{name}.csv")
    return folder


@pytest.fixture
def ranked(folder):
    study = write_study(folder)
    cohort.build(study)
    assembly.assemble(study)
    regression.regress(study)
    ranking.rank(study)
    return study


def page_of(study):
    path = study.figures / "index.html"
    assert report.write_report(study).path == str(path)
    return path.read_text()


def test_page_of_a_ranked_study(ranked):
    drawn = set(figures.draw(ranked)["figure"])
    assert {"differences", "significant"} <= drawn
    assert "training_curves" not in drawn
    text = page_of(ranked)
    assert not LOADED.search(text)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "Forty &lt;patients&gt; &amp; two tables" in text
    assert ranked.key in text
    assert ranking.headline(ranked) in text
    page = Page(text)
    assert len(page.images) == len(drawn)
    assert all(len(image["alt"]) > 60 and image["src"].startswith("data:image/") for image in page.images)
    for link in page.links:
        assert (ranked.figures / link).exists(), link
    rows = [row for row in page.rows if row[1:2] and row[1] in ("sharp", "blunt", "site")]
    board = pd.read_csv(ranked.leaderboard_csv, dtype=str, keep_default_na=False)
    assert len(rows) == len(board) == 6
    for row, expected in zip(rows, board.itertuples(), strict=True):
        values = [expected.mean_rho, expected.ci_low, expected.ci_high, expected.median_rho]
        numbers = [f"{float(value):.3f}".replace("-", "−").replace("−0.000", "0.000") for value in values]
        assert row[0] == (expected.rank or "–")
        assert row[1:4] == [expected.encoder, expected.probe, numbers[0]]
        assert row[4:6] == [" to ".join(numbers[1:3]), numbers[3]]
        assert row[7] == expected.tcga
    assert (ranked.figures / "leaderboard.csv").read_bytes() == ranked.leaderboard_csv.read_bytes()


def test_warnings_are_above_the_board_and_below_it_in_a_terminal(ranked):
    text = page_of(ranked)
    said = "40 patients of 8 sites: in simulated cohorts of "
    assert text.index('role="note"') < text.index(f"<b>Preserved-site folds:</b> {said}") < text.index("<table>")
    told = leaderboard_text(ranked)
    assert f"\nwarning: preserved-site {said}" in told
    assert "\nwarning: random-patient 4 of 4 folds have fewer than 20 patients, the smallest 10" in told
    assert all(len(line) <= 100 for line in told[told.index("warning:") :].splitlines())


def test_page_lists_exclusions_and_stages_that_do_not_apply(ranked):
    page = Page(page_of(ranked))
    assert any(row[0] == "gene" and row[1] == "1" for row in page.rows)
    reasons = {row[0]: row[1] for row in page.rows if re.match(r"0\d_", row[0])}
    assert reasons["06_ranking"] == "yes"
    assert "without slides" in reasons["02_tiling"]


def test_page_is_written_again_only_when_something_on_it_changed(ranked):
    figures.draw(ranked)
    page_of(ranked)
    path = ranked.figures / "index.html"
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    report.write_report(ranked)
    assert path.stat().st_mtime_ns == when
    path.unlink()
    assert page_of(ranked).encode() == before
    failure = Failure("S<1>", "tiling", "No tissue & no glass.", "Look at it.", "key")
    record_failures(ranked.failures_csv, "tiling", [failure])
    assert '<td class="text long">No tissue &amp; no glass.</td>' in page_of(ranked)


def test_page_written_before_the_figures_has_none(ranked):
    assert Page(page_of(ranked)).images == []


def test_study_that_was_not_run_has_no_report(folder):
    with pytest.raises(NotReady):
        report.write_report(write_study(folder))


def test_a_study_without_expression_is_reported(folder):
    study = write_study(folder, cohort={"source": "local", "patients": "patients.csv"})
    cohort.build(study)
    figures.draw(study)
    text = page_of(study)
    assert "Leaderboard" not in text
    assert "no expression" in text
    assert [image["alt"][:11] for image in Page(text).images] == ["40 patients"]


def test_boards_put_the_primary_scheme_first_and_controls_last():
    first, second = report.boards(BOARD)
    assert (first["title"], second["title"]) == ("Preserved-site folds", "Random-patient folds")
    ranked, controls = first["groups"]
    assert [row.rank for row in ranked] == [str(i + 1) for i in range(10)]
    assert {row.encoder for row in controls} == set(boards.CONTROLS)
    assert {row.rank for row in controls} == {"–"}


def test_competitors_without_ranks_are_no_controls():
    first, _ = report.boards(BOARD.assign(rank=pd.array([pd.NA] * len(BOARD), dtype="Int64"), p_best=np.nan))
    assert {row.encoder for row in first["groups"][0]} == set(boards.ENCODERS)


# Notebooks


@pytest.fixture
def notebook(folder):
    """An executed notebook with formula-like text, a figure with an alternative text and a widget."""
    study = write_study(folder)
    image = '<figure><img alt="Two dots" src="data:image/png;base64,AAAA"></figure>'
    output = nbformat.v4.new_output("display_data", {"text/html": image, "text/plain": ""})
    cell = nbformat.v4.new_code_cell("show(figure)", outputs=[output], execution_count=1)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Cohort\n$\\rho$ of `genes`"), cell])
    book.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}}
    study.notebooks.mkdir()
    nbformat.write(book, study.notebooks / "01_cohort.ipynb")
    nbformat.write(book, study.notebooks / "02_tiling.failed.ipynb")
    return study


def test_notebooks_become_pages_that_load_nothing(notebook):
    (page,) = report.export_notebooks(notebook)
    text = page.read_text()
    assert page == notebook.figures / "notebooks" / "01_cohort.html"
    assert not LOADED.search(text)
    assert not re.search(r"<script[^>]*\bsrc=|cdnjs|mathjax|mermaid\.esm", text, re.IGNORECASE)
    assert Page(text).images[0]["alt"] == "Two dots"
    assert "<h1" in text


def test_pages_of_unchanged_notebooks_are_kept(notebook):
    (page,) = report.export_notebooks(notebook)
    before = page.stat().st_mtime_ns
    report.export_notebooks(notebook)
    assert page.stat().st_mtime_ns == before
    book = nbformat.read(notebook.notebooks / "01_cohort.ipynb", 4)
    book.cells[0].source = "# Another cohort"
    nbformat.write(book, notebook.notebooks / "01_cohort.ipynb")
    report.export_notebooks(notebook)
    assert "Another cohort" in page.read_text()


def test_report_links_the_pages_there_are(notebook):
    cohort.build(notebook)
    report.export_notebooks(notebook)
    study = write_study(notebook.root, cohort={"source": "local", "patients": "patients.csv"})
    cohort.build(study)
    assert "notebooks/01_cohort.html" in Page(page_of(study)).links


@pytest.mark.real
def test_real_slides_without_expression(data_root, real_data, monkeypatch):
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")
    study = Study.load("real-slides")
    cohort.build(study)
    tiling.tile_slides(study)
    drawn = figures.draw(study)
    assert list(drawn["figure"]) == ["tissue_and_tiles", "tile_gallery", "cohort_overview"]
    text = page_of(study)
    assert "2 of 3 slides failed" in text
    assert "mpp" in text
    assert "no expression" in text
