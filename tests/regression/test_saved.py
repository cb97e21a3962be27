"""Saved fits: equal predictions after reading, no patient data in the file, refusal of damaged files."""

import json
import os

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from trials import GENES, assembled, load, with_tiles, write_tables

from wsibench import assembly
from wsibench.core import FitError, NotReady, Study
from wsibench.regression import Patients, folds, make_probe, saved

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
    """Return the study's patients, and the probe fitted on all of them in memory."""
    benchmark = assembly.read_benchmark(study.benchmark_h5ad)
    patients = Patients(
        benchmark.obs_names.to_numpy(str),
        folds.inner_groups(benchmark.obs, "preserved-site"),
        benchmark.obsm[encoder],
        assembly.read_bags(benchmark.obs, assembly.feature_folders(study, encoder)),
    )
    return patients, make_probe(probe, study.abmil).fit(patients, benchmark.X, seed=study.folds.seed)


@pytest.mark.parametrize("probe", ["ridge", "abmil"])
def test_a_fit_that_was_written_and_read_predicts_the_same(tiled, probe, tmp_path):
    patients, fitted = in_process(tiled, "colour", probe)
    saved.save(saved.fit(tiled, "colour", probe), tmp_path / "f.safetensors")
    back = saved.load(tmp_path / "f.safetensors")
    np.testing.assert_allclose(back.fitted.predict(patients), fitted.predict(patients), rtol=0, atol=1e-5)
    assert (back.encoder, back.probe) == ("colour", probe)
    assert back.chosen == json.loads(json.dumps(fitted.chosen))


def holds_a_patient(arrays, benchmark) -> bool:
    """Check for a row or column that is a patient's features or expression, as measured or standardised."""
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


@pytest.mark.parametrize("probe", ["ridge", "pca-ridge", "mlp", "abmil"])
def test_the_file_holds_no_patient(tiled, probe, tmp_path):
    saved.save(saved.fit(tiled, "colour", probe), tmp_path / "f.safetensors")
    benchmark = assembly.read_benchmark(tiled.benchmark_h5ad)
    content = (tmp_path / "f.safetensors").read_bytes()
    for known in (*benchmark.obs_names, *benchmark.obs["slide_ids"]):
        assert known.encode() not in content
    assert not holds_a_patient(load_file(tmp_path / "f.safetensors"), benchmark)


def test_a_patients_row_among_the_arrays_is_found(tiled):
    """The check of the test above finds a patient that is there."""
    benchmark = assembly.read_benchmark(tiled.benchmark_h5ad)
    z = (benchmark.X - benchmark.X.mean(axis=0)) / benchmark.X.std(axis=0)
    assert holds_a_patient({"targets": z[:3]}, benchmark)


def test_the_description_states_features_genes_and_training_patients(tiled):
    said = saved.fit(tiled, "texture", "ridge")
    assert said.settings == assembly.settings_key(tiled, "texture")
    assert said.width == 6
    assert said.genes.index.tolist() == [f"G{i}" for i in range(3 * GENES)]
    assert said.unit == "as_is"
    assert said.trained_on == {"study": "train", "study_key": tiled.key, "n_patients": 60, "n_sites": 6}
    assert said.licence == "MIT"


def test_fits_of_other_features_or_probes_have_other_keys(tiled):
    keys = {saved.fit(tiled, *pair).key for pair in (("colour", "ridge"), ("texture", "ridge"))}
    keys |= {saved.fit(tiled, "colour", probe).key for probe in ("ridge", "pca-ridge")}
    assert len(keys) == 3


def test_scores_and_accuracy_are_stored_with_the_genes(tiled, tmp_path):
    scores = pd.DataFrame({"rho": [0.5, 0.25], "p": [0.1, np.nan], "q": [0.2, 0.3]}, ["G1", "G0"])
    accuracy = {"mean_rho": 0.375, "ci_low": 0.25, "ci_high": 0.5}
    saved.save(saved.fit(tiled, "colour", "ridge", scores=scores, accuracy=accuracy), tmp_path / "f.safetensors")
    back = saved.load(tmp_path / "f.safetensors")
    pd.testing.assert_frame_equal(back.genes.loc[["G1", "G0"]], scores, check_names=False)
    assert back.genes.loc["G2":].isna().all(axis=None)
    assert "out-of-fold mean ρ 0.375, [0.250, 0.500] (preserved-site)" in str(back)
    few = saved.fit(tiled, "colour", "ridge", accuracy={"mean_rho": 0.375})
    assert "too few sites for an interval" in str(few)
    assert "not measured" in str(saved.fit(tiled, "colour", "ridge"))


