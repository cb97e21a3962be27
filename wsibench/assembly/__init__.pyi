from .join import (
    concatenate as concatenate,
    join as join,
    patient_table as patient_table,
    read_benchmark as read_benchmark,
)
from .pooling import (
    bag_index as bag_index,
    gene_set_score as gene_set_score,
    mean_features as mean_features,
    read_bags as read_bags,
    table_features as table_features,
    target_columns as target_columns,
)
from .stage import (
    assemble as assemble,
    contents as contents,
    expected as expected,
    feature_folders as feature_folders,
    feature_names as feature_names,
    not_applicable as not_applicable,
    settings_key as settings_key,
    tile_feature_names as tile_feature_names,
)
