"""TCGA barcodes, and the counted rules that pair slides with RNA."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from wsibench.cohort.gdc import pairing as tcga
from wsibench.core import CohortError


def slides_of(*barcodes: str) -> pd.DataFrame:
    return pd.DataFrame({"file_name": [f"{barcode}.svs" for barcode in barcodes], "barcode": barcodes})


def rna_of(*barcodes: str, ffpe: tuple[str, ...] = ()) -> pd.DataFrame:
    table = pd.DataFrame({"file_name": [f"{barcode}.tsv" for barcode in barcodes], "barcode": barcodes}, dtype=object)
    return table.assign(ffpe=table["barcode"].isin(ffpe))


def rules(pairing: tcga.Pairing) -> pd.DataFrame:
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
    parts = tcga.parse_barcodes(pd.Series(barcodes))
    assert list(parts["site"]) == ["BH", "3C", "PL", "AN", "B6", "BH"]
    assert list(parts["sample"]) == ["01"] * 5 + ["11"]
    assert list(parts["section"]) == ["", "DX", "DX", "BS", "TS", ""]
    assert parts.iloc[5][["vial", "portion", "analyte", "plate", "centre"]].tolist() == ["B", "21", "R", "A089", "07"]
    assert parts.iloc[0]["patient_id"] == "TCGA-BH-A0B3"


def test_other_barcodes_are_refused_by_name() -> None:
    with pytest.raises(CohortError, match=r"1 barcodes.*'C3L-00001'.*source: local"):
        tcga.parse_barcodes(pd.Series(["TCGA-BH-A0B3-01A", "C3L-00001"]))


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
    pairing = tcga.pair(slides, rna)
    assert list(pairing.slides["barcode"]) == [
        "TCGA-AA-0001-01Z-00-DX1",
        "TCGA-AA-0001-01Z-00-DX2",
        "TCGA-PL-0002-01A-02-DX1",
    ]
    assert list(pairing.slides["site"]) == ["AA", "AA", "PL"]
    assert list(pairing.rna["patient_id"]) == ["TCGA-AA-0001", "TCGA-PL-0002"]
    counts = rules(pairing)
    assert counts.loc[("slide", "all files listed"), ["files", "patients", "sites"]].tolist() == [6, 5, 3]
    assert counts.loc[("slide", tcga.PRIMARY_SLIDE.keeps), ["files", "dropped_patients"]].tolist() == [4, 1]
    assert counts.loc[("slide", tcga.PAIRED_SLIDE.keeps), ["files", "patients", "sites"]].tolist() == [3, 2, 2]
    assert counts.loc[("RNA file", tcga.PAIRED_RNA.keeps), ["files", "dropped_files"]].tolist() == [2, 1]
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
        pairing = tcga.pair(slides, rna_of(*order, ffpe=tuple(f"{patient}-{end}" for end in ffpe)))
        assert list(pairing.rna["barcode"]) == [f"{patient}-{best}"]
        assert rules(pairing).loc[("RNA file", tcga.ONE_ALIQUOT.keeps), "dropped_files"] == len(others)


def test_slides_and_rna_of_different_patients_are_not_paired() -> None:
    pairing = tcga.pair(slides_of("TCGA-AA-0001-01Z-00-DX1"), rna_of())
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
    one, other = tcga.pair(slides, rna_of(*barcodes)), tcga.pair(slides, rna_of(*shuffled))
    assert list(one.rna["barcode"]) == list(other.rna["barcode"])
    assert one.rna["patient_id"].is_unique
    assert set(one.rna["patient_id"]) == set(one.slides["patient_id"])
    assert (one.rna["sample"] == "01").all()


@pytest.mark.real
def test_the_real_list_of_slides_counts_as_documented(real_data: Path) -> None:
    listed = pd.read_csv(real_data / "gdc" / "tcga_brca_diagnostic_slides.csv")
    slides = pd.DataFrame({"file_name": listed["File.Name"], "barcode": listed["File.Name"].str.split(".").str[0]})
    counts = rules(tcga.pair(slides, rna_of()))
    assert counts.loc[("slide", "all files listed"), ["files", "patients", "sites"]].tolist() == [1133, 1062, 39]
    assert counts.loc[("slide", tcga.DIAGNOSTIC.keeps), "files"] == 1133
    assert counts.loc[("slide", tcga.PRIMARY_SLIDE.keeps), ["files", "patients"]].tolist() == [1132, 1061]
    parts = tcga.parse_barcodes(slides["barcode"])
    assert (parts["patient_id"] == listed["Case.ID"]).all()
    assert (parts["site"] == listed["TSS.Code"]).all()
    by_site = parts.drop_duplicates("patient_id")["site"].value_counts()
    assert by_site.head(4).to_dict() == {"BH": 142, "A2": 100, "E2": 90, "A8": 83}
