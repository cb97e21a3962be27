"""Simulate a cohort of H&E slides whose morphology determines expression, and keep the truth beside it.

Every patient has four latent traits.  They shape the tissue that `wsibench.cohort.simulation.slides` paints, and
groups of genes follow each of them as closely as a known Spearman correlation allows.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import simplejpeg
import tifffile

from wsibench.cohort.simulation.slides import Morphology, Painting, Stain, paint
from wsibench.core import Artefact, SimulatedCohort, make_key, parallel_map, writing

if TYPE_CHECKING:
    from anndata import AnnData

FORMAT = 2
# Standard normal traits of a patient, independent of each other and of the site, and the prefixes of their genes.
LATENTS = {"nuclear_density": "ND", "nuclear_size": "NS", "lymphocytes": "LY", "stroma": "ST"}
# Spearman correlations with their latent that groups of genes attain at best.
CEILINGS = (0.3, 0.5, 0.8)
GENES_PER_GROUP, SITE_GENES, NULL_GENES = 25, 40, 400
# Share of a site gene's variance that lies between sites.
SITE_SHARE = 0.6
# Share of the patients that have two slides.
SECOND_SLIDE = 0.1
# Patients of the smallest site, in a cohort large enough for it.
LEAST_PER_SITE = 4
# µm/px of the sites' scanners, in turn: a quarter of them at 40x, most a little off the nominal value.
SCANNERS = (0.2508, 0.4990, 0.5015, 0.5000, 0.2465, 0.5022, 0.4978, 0.5000, 0.2520, 0.4990, 0.5015, 0.5000)
# Optical density (R, G, B) of the two stains: the usual reference vectors of Macenko et al. 2009.
HAEMATOXYLIN, EOSIN = (0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581)
# Side of a slide file's tiles; that of Aperio's scanners.
TILE_PX = 240
# Each level of the pyramid is this much coarser than the one before.
REDUCTION = 4
# No level is made smaller than this.
SMALLEST_PX = 256
# JPEG quality.
QUALITY = 85
_SITES, _PATIENTS, _SLIDES, _EXPRESSION = range(4)


@dataclass(frozen=True)
class SlidePlan:
    """Morphology, stain and resolution of one slide."""

    slide_id: str
    patient_id: str
    site: str
    slide_mpp: float
    morphology: Morphology
    stain: Stain
    seed: np.random.SeedSequence


def simulate(cohort: SimulatedCohort, slides: Path, tables: Path) -> None:
    """Write the slides and tables of a simulated cohort that are due.

    Parameters
    ----------
    cohort
        Numbers of patients and sites, and the seed.
    slides
        Folder of the slides, ``<slide_id>.svs``.
    tables
        Folder of ``slides.csv``, ``latents.csv`` (from which the control `oracle` predicts) and
        ``expression.h5ad``.

    Raises
    ------
    OSError
        When a slide cannot be written.
    """
    patients = simulate_patients(cohort)
    plans = plan_slides(cohort, patients)
    *slide_files, sample_table, latents, expression = expected(cohort, slides, tables)
    due = [(artefact, plan) for artefact, plan in zip(slide_files, plans, strict=True) if artefact.due()]
    parallel_map(_write_slide, due, label="01 slides")
    if sample_table.due():
        with writing(sample_table) as path:
            _sample_table(plans, patients, Path(os.path.relpath(slides, tables))).to_csv(path, index=False)
    if latents.due():
        with writing(latents) as path:
            patients[["site", *LATENTS]].to_csv(path)
    if expression.due():
        with writing(expression) as path:
            simulate_expression(cohort, patients).write_h5ad(path)


def expected(cohort: SimulatedCohort, slides: Path, tables: Path) -> list[Artefact]:
    """List the files that `simulate` writes.

    Parameters
    ----------
    cohort
        Settings of the simulation.
    slides
        Folder of the slides.
    tables
        Folder of the sample table, the latent variables and the expression.
    """
    plans = plan_slides(cohort, simulate_patients(cohort))
    paths = [slides / f"{plan.slide_id}.svs" for plan in plans]
    paths += [tables / name for name in ("slides.csv", "latents.csv", "expression.h5ad")]
    section = cohort.model_dump(mode="json")
    return [Artefact(path, make_key("simulate", FORMAT, [section, path.name])) for path in paths]


def _generator(cohort: SimulatedCohort, *purpose: int) -> np.random.Generator:
    """Random numbers separate for each purpose, so that none depends on the number of another's draws."""
    return np.random.default_rng(np.random.SeedSequence(cohort.seed, spawn_key=purpose))


# Patients


def _sites(cohort: SimulatedCohort) -> list[str]:
    return [f"S{number:02d}" for number in range(1, cohort.sites + 1)]


