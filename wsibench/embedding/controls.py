"""What the encoders of a study are held against: the controls that study.yaml names, else all that apply."""

import pandas as pd

from wsibench.assembly.pooling import CONTROLS
from wsibench.cohort.build import read_cohort
from wsibench.core import Study
from wsibench.embedding.encoders import tile_controls


def controls(study: Study) -> list[str]:
    """All controls of a study, in the order in which tables show them.

    Raises
    ------
    NotReady
        When study.yaml says nothing of controls, and the cohort that decides which apply has not been built.
    """
    if study.controls is not None:
        return study.controls
    return [*tile_controls(study), *patient_controls(read_cohort(study))]


def patient_controls(rows: pd.DataFrame) -> list[str]:
    """Controls of one vector a patient that apply to a cohort; `rows` has site and subtype, empty where unknown.

    Two sites, or two subtypes, are what a control needs to tell patients apart.
    """
    applies = {"site": "site", "subtype-oracle": "subtype"}
    return [name for name, column in applies.items() if name in CONTROLS and len(set(rows[column]) - {""}) > 1]
