"""STAR counts as AnnData."""

import gzip
from pathlib import Path

import anndata
import numpy as np
import pytest
from gdc_server import star_tsv

from wsibench.cohort.gdc import star
from wsibench.core import CohortError

GENES = [
    ("ENSG00000000003.15", "TSPAN6", "protein_coding"),
    ("ENSG00000182378.14", "PLCXD1", "protein_coding"),
    ("ENSG00000201699.1", "Y_RNA", "misc_RNA"),
    ("ENSG00000207157.1", "Y_RNA", "misc_RNA"),
    ("ENSG00000285441.1", "SOD2", "lncRNA"),
    ("ENSG00000112096.18", "SOD2", "protein_coding"),
    ("ENSG00000182378.14_PAR_Y", "PLCXD1", "protein_coding"),
]
COUNTS = np.array([[3231, 10, 0, 1, 7, 900, 0], [5, 0, 2, 3, 4, 100, 0]])
TPM = np.array([[44.6685, 1.0, 0.0, 0.5, 0.25, 99.0, 0.0], [0.1, 0.0, 3.0, 7.0, 15.0, 31.0, 0.0]])
SYMBOLS = ["TSPAN6", "PLCXD1", "Y_RNA", "Y_RNA_ENSG00000207157", "SOD2_ENSG00000285441", "SOD2"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for patient, counts, tpm in zip(["P2", "P1"], COUNTS, TPM, strict=True):
        paths[patient] = tmp_path / f"{patient}.tsv"
        paths[patient].write_bytes(star_tsv(GENES, counts, tpm))
    return paths


def test_values_genes_and_patients(files: dict[str, Path]) -> None:
    adata = star.read_star(files)
    assert list(adata.obs_names) == ["P1", "P2"]
    assert list(adata.var_names) == SYMBOLS
    assert adata.var["ensembl_id"].iloc[0] == "ENSG00000000003"
    assert adata.var.loc["SOD2"].tolist() == ["ENSG00000112096", "protein_coding"]
    np.testing.assert_array_equal(adata["P2"].layers["counts"][0], COUNTS[0, :6])
    np.testing.assert_allclose(adata["P2"].X[0], np.log2(TPM[0, :6] + 1), rtol=1e-6)
    assert adata.X.dtype == np.float32
    assert adata.layers["counts"].dtype == np.int32
    assert adata.uns["wsibench"]["gene_model"] == "GENCODE v36"


def test_written_file_is_read_back_by_anndata(files: dict[str, Path], tmp_path: Path) -> None:
    adata = star.read_star(files)
    adata.write_h5ad(tmp_path / "e.h5ad", convert_strings_to_categoricals=False)
    again = anndata.read_h5ad(tmp_path / "e.h5ad")
    np.testing.assert_array_equal(again.X, adata.X)
    assert list(again.var_names) == SYMBOLS


def test_gzipped_files_too(files: dict[str, Path], tmp_path: Path) -> None:
    zipped = {}
    for patient, path in files.items():
        zipped[patient] = tmp_path / f"{path.name}.gz"
        zipped[patient].write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(star.read_star(zipped).X, star.read_star(files).X)


def test_another_annotation_is_refused(files: dict[str, Path]) -> None:
    other = [("ENSG00000000005.6", "TNMD", "protein_coding"), *GENES[1:]]
    files["P2"].write_bytes(star_tsv(other, COUNTS[0], TPM[0]))
    with pytest.raises(CohortError, match=r"other genes than .*P1\.tsv.*GENCODE"):
        star.read_star(files)


@pytest.mark.parametrize("text", ["", "# gene-model: GENCODE v36\n", "#\na\tb\n1\t2\n", "\x00\x01", "#\ngene_id\tx\n"])
def test_other_files_are_refused_by_name(files: dict[str, Path], text: str) -> None:
    files["P1"].write_text(text)
    with pytest.raises(CohortError, match=r"P1\.tsv is not a STAR counts file"):
        star.read_star(files)


def test_a_gene_without_tpm_is_refused(files: dict[str, Path]) -> None:
    files["P2"].write_text(files["P2"].read_text().replace("44.6685", ""))
    with pytest.raises(CohortError, match=r"P2\.tsv has genes without a count or TPM"):
        star.read_star(files)


def test_the_first_coding_gene_keeps_its_symbol() -> None:
    names = star.unique_symbols(["A", "A", "A", "B"], ["lncRNA", "protein_coding", "protein_coding", ""], list("1234"))
    assert list(names) == ["A_1", "A", "A_3", "B"]


@pytest.mark.real
def test_real_files_of_the_gdc(real_data: Path) -> None:
    adata = star.read_star({"P": real_data / "gdc" / "star_counts_excerpt_real.tsv"})
    assert list(adata.var_names) == ["TSPAN6", "TNMD", "DPM1"]
    assert adata.layers["counts"].tolist() == [[3231, 0, 1083]]
    np.testing.assert_allclose(np.exp2(adata.X) - 1, [[44.6685, 0, 56.2676]], rtol=1e-5)
    fixture = star.read_star({"P": real_data / "gdc" / "test_set_1.final.tsv.gz"})
    assert fixture.n_vars == 95, "96 genes, one of them a PAR_Y copy"