def simulate_patients(cohort: SimulatedCohort) -> pd.DataFrame:
    """Draw the patients: site, subtype, n_slides and latents, indexed by patient_id."""
    from scipy.special import ndtri

    rng = _generator(cohort, _PATIENTS)
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
    """Plan the morphology, stain and resolution of every slide of the patients."""
    stains = {site: site_stain(_generator(cohort, _SITES, i)) for i, site in enumerate(_sites(cohort))}
    scanners = dict(zip(_sites(cohort), SCANNERS * (cohort.sites // len(SCANNERS) + 1), strict=False))
    return [
        SlidePlan(
            slide_id=f"{patient_id}-{number + 1}",
            patient_id=patient_id,
            site=patient.site,
            slide_mpp=scanners[patient.site],
            morphology=morphology(patient),
            stain=_slide_stain(stains[patient.site], _generator(cohort, _SLIDES, i, number, 0)),
            seed=np.random.SeedSequence(cohort.seed, spawn_key=(_SLIDES, i, number, 1)),
        )
        for i, (patient_id, patient) in enumerate(patients.iterrows())
        for number in range(patient.n_slides)
    ]


def morphology(latents: pd.Series) -> Morphology:
    """Translate latents into tissue: each changes one physical quantity, in the range of real tissue.

    The share of hot spots is linear in its latent, since the mean feature of a slide follows that share.
    """
    return Morphology(
        nuclei_per_mm2=6500 * math.exp(0.22 * latents.nuclear_density),
        nucleus_um=3.3 * math.exp(0.14 * latents.nuclear_size),
        hot_spots=max(0.004, 0.055 + 0.024 * latents.lymphocytes),
        stroma=1 / (1 + math.exp(0.2 - 0.6 * latents.stroma)),
    )


def site_stain(rng: np.random.Generator) -> Stain:
    """Draw a laboratory's stain: the reference vectors turned slightly, each stain stronger or weaker."""
    vectors = np.array([HAEMATOXYLIN, EOSIN]) + rng.normal(0, 0.03, (2, 3))
    vectors *= np.exp(rng.normal(0, 0.1, (2, 1))) / np.linalg.norm(vectors, axis=1, keepdims=True)
    white = rng.uniform(238, 248) + rng.uniform(-2, 2, 3)
    return Stain(*(tuple(row) for row in np.vstack([vectors, white]).tolist()))


def _slide_stain(stain: Stain, rng: np.random.Generator) -> Stain:
    """Vary the strength of a laboratory's stain from slide to slide."""
    haematoxylin, eosin = np.exp(rng.normal(0, 0.03, (2, 1))) * [stain.haematoxylin, stain.eosin]
    return Stain(tuple(haematoxylin.tolist()), tuple(eosin.tolist()), stain.white)


# Slide files


def _write_slide(task: tuple[Artefact, SlidePlan]) -> None:
    artefact, plan = task
    with writing(artefact, slide_id=plan.slide_id, **asdict(plan.morphology)) as temporary:
        painting = paint(plan.morphology, plan.slide_mpp, plan.seed)
        write_svs(temporary, painting, plan.stain, slide_mpp=plan.slide_mpp)


def write_svs(path: Path, painting: Painting, stain: Stain, *, slide_mpp: float) -> None:
    """Write a painting as an Aperio SVS with its pyramid and a thumbnail.

    Parameters
    ----------
    path
        The file to write.
    painting
        Amounts of stain at each pixel.
    stain
        Converts them to colours.
    slide_mpp
        µm/px of the painting, which the file states.
    """
    magnification = 40 if slide_mpp < 0.35 else 20
    side = len(painting.haematoxylin)
    sides, levels = [side], [_develop(painting, stain)]
    while sides[-1] // REDUCTION >= SMALLEST_PX:
        sides.append(round(sides[-1] / REDUCTION))
        levels.append(_reduce(levels[-1]))

    with tifffile.TiffWriter(path) as file:

        def page(jpegs: Iterator[bytes], pixels: int, **layout) -> None:
            size = f"{side}x{side}" if pixels == side else f"{side}x{side} -> {pixels}x{pixels}"
            file.write(
                jpegs,
                shape=(pixels, pixels, 3),
                dtype=np.uint8,
                photometric="ycbcr",  # what the JPEG streams hold; tifffile passes them on as they are
                subsampling=(2, 2),
                compression="jpeg",
                description=f"Aperio Image Library (wsibench)\r\n{size} ({TILE_PX}x{TILE_PX}) JPEG/YCC Q={QUALITY}"
                f"|AppMag = {magnification}|MPP = {slide_mpp:.4f}",
                metadata=None,
                software=False,
                **layout,
            )

        page(_tiles(levels[0]), side, tile=(TILE_PX, TILE_PX))
        # Aperio's order: the thumbnail, in one strip, stands between the full image and the pyramid.
        page(iter([_jpeg(levels[-1][: sides[-1], : sides[-1]])]), sides[-1], rowsperstrip=sides[-1])
        for level, pixels in zip(levels[1:], sides[1:], strict=True):
            page(_tiles(level), pixels, tile=(TILE_PX, TILE_PX))


def _develop(painting: Painting, stain: Stain) -> np.ndarray:
    """Convert a painting to colours, uint8 (h, w, 4) RGBX, padded with glass to whole tiles."""
    colours = np.dstack([stain.colours(), np.zeros((256, 256, 1), np.uint8)])
    packed = colours.view(np.uint32).ravel()  # one look-up a pixel instead of three
    side = len(painting.haematoxylin)
    image = np.full((_whole_tiles(side),) * 2, packed[0])
    for rows in (slice(start, start + TILE_PX) for start in range(0, side, TILE_PX)):
        index = painting.haematoxylin[rows] * np.uint16(256) + painting.eosin[rows]
        image[rows][: len(index), :side] = packed[index]
    return image.view(np.uint8).reshape(*image.shape, 4)


def _reduce(level: np.ndarray) -> np.ndarray:
    """Reduce a level to the next one of the pyramid, again padded to whole tiles."""
    pixels = len(level) // REDUCTION
    small = cv2.resize(level, (pixels, pixels), interpolation=cv2.INTER_AREA)
    pad = _whole_tiles(pixels) - pixels
    return cv2.copyMakeBorder(small, 0, pad, 0, pad, cv2.BORDER_REPLICATE)


def _whole_tiles(pixels: int) -> int:
    return -(-pixels // TILE_PX) * TILE_PX


def _tiles(level: np.ndarray) -> Iterator[bytes]:
    """Encode the level's tiles as JPEG, row by row."""
    glass = np.full_like(level[:TILE_PX, :TILE_PX], level[0, 0])
    glass_jpeg = _jpeg(glass)
    for y, x in np.ndindex(len(level) // TILE_PX, len(level) // TILE_PX):
        tile = np.ascontiguousarray(level[y * TILE_PX : (y + 1) * TILE_PX, x * TILE_PX : (x + 1) * TILE_PX])
        yield glass_jpeg if np.array_equal(tile, glass) else _jpeg(tile)


def _jpeg(rgbx: np.ndarray) -> bytes:
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgbx), quality=QUALITY, colorspace="RGBX", colorsubsampling="420"
    )


# Tables


def _sample_table(plans: list[SlidePlan], patients: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Tabulate the slides as in any cohort's table of slides."""
    rows = [
        (plan.slide_id, plan.patient_id, plan.site, patients.subtype[plan.patient_id], folder / f"{plan.slide_id}.svs")
        for plan in plans
    ]
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", "site", "subtype", "path"])


def simulate_expression(cohort: SimulatedCohort, patients: pd.DataFrame) -> "AnnData":
    """Simulate expression on the scale of log2 TPM.

    A gene that attains Spearman's ρ with a latent z is r·z + √(1 − r²)·noise with r = 2 sin(πρ/6),
    which is Pearson's correlation of two normal variables whose Spearman correlation is ρ.  The sign
    of the correlation is drawn gene by gene.

    Parameters
    ----------
    cohort
        The cohort's settings.
    patients
        From `simulate_patients`.

    Returns
    -------
    AnnData
        Patients × genes, float32; var has the group of each gene and its ceiling.
    """
    from anndata import AnnData

    rng = _generator(cohort, _EXPRESSION)
    n = len(patients)
    values: list[np.ndarray] = []
    genes: list[pd.DataFrame] = []

    def add(prefix: str, group: str, ceiling: float, signal: np.ndarray, r: float) -> None:
        width = len(str(signal.shape[1]))
        names = [f"{prefix}_{number:0{width}d}" for number in range(1, signal.shape[1] + 1)]
        values.append(r * signal + math.sqrt(1 - r**2) * rng.standard_normal(signal.shape))
        genes.append(pd.DataFrame({"group": group, "ceiling": ceiling}, pd.Index(names, name="gene")))

    for latent, short in LATENTS.items():
        for ceiling in CEILINGS:
            z = patients[latent].to_numpy()[:, None] * rng.choice([-1, 1], GENES_PER_GROUP)
            r = 2 * math.sin(math.pi * ceiling / 6)
            add(f"{short}{10 * ceiling:.0f}", f"{latent}_{ceiling}", ceiling, z, r)
    offsets = rng.standard_normal((cohort.sites, SITE_GENES))
    of_patient = offsets[pd.Categorical(patients.site, categories=_sites(cohort)).codes]
    add("SITE", "site", np.nan, of_patient, math.sqrt(SITE_SHARE))
    add("NULL", "null", np.nan, np.zeros((n, NULL_GENES)), 0)

    standard, var = np.hstack(values), pd.concat(genes)
    level, scale = rng.uniform(4, 9, len(var)), rng.uniform(0.4, 0.8, len(var))
    return AnnData((level + scale * standard).astype(np.float32), obs=pd.DataFrame(index=patients.index), var=var)
