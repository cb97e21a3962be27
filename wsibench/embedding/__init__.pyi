from .conformance import check_record as check_record, check_text as check_text
from .encoders import (
    ENCODERS as ENCODERS,
    encoder as encoder,
    encoders_table as encoders_table,
    find_weights as find_weights,
    table as table,
    tcga as tcga,
    tile_controls as tile_controls,
    tile_encoders as tile_encoders,
)
from .features import read_coords as read_coords, read_features as read_features, write_features as write_features
from .models import load as load
from .one_pass import embed as embed, embed_slide as embed_slide
from .stage import (
    embed_slides as embed_slides,
    expected as expected,
    made_by as made_by,
    not_applicable as not_applicable,
)
