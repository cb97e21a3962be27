"""A cohort of synthetic H&E slides whose morphology drives expression, with the truth beside it.

Every patient has four latent traits.  They shape the tissue that `wsibench.cohort.simulation.histology` paints, and
groups of genes follow each of them as closely as a known Spearman correlation allows.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsibench.cohort.simulation.histology import Morphology, Stain, paint
from wsibench.cohort.simulation.svs import write_svs
from wsibench.core import Artefact, SimulatedCohort, Study, make_key, parallel_map, writing

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 1
LATENTS = {"nuclear_density": "ND", "nuclear_size": "NS", "lymphocytes": "LY", "stroma": "ST"}
"""Standard normal traits of a patient, independent of each other and of the site, and what their genes are called."""
CEILINGS = (0.3, 0.5, 0.8)
"""Spearman correlations with their latent that groups of genes attain at best."""
GENES_PER_GROUP, SITE_GENES, NULL_GENES = 25, 40, 400
SITE_SHARE = 0.6
"""Share of a site gene's variance that lies between sites."""
SECOND_SLIDE = 0.1
"""Share of the patients that have two slides."""
LEAST_PER_SITE = 4
"""Patients of the smallest site, in a cohort large enough for it."""
SCANNERS = (0.2508, 0.4990, 0.5015, 0.5000, 0.2465, 0.5022, 0.4978, 0.5000, 0.2520, 0.4990, 0.5015, 0.5000)
"""µm/px of the sites' scanners, in turn: a quarter of them at 40x, most a little off the nominal value."""
HAEMATOXYLIN, EOSIN = (0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)
"""Optical density (R, G, B) of the two stains: the usual reference vectors of Macenko et al. 2009."""
_SITES, _PATIENTS, _SLIDES, _EXPRESSION = range(4)


@dataclass(frozen=True)
class SlidePlan:
    """What one slide is to show."""

    slide_id: str
    patient_id: str
    site: str
    slide_mpp: float
    morphology: Morphology
    stain: Stain
    seed: np.random.SeedSequence


def simulate(study: Study) -> None:
    """Make what is due of the slides and the truth.

    Leaves ``slides/<slide_id>.svs``, ``truth/slides.csv``, ``truth/latents.csv`` (the latents are
    what the `oracle` predicts from) and ``truth/expression.h5ad``.

    Raises
    ------
    OSError
        When a slide cannot be written: a simulated cohort has no excuse for an incomplete one.
    """
    cohort, patients, plans = _plan(study)
    artefacts = _slide_artefacts(study, plans)
    due = [(artefact, plan) for artefact, plan in zip(artefacts, plans, strict=True) if artefact.due()]
    parallel_map(_make_slide, due, label="01 slides")
    write: dict[str, Callable[[Path], None]] = {
        "slides.csv": lambda path: _slide_table(plans, patients).to_csv(path, index=False),
        "latents.csv": lambda path: patients[["site", *LATENTS]].to_csv(path),
        "expression.h5ad": lambda path: simulate_expression(cohort, patients).write_h5ad(path),
    }
    for artefact in _truth_artefacts(study):
        if artefact.due():
            with writing(artefact) as temporary:
                write[artefact.path.name](temporary)


def expected(study: Study) -> list[Artefact]:
    """The slides and the truth that `simulate` is to leave."""
    _, _, plans = _plan(study)
    return _slide_artefacts(study, plans) + _truth_artefacts(study)


def _plan(study: Study) -> tuple[SimulatedCohort, pd.DataFrame, list[SlidePlan]]:
    cohort = study.cohort
    patients = simulate_patients(cohort)
    return cohort, patients, plan_slides(cohort, patients)


def _slide_artefacts(study: Study, plans: list[SlidePlan]) -> list[Artefact]:
    section = study.cohort.model_dump(mode="json")
    return [
        Artefact(study.slides / f"{plan.slide_id}.svs", make_key("simulate", FORMAT, [section, plan.slide_id]))
        for plan in plans
    ]


