"""TCGA barcodes, the counted rules that pair slides with RNA, and STAR counts as AnnData."""

import gzip
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from gdc_server import star_tsv
from hypothesis import given, settings, strategies as st

from wsibench.cohort.gdc import tables
from wsibench.core import CohortError

# Pairing


def slides_of(*barcodes: str) -> pd.DataFrame:
    return pd.DataFrame({"file_name": [f"{barcode}.svs" for barcode in barcodes], "barcode": barcodes})


def rna_of(*barcodes: str, ffpe: tuple[str, ...] = ()) -> pd.DataFrame:
    table = pd.DataFrame({"file_name": [f"{barcode}.tsv" for barcode in barcodes], "barcode": barcodes}, dtype=object)
    return table.assign(ffpe=table["barcode"].isin(ffpe))


def rules(pairing: tables.Pairing) -> pd.DataFrame:
    return pairing.rules.set_index(["of", "rule"])


def test_parts_of_barcodes() -> None:
    barcodes = [
        "TCGA-BH-A0B3-01A",
        "TCGA-3C-AALI-01Z-00-DX2",
        "TCGA-PL-A8LV-01A-02-DX2",
        "TCGA-AN-A046-01A-02-BS2",
        "TCGA-B6-A0RH-01A-02-TSB",
        "TCGA-BH-A0B3-11B-21R-A089-07",
    ]
    parts = tables.parse_barcodes(pd.Series(barcodes))
    assert list(parts["site"]) == ["BH", "3C", "PL", "AN", "B6", "BH"]
    assert list(parts["sample"]) == ["01"] * 5 + ["11"]
    assert list(parts["section"]) == ["", "DX", "DX", "BS", "TS", ""]
    assert parts.iloc[5][["vial", "portion", "analyte", "plate", "centre"]].tolist() == ["B", "21", "R", "A089", "07"]
    assert parts.iloc[0]["patient_id"] == "TCGA-BH-A0B3"


def test_other_barcodes_are_refused_by_name() -> None:
    with pytest.raises(CohortError, match=r"1 barcodes.*'C3L-00001'.*source: local"):
        tables.parse_barcodes(pd.Series(["TCGA-BH-A0B3-01A", "C3L-00001"]))


def test_rules_keep_primary_tumours_and_count_dropped_files() -> None:
    slides = slides_of(
        "TCGA-AA-0001-01Z-00-DX1",
        "TCGA-AA-0001-01Z-00-DX2",
        "TCGA-PL-0002-01A-02-DX1",
        "TCGA-E2-0003-06Z-00-DX1",
        "TCGA-AA-0004-01A-01-TS1",
        "TCGA-AA-0005-01Z-00-DX1",
    )
    rna = rna_of(
        "TCGA-AA-0001-01A-11R-A056-07",
        "TCGA-AA-0001-11A-11R-A056-07",
        "TCGA-PL-0002-01A-11R-A056-07",
        "TCGA-E2-0003-06A-11R-A056-07",
        "TCGA-AA-0006-01A-11R-A056-07",
    )
    pairing = tables.pair(slides, rna)
    assert list(pairing.slides["barcode"]) == [
        "TCGA-AA-0001-01Z-00-DX1",
        "TCGA-AA-0001-01Z-00-DX2",
        "TCGA-PL-0002-01A-02-DX1",
    ]
    assert list(pairing.slides["site"]) == ["AA", "AA", "PL"]
    assert list(pairing.rna["patient_id"]) == ["TCGA-AA-0001", "TCGA-PL-0002"]
    counts = rules(pairing)
    assert counts.loc[("slide", "all files listed"), ["files", "patients", "sites"]].tolist() == [6, 5, 3]
    assert counts.loc[("slide", "slides of primary tumours (01)"), ["files", "dropped_patients"]].tolist() == [4, 1]
    assert counts.loc[("slide", "slides of patients with RNA"), ["files", "patients", "sites"]].tolist() == [3, 2, 2]
    assert counts.loc[("RNA file", "RNA of patients with a slide"), ["files", "dropped_files"]].tolist() == [2, 1]
    reasons = pairing.dropped.set_index("id")["reason"]
    assert reasons["TCGA-E2-0003-06Z-00-DX1.svs"] == "not of a primary tumour"
    assert reasons["TCGA-AA-0004-01A-01-TS1.svs"] == "not a diagnostic section"
    assert reasons["TCGA-AA-0005-01Z-00-DX1.svs"].startswith("no RNA")
    assert reasons["TCGA-AA-0006-01A-11R-A056-07.tsv"].startswith("no diagnostic slide")
    assert len(pairing.slides) + len(pairing.rna) + len(pairing.dropped) == len(slides) + len(rna)


