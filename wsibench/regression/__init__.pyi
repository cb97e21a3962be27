from . import folds as folds, metrics as metrics, saved as saved
from .cross_validation import OutOfFold as OutOfFold, out_of_fold as out_of_fold
from .fit import (
    Fit as Fit,
    check as check,
    expected as expected,
    fits as fits,
    load as load,
    not_applicable as not_applicable,
    read_predictions as read_predictions,
    regress as regress,
)
from .folds import check_folds as check_folds
from .metrics import (
    FoldScores as FoldScores,
    centred_midranks as centred_midranks,
    fisher_mean as fisher_mean,
    fold_spearman as fold_spearman,
    scorable_genes as scorable_genes,
)
from .probes import PROBES as PROBES, make_probe as make_probe, probe_spec as probe_spec
from .probes.base import Patients as Patients
