from .build import (
    assemble as assemble,
    join as join,
    patient_table as patient_table,
    read_benchmark as read_benchmark,
    read_exclusions as read_exclusions,
)
from .external import concatenate as concatenate
from .keys import (
    contents as contents,
    expected as expected,
    feature_folders as feature_folders,
    feature_names as feature_names,
    not_applicable as not_applicable,
    settings_key as settings_key,
    tile_feature_names as tile_feature_names,
)
from .pooling import (
    bag_index as bag_index,
    mean_features as mean_features,
    read_bags as read_bags,
    table_features as table_features,
)
from .targets import gene_set_score as gene_set_score, target_columns as target_columns