@pytest.mark.parametrize(
    ("best", "others", "ffpe"),
    [
        ("01A-11R-A169-07", ["01C-01R-A277-07"], ["01C-01R-A277-07"]),  # TCGA-A7-A0DB's situation
        ("01C-01R-A277-07", ["01A-11R-A169-07"], ["01A-11R-A169-07"]),  # frozen counts for more than the vial
        ("01A-11R-A169-07", ["01B-11R-A169-07", "01B-11R-A277-07"], []),
        ("01A-11R-A277-07", ["01A-11R-A169-07"], []),  # a later plate
        ("01A-11R-A00Z-07", ["01A-11T-A277-07"], []),  # T is the inferior extraction
        ("01A-11H-A00Z-07", ["01A-11R-A277-07"], []),
        ("01A-21R-A169-07", ["01A-11R-A169-07"], []),  # the highest barcode
    ],
)
def test_one_aliquot_per_patient_in_any_order_of_files(best: str, others: list[str], ffpe: list[str]) -> None:
    patient = "TCGA-A7-A0DB"
    slides = slides_of(f"{patient}-01Z-00-DX1")
    barcodes = [f"{patient}-{end}" for end in (best, *others)]
    for order in (barcodes, barcodes[::-1]):
        pairing = tables.pair(slides, rna_of(*order, ffpe=tuple(f"{patient}-{end}" for end in ffpe)))
        assert list(pairing.rna["barcode"]) == [f"{patient}-{best}"]
        assert rules(pairing).loc[("RNA file", "one aliquot a patient"), "dropped_files"] == len(others)


def test_slides_and_rna_of_different_patients_are_not_paired() -> None:
    pairing = tables.pair(slides_of("TCGA-AA-0001-01Z-00-DX1"), rna_of())
    assert pairing.slides.empty
    assert pairing.rna.empty
    assert len(pairing.dropped) == 1


