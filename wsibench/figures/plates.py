"""The plates: every figure that a study may get, when it applies, and what it is made from."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import ModuleType

import pandas as pd

from wsibench import assembly, tiling
from wsibench.cohort import build as cohort
from wsibench.core import Artefact, NotReady, SimulatedCohort, Study, key_at, make_key, read_failures
from wsibench.ranking import leaderboard as ranking, site_predictability as sites
from wsibench.regression import fit as regression

FORMAT = 1
SUFFIXES = (".pdf", ".png", ".csv")
MOST_SLIDES, MOST_GALLERY = 12, 6
"""Slides of the overview, and of the gallery of tiles."""


@dataclass(frozen=True)
class Plate:
    """A figure that a study may get."""

    name: str
    """Of its files, and of the function of `wsibench.figures.making` that draws it."""
    title: str
    caption: str
    """How to read it."""
    made_from: Callable[[Study], list[str] | None]
    """Keys of what it shows; None where it does not apply to the study."""

    def files(self, study: Study) -> list[Path]:
        """Where PDF, PNG and CSV lie."""
        return [study.figures / f"{self.name}{suffix}" for suffix in SUFFIXES]

    def artefacts(self, study: Study) -> list[Artefact]:
        """Its files, each with its key; none where the plate does not apply."""
        keys = self.made_from(study)
        if keys is None:
            return []
        # The study key stands in the files, so that another study.yaml makes other files.
        key = make_key("figures", FORMAT, {"plate": self.name, "study_key": study.key}, keys)
        return [Artefact(path, key) for path in self.files(study)]


def bag_encoders(study: Study) -> list[str]:
    """The encoders that attention MIL is fitted on."""
    if regression.not_applicable(study):
        return []
    return list(dict.fromkeys(job.encoder for job in regression.jobs(study) if job.probe == "abmil"))


# What the plates are made from


def _done(room: ModuleType, study: Study) -> list[str] | None:
    """Keys of what a room leaves; None where the room does not apply."""
    if room.not_applicable(study):
        return None
    artefacts = room.expected(study)
    for artefact in artefacts:
        if why := artefact.due():
            raise NotReady(f"{artefact.path} is {why}.", "Run the stages before this one, or `wsibench run <study>`.")
    return [artefact.key for artefact in artefacts]


def _ranked(study: Study) -> list[str] | None:
    return _done(ranking, study)


def rows(study: Study, table: str) -> pd.DataFrame:
    """A table of stage 06."""
    return sites.read(study) if table == "sites" else ranking.read(study, table)


def _with(table: str) -> Callable[[Study], list[str] | None]:
    def keys(study: Study) -> list[str] | None:
        found = _ranked(study)
        return found if found and len(rows(study, table)) else None

    return keys


def _adjusted(study: Study) -> list[str] | None:
    found = _with("adjusted")(study)
    return found if found and (rows(study, "adjusted")["adjustment"] != "none").any() else None


def _gene_sets(study: Study) -> list[str] | None:
    found = _with("sets")(study)
    return found if found and (rows(study, "sets")["n_genes"] > 0).any() else None


def _two_probes(study: Study) -> list[str] | None:
    return _ranked(study) if len(study.probes) > 1 else None


def _permuted(study: Study) -> list[str] | None:
    keys = _ranked(study)
    tested = keys and pd.read_parquet(study.scores_parquet, columns=["q"])["q"].notna().any()
    return keys if tested else None


def _competed(study: Study) -> list[str] | None:
    keys = _ranked(study)
    scheme, competitors = study.folds.schemes[0], [*study.encoders, *study.features]
    n = keys and sum(job.scheme == scheme and job.encoder in competitors for job in regression.jobs(study))
    return keys if n and n > 1 else None


def _both_schemes(study: Study) -> list[str] | None:
    return _ranked(study) if len(study.folds.schemes) > 1 else None


def _simulated(study: Study) -> list[str] | None:
    return _ranked(study) if isinstance(study.cohort, SimulatedCohort) else None


def _with_bags(study: Study) -> list[str] | None:
    if not bag_encoders(study):
        return None
    keys = _done(regression, study)
    return keys and keys + (_ranked(study) or [])


def _cohort(study: Study) -> list[str] | None:
    return None if cohort.not_applicable(study) else [key_at(study.cohort_csv)]


def _benchmark(study: Study) -> list[str] | None:
    return _done(assembly, study)


def _on_slides(n: int, least: int = 1) -> Callable[[Study], list[str] | None]:
    def keys(study: Study) -> list[str] | None:
        shown = slides_to_show(study, n)
        return [key_at(study.tiles_parquet(slide_id)) for slide_id in shown] if len(shown) >= least else None

    return keys


def _attention(study: Study) -> list[str] | None:
    bags, slides = _with_bags(study), _on_slides(1)(study)
    return bags + slides if bags and slides else None


def slides_to_show(study: Study, n: int) -> list[str]:
    """At most `n` slides that have tiles and are still there, one a site before any site has two.

    Raises
    ------
    NotReady
        When no slide has been tiled and none has failed either.
    """
    if tiling.not_applicable(study):
        return []
    rows = cohort.read_cohort(study).set_index("slide_id").loc[tiling.tiled_slides(study)]
    if rows.empty and not read_failures(study.failures_csv):
        raise NotReady(f"No slide of {study.name} has been tiled.", "Run 02_tiling.")
    turn = rows.groupby("site", sort=False).cumcount()
    there = (
        slide_id for slide_id in turn.sort_values(kind="stable").index if Path(rows.loc[slide_id, "path"]).exists()
    )
    return list(islice(there, n))


def leaderboard_copy(study: Study) -> list[Artefact]:
    """The copy of leaderboard.csv beside the figures; none for a study without ranking."""
    keys = _ranked(study)
    return [] if keys is None else [Artefact(study.figures / "leaderboard.csv", make_key("figures", FORMAT, {}, keys))]


PLATES = (
    Plate(
        "forest",
        "Mean ρ of every encoder and probe",
        "Mean over genes of the Spearman correlation between out-of-fold prediction and measurement, with its 95 % "
        "bootstrap interval. Grey bands: where it lies when expression is shuffled among the patients of each site. "
        "Hollow markers are controls; they are not ranked.",
        _ranked,
    ),
    Plate(
        "rank_frequencies",
        "How firm the ranks are",
        "Share of the bootstrap draws in which each encoder and probe takes each rank. A firm order is a dark "
        "diagonal.",
        _competed,
    ),
    Plate(
        "differences",
        "Which differences are real",
        "Mean ρ of the row less that of the column, for every pair of competitors on the same draws of patients. A "
        "pair with neither mark is undecided: neither told apart nor shown to be equal.",
        _competed,
    ),
    Plate(
        "encoder_by_probe",
        "Whether the probe decides the rank",
        "Mean ρ of every encoder under every probe, with its rank among the competitors under that probe. Kendall's τ "
        "is 1 where two probes rank the encoders alike.",
        _two_probes,
    ),
    Plate(
        "violins",
        "Gene-wise ρ by encoder",
        "The distribution over genes; dot and bar are median and quartiles. Hollow violins are controls.",
        _ranked,
    ),
    Plate(
        "significant",
        "How many genes are read at all",
        "Gene-wise ρ of all genes, strong where q < .05 (share above); line: the same under permuted pairing. Each "
        "gene is tested against its own permutations, so that strong and pale overlap.",
        _permuted,
    ),
    Plate(
        "spread",
        "What moves the score",
        "SD of the mean ρ when patients are drawn anew (bootstrap), when they are divided into folds anew, and when "
        "the probe is fitted with other seeds. A dash: there was one of it.",
        _with("spread"),
    ),
    Plate(
        "site_gap",
        "What new sites cost",
        "Mean ρ when held-out patients come from sites that were trained on (random-patient folds), and when they come "
        "from new ones (preserved-site folds). What is lost between the two was knowledge of the site.",
        _both_schemes,
    ),
    Plate(
        "site_meter",
        "How well features give the site away",
        "Left: how well the site is told from the features, beside chance. Right: what the mean ρ loses when sites are "
        "new. An encoder that is high on both scores with what it knows of the site.",
        _with("sites"),
    ),
    Plate(
        "adjusted",
        "What is left after adjustment",
        "Mean ρ (marker) once subtype, purity or the main axes of expression are taken out, of the same patients and "
        "genes as before (tick), and the share that is left.",
        _adjusted,
    ),
    Plate(
        "gene_sets",
        "Gene sets",
        "Mean ρ of each set (number of genes) with its 95 % interval. Grey: random sets of as many genes; a set beyond "
        "its band is read better, or worse, than any genes would be.",
        _gene_sets,
    ),
    Plate(
        "targets",
        "Targets other than genes",
        "Scores of targets that the study declares, with their 95 % intervals; dashed: chance.",
        _with("targets"),
    ),
    Plate(
        "truth_against_reached",
        "What was reached of what was planted",
        "Mean ρ of each planted gene group beside the highest that its drivers allow (black). Site genes can only be "
        "predicted by recognising the site; null genes by nothing.",
        _simulated,
    ),
    Plate(
        "predicted_measured",
        "Predicted against measured",
        "Out-of-fold predictions of the eight genes that the first of the leaderboard predicts best; being chosen for "
        "it, these genes look better than they would in another cohort.",
        _ranked,
    ),
    Plate(
        "training_curves",
        "How attention MIL learned",
        "A line a fold and seed; dots mark the epoch that was kept.",
        _with_bags,
    ),
    Plate(
        "feature_map",
        "Patients by their mean features",
        "The first two principal components of the standardised mean features of each encoder. Patients that lie "
        "together by site betray stain and scanner.",
        _benchmark,
    ),
    Plate(
        "slide_attention",
        "Where attention MIL looks",
        "One slide, and the attention that each of its tiles got from models that never saw this patient, relative to "
        "equal attention to all tiles of the patient.",
        _attention,
    ),
    Plate(
        "tissue_and_tiles",
        "Tissue and tiles of one slide",
        "Green: outline of what counts as tissue. Blue: the tiles that were kept. Orange: left out for an artefact.",
        _on_slides(1),
    ),
    Plate(
        "tile_gallery",
        "Tiles as the encoders get them",
        "Tiles spread evenly over the tissue of a few slides, a slide a row.",
        _on_slides(MOST_GALLERY),
    ),
    Plate(
        "slide_thumbnails",
        "Tissue of the first slides",
        "One slide a site before any site has two; green: outline of what counts as tissue.",
        _on_slides(MOST_SLIDES, least=2),
    ),
    Plate(
        "cohort_overview",
        "The cohort",
        "Patients a site, by subtype, and slides a patient.",
        _cohort,
    ),
)
"""In the order of the report."""


def applying(study: Study) -> list[Plate]:
    """The plates that apply to the study."""
    return [plate for plate in PLATES if plate.artefacts(study)]
