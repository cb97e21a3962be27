"""A cohort of synthetic H&E slides whose morphology drives expression, with the truth beside it.

Every patient has four latent traits.  They shape the tissue that `wsibench.histology` paints, and
groups of genes follow each of them as closely as a known Spearman correlation allows.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from wsibench import compute
from wsibench.artefacts import Artefact, make_key, writing
from wsibench.histology import Morphology, Stain, paint
from wsibench.study import SimulatedCohort, Study
from wsibench.svs import write_svs

FORMAT = 1
LATENTS = ("nuclear_density", "nuclear_size", "lymphocytes", "stroma")
"""Standard normal traits of a patient, independent of each other and of the site."""
CEILINGS = (0.3, 0.5, 0.8)
"""Spearman correlations with their latent that groups of genes attain at best."""
GENES_PER_GROUP, SITE_GENES, NULL_GENES = 25, 40, 400
SITE_SHARE = 0.6
"""Share of a site gene's variance that lies between sites."""
SECOND_SLIDE = 0.1
"""Share of patients with two slides."""
LEAST_PER_SITE = 4
"""Patients of the smallest site, where the cohort is large enough for that."""
SCANNERS = (0.2508, 0.4990, 0.5015, 0.5000, 0.2465, 0.5022, 0.4978, 0.5000, 0.2520, 0.4990, 0.5015, 0.5000)
"""µm/px of the sites' scanners, in turn: about a quarter at 40x, none exactly nominal by rule."""
HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062])
EOSIN = np.array([0.2159, 0.8012, 0.5581])
"""Optical density (R, G, B) of the two stains: the reference vectors of Macenko et al. 2009."""


@dataclass(frozen=True)
class SlidePlan:
    """What one slide is to show."""

    slide_id: str
    patient_id: str
    site: str
    slide_mpp: float
    magnification: int
    morphology: Morphology
    stain: Stain
    seed: tuple[int, ...]


def simulate(study: Study) -> None:
    """Make what is due of the slides and the truth.

    Raises
    ------
    OSError
        When a slide cannot be written: a simulated cohort has no excuse for an incomplete one.
    """
    plan = _plan(study)
    tasks = [(artefact, slide) for artefact, slide in _slide_artefacts(study, plan) if artefact.due()]
    for _, result in compute.map_slides(_make_slide, tasks, label="01 slides"):
        if isinstance(result, BaseException):
            raise result
    for artefact, write in _truth_artefacts(study, plan):
        if artefact.due():
            with writing(artefact) as temporary:
                write(temporary)


def expected(study: Study) -> list[Artefact]:
    """The slides and the truth that `simulate` is to leave."""
    plan = _plan(study)
    return [a for a, _ in _slide_artefacts(study, plan)] + [a for a, _ in _truth_artefacts(study, plan)]


@dataclass(frozen=True)
class _Plan:
    cohort: SimulatedCohort
    patients: pd.DataFrame
    slides: list[SlidePlan]


def _stream(cohort: SimulatedCohort, *key: int) -> np.random.Generator:
    """A generator of its own for each purpose, so that none depends on how much another draws."""
    return np.random.default_rng(np.random.SeedSequence(cohort.seed, spawn_key=key))


SITE_STREAM, PATIENT_STREAM, SLIDE_STREAM, EXPRESSION_STREAM = range(4)


def _plan(study: Study) -> _Plan:
    cohort = study.cohort
    patients = _patients(cohort)
    stains = {site: _site_stain(_stream(cohort, SITE_STREAM, i)) for i, site in enumerate(_sites(cohort))}
    scanners = {site: SCANNERS[i % len(SCANNERS)] for i, site in enumerate(_sites(cohort))}
    second = _stream(cohort, PATIENT_STREAM, 1).permutation(len(patients)) < round(SECOND_SLIDE * len(patients))
    slides = []
    for i, patient in enumerate(patients.itertuples()):
        for k in range(1 + second[i]):
            seed = (SLIDE_STREAM, i, k)
            slides.append(
                SlidePlan(
                    slide_id=f"{patient.Index}-{k + 1}",
                    patient_id=patient.Index,
                    site=patient.site,
                    slide_mpp=scanners[patient.site],
                    magnification=40 if scanners[patient.site] < 0.35 else 20,
                    morphology=_morphology(patient),
                    stain=_slide_stain(stains[patient.site], _stream(cohort, *seed, 0)),
                    seed=(*seed, 1),
                )
            )
    return _Plan(cohort, patients, slides)


# Patients


def _sites(cohort: SimulatedCohort) -> list[str]:
    return [f"S{i + 1:02d}" for i in range(cohort.sites)]


