"""How much a score moves with the patients, with how they are divided into folds, and with the seeds of a network."""

import numpy as np
import pandas as pd

from wsibench.ranking.predictions import Arm

COLUMNS = [
    "scheme", "encoder", "probe", "n_splits", "mean_rho", "median_rho", "sd_patients", "sd_splits", "n_seeds",
    "sd_seeds",
]  # fmt: skip


def spread(arm: Arm, draws: np.ndarray) -> pd.DataFrame:
    """Standard deviations of mean ρ by what it depends on, a row an encoder and probe.

    Splits are divisions of the same patients into folds by other seeds; seeds those of a network's
    start, each scored by itself where the leaderboard scores their mean.  The three stand apart: that of
    patients (or sites) is what the interval shows, that of splits and seeds comes from choices of ours
    and falls with their number.

    Parameters
    ----------
    draws
        Of mean ρ, (predictions, draws).

    Returns
    -------
    DataFrame
        With `COLUMNS`; mean_rho and median_rho over genes are means over splits, an SD of one value NaN.
    """
    rows = []
    for row, (splits, seeds) in enumerate(zip(arm.by_split, arm.by_seed, strict=True)):
        by_split = np.nanmean(splits, axis=0)
        by_seed = np.full(1, np.nan) if seeds is None else np.nanmean(seeds, axis=0)
        rows.append({
            **arm.named(row), "n_splits": len(by_split), "mean_rho": by_split.mean(),
            "median_rho": np.nanmedian(splits, axis=0).mean(), "sd_patients": np.nanstd(draws[row], ddof=1),
            "sd_splits": _sd(by_split), "n_seeds": len(by_seed), "sd_seeds": _sd(by_seed),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")
