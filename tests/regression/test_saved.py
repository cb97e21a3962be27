"""A fit in a file: nothing lost, nothing of the patients, and nothing read that is not what it was."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file
from trials import GENES, assembled, load, with_tiles, write_tables

from wsibench.assembly import build as assembly
from wsibench.core import FitError, NotReady, Study
from wsibench.ranking import leaderboard as ranking
from wsibench.regression import fit as regression, saved
from wsibench.regression.fit import Job, read_patients
from wsibench.regression.probes import offer

QUICK = {"seeds": 2, "epochs": 2, "embed": 8, "attention": 4, "pca": 4}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """Sixty patients with tile features, assembled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSIBENCH_DATA", str(tmp_path_factory.mktemp("data")))
        patch.setenv("WSIBENCH_WORKERS", "0")
        folder = tmp_path_factory.getbasetemp() / os.environ["WSIBENCH_DATA"] / "train"
        write_tables(folder)
        yield with_tiles(folder, abmil=QUICK)


def in_process(study: Study, encoder: str, probe: str):
    """The study's patients, and the probe fitted on all of them, without any file."""
    benchmark = assembly.read_benchmark(study)
    patients = read_patients(Job(study, "preserved-site", encoder, probe), benchmark)
    return patients, offer(probe).make(study).fit(patients, benchmark.X, seed=study.folds.seed)


@pytest.mark.parametrize("probe", ["ridge", "abmil"])
def test_a_fit_that_was_written_and_read_predicts_the_same(tiled, probe, tmp_path):
    patients, fitted = in_process(tiled, "colour", probe)
    saved.write(saved.fit(tiled, "colour", probe), tmp_path / "f.safetensors")
    back = saved.read(tmp_path / "f.safetensors")
    np.testing.assert_allclose(back.fitted.predict(patients), fitted.predict(patients), rtol=0, atol=1e-5)
    assert (back.encoder, back.probe) == ("colour", probe)
    assert back.record["probe"]["chosen"] == json.loads(json.dumps(fitted.chosen))


def holds_a_patient(arrays, benchmark) -> bool:
    """Whether a row or column of the arrays is a patient's features or expression, as they are or standardised."""
    known = []
    for part in (benchmark.X, benchmark.obsm["colour"]):
        z = (part - part.mean(axis=0)) / part.std(axis=0)
        known += [part, z, z / np.linalg.norm(z, axis=1, keepdims=True)]
    for array in arrays.values():
        for lines in (array, array.T) if array.ndim == 2 else ():
            for rows in known:
                if lines.shape[1] == rows.shape[1]:
                    distance = abs(lines[:, None].astype(float) - rows[None]).max(axis=2)
                    if distance.min() < 1e-3:
                        return True
    return False


@pytest.mark.parametrize("probe", ["ridge", "mean-sd-ridge", "abmil", "knn"])
def test_the_files_hold_no_patient_but_those_of_neighbours(tiled, probe, tmp_path):
    fit = saved.fit(tiled, "colour", probe)
    saved.write(fit, tmp_path / "f.safetensors")
    benchmark = assembly.read_benchmark(tiled)
    content = b"".join((tmp_path / name).read_bytes() for name in ("f.safetensors", "f.json"))
    for known in (*benchmark.obs_names, *benchmark.obs["slide_ids"]):
        assert known.encode() not in content
    keeps = probe == "knn"
    assert holds_a_patient(load_file(tmp_path / "f.safetensors"), benchmark) == keeps
    record = json.loads((tmp_path / "f.json").read_text())
    assert record["probe"]["keeps_patients"] == keeps
    assert ("their features and expression" in record["privacy"]) == keeps
    assert ("WARNING" in str(fit)) == keeps


def test_the_record_says_what_decides_the_features_and_who_was_fitted_on(tiled):
    record = saved.fit(tiled, "texture", "ridge").record
    made = record["features"]
    assert made["settings"]["tiles.tile_um"] == 112.0
    assert made["settings"]["encoder.arch"] == "texture"
    assert made["width"] == 6
    assert record["genes"]["gene"] == [f"G{i}" for i in range(3 * GENES)]
    assert record["expression"]["unit"] == "as_is"
    cohort = record["cohort"]
    assert (cohort["n_patients"], cohort["n_sites"], cohort["n_slides"]) == (60, 6, 60)
    assert cohort["study_key"] == tiled.key
    assert record["encoder"]["licence"] == "MIT"


def test_another_cohort_another_key(tiled):
    keys = {saved.fit(tiled, *pair).record["key"] for pair in (("colour", "ridge"), ("texture", "ridge"))}
    keys |= {saved.fit(tiled, "colour", probe).record["key"] for probe in ("ridge", "pca-ridge")}
    assert len(keys) == 3


