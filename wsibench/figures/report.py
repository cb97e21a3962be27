"""The report of a study: one self-contained page, and the executed notebooks as pages beside it."""

from pathlib import Path
from typing import Any

import pandas as pd

from wsibench import assembly, embedding, figures, tiling
from wsibench.cohort import build as cohort
from wsibench.core import Artefact, Study, file_sha256, key_at, make_key, read_failures, read_meta, writing
from wsibench.figures import findings
from wsibench.figures.plates import Plate, applying, rows
from wsibench.figures.stage import inline
from wsibench.figures.style import number, per_cent, primary_scheme, probe_name, scheme_name, sentence_case
from wsibench.ranking import caveats, leaderboard as ranking
from wsibench.regression import fit as regression

FORMAT = 4
TEMPLATES = Path(__file__).parent / "templates"
REPORT = TEMPLATES / "report.html.j2"
STAGES = {
    "01_cohort": cohort,
    "02_tiling": tiling,
    "03_embedding": embedding,
    "04_assembly": assembly,
    "05_regression": regression,
    "06_ranking": ranking,
    "07_figures": figures,
}
MOST_FAILURES = 50
INTERVAL = (
    "The 95 % interval is for new sites (preserved-site folds) or new patients (random-patient folds): these are drawn "
    "anew and ranked anew, the same draws for every encoder, and the draws are reflected at the estimate. What chance "
    "in the training patients adds is told from fits on halves of them. How often such intervals hold the truth was "
    "measured in simulated cohorts with probes refitted in each (docs/validity.md); where few patients or sites make "
    "it unusual, a warning says so."
)
EXTERNAL_INTERVAL = (
    "The 95 % interval is for new patients such as those of the test cohort, and for new sites where it has several "
    "known ones: these are drawn anew and ranked anew, the same draws for every encoder, and the draws are reflected "
    "at the estimate. It is about this fit; another training cohort would give another. How often such intervals hold "
    "the truth was measured in simulated cohorts (docs/validity.md)."
)
MEANING = {
    "preserved-site": "new patients of new sites, the arm that the study is read by",
    "random-patient": "new patients of sites that were trained on",
    "external": "patients of another cohort than the one that was trained on",
}


