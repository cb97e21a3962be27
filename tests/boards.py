"""Tables as the ranking leaves them, from scores made up for eight encoders, for tests of figures and report."""

import numpy as np
import pandas as pd

ENCODERS = {"h-optimus-0": 0.9, "uni": 0.85, "phikon": 0.8, "medsiglip": 0.7, "dinov2-large": 0.6}
CONTROLS = {"colour": 0.4, "random-vit": 0.35, "site": 0.0}
TCGA = {"phikon": "yes", "medsiglip": "yes", "site": "unknown"}
SCHEMES = ["random-patient", "preserved-site"]
GROUPS = {"size_0.3": 0.3, "size_0.8": 0.8, "stroma_0.5": 0.5, "site": 0.0, "null": 0.0}
STUDY_KEY = "12345e678901"
"""Looks like a number, as one hash in a few hundred does."""


def scores(probes: tuple[str, ...] = ("ridge", "abmil"), seed: int = 0, genes: int = 12) -> pd.DataFrame:
    """scores.parquet: controls that see no tiles have no attention MIL."""
    rng = np.random.default_rng(seed)
    names = [f"{group}-{i}" for group in GROUPS for i in range(genes)]
    groups = np.repeat(list(GROUPS), genes)
    ceilings = np.repeat(list(GROUPS.values()), genes)
    frames = []
    for scheme in SCHEMES:
        for encoder, skill in (ENCODERS | CONTROLS).items():
            for probe in probes[:1] if encoder == "site" else probes:
                rho = skill * ceilings * (0.9 if probe == "abmil" else 1) + rng.normal(0, 0.08, len(names))
                frames.append(
                    pd.DataFrame({"gene": names, "rho": rho, "group": groups, "ceiling": ceilings}).assign(
                        scheme=scheme, encoder=encoder, probe=probe, n_folds=5, undefined=False
                    )
                )
    return pd.concat(frames, ignore_index=True)


def leaderboard(table: pd.DataFrame) -> pd.DataFrame:
    """leaderboard.csv."""
    board = table.groupby(["scheme", "encoder", "probe"])["rho"].agg(mean_rho="mean", median_rho="median").reset_index()
    ranked = ~board["encoder"].isin(list(CONTROLS))
    board["rank"] = board["mean_rho"].where(ranked).groupby(board["scheme"]).rank(ascending=False)
    board["p_best"] = (1 / board["rank"] ** 2).round(3)
    board["ci_low"], board["ci_high"] = board["mean_rho"] - 0.021, board["mean_rho"] + 0.024
    board = board.assign(n_patients=212, n_genes=table["gene"].nunique(), n_undefined=0, study_key=STUDY_KEY)
    board["tcga"] = board["encoder"].map(TCGA).fillna("no")
    columns = ["rank", "encoder", "probe", "scheme", "mean_rho", "ci_low", "ci_high", "median_rho", "p_best"]
    columns += ["n_patients", "n_genes", "n_undefined", "tcga", "study_key"]
    return board.sort_values(["scheme", "rank"], na_position="last")[columns].reset_index(drop=True)


def null(board: pd.DataFrame) -> pd.DataFrame:
    """null.csv: all genes together, and one group of them and the free kind with much wider bands."""
    one = board.loc[board["probe"] == "ridge", ["scheme", "encoder", "probe"]].assign(mean=0.0, kind="within-site")
    return pd.concat(
        [
            one.assign(group="", q025=-0.012, q975=0.011),
            one.assign(group="null", q025=-0.3, q975=0.3),
            one.assign(kind="free", group="", q025=-0.25, q975=0.25),
        ],
        ignore_index=True,
    )


def rank_frequencies(board: pd.DataFrame) -> pd.DataFrame:
    """rank_frequencies.csv: frequencies fall off with the distance from a row's own rank."""
    rows = []
    for row in board[board["rank"].notna()].itertuples():
        ranks = np.arange(1, board["rank"].max() + 1).astype(int)
        weight = np.exp(-abs(ranks - row.rank))
        for rank, frequency in zip(ranks, weight / weight.sum(), strict=True):
            rows.append((row.scheme, row.encoder, row.probe, rank, frequency))
    return pd.DataFrame(rows, columns=["scheme", "encoder", "probe", "rank", "frequency"])


def groups(table: pd.DataFrame) -> pd.DataFrame:
    """groups.csv."""
    by = table.groupby(["scheme", "encoder", "probe", "group"])
    means = by.agg(n_genes=("gene", "size"), mean_rho=("rho", "mean"), ceiling=("ceiling", "first")).reset_index()
    return means.assign(ci_low=means["mean_rho"] - 0.05, ci_high=means["mean_rho"] + 0.05)


def curves(encoders: list[str]) -> pd.DataFrame:
    """Training curves of five folds and two seeds."""
    epochs = np.arange(12)
    frames = [
        pd.DataFrame(
            {
                "encoder": encoder,
                "fold": fold,
                "seed": seed,
                "epoch": epochs,
                "loss": 1 - 0.02 * epochs + 0.01 * fold,
                "validation_rho": 0.02 * epochs - 0.01 * seed,
                "chosen": epochs == 9,
            }
        )
        for encoder in encoders
        for fold in range(5)
        for seed in range(2)
    ]
    return pd.concat(frames, ignore_index=True)
