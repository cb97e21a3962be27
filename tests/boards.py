"""Tables of the ranking from made-up scores of eight encoders, for the tests of figures and report."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import norm

ENCODERS = {"h-optimus-0": 0.9, "uni": 0.85, "phikon": 0.8, "medsiglip": 0.7, "dinov2-large": 0.6}
CONTROLS = {"colour": 0.4, "random-vit": 0.35, "site": 0.0}
TCGA = {"phikon": "yes", "medsiglip": "yes", "site": "unknown"}
SCHEMES = ["random-patient", "preserved-site"]
GROUPS = {"size_0.3": 0.3, "size_0.8": 0.8, "stroma_0.5": 0.5, "site": 0.0, "null": 0.0}
LONG = {
    "prov-gigapath-slide": 0.95, "virchow2-class-token": 0.93, "conch-v1.5-titan": 0.9, "hibou-large": 0.88,
    "h-optimus-0": 0.9, "uni": 0.85, "phikon": 0.8, "medsiglip": 0.7, "dinov2-large": 0.6,
}  # fmt: skip
"""Nine encoders, some of which have no colour of their own."""
SETS = ("HALLMARK_E2F_TARGETS", "HALLMARK_ESTROGEN_RESPONSE_EARLY", "immune", "pam50", "proliferation")
ADJUSTMENTS = [
    "none",
    "within subtype",
    "given subtype",
    "given purity",
    "given immune",
    "without 1 PC",
    "without 3 PCs",
]
TARGETS = {
    "purity": "continuous",
    "leukocyte_fraction": "continuous",
    "subtype": "categorical",
    "ER_status": "categorical",
}
STUDY_KEY = "12345e678901"
"""Looks like a number, as one hash in a few hundred does."""


def scores(
    probes: tuple[str, ...] = ("ridge", "abmil"),
    seed: int = 0,
    genes: int = 12,
    encoders: dict[str, float] = ENCODERS | CONTROLS,
) -> pd.DataFrame:
    """scores.parquet: controls that see no tiles have no attention MIL."""
    rng = np.random.default_rng(seed)
    names = [f"{group}-{i}" for group in GROUPS for i in range(genes)]
    groups = np.repeat(list(GROUPS), genes)
    ceilings = np.repeat(list(GROUPS.values()), genes)
    frames = []
    for scheme in SCHEMES:
        for encoder, skill in encoders.items():
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
    board = board.assign(n_sites=16, control=~ranked)
    columns = ["rank", "encoder", "probe", "scheme", "mean_rho", "ci_low", "ci_high", "median_rho", "p_best"]
    columns += ["n_patients", "n_genes", "n_undefined", "tcga", "study_key", "n_sites", "control"]
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


def differences(board: pd.DataFrame) -> pd.DataFrame:
    """differences.csv: far ones are told apart, the nearest are equal in practice."""
    rows = []
    for scheme, part in board[board["rank"].notna()].groupby("scheme"):
        for a, b in combinations(part.sort_values("rank").itertuples(), 2):
            delta = a.mean_rho - b.mean_rho
            rows.append({
                "scheme": scheme, "encoder_a": a.encoder, "probe_a": a.probe, "encoder_b": b.encoder,
                "probe_b": b.probe, "delta": delta, "ci_low": delta - 0.02, "ci_high": delta + 0.02,
                "p": np.exp(-300 * delta), "p_holm": min(1, 20 * np.exp(-300 * delta)), "p_rope": np.exp(-40 * delta),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _crossed(board: pd.DataFrame, column: str, values: list) -> pd.DataFrame:
    """A row for each of the board's and each value."""
    return board[["scheme", "encoder", "probe", "mean_rho"]].merge(pd.DataFrame({column: values}), how="cross")


def sets(board: pd.DataFrame, names: tuple[str, ...] = SETS) -> pd.DataFrame:
    """sets.csv: some sets far above random ones, the last without any random ones."""
    table = _crossed(board, "set", list(names))
    position = table["set"].map({name: i for i, name in enumerate(names)})
    table["n_genes"], table["n_missing"] = 20 + 17 * position, position % 3
    centre, half = table["mean_rho"], 0.3 / np.sqrt(table["n_genes"])
    random = {"random_mean": centre, "random_low": centre - half, "random_high": centre + half, "p_random": 0.01}
    table = table.assign(**random)
    table.loc[position == len(names) - 1, list(random)] = np.nan
    table["mean_rho"] = centre + 0.15 * np.cos(position) * centre / 0.3
    return table.assign(ci_low=table["mean_rho"] - 0.04, ci_high=table["mean_rho"] + 0.04)


