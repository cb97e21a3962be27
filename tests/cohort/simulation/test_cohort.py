"""The simulated cohort: files that OpenSlide opens, expression with the stated correlations, and resumption."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import openslide
import pandas as pd
import pytest
import tifffile
from scipy.stats import spearmanr

from wsibench.cohort.simulation.cohort import (
    CEILINGS,
    LATENTS,
    expected as expected_files,
    morphology,
    plan_slides,
    simulate as simulate_files,
    simulate_expression,
    simulate_patients,
    site_stain,
    write_svs,
)
from wsibench.cohort.simulation.slides import Morphology, paint
from wsibench.core import Artefact, SimulatedCohort, Study, file_sha256

N_SLIDES = 11


def new_study(root: Path, *, sites: int = 2, patients: int = 10, seed: int = 0) -> Study:
    """A study of ten patients: the smallest cohort, with one patient of two slides."""
    (root / "small").mkdir(parents=True, exist_ok=True)
    (root / "small" / "study.yaml").write_text(
        f"title: Small\ncohort: {{source: simulate, patients: {patients}, sites: {sites}, seed: {seed}}}\n"
    )
    return Study.load("small")


def cohort(**settings) -> SimulatedCohort:
    return SimulatedCohort(source="simulate", **settings)


def simulate(study: Study) -> None:
    simulate_files(study.cohort, study.slides, study.truth)


def expected(study: Study) -> list[Artefact]:
    return expected_files(study.cohort, study.slides, study.truth)


def checksums(study: Study) -> dict[str, str]:
    return {artefact.path.name: file_sha256(artefact.path) for artefact in expected(study)}


@pytest.fixture
def biopsies(monkeypatch) -> None:
    """Slides of a tenth of the size, so that a cohort takes a second; in this process only."""
    monkeypatch.setattr("wsibench.cohort.simulation.slides.GLASS_UM", 420.0)
    monkeypatch.setattr("wsibench.cohort.simulation.slides.TISSUE_UM", 150.0)
    monkeypatch.setenv("WSIBENCH_WORKERS", "0")


# Slides


@pytest.mark.parametrize(("slide_mpp", "magnification"), [(0.4990, 20), (0.2508, 40)])
def test_openslide_opens_a_slide_as_aperio_with_its_resolution(tmp_path, slide_mpp, magnification):
    path = tmp_path / "a.svs"
    painting = paint(Morphology(6500, 3.3, 0.035, 0.45), slide_mpp, np.random.SeedSequence(0))
    stain = site_stain(np.random.default_rng(0))
    write_svs(path, painting, stain, slide_mpp=slide_mpp)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties[openslide.PROPERTY_NAME_VENDOR] == "aperio"
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(slide_mpp)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(slide_mpp)
        assert slide.properties[openslide.PROPERTY_NAME_OBJECTIVE_POWER] == str(magnification)
        assert slide.dimensions == painting.eosin.shape[::-1]
        assert slide.level_count >= 2
        assert slide.level_downsamples[1] == 4
        assert "thumbnail" in slide.associated_images
        region = np.asarray(slide.read_region((1000, 1100), 0, (500, 400)))[..., :3].astype(float)
        below = np.asarray(slide.read_region((1000, 1100), 1, (125, 100)))[..., :3].astype(float)
    wanted = stain.colours()[painting.haematoxylin, painting.eosin][1100:1500, 1000:1500].astype(float)
    # JPEG loses a little; colours taken for those of another colour space would be off by a hundred.
    assert np.abs(region - wanted).mean() < 4
    assert np.abs(below - wanted.reshape(100, 4, 125, 4, 3).mean((1, 3))).mean() < 8


def test_tifffile_reads_a_slide_as_aperio_too(tmp_path):
    path = tmp_path / "a.svs"
    painting = paint(Morphology(6500, 3.3, 0.035, 0.45), 1.0, np.random.SeedSequence(0))
    write_svs(path, painting, site_stain(np.random.default_rng(0)), slide_mpp=1.0)
    with tifffile.TiffFile(path) as file:
        assert file.is_svs
        assert [series.name for series in file.series] == ["Baseline", "Thumbnail"]
        assert len(file.series[0].levels) == 2


# Patients and the truth


def test_sites_are_unequal_and_none_is_tiny():
    patients = simulate_patients(cohort(patients=132, sites=12, seed=5))
    sizes = patients.site.value_counts()
    assert len(sizes) == 12
    assert sizes.sum() == 132
    assert sizes.min() >= 4
    assert sizes.max() > 3 * sizes.min()
    assert patients.n_slides.value_counts().to_dict() == {1: 119, 2: 13}
    assert set(patients.subtype) == set("ABCD")


def test_some_of_more_sites_than_patients_stay_empty():
    settings = cohort(patients=10, sites=11)
    patients = simulate_patients(settings)
    assert len(patients) == 10
    assert patients.site.nunique() < 10
    assert len(plan_slides(settings, patients)) == N_SLIDES


def test_latents_are_standard_and_independent_of_each_other_and_of_the_site():
    patients = simulate_patients(cohort(patients=3000, sites=12, seed=1))
    latents = patients[list(LATENTS)]
    np.testing.assert_allclose(latents.mean(), 0, atol=0.01)
    np.testing.assert_allclose(latents.std(), 1, atol=0.01)
    assert np.abs(latents.corr().to_numpy() - np.eye(4)).max() < 0.07
    between = latents.groupby(patients.site).transform("mean").var() / latents.var()
    assert between.max() < 0.02


def test_each_latent_moves_its_own_trait_and_no_other():
    zero = pd.Series(0.0, index=list(LATENTS))
    base = vars(morphology(zero))
    for latent, trait in zip(LATENTS, ("nuclei_per_mm2", "nucleus_um", "hot_spots", "stroma"), strict=True):
        moved = vars(morphology(zero.where(zero.index != latent, 1.0)))
        assert moved[trait] > base[trait]
        assert {name for name in base if moved[name] != base[name]} == {trait}


def test_genes_attain_the_correlation_that_is_stated():
    settings = cohort(patients=3000, sites=12, seed=2)
    patients = simulate_patients(settings)
    expression = simulate_expression(settings, patients)
    rho = {latent: spearmanr(patients[latent], expression.X).statistic[0, 1:] for latent in LATENTS}
    rho = pd.DataFrame(rho, index=expression.var_names).abs()
    for latent in LATENTS:
        for ceiling in CEILINGS:
            genes = expression.var.index[expression.var.group == f"{latent}_{ceiling}"]
            assert (expression.var.ceiling[genes] == ceiling).all()
            assert rho.loc[genes, latent].mean() == pytest.approx(ceiling, abs=0.01)
            assert rho.loc[genes].drop(columns=latent).to_numpy().max() < 0.1
    unrelated = expression.var.index[expression.var.group.isin(["null", "site"])]
    assert rho.loc[unrelated].to_numpy().max() < 0.1
    assert expression.var.ceiling[unrelated].isna().all()


def test_site_genes_follow_the_site_and_null_genes_nothing():
    settings = cohort(patients=2000, sites=12, seed=3)
    patients = simulate_patients(settings)
    frame = simulate_expression(settings, patients).to_df()
    groups = simulate_expression(settings, patients).var.group
    share = frame.groupby(patients.site).transform("mean").var() / frame.var()
    assert 0.35 < share[groups == "site"].mean() < 0.75
    assert share[groups == "null"].max() < 0.04
    assert (groups == "null").sum() >= 400


def test_expression_looks_like_log2_tpm():
    settings = cohort(patients=132, sites=12, seed=0)
    expression = simulate_expression(settings, simulate_patients(settings))
    assert expression.X.dtype == np.float32
    assert expression.X.min() > 0
    assert expression.X.max() < 16
    assert expression.var_names.is_unique


def test_sites_stain_differently_and_slides_of_a_site_alike():
    settings = cohort(patients=40, sites=4, seed=0)
    plans = plan_slides(settings, simulate_patients(settings))
    colours = pd.DataFrame([plan.stain.colours()[120, 90] for plan in plans]).astype(float)
    sites = [plan.site for plan in plans]
    within = colours.groupby(sites).std().mean()
    between = colours.groupby(sites).mean().std()
    assert (between > 1.5 * within).any()
    assert (between > within).all()


def test_a_quarter_of_the_sites_scan_at_40x():
    settings = cohort(patients=132, sites=12, seed=0)
    by_site = {plan.site: plan.slide_mpp for plan in plan_slides(settings, simulate_patients(settings))}
    assert sum(mpp < 0.3 for mpp in by_site.values()) == 3
    assert all(min(abs(mpp - 0.25), abs(mpp - 0.5)) < 0.005 for mpp in by_site.values())


# Generation


@pytest.mark.usefixtures("biopsies")
def test_simulation_writes_a_complete_cohort(data_root):
    study = new_study(data_root)
    simulate(study)
    assert [artefact.due() for artefact in expected(study)] == [None] * (N_SLIDES + 3)
    slides = pd.read_csv(study.truth / "slides.csv")
    assert len(slides) == N_SLIDES
    assert all((study.truth / path).exists() for path in slides.path)
    latents = pd.read_csv(study.truth / "latents.csv")
    assert list(latents) == ["patient_id", "site", *LATENTS]
    expression = anndata.read_h5ad(study.truth / "expression.h5ad")
    assert list(expression.obs_names) == list(latents.patient_id)
    assert set(slides.patient_id) == set(latents.patient_id)
    mpps = {plan.slide_id: plan.slide_mpp for plan in plan_slides(study.cohort, simulate_patients(study.cohort))}
    for row in slides.itertuples():
        with openslide.OpenSlide(study.truth / row.path) as slide:
            assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == mpps[row.slide_id]


@pytest.mark.usefixtures("biopsies")
def test_only_missing_files_are_written_again_with_the_same_bytes(data_root):
    study = new_study(data_root)
    simulate(study)
    before = checksums(study)
    kept, gone, spoilt = (artefact.path for artefact in expected(study)[:3])
    stamp = kept.stat().st_mtime_ns
    gone.unlink()
    spoilt.write_bytes(spoilt.read_bytes()[:-1] + b"x")
    simulate(study)
    assert checksums(study) == before
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("biopsies")
def test_another_seed_is_another_cohort(data_root):
    study = new_study(data_root)
    simulate(study)
    before = checksums(study)
    study = new_study(data_root, seed=1)
    assert all(artefact.due() for artefact in expected(study))
    simulate(study)
    after = checksums(study)
    assert "P001-1.svs" in after
    assert not set(before.values()) & set(after.values())


@pytest.mark.usefixtures("biopsies")
def test_a_slide_that_cannot_be_written_stops_the_run(data_root):
    study = new_study(data_root)
    study.slides.parent.mkdir(exist_ok=True)
    study.slides.write_text("a file where the folder should be")
    with pytest.raises(OSError, match="slides"):
        simulate(study)


RUN = (
    "from wsibench.cohort.simulation.cohort import simulate; from wsibench.core import Study; "
    "study = Study.load('small'); simulate(study.cohort, study.slides, study.truth)"
)


@pytest.mark.slow
def test_a_killed_generation_resumes_with_two_workers_to_the_same_bytes(data_root, monkeypatch):
    def run(root: Path, workers: int) -> subprocess.Popen:
        environment = os.environ | {"WSIBENCH_DATA": str(root), "WSIBENCH_WORKERS": str(workers)}
        return subprocess.Popen([sys.executable, "-c", RUN], env=environment, start_new_session=True)

    study = new_study(data_root)
    killed = run(data_root, 2)
    deadline = time.monotonic() + 120
    while len(list(study.slides.glob("*.svs"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert 0 < sum(artefact.due() is None for artefact in expected(study)) < N_SLIDES
    assert run(data_root, 2).wait() == 0
    resumed = checksums(study)

    unbroken = data_root.parent / "unbroken"
    monkeypatch.setenv("WSIBENCH_DATA", str(unbroken))
    study = new_study(unbroken)
    assert run(unbroken, 1).wait() == 0
    assert checksums(study) == resumed