BARCODES = st.builds(
    "TCGA-{}-000{}-{}{}-{}{}".format,
    st.sampled_from(["AA", "BH"]),
    st.integers(0, 5),
    st.sampled_from(["01", "06", "11"]),
    st.sampled_from("AB"),
    st.sampled_from(["11", "21"]),
    st.sampled_from(["R-A056-07", "H-A100-07", "T-A200-13"]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(BARCODES, unique=True, max_size=30), st.randoms())
def test_pairing_never_depends_on_the_order_of_the_answer(barcodes: list[str], random) -> None:
    slides = slides_of(*(f"TCGA-{site}-000{n}-01Z-00-DX1" for site in ("AA", "BH") for n in range(5)))
    shuffled = random.sample(barcodes, len(barcodes))
    one, other = tables.pair(slides, rna_of(*barcodes)), tables.pair(slides, rna_of(*shuffled))
    assert list(one.rna["barcode"]) == list(other.rna["barcode"])
    assert one.rna["patient_id"].is_unique
    assert set(one.rna["patient_id"]) == set(one.slides["patient_id"])
    assert (one.rna["sample"] == "01").all()


@pytest.mark.real
def test_the_real_list_of_slides_counts_as_documented(real_data: Path) -> None:
    listed = pd.read_csv(real_data / "gdc" / "tcga_brca_diagnostic_slides.csv")
    slides = pd.DataFrame({"file_name": listed["File.Name"], "barcode": listed["File.Name"].str.split(".").str[0]})
    counts = rules(tables.pair(slides, rna_of()))
    assert counts.loc[("slide", "all files listed"), ["files", "patients", "sites"]].tolist() == [1133, 1062, 39]
    assert counts.loc[("slide", "diagnostic (DX) sections"), "files"] == 1133
    assert counts.loc[("slide", "slides of primary tumours (01)"), ["files", "patients"]].tolist() == [1132, 1061]
    parts = tables.parse_barcodes(slides["barcode"])
    assert (parts["patient_id"] == listed["Case.ID"]).all()
    assert (parts["site"] == listed["TSS.Code"]).all()
    by_site = parts.drop_duplicates("patient_id")["site"].value_counts()
    assert by_site.head(4).to_dict() == {"BH": 142, "A2": 100, "E2": 90, "A8": 83}


# Expression


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
    adata = tables.read_star(files)
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
    adata = tables.read_star(files)
    adata.write_h5ad(tmp_path / "e.h5ad", convert_strings_to_categoricals=False)
    again = anndata.read_h5ad(tmp_path / "e.h5ad")
    np.testing.assert_array_equal(again.X, adata.X)
    assert list(again.var_names) == SYMBOLS


def test_gzipped_files_too(files: dict[str, Path], tmp_path: Path) -> None:
    zipped = {}
    for patient, path in files.items():
        zipped[patient] = tmp_path / f"{path.name}.gz"
        zipped[patient].write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(tables.read_star(zipped).X, tables.read_star(files).X)


def test_another_annotation_is_refused(files: dict[str, Path]) -> None:
    other = [("ENSG00000000005.6", "TNMD", "protein_coding"), *GENES[1:]]
    files["P2"].write_bytes(star_tsv(other, COUNTS[0], TPM[0]))
    with pytest.raises(CohortError, match=r"other genes than .*P1\.tsv.*GENCODE"):
        tables.read_star(files)


@pytest.mark.parametrize("text", ["", "# gene-model: GENCODE v36\n", "#\na\tb\n1\t2\n", "\x00\x01", "#\ngene_id\tx\n"])
def test_other_files_are_refused_by_name(files: dict[str, Path], text: str) -> None:
    files["P1"].write_text(text)
    with pytest.raises(CohortError, match=r"P1\.tsv is not a STAR counts file"):
        tables.read_star(files)


def test_a_gene_without_tpm_is_refused(files: dict[str, Path]) -> None:
    files["P2"].write_text(files["P2"].read_text().replace("44.6685", ""))
    with pytest.raises(CohortError, match=r"P2\.tsv has genes without a count or TPM"):
        tables.read_star(files)


def test_the_first_coding_gene_keeps_its_symbol() -> None:
    annotation = {"gene_name": ["A", "A", "A", "B"], "gene_type": ["lncRNA", "protein_coding", "protein_coding", None]}
    genes = tables.gene_table(pd.DataFrame(annotation | {"gene_id": ["1.5", "2.1", "3.1", "4.2"]}))
    assert list(genes.index) == ["A_1", "A", "A_3", "B"]
    assert list(genes["ensembl_id"]) == ["1", "2", "3", "4"]


@pytest.mark.real
def test_real_files_of_the_gdc(real_data: Path) -> None:
    adata = tables.read_star({"P": real_data / "gdc" / "star_counts_excerpt_real.tsv"})
    assert list(adata.var_names) == ["TSPAN6", "TNMD", "DPM1"]
    assert adata.layers["counts"].tolist() == [[3231, 0, 1083]]
    np.testing.assert_allclose(np.exp2(adata.X) - 1, [[44.6685, 0, 56.2676]], rtol=1e-5)
    fixture = tables.read_star({"P": real_data / "gdc" / "test_set_1.final.tsv.gz"})
    assert fixture.n_vars == 95, "96 genes, one of them a PAR_Y copy"