def test_every_gene_takes_its_accuracy_along(data_root):
    write_tables(data_root / "trial")
    study = assembled(data_root / "trial")
    assert saved.fit(study, "good", "ridge").record["accuracy"] is None
    assert "NOT MEASURED" in str(saved.fit(study, "good", "ridge"))
    regression.regress(study)
    ranking.rank(study)
    fit = saved.fit(study, "good", "ridge")
    scores = pd.read_parquet(study.scores_parquet)
    mine = scores[(scores.encoder == "good") & (scores.scheme == "preserved-site")].set_index("gene")
    np.testing.assert_allclose(fit.genes["rho"], mine.loc[fit.genes.index, "rho"], atol=1e-6)
    np.testing.assert_allclose(fit.genes["q"], mine.loc[fit.genes.index, "q"], atol=1e-6)
    board = ranking.read(study, "leaderboard").set_index(["encoder", "scheme"])
    assert fit.record["accuracy"]["mean_rho"] == pytest.approx(
        board.loc[("good", "preserved-site"), "mean_rho"], abs=1e-6
    )
    assert fit.genes["rho"][:GENES].mean() > fit.genes["rho"][-GENES:].mean() + 0.2
    # Scores that are no longer those of the study are no accuracy of the fit.
    later = load(data_root / "trial", ranking={"bootstrap": 300})
    assert saved.fit(later, "good", "ridge").record["accuracy"] is None


def test_columns_that_the_benchmark_drops_are_not_asked_for_later(data_root):
    write_tables(data_root / "trial")
    table = pd.read_csv(data_root / "trial" / "good.csv").assign(dead=1.0)
    table.to_csv(data_root / "trial" / "good.csv", index=False)
    assert saved.fit(assembled(data_root / "trial"), "good", "ridge").record["columns"] == list("012345")


@pytest.mark.parametrize(
    ("encoder", "probe", "told"),
    [("phikon", "ridge", "has no features"), ("site", "ridge", "looks at no slide"), ("good", "abmil", "a table")],
)
def test_what_cannot_be_fitted_is_refused(data_root, encoder, probe, told):
    write_tables(data_root / "trial")
    with pytest.raises(FitError, match=told):
        saved.fit(assembled(data_root / "trial"), encoder, probe)


def test_a_benchmark_that_is_due_is_not_fitted_on(data_root):
    write_tables(data_root / "trial")
    assembled(data_root / "trial")
    with pytest.raises(NotReady, match="due"):
        saved.fit(load(data_root / "trial", features={"good": {"table": "poor.csv"}}), "good", "ridge")


@pytest.fixture
def written(tiled, tmp_path):
    """A fit's two files."""
    saved.write(saved.fit(tiled, "colour", "ridge"), tmp_path / "f.safetensors")
    return tmp_path / "f.safetensors"


def test_a_truncated_file_is_told(written):
    written.write_bytes(written.read_bytes()[:-100])
    with pytest.raises(FitError, match="cut off"):
        saved.read(written)


def test_a_changed_byte_is_told(written):
    content = bytearray(written.read_bytes())
    content[-5] ^= 1
    written.write_bytes(content)
    with pytest.raises(FitError, match="changed"):
        saved.read(written)


def test_a_missing_file_is_told(written):
    json_file = written.with_suffix(".json")
    text = json_file.read_text()
    json_file.unlink()
    with pytest.raises(FitError, match=r"no .*f\.json"):
        saved.read(written)
    json_file.write_text(text)
    written.unlink()
    with pytest.raises(FitError, match=r"no file .*f\.safetensors"):
        saved.read(written)


@pytest.mark.parametrize("change", ["tile_um", "genes"])
def test_a_changed_record_is_told(written, change):
    json_file = written.with_suffix(".json")
    record = json.loads(json_file.read_text())
    if change == "tile_um":
        record["features"]["settings"]["tiles.tile_um"] = 56.0
    else:
        record["genes"]["gene"][:2] = reversed(record["genes"]["gene"][:2])
    json_file.write_text(json.dumps(record))
    with pytest.raises(FitError, match="has been changed"):
        saved.read(written)


@pytest.mark.parametrize(("text", "told"), [("{", "not valid JSON"), ("{}", "not what"), ("[1]", "not what")])
def test_a_json_of_another_kind_is_told(written, text, told):
    written.with_suffix(".json").write_text(text)
    with pytest.raises(FitError, match=told):
        saved.read(written)


def test_another_format_is_told(written):
    json_file = written.with_suffix(".json")
    json_file.write_text(json.dumps(json.loads(json_file.read_text()) | {"format": 99}))
    with pytest.raises(FitError, match="format 99"):
        saved.read(written)


def test_a_name_that_is_not_safetensors_is_refused(tiled, tmp_path):
    with pytest.raises(FitError, match=r"something\.safetensors"):
        saved.write(saved.fit(tiled, "colour", "ridge"), tmp_path / "f.pkl")
    assert not list(tmp_path.iterdir())


def test_json_can_be_read_on_a_screen(written):
    lines = written.with_suffix(".json").read_text().splitlines()
    assert lines[1].strip().startswith('"wsibench"')
    assert lines[-2].lstrip().startswith('"genes"')
    assert yaml.safe_load("\n".join(lines))["format"] == saved.FORMAT