def _patients(cohort: SimulatedCohort) -> pd.DataFrame:
    """Site, subtype and latents of the patients, indexed by patient_id."""
    from scipy.stats import norm, qmc

    rng = _stream(cohort, PATIENT_STREAM, 0)
    n = cohort.patients
    # A Latin hypercube keeps every marginal exactly normal, and the latents all but uncorrelated.
    latents = norm.ppf(qmc.LatinHypercube(len(LATENTS), rng=rng).random(n))
    frame = pd.DataFrame(latents, columns=list(LATENTS), index=[f"P{i + 1:03d}" for i in range(n)])
    frame.index.name = "patient_id"
    least = min(LEAST_PER_SITE, n // cohort.sites)
    share = 1 / np.arange(1, cohort.sites + 1)
    rest = n - least * cohort.sites
    sizes = least + np.diff(np.round(np.cumsum(share / share.sum()) * rest), prepend=0).astype(int)
    frame.insert(0, "site", rng.permutation(np.repeat(_sites(cohort), sizes)))
    frame.insert(1, "subtype", rng.choice(list("ABCD"), n, p=[0.4, 0.3, 0.2, 0.1]))
    return frame


def _morphology(patient) -> Morphology:
    """How a patient's latents show in the tissue: each moves one physical quantity."""
    return Morphology(
        nuclei_per_mm2=6500 * math.exp(0.22 * patient.nuclear_density),
        nucleus_um=3.3 * math.exp(0.14 * patient.nuclear_size),
        hot_spots=min(0.16, 0.035 * math.exp(0.6 * patient.lymphocytes)),
        stroma=1 / (1 + math.exp(0.2 - 0.6 * patient.stroma)),
    )


def _site_stain(rng: np.random.Generator) -> Stain:
    """A laboratory's stain: vectors turned a little, each stain stronger or weaker."""
    turned = [v + rng.normal(0, 0.03, 3) for v in (HAEMATOXYLIN, EOSIN)]
    strength = np.exp(rng.normal(0, 0.10, 2))
    vectors = [tuple(v / np.linalg.norm(v) * s) for v, s in zip(turned, strength, strict=True)]
    return Stain(*vectors, white=tuple(rng.uniform(238, 248) + rng.uniform(-2, 2, 3)))


def _slide_stain(site: Stain, rng: np.random.Generator) -> Stain:
    """The laboratory's stain on one day."""
    h, e = np.exp(rng.normal(0, 0.03, 2))
    return Stain(tuple(h * np.array(site.haematoxylin)), tuple(e * np.array(site.eosin)), site.white)


# Slides


def _slide_artefacts(study: Study, plan: _Plan) -> list[tuple[Artefact, SlidePlan]]:
    section = study.cohort.model_dump(mode="json")
    return [
        (
            Artefact(
                study.slides / f"{slide.slide_id}.svs",
                make_key("simulate", FORMAT, {"cohort": section, "slide": slide.slide_id}),
            ),
            (slide, plan.cohort.seed),
        )
        for slide in plan.slides
    ]


def _make_slide(task) -> None:
    artefact, (slide, seed) = task
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=slide.seed))
    painting = paint(slide.morphology, slide.slide_mpp, rng)
    with writing(artefact, slide_id=slide.slide_id, **asdict(slide.morphology)) as temporary:
        write_svs(temporary, painting, slide.stain, slide_mpp=slide.slide_mpp, magnification=slide.magnification)


# Truth


def _truth_artefacts(study: Study, plan: _Plan):
    key = make_key("simulate", FORMAT, study.cohort.model_dump(mode="json"))
    slides = pd.DataFrame(
        [(s.slide_id, s.patient_id, s.site, s.slide_mpp, f"slides/{s.slide_id}.svs") for s in plan.slides],
        columns=["slide_id", "patient_id", "site", "mpp", "path"],
    )
    slides.insert(3, "subtype", plan.patients.subtype.loc[slides.patient_id].to_numpy())
    latents = plan.patients[["site", *LATENTS]]
    return [
        (Artefact(study.truth / "slides.csv", key), lambda path: slides.to_csv(path, index=False)),
        (Artefact(study.truth / "latents.csv", key), lambda path: latents.to_csv(path)),
        (Artefact(study.truth / "expression.h5ad", key), lambda path: expression(plan.cohort).write_h5ad(path)),
    ]


def expression(cohort: SimulatedCohort):
    """log2-TPM-like expression of the cohort, AnnData of patients × genes.

    A gene whose attainable Spearman correlation with latent z is ρ is r·z + √(1 − r²)·noise with
    r = 2 sin(πρ/6), Pearson's for two normal variables (Kruskal 1958), scaled and shifted.
    """
    import anndata

    patients = _patients(cohort)
    rng = _stream(cohort, EXPRESSION_STREAM)
    n = len(patients)
    signals, var = [], []
    for latent in LATENTS:
        for ceiling in CEILINGS:
            r = 2 * math.sin(math.pi * ceiling / 6)
            sign = rng.choice([-1, 1], GENES_PER_GROUP)
            z = patients[latent].to_numpy()[:, None] * sign
            signals.append(r * z + math.sqrt(1 - r**2) * rng.standard_normal((n, GENES_PER_GROUP)))
            short = "".join(word[0] for word in latent.split("_")).upper() if "_" in latent else latent[:2].upper()
            var += [
                (f"{short}{round(ceiling * 10)}_{k + 1:02d}", f"{latent}_{ceiling}", ceiling)
                for k in range(GENES_PER_GROUP)
            ]
    site = pd.Categorical(patients.site, categories=_sites(cohort)).codes
    offsets = rng.standard_normal((cohort.sites, SITE_GENES))
    signals.append(
        math.sqrt(SITE_SHARE) * offsets[site] + math.sqrt(1 - SITE_SHARE) * rng.standard_normal((n, SITE_GENES))
    )
    var += [(f"SITE_{k + 1:02d}", "site", np.nan) for k in range(SITE_GENES)]
    signals.append(rng.standard_normal((n, NULL_GENES)))
    var += [(f"NULL_{k + 1:03d}", "null", np.nan) for k in range(NULL_GENES)]
    standard = np.hstack(signals)
    level, scale = rng.uniform(4, 9, standard.shape[1]), rng.uniform(0.4, 0.8, standard.shape[1])
    return anndata.AnnData(
        (level + scale * standard).astype(np.float32),
        obs=pd.DataFrame(index=patients.index),
        var=pd.DataFrame(var, columns=["gene", "group", "ceiling"]).set_index("gene"),
    )