def adjusted(board: pd.DataFrame) -> pd.DataFrame:
    """adjusted.csv: every adjustment takes more than the one before; subtypes are known of fewer patients."""
    table = _crossed(board, "adjustment", ADJUSTMENTS)
    step = table["adjustment"].map({name: i for i, name in enumerate(ADJUSTMENTS)})
    table = table.rename(columns={"mean_rho": "unadjusted_rho"})
    table["mean_rho"] = table["unadjusted_rho"] * (1 - 0.1 * step)
    patients = np.where(table["adjustment"].str.contains("subtype"), 180, 212)
    return table.assign(n_patients=patients, n_genes=60, median_rho=table["mean_rho"])


def spread(board: pd.DataFrame) -> pd.DataFrame:
    """spread.csv: ridge has no seeds."""
    table = board[["scheme", "encoder", "probe", "mean_rho", "median_rho"]].copy()
    size = 0.01 + 0.02 * table["mean_rho"].abs()
    seeds = np.where(table["probe"] == "abmil", size / 4, np.nan)
    table = table.assign(sd_patients=size, sd_splits=size / 2, sd_seeds=seeds, n_splits=5)
    return table.assign(n_seeds=np.where(table["probe"] == "abmil", 3, 1))


def sites(board: pd.DataFrame) -> pd.DataFrame:
    """sites.csv: what reads expression well gives the site away as well."""
    best = board[board["encoder"] != "site"].groupby("encoder", sort=False)["mean_rho"].max().reset_index()
    accuracy = (0.1 + 1.8 * best["mean_rho"]).clip(0.05, 0.95)
    table = best[["encoder"]].assign(n_patients=212, n_sites=16, balanced_accuracy=accuracy)
    table = table.assign(ci_low=accuracy - 0.05, ci_high=accuracy + 0.04, chance=1 / 16)
    return table.assign(auroc=0.5 + accuracy / 2)


def targets(board: pd.DataFrame, names: dict[str, str] = TARGETS) -> pd.DataFrame:
    """targets.csv: correlations, with chance at 0, and AUROC of categories, with chance at 0.5."""
    chances = {"spearman": 0.0, "auroc": 0.5}
    frames = []
    for target, kind in names.items():
        measure = "spearman" if kind == "continuous" else "auroc"
        own = board[["scheme", "encoder", "probe"]].assign(target=target, kind=kind, measure=measure)
        own["score"] = chances[measure] + board["mean_rho"]
        own = own.assign(ci_low=own["score"] - 0.05, ci_high=own["score"] + 0.05, chance=chances[measure])
        frames.append(own.assign(n_patients=198))
    return pd.concat(frames, ignore_index=True)


def permuted(table: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """ρ under the permutation null by encoder and probe, (permutations, genes)."""
    rng = np.random.default_rng(3)
    pairs = table[["encoder", "probe"]].drop_duplicates()
    return {pair: rng.normal(0, 0.08, (20, 60)) for pair in pairs.itertuples(index=False, name=None)}


def tested(table: pd.DataFrame) -> pd.DataFrame:
    """scores.parquet with p and q; attention MIL was not permuted."""
    p = norm.sf(table["rho"] / 0.08).clip(1e-6)
    tested = table["probe"] != "abmil"
    return table.assign(p=np.where(tested, p, np.nan), q=np.where(tested, np.minimum(1, 3 * p), np.nan))


SCORES = scores()
BOARD = leaderboard(SCORES)
"""Five encoders and three controls with two probes."""
MANY_SCORES = scores(("ridge", "pca-ridge", "own-1", "own-2", "mlp", "abmil"))
MANY = leaderboard(MANY_SCORES)
"""The same with six probes."""
TWO_SCORES = scores(("ridge", "mlp"), encoders={"uni": 0.85, "phikon": 0.8})
TWO = leaderboard(TWO_SCORES)
"""Two encoders without controls."""
NINE_SCORES = scores(("ridge", "mlp", "abmil"), encoders=LONG | CONTROLS)
NINE = leaderboard(NINE_SCORES)
"""Nine encoders with long names, and three controls, with three probes."""