def report(study: Study) -> Any:
    """Write ``figures/<study>/index.html`` unless it is current.

    The page holds all it shows: it opens offline and can be sent as one file.  It links the figures'
    PDF and CSV and the notebooks' pages, which lie beside it.

    Returns
    -------
    IPython.display.FileLink
        Leads there from a notebook; ``.path`` is the page's path.
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
    for name in STAGES:
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

    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(REPORT.name)


def _index(study: Study) -> Artefact:
    """index.html, with a key of all that stands in it."""
    tables = [study.failures_csv, study.exclusions_csv, study.benchmark_exclusions_csv, study.leaderboard_csv]
    tables.append(study.warnings_csv)
    pictures = [_png(study, plate) for plate in _drawn(study)]
    ranked = [] if ranking.not_applicable(study) else [key_at(study.leaderboard_csv)]
    section = {"yaml": _yaml(study), "name": study.name, "pages": _pages(study), "ranked": ranked}
    made_from = [file_sha256(path) if path.exists() else "" for path in [*tables, *pictures, REPORT]]
    return Artefact(study.figures / "index.html", make_key("report", FORMAT, section, made_from))


def _drawn(study: Study) -> list[Plate]:
    """The plates of the study whose files are current."""
    return [plate for plate in applying(study) if not any(artefact.due() for artefact in plate.artefacts(study))]


def _png(study: Study, plate: Plate) -> Path:
    return study.figures / f"{plate.name}.png"


def _contents(study: Study) -> dict[str, Any]:
    failures = read_failures(study.failures_csv)
    board = ranking.read(study, "leaderboard") if not ranking.not_applicable(study) else None
    return {
        "title": study.title,
        "name": study.name,
        "study_key": study.key,
        "answer": None if board is None else answer(board),
        "interval": EXTERNAL_INTERVAL if study.parts else INTERVAL,
        "boards": [] if board is None else tables(board),
        "warnings": [] if board is None else _warnings(study),
        "findings": [] if board is None else findings.sections(lambda table: rows(study, table), study.ranking.rope),
        "figures": _figures(study),
        "stages": _stages(study),
        "exclusions": _exclusions(study),
        "failures": failures[:MOST_FAILURES],
        "n_failures": len(failures),
        "n_failed": len({row.slide_id for row in failures}),
        "n_slides": 0 if study.no_cohort else int((cohort.read_cohort(study)["slide_id"] != "").sum()),
        "yaml": _yaml(study),
        "versions": _versions(study),
    }


def _warnings(study: Study) -> list[dict[str, str]]:
    return [
        {"scheme": sentence_case(scheme_name(row.scheme)) if row.scheme else "", "message": row.message}
        for row in caveats.read(study).itertuples()
    ]


def answer(board: pd.DataFrame) -> str:
    """The first of the primary scheme in one sentence, with how sure that is."""
    scheme = primary_scheme(board["scheme"])
    ranked = board[(board["scheme"] == scheme) & board["rank"].notna()].sort_values("rank")
    if ranked.empty:
        return "Only controls were run: there is nothing to rank."
    first = ranked.iloc[0]
    text = (
        f"By {scheme_name(scheme)}, {first['encoder']} with {probe_name(first['probe'])} stands first: mean ρ "
        f"{number(first['mean_rho'])} ({number(first['ci_low'])} to {number(first['ci_high'])})"
    )
    if len(ranked) == 1:
        return f"{text}. Nothing else was ranked."
    second = ranked.iloc[1]
    return (
        f"{text}, first in {per_cent(first['p_best'])} of the bootstrap draws. Second is {second['encoder']} with "
        f"{probe_name(second['probe'])}, {number(second['mean_rho'])}, first in {per_cent(second['p_best'])}."
    )


def tables(board: pd.DataFrame) -> list[dict[str, Any]]:
    """The leaderboard as the page shows it: a table a scheme, the primary one first, controls after the ranked."""
    first = primary_scheme(board["scheme"])
    found = []
    for scheme in dict.fromkeys([first, *board["scheme"]]):
        part = board[board["scheme"] == scheme].sort_values(["rank", "mean_rho"], ascending=[True, False])
        groups = [
            {"controls": controls, "rows": [_row(row) for _, row in rows.iterrows()]}
            for controls, rows in ((False, part[part["rank"].notna()]), (True, part[part["rank"].isna()]))
            if len(rows)
        ]
        title = sentence_case(scheme_name(scheme))
        counts = f"{_range(part['n_patients'])} patients, {_range(part['n_genes'])} genes"
        found.append({"title": title, "meaning": MEANING[scheme], "counts": counts, "groups": groups})
    return found


def _range(values: pd.Series) -> str:
    return " to ".join(f"{value:,}" for value in sorted({values.min(), values.max()}))


def _row(row: pd.Series) -> dict[str, str]:
    numbers = {name: number(row[name]) for name in ("mean_rho", "ci_low", "ci_high", "median_rho")}
    return {
        **numbers,
        "rank": "–" if pd.isna(row["rank"]) else f"{row['rank']:.0f}",
        "encoder": row["encoder"],
        "probe": probe_name(row["probe"]),
        "p_best": "–" if pd.isna(row["p_best"]) else f"{row['p_best']:.2f}",
        "tcga": row["tcga"],
        "n_undefined": f"{row['n_undefined']:.0f}",
    }


def _figures(study: Study) -> list[dict[str, Any]]:
    found = []
    for plate in _drawn(study):
        source, width_px = inline(_png(study, plate).read_bytes())
        alt = read_meta(_png(study, plate))["facts"]["alt"]
        texts = {"name": plate.name, "title": plate.title, "caption": plate.caption, "alt": alt}
        found.append({**texts, "source": source, "width_px": width_px})
    return found


def _stages(study: Study) -> list[dict[str, Any]]:
    pages = _pages(study)
    return [
        {
            "name": name,
            "reason": room.not_applicable(study),
            "page": f"{name}.html" if f"{name}.html" in pages else None,
        }
        for name, room in STAGES.items()
    ]


def _pages(study: Study) -> list[str]:
    return [f"{name}.html" for name in STAGES if (study.figures / "notebooks" / f"{name}.html").exists()]


def _exclusions(study: Study) -> list[dict[str, Any]]:
    """Exclusions counted by what and reason."""
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


def _yaml(study: Study) -> str:
    return study.study_yaml.read_text()


def _versions(study: Study) -> str:
    """Of what made the last result there is, so that the page is the same wherever it is written."""
    for path in (study.leaderboard_csv, study.benchmark_h5ad, study.cohort_csv):
        if meta := read_meta(path):
            return ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    return "nothing yet"
