"""Figures for a paper: one function a figure, one style, and what a study gets drawn.

`draw` makes every figure that applies to a study.  Everything is loaded when first asked for, so that
asking what is `expected` costs no matplotlib.
"""

import importlib
from typing import Any

_HOMES = {
    "stage": ["draw", "expected", "not_applicable", "saved"],
    "plates": ["FORMAT", "bag_encoders"],
    "cohort": ["cohort_overview"],
    "comparison": ["forest", "violins"],
    "stability": ["rank_frequencies", "site_gap"],
    "pairs": ["differences", "encoder_by_probe"],
    "robustness": ["adjusted", "site_meter", "spread"],
    "sets": ["gene_sets"],
    "outcomes": ["targets"],
    "significance": ["null_histogram", "significant"],
    "genes": ["truth_against_reached", "predicted_measured"],
    "slides": ["slide_thumbnails", "tissue_and_tiles", "tile_gallery", "slide_attention"],
    "fits": ["training_curves", "curves", "feature_map"],
    "style": ["alt_text", "described", "palette", "save"],
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_MODULES)