def test_columns_that_the_benchmark_excludes_are_not_required(data_root):
    write_tables(data_root / "trial")
    table = pd.read_csv(data_root / "trial" / "good.csv").assign(dead=1.0)
    table.to_csv(data_root / "trial" / "good.csv", index=False)
    assert saved.fit(assembled(data_root / "trial"), "good", "ridge").columns == list("012345")


@pytest.mark.parametrize(
    ("encoder", "probe", "message"),
    [
        ("phikon", "ridge", "has no features"),
        ("site", "ridge", "has no features"),
        ("good", "abmil", "that abmil can read"),
    ],
)
def test_fits_that_cannot_be_made_are_refused(data_root, encoder, probe, message):
    write_tables(data_root / "trial")
    with pytest.raises(FitError, match=message):
        saved.fit(assembled(data_root / "trial"), encoder, probe)


def test_a_benchmark_that_is_due_is_refused(data_root):
    write_tables(data_root / "trial")
    assembled(data_root / "trial")
    with pytest.raises(NotReady, match="due"):
        saved.fit(load(data_root / "trial", features={"good": {"table": "poor.csv"}}), "good", "ridge")


@pytest.fixture
def written(tiled, tmp_path):
    """Path of a fit."""
    saved.save(saved.fit(tiled, "colour", "ridge"), tmp_path / "f.safetensors")
    return tmp_path / "f.safetensors"


def header_and_arrays(path):
    """Header and arrays of a fit's file."""
    with safe_open(path, "numpy") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: b"{" * 100, lambda content: b""])
def test_another_file_is_refused(written, damage):
    written.write_bytes(damage(written.read_bytes()))
    with pytest.raises(FitError, match=r"f\.safetensors is not a fit"):
        saved.load(written)
    written.unlink()
    with pytest.raises(FitError, match=r"is not a fit.*No such file"):
        saved.load(written)


def test_arrays_that_were_damaged_are_refused(written):
    content = written.read_bytes()
    written.write_bytes(content[:-5] + b"\0" + content[-4:])
    with pytest.raises(FitError, match="is damaged or of another format"):
        saved.load(written)
    header, arrays = header_and_arrays(written)
    save_file(arrays | {"weights": arrays["weights"][:, :-1].copy()}, written, header)
    with pytest.raises(FitError, match="is damaged or of another format"):
        saved.load(written)


@pytest.mark.parametrize("field", ["settings", "format", "encoder"])
def test_an_edited_description_is_refused(written, field):
    header, arrays = header_and_arrays(written)
    fit = json.loads(header["fit"])
    save_file(arrays, written, header | {"fit": json.dumps(fit | {field: fit[field][::-1]})})
    with pytest.raises(FitError, match="is damaged or of another format"):
        saved.load(written)


def test_another_format_is_refused(written):
    fit = saved.load(written).model_copy(update={"format": "99.1"})
    saved.save(fit, written)
    with pytest.raises(FitError, match=r"another format \(99\.1, of wsibench .*fit again"):
        saved.load(written)


@pytest.mark.parametrize("text", ["{", "{}", "[1]", "[" * 5000, '{"key": 1, "fit": null}', "\0"])
def test_another_description_is_refused(written, text):
    save_file({"a": np.zeros(1)}, written, {"fit": text})
    with pytest.raises(FitError, match="is not a fit"):
        saved.load(written)


@pytest.mark.parametrize("field", sorted(set(saved.SavedFit.model_fields) - {"arrays"}))
def test_a_field_of_another_type_is_refused(written, field):
    header, arrays = header_and_arrays(written)
    save_file(arrays, written, header | {"fit": json.dumps(json.loads(header["fit"]) | {field: [{"a": []}]})})
    with pytest.raises(FitError, match="is not a fit"):
        saved.load(written)


def test_a_name_that_is_not_safetensors_is_refused(tiled, tmp_path):
    with pytest.raises(FitError, match=r"f\.pkl does not end in \.safetensors"):
        saved.save(saved.fit(tiled, "colour", "ridge"), tmp_path / "f.pkl")
    assert not list(tmp_path.iterdir())
