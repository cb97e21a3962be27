from .catalogue import (
    draw as draw,
    expected as expected,
    not_applicable as not_applicable,
    save as save,
    saved as saved,
)
from .cohort import (
    cohort_overview as cohort_overview,
    feature_map as feature_map,
    site_predictability as site_predictability,
)
from .genes import (
    gene_lookup as gene_lookup,
    predicted_measured as predicted_measured,
    rho_by_expression as rho_by_expression,
    significant as significant,
    training_curves as training_curves,
)
from .leaderboard import (
    differences as differences,
    encoder_against_encoder as encoder_against_encoder,
    forest as forest,
    gene_heatmap as gene_heatmap,
    rank_frequencies as rank_frequencies,
    spread as spread,
    violins as violins,
)
from .report import export_notebooks as export_notebooks, write_report as write_report
from .sets import adjusted as adjusted, gene_sets as gene_sets, planted_signals as planted_signals, targets as targets
from .slides import (
    slide_attention as slide_attention,
    slide_thumbnails as slide_thumbnails,
    tile_gallery as tile_gallery,
    tissue_and_tiles as tissue_and_tiles,
)
from .style import palette as palette
