"""Report of a study: one self-contained page, and the executed notebooks as pages beside it."""

import importlib
from pathlib import Path
from typing import Any

import pandas as pd

from wsibench import cohort, ranking
from wsibench.core import Artefact, Study, file_sha256, key_at, make_key, read_failures, read_meta, writing
from wsibench.figures.catalogue import current, picture
from wsibench.figures.style import number, probe_name, scheme_name, schemes_in_order, sentence_case

FORMAT = 5
TEMPLATES = Path(__file__).parent / "templates"
REPORT = TEMPLATES / "report.html.j2"
STAGES = ("cohort", "tiling", "embedding", "assembly", "regression", "ranking", "figures")
NOTEBOOKS = [f"{i:02}_{stage}" for i, stage in enumerate(STAGES, 1)]
MAX_FAILURES = 50  # rows on the page; failures.csv holds all
MEANING = {
    "preserved-site": "new patients of new sites; the main result",
    "random-patient": "new patients of sites in the training data",
    "external": "patients of another cohort than the training cohort",
}


def write_report(study: Study) -> Any:
    """Write ``figures/<study>/index.html`` unless it is current.

    The page opens offline and can be sent as one file. It links the figures' PDF and CSV and the
    notebooks' pages, which lie beside it.

    Returns
    -------
    IPython.display.FileLink
        Link for a notebook; ``.path`` is the page's path.
    """
    from IPython.display import FileLink

    artefact = _index(study)
    if artefact.due():
        page = _template().render(**_contents(study))
        with writing(artefact) as temporary:
            temporary.write_text(page)
    return FileLink(str(artefact.path))


def export_notebooks(study: Study) -> list[Path]:
    """Write each executed notebook that has changed as a page that loads nothing from elsewhere.

    Returns
    -------
    list of Path
        Every notebook's page, ``figures/<study>/notebooks/<notebook>.html``.
    """
    pages = []
    for name in NOTEBOOKS:
        notebook = study.notebooks / f"{name}.ipynb"
        if not notebook.exists():
            continue
        key = make_key("report", FORMAT, {"notebook": name}, [file_sha256(notebook)])
        page = Artefact(study.figures / "notebooks" / f"{name}.html", key)
        if page.due():
            text = _html(notebook)
            with writing(page) as temporary:
                temporary.write_text(text)
        pages.append(page.path)
    return pages


def _html(notebook: Path) -> str:
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="offline", extra_template_basedirs=[str(TEMPLATES)])
    return exporter.from_filename(str(notebook))[0]


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.filters["number"] = number
    return environment.get_template(REPORT.name)


def _index(study: Study) -> Artefact:
    """index.html, with a key of everything on it."""
    tables = [study.failures_csv, study.exclusions_csv, study.benchmark_exclusions_csv, study.leaderboard_csv]
    pictures = [study.figures / f"{entry.name}.png" for entry in current(study)]
    ranked = [] if ranking.not_applicable(study) else [key_at(study.leaderboard_csv)]
    section = {"yaml": study.study_yaml.read_text(), "name": study.name, "pages": _pages(study), "ranked": ranked}
    files = [*tables, study.warnings_csv, *pictures, REPORT]
    made_from = [file_sha256(path) if path.exists() else "" for path in files]
    return Artefact(study.figures / "index.html", make_key("report", FORMAT, section, made_from))


def _contents(study: Study) -> dict[str, Any]:
    failures = read_failures(study.failures_csv)
    board = None if ranking.not_applicable(study) else ranking.read(study, "leaderboard")
    return {
        "study": study,
        "headline": None if board is None else ranking.headline(study),
        "boards": [] if board is None else boards(board),
        "warnings": [] if board is None else _warnings(study),
        "figures": [(entry, *picture(study, entry)) for entry in current(study)],
        "stages": [(name, _not_applicable(name[3:], study)) for name in NOTEBOOKS],
        "pages": _pages(study),
        "exclusions": _exclusions(study),
        "failures": failures[:MAX_FAILURES],
        "n_failures": len(failures),
        "n_failed": len({row.slide_id for row in failures}),
        "n_slides": 0 if study.no_cohort else int((cohort.read_cohort(study)["slide_id"] != "").sum()),
        "yaml": study.study_yaml.read_text(),
        "versions": _versions(study),
    }


def _not_applicable(stage: str, study: Study) -> str | None:
    return importlib.import_module(f"wsibench.{stage}").not_applicable(study)


def _warnings(study: Study) -> list[tuple[str, str]]:
    rows = ranking.read(study, "warnings").itertuples()
    return [(sentence_case(scheme_name(row.scheme)) if row.scheme else "", row.message) for row in rows]


def boards(board: pd.DataFrame) -> list[dict[str, Any]]:
    """Leaderboard by scheme, the primary one first: title, meaning, counts, competitors and controls."""
    found = []
    for scheme in schemes_in_order(board["scheme"]):
        part = board[board["scheme"] == scheme].sort_values(["rank", "mean_rho"], ascending=[True, False])
        rank = part["rank"].map(lambda value: "–" if pd.isna(value) else f"{value:.0f}")
        part = part.assign(rank=rank, probe=part["probe"].map(probe_name))
        title, meaning = sentence_case(scheme_name(scheme)), MEANING[scheme]
        counts = f"{_range(part['n_patients'])} patients, {_range(part['n_genes'])} genes"
        groups = [list(part[part["control"] == control].itertuples()) for control in (False, True)]
        found.append({"title": title, "meaning": meaning, "counts": counts, "groups": groups})
    return found


def _range(values: pd.Series) -> str:
    return " to ".join(f"{value:,}" for value in sorted({values.min(), values.max()}))


def _pages(study: Study) -> list[str]:
    return [name for name in NOTEBOOKS if (study.figures / "notebooks" / f"{name}.html").exists()]


def _exclusions(study: Study) -> list[dict[str, Any]]:
    """Exclusions counted by kind and reason."""
    paths = [path for path in (study.exclusions_csv, study.benchmark_exclusions_csv) if path.exists()]
    frames = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in paths]
    if not ranking.not_applicable(study):
        genes = ranking.read(study, "excluded_genes")
        reason = genes["reason"] + ", " + genes["scheme"].map(scheme_name)
        frames.append(pd.DataFrame({"what": "gene", "id": genes["gene"], "reason": reason}))
    # "missing values (3 patients)" and "missing values (4 patients)" are one reason.
    rows = pd.concat(frames, ignore_index=True)
    rows["reason"] = rows["reason"].str.replace(r" \(.*\)$", "", regex=True)
    return rows.groupby(["what", "reason"], sort=False).size().rename("n").reset_index().to_dict("records")


def _versions(study: Study) -> str:
    """Versions that made the last result there is, so that the page is the same wherever it is written."""
    for path in (study.leaderboard_csv, study.benchmark_h5ad, study.cohort_csv):
        if meta := read_meta(path):
            return ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    return "nothing yet"
