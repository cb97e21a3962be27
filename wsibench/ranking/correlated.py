"""Two competitors compared from fold to fold, with the correlation that shared training patients bring.

Pure functions of arrays.  The folds are the replicates: each gives one difference of two competitors that
were fitted and tried on the same patients.  Any two folds share most of their training patients, so their
differences are correlated, and a plain t test calls far too many differences real.  Nadeau and Bengio
[1]_ put the correlation at the share of patients that are tested, which adds n_test / n_train to the 1 / J of J
replicates; Corani and Benavoli [2]_ show that the posterior of the mean difference is then a Student t of the
same place and spread.  Unlike the bootstrap of `wsibench.ranking.bootstrap`, which takes the fits as given, the spread
between folds holds what another training set would have changed; with few folds it is known badly.

References
----------
.. [1] Nadeau & Bengio 2003, Inference for the generalization error, Machine Learning 52, 239–281.
.. [2] Corani & Benavoli 2015, A Bayesian approach for comparing cross-validated algorithms on multiple data
   sets, Machine Learning 100, 285–304.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from wsibench.regression.metrics import RESERVED

ROUNDING = 1e-7
"""Spread between folds that is rounding: correlations are float32, and competitors may predict the same."""


@dataclass(frozen=True)
class Differences:
    """What the folds say of the mean difference of two competitors."""

    mean: float
    """Over folds, each weighted by its n − 3 patients as scores are."""
    scale: float
    """Corrected standard error; 0 when all folds agree, NaN of a single fold."""
    degrees: int
    """Replicates less one."""


def fold_differences(rho_a: np.ndarray, rho_b: np.ndarray, n_test: np.ndarray, n_patients: int) -> Differences:
    """The mean difference of two competitors and its corrected standard error.

    Folds need not be of one size.  A fold's difference is taken to have a variance in proportion to
    1 / (n − 3), as Fisher's z has: the mean is weighted by n − 3, and the spread between folds is the weighted
    one.  n_test / n_train is averaged over folds with the same weights, so that a fold that holds most
    patients, and leaves few to train on, makes the test wary.  Folds of equal size give Nadeau & Bengio's.

    Parameters
    ----------
    rho_a, rho_b
        Correlations of each competitor in each fold, (J, genes); J is the number of folds, or r × k of r
        divisions into k folds.  A fold's difference is that of the means over genes.
    n_test
        Patients of each fold, (J,); folds of three or fewer do not count.
    n_patients
        Patients of the study: those whom a fold does not test have trained it.
    """
    n_test = np.asarray(n_test, float)
    counted = n_test > RESERVED
    each = (np.asarray(rho_a, float) - np.asarray(rho_b, float))[counted].mean(axis=1)
    return corrected(each, n_test[counted], n_patients - n_test[counted])


def corrected(each: np.ndarray, n_test: np.ndarray, n_train: np.ndarray) -> Differences:
    """As `fold_differences`, of one difference a fold; all arguments (J,)."""
    each, n_test, n_train = (np.asarray(values, float) for values in (each, n_test, n_train))
    replicates = len(each)
    weight = (n_test - RESERVED) / (n_test - RESERVED).sum()
    mean = float(weight @ each)
    if replicates < 2:
        return Differences(mean, np.nan, 0)
    variance = replicates * (weight @ (each - mean) ** 2) / (replicates - 1)
    spread = np.sqrt(variance) if variance > ROUNDING**2 else 0.0
    return Differences(mean, float(spread * np.sqrt(1 / replicates + weight @ (n_test / n_train))), replicates - 1)


def corrected_t(found: Differences) -> float:
    """Two-sided p-value of the corrected resampled t test; NaN of a single fold.

    Folds that all say the same leave no doubt: p is 1 for a difference of 0 and else 0.
    """
    if not found.scale > 0:
        return np.nan if np.isnan(found.scale) else float(abs(found.mean) <= ROUNDING)
    return float(2 * t.sf(abs(found.mean) / found.scale, found.degrees))


def posterior(found: Differences, rope: float) -> tuple[float, float, float]:
    """How probably the first is better, both are practically equal, and the second is better.

    Parameters
    ----------
    rope
        Half the width of the region of practical equivalence: differences within ± `rope` are none.

    Returns
    -------
    tuple
        Probabilities that sum to 1; NaN of a single fold.
    """
    if np.isnan(found.scale):
        return np.nan, np.nan, np.nan
    if found.scale == 0:
        better, worse = float(found.mean > rope + ROUNDING), float(found.mean < -rope - ROUNDING)
        return better, 1 - better - worse, worse
    better = float(t.sf((rope - found.mean) / found.scale, found.degrees))
    worse = float(t.cdf((-rope - found.mean) / found.scale, found.degrees))
    return better, max(0.0, 1 - better - worse), worse
