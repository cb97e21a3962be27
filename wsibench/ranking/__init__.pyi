from .association import (
    partial_spearman as partial_spearman,
    significance as significance,
    within_strata as within_strata,
)
from .bootstrap import (
    central_interval as central_interval,
    confidence_draws as confidence_draws,
    degrees_of_freedom as degrees_of_freedom,
    mean_draws as mean_draws,
    rank_frequencies as rank_frequencies,
    training_draws as training_draws,
    two_sided_p as two_sided_p,
    widening_for_sites as widening_for_sites,
)
from .caveats import site_predictability as site_predictability
from .gene_sets import (
    check_gene_sets as check_gene_sets,
    declared_sets as declared_sets,
    read_gene_sets as read_gene_sets,
)
from .leaderboard import (
    check as check,
    expected as expected,
    headline as headline,
    not_applicable as not_applicable,
    rank as rank,
    read as read,
    read_null as read_null,
)
from .resampling import sample_weights as sample_weights, sampled_means as sampled_means
