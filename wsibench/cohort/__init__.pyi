from . import clinical as clinical
from .expression import (
    Expression as Expression,
    read_expression_table as read_expression_table,
    read_gene_list as read_gene_list,
)
from .gdc.acquisition import (
    fetch_slide as fetch_slide,
    remote_files as remote_files,
)
from .sample_table import read_sample_table as read_sample_table
from .stage import (
    CohortReport as CohortReport,
    build as build,
    check as check,
    expected as expected,
    has_expression as has_expression,
    not_applicable as not_applicable,
    read_cohort as read_cohort,
    read_expression as read_expression,
    slides_at_hand as slides_at_hand,
)
