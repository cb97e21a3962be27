from .catalogue import draw as draw, expected as expected, not_applicable as not_applicable, saved as saved
from .cohort import cohort_overview as cohort_overview, feature_map as feature_map
from .genes import predicted_measured as predicted_measured, significant as significant
from .leaderboard import (
    differences as differences,
    forest as forest,
    rank_frequencies as rank_frequencies,
    violins as violins,
)
from .report import export_notebooks as export_notebooks, write_report as write_report
from .robustness import adjusted as adjusted, site_predictability as site_predictability, spread as spread
from .sets import gene_sets as gene_sets, planted_signals as planted_signals, targets as targets
from .slides import (
    slide_attention as slide_attention,
    slide_thumbnails as slide_thumbnails,
    tile_gallery as tile_gallery,
    tissue_and_tiles as tissue_and_tiles,
)
from .style import palette as palette, save as save
from .training import training_curves as training_curves
