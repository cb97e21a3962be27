"""Assignment of whole sites to folds of about equal size and equal shares of subtypes."""

import numpy as np
import pandas as pd

SIZE_TOLERANCE = 0.01
"""Share by which a fold may be larger or smaller than the mean; more where the sites allow no better."""
SIZE_WEIGHT = 3.0
"""Weight of the squared deviation of a fold's size, against that of its number of patients of a subtype."""
JITTER = 0.6
"""Share by which a site's size is varied at random to vary the order in which sites are assigned."""


def assign_sites(patients: pd.DataFrame, n: int, rng: np.random.Generator) -> np.ndarray:
    """Assign the patients of whole sites to folds, by greedy assignment with random restarts.

    Sites are assigned from about the largest to the smallest, each to the fold that it balances best.  Of many such
    assignments, each in another random order, those with folds of about equal size are kept, and the one whose shares
    of subtypes are closest to the cohort's is returned.

    Parameters
    ----------
    patients
        Columns site and subtype (text; a subtype is empty where unknown).
    n
        Number of folds, at most the number of sites; no fold is empty.
    rng
        Random numbers; another state gives other folds of about the same balance, where the sites allow more than
        one such division.

    Returns
    -------
    ndarray
        int64 (patients,), 0 … n − 1.
    """
    site, names = pd.factorize(patients["site"], sort=True)
    by_subtype = pd.crosstab(patients["site"], patients["subtype"]).drop(columns="", errors="ignore")
    counts = np.c_[np.bincount(site), by_subtype.loc[names]].astype(float)  # all patients, and those of each subtype
    restarts = min(250 * len(names), 400_000 // len(names))
    share, mean = counts[:, 1:].sum(axis=0) / max(1, counts[:, 1:].sum()), len(patients) / n

    def excess(members: np.ndarray) -> np.ndarray:
        return members[..., 1:] - members[..., 1:].sum(axis=-1, keepdims=True) * share

    def cost(members: np.ndarray) -> np.ndarray:
        return SIZE_WEIGHT * np.square(members[..., 0] - mean) + np.square(excess(members)).sum(axis=-1)

    order = np.argsort(-counts[:, 0] * rng.uniform(1 - JITTER, 1 + JITTER, (restarts, len(names))), axis=1)
    members, folds = np.zeros((restarts, n, counts.shape[1])), np.empty(order.shape, np.int64)
    each = np.arange(restarts)
    for step, chosen in enumerate(order.T):
        added = cost(members + counts[chosen, None]) - cost(members)
        if step < n:
            added[members[..., 0] > 0] = np.inf  # the first sites open a fold each
        folds[each, chosen] = added.argmin(axis=1)
        members[each, folds[each, chosen]] += counts[chosen]
    uneven = np.abs(members[..., 0] - mean).max(axis=1)
    known = np.maximum(1, members[..., 1:].sum(axis=-1, keepdims=True))
    unlike = np.abs(excess(members) / known).max(axis=(1, 2), initial=0)
    unlike[uneven > max(uneven.min(), SIZE_TOLERANCE * mean)] = np.inf
    return rng.permutation(n)[folds[unlike.argmin()]][site]