def _truth_artefacts(study: Study) -> list[Artefact]:
    key = make_key("simulate", FORMAT, study.cohort.model_dump(mode="json"))
    return [Artefact(study.truth / name, key) for name in ("slides.csv", "latents.csv", "expression.h5ad")]


def _stream(cohort: SimulatedCohort, *purpose: int) -> np.random.Generator:
    """Random numbers of their own for each purpose, so that none depends on how many another draws."""
    return np.random.default_rng(np.random.SeedSequence(cohort.seed, spawn_key=purpose))


# Patients


def _sites(cohort: SimulatedCohort) -> list[str]:
    return [f"S{number:02d}" for number in range(1, cohort.sites + 1)]


def simulate_patients(cohort: SimulatedCohort) -> pd.DataFrame:
    """The patients: site, subtype, n_slides and latents, indexed by patient_id."""
    from scipy.special import ndtri

    rng = _stream(cohort, _PATIENTS)
    n = cohort.patients
    # A Latin hypercube: every latent takes each of n equal slices of its distribution once.
    slices = rng.permuted(np.tile(np.arange(n)[:, None], len(LATENTS)), axis=0)
    latents = ndtri((slices + rng.random(slices.shape)) / n)
    frame = pd.DataFrame(latents, pd.Index([f"P{i + 1:03d}" for i in range(n)], name="patient_id"), list(LATENTS))

    least = min(LEAST_PER_SITE, n // cohort.sites)
    share = np.cumsum(1 / np.arange(1, cohort.sites + 1))
    sizes = least + np.diff(np.rint(share / share[-1] * (n - least * cohort.sites)), prepend=0).astype(int)
    frame.insert(0, "site", rng.permutation(np.repeat(_sites(cohort), sizes)))
    frame.insert(1, "subtype", rng.choice(list("ABCD"), n, p=[0.4, 0.3, 0.2, 0.1]))
    frame.insert(2, "n_slides", 1 + (rng.permutation(n) < round(SECOND_SLIDE * n)))
    return frame


def plan_slides(cohort: SimulatedCohort, patients: pd.DataFrame) -> list[SlidePlan]:
    """What every slide is to show, and in which laboratory's stain."""
    stains = {site: site_stain(_stream(cohort, _SITES, i)) for i, site in enumerate(_sites(cohort))}
    scanners = dict(zip(_sites(cohort), SCANNERS * (cohort.sites // len(SCANNERS) + 1), strict=False))
    return [
        SlidePlan(
            slide_id=f"{patient_id}-{number + 1}",
            patient_id=patient_id,
            site=patient.site,
            slide_mpp=scanners[patient.site],
            morphology=morphology(patient),
            stain=_of_the_day(stains[patient.site], _stream(cohort, _SLIDES, i, number, 0)),
            seed=np.random.SeedSequence(cohort.seed, spawn_key=(_SLIDES, i, number, 1)),
        )
        for i, (patient_id, patient) in enumerate(patients.iterrows())
        for number in range(patient.n_slides)
    ]


def morphology(latents: pd.Series) -> Morphology:
    """How the latents show in the tissue: each moves one physical quantity, in the range of real tissue.

    Hot spots follow theirs in a straight line, since the mean feature of a slide follows their share.
    """
    return Morphology(
        nuclei_per_mm2=6500 * math.exp(0.22 * latents.nuclear_density),
        nucleus_um=3.3 * math.exp(0.14 * latents.nuclear_size),
        hot_spots=max(0.004, 0.055 + 0.024 * latents.lymphocytes),
        stroma=1 / (1 + math.exp(0.2 - 0.6 * latents.stroma)),
    )


def site_stain(rng: np.random.Generator) -> Stain:
    """A laboratory's stain: the vectors turned a little, each stain stronger or weaker."""
    vectors = np.array([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.03, (2, 3))
    vectors *= np.exp(rng.normal(0, 0.1, (2, 1))) / np.linalg.norm(vectors, axis=1, keepdims=True)
    white = rng.uniform(238, 248) + rng.uniform(-2, 2, 3)
    return Stain(*(tuple(row) for row in np.vstack([vectors, white]).tolist()))


def _of_the_day(stain: Stain, rng: np.random.Generator) -> Stain:
    """A laboratory's stain as one slide got it."""
    haematoxylin, eosin = np.exp(rng.normal(0, 0.03, (2, 1))) * [stain.haematoxylin, stain.eosin]
    return Stain(tuple(haematoxylin.tolist()), tuple(eosin.tolist()), stain.white)


# What is left behind


def _make_slide(task: tuple[Artefact, SlidePlan]) -> None:
    artefact, plan = task
    with writing(artefact, slide_id=plan.slide_id, **asdict(plan.morphology)) as temporary:
        write_svs(
            temporary,
            paint(plan.morphology, plan.slide_mpp, plan.seed),
            plan.stain,
            slide_mpp=plan.slide_mpp,
            magnification=40 if plan.slide_mpp < 0.35 else 20,
        )


def _slide_table(plans: list[SlidePlan], patients: pd.DataFrame) -> pd.DataFrame:
    """slides.csv; its paths are relative to itself, as in any cohort's table of slides."""
    return pd.DataFrame(
        {
            "slide_id": [plan.slide_id for plan in plans],
            "patient_id": [plan.patient_id for plan in plans],
            "site": [plan.site for plan in plans],
            "subtype": [patients.subtype[plan.patient_id] for plan in plans],
            "mpp": [plan.slide_mpp for plan in plans],
            "path": [f"../slides/{plan.slide_id}.svs" for plan in plans],
        }
    )


def simulate_expression(cohort: SimulatedCohort, patients: pd.DataFrame) -> "AnnData":
    """Expression in the manner of log2 TPM, patients × genes, with `group` and `ceiling` in var.

    A gene that attains Spearman's ρ with a latent z is r·z + √(1 − r²)·noise with r = 2 sin(πρ/6),
    which is Pearson's correlation of two normal variables whose Spearman correlation is ρ.  Whether
    it rises or falls with z is drawn gene by gene.
    """
    from anndata import AnnData

    rng = _stream(cohort, _EXPRESSION)
    n = len(patients)
    values, names, groups, ceilings = [], [], [], []

    def add(prefix: str, group: str, ceiling: float, genes: int, signal: np.ndarray, r: float) -> None:
        values.append(r * signal + math.sqrt(1 - r**2) * rng.standard_normal((n, genes)))
        names.extend(f"{prefix}_{number:0{len(str(genes))}d}" for number in range(1, genes + 1))
        groups.extend([group] * genes)
        ceilings.extend([ceiling] * genes)

    for latent, short in LATENTS.items():
        for ceiling in CEILINGS:
            z = patients[latent].to_numpy()[:, None] * rng.choice([-1, 1], GENES_PER_GROUP)
            r = 2 * math.sin(math.pi * ceiling / 6)
            add(f"{short}{10 * ceiling:.0f}", f"{latent}_{ceiling}", ceiling, GENES_PER_GROUP, z, r)
    offsets = rng.standard_normal((cohort.sites, SITE_GENES))
    of_patient = offsets[pd.Categorical(patients.site, categories=_sites(cohort)).codes]
    add("SITE", "site", np.nan, SITE_GENES, of_patient, math.sqrt(SITE_SHARE))
    add("NULL", "null", np.nan, NULL_GENES, np.zeros((n, NULL_GENES)), 0)

    standard = np.hstack(values)
    level, scale = rng.uniform(4, 9, standard.shape[1]), rng.uniform(0.4, 0.8, standard.shape[1])
    var = pd.DataFrame({"group": groups, "ceiling": ceilings}, index=pd.Index(names, name="gene"))
    return AnnData((level + scale * standard).astype(np.float32), obs=pd.DataFrame(index=patients.index), var=var)
