"""What the encoders of a study are held against: the controls that study.yaml names, else all that apply."""

import pandas as pd

from wsibench.assembly.pooling import CONTROLS
from wsibench.cohort.build import read_cohort
from wsibench.core import TILE_CONTROLS, LocalCohort, Study


def tile_controls(study: Study) -> list[str]:
    """Controls that tiles are looked at for; of the study as it is written, before its cohort is read.

    Where study.yaml says nothing of controls, they are run in a study that looks at slides itself: not for
    tables of features, and not for folders of tile features that were computed elsewhere, whose slides may
    not be at hand.
    """
    if study.controls is not None:
        return [name for name in study.controls if name not in CONTROLS]
    looks = any(name not in study.folders for name in study.encoders)
    without_slides = isinstance(study.cohort, LocalCohort) and study.cohort.slides is None
    return [name for name in TILE_CONTROLS if name not in study.encoders] if looks and not without_slides else []


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
