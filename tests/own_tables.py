"""A study with its own tables and slide files, for tests of the cohort stage."""

from pathlib import Path

import pytest
import yaml

from wsibench import cohort
from wsibench.core import CohortError, Study

SLIDES = """slide_id,patient_id,path,site,subtype,mpp
S1,007,s1.svs,A,LumA,
S2,007,s2.svs,A,,0.5
S3,008,s3.svs,B,Basal,
S4,009,s4.svs,C,LumA,
"""
EXPRESSION = """patient_id,ESR1,FOXM1,CD38
007,1.5,2,0.25
008,2.5,1,0.5
009,0.5,7,0.75
"""


def write(
    data_root: Path,
    slides=SLIDES,
    expression=EXPRESSION,
    *,
    table="slides",
    name="expression.csv",
    columns=None,
    source=None,
    **sections,
) -> Study:
    """The study `own`, and slide files s1.svs … s9.svs."""
    folder = data_root / "own"
    folder.mkdir(exist_ok=True)
    for i in range(1, 10):
        (folder / f"s{i}.svs").write_bytes(f"slide {i}".encode())
    (folder / f"{table}.csv").write_text(slides)
    source = {"source": "local", table: f"{table}.csv", "columns": columns or {}, **(source or {})}
    if isinstance(expression, str):
        (folder / name).write_text(expression)
    if expression is not None:
        source["expression"] = name
    sections = {name.removesuffix("_section"): section for name, section in sections.items()}
    (folder / "study.yaml").write_text(yaml.safe_dump({"title": "T", "cohort": source, **sections}))
    return Study.load("own")


def assert_refused(study, *words):
    """The error of building the cohort says all these words; nothing was written."""
    with pytest.raises(CohortError) as info:
        cohort.build(study)
    for word in words:
        assert word in str(info.value)
    assert not study.cohort_csv.exists()
    assert not study.expression_h5ad.exists()
