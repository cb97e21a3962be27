"""Each plate from what the stages left: read it, then draw it."""

import anndata
import pandas as pd
from matplotlib.figure import Figure

from wsibench import assembly, figures
from wsibench.cohort import build as cohort
from wsibench.core import FUSION, Study
from wsibench.figures.plates import MOST_GALLERY, MOST_SLIDES, rows, slides_to_show
from wsibench.figures.rows import in_order
from wsibench.figures.style import primary_scheme, probe_name, scheme_name
from wsibench.ranking import leaderboard as ranking, permutation as null
from wsibench.regression import fit as regression

MOST_GENES = 8
UNITS = {"log2_tpm": "log2 TPM", "log2_cpm": "log2 CPM", "zscore": "z-score", "as_is": "unit of the table"}


def forest(study: Study) -> Figure:
    return figures.forest(ranking.read(study, "leaderboard"), ranking.read(study, "null"))


def violins(study: Study) -> Figure:
    return figures.violins(pd.read_parquet(study.scores_parquet), ranking.read(study, "leaderboard"))


def rank_frequencies(study: Study) -> Figure:
    return figures.rank_frequencies(ranking.read(study, "rank_frequencies"))


def differences(study: Study) -> Figure:
    return figures.differences(ranking.read(study, "differences"), rope=study.ranking.rope)


def encoder_by_probe(study: Study) -> Figure:
    return figures.encoder_by_probe(ranking.read(study, "leaderboard"))


def significant(study: Study) -> Figure:
    """By the primary scheme, beside the permutations of the genes that are scored."""
    scheme = primary_scheme(study.folds.schemes)
    scores = pd.read_parquet(study.scores_parquet)
    genes = scores.loc[scores["scheme"] == scheme, "gene"].unique()
    permuted = [
        figures.null_histogram(null.read_null(job)[genes].to_numpy()).assign(encoder=job.encoder, probe=job.probe)
        for job in regression.jobs(study)
        if job.scheme == scheme and null.permutations(job)
    ]
    return figures.significant(scores, pd.concat(permuted), ranking.read(study, "leaderboard"))


def spread(study: Study) -> Figure:
    return figures.spread(rows(study, "spread"), ranking.read(study, "leaderboard"))


def site_meter(study: Study) -> Figure:
    return figures.site_meter(rows(study, "sites"), ranking.read(study, "leaderboard"))


def adjusted(study: Study) -> Figure:
    return figures.adjusted(rows(study, "adjusted"), ranking.read(study, "leaderboard"))


def gene_sets(study: Study) -> Figure:
    return figures.gene_sets(rows(study, "sets"), ranking.read(study, "leaderboard"))


def targets(study: Study) -> Figure:
    return figures.targets(rows(study, "targets"), ranking.read(study, "leaderboard"))


def site_gap(study: Study) -> Figure:
    return figures.site_gap(ranking.read(study, "leaderboard"))


def truth_against_reached(study: Study) -> Figure:
    return figures.truth_against_reached(ranking.read(study, "groups"), ranking.read(study, "leaderboard"))


def predicted_measured(study: Study) -> Figure:
    """The best genes of the first of the leaderboard."""
    scheme = primary_scheme(study.folds.schemes)
    encoder, probe, _ = in_order(ranking.read(study, "leaderboard"))[0]
    scores = pd.read_parquet(study.scores_parquet)
    own = scores[(scores["scheme"] == scheme) & (scores["encoder"] == encoder) & (scores["probe"] == probe)]
    rho = own.dropna(subset="rho").set_index("gene")["rho"].sort_values(ascending=False, kind="stable")
    genes = list(rho.index[:MOST_GENES])
    predicted = anndata.read_h5ad(study.predictions_h5ad(scheme, encoder, probe))[:, genes].to_df()
    measured = assembly.read_benchmark(study.benchmark_h5ad)[predicted.index, genes].to_df()
    return figures.predicted_measured(
        predicted,
        measured,
        rho,
        unit=UNITS[study.expression.unit],
        label=f"{encoder}, {probe_name(probe)}, {scheme_name(scheme)}",
        colour=figures.palette([encoder])[encoder],
    )


def training_curves(study: Study) -> Figure:
    return figures.training_curves(study)


def feature_map(study: Study) -> Figure:
    """By site; of external validation by cohort, since a model has to read the one as it did the other."""
    benchmark = assembly.read_benchmark(study.benchmark_h5ad)
    if study.parts:
        benchmark.obs["cohort"] = benchmark.obs["external"].map({-1: "train", 0: "test"})
    colour = "cohort" if study.parts else "site"
    return figures.feature_map(benchmark, [*study.encoders, *study.features], colour=colour)


def cohort_overview(study: Study) -> Figure:
    return figures.cohort_overview(cohort.read_cohort(study))


def slide_thumbnails(study: Study) -> Figure:
    return figures.slide_thumbnails(study, slides_to_show(study, MOST_SLIDES), tissue=True)


def tissue_and_tiles(study: Study) -> Figure:
    return figures.tissue_and_tiles(study, slides_to_show(study, 1)[0])


def tile_gallery(study: Study) -> Figure:
    return figures.tile_gallery(study, slides_to_show(study, MOST_GALLERY), n=10 * MOST_GALLERY)


def slide_attention(study: Study) -> Figure:
    """The best encoder's attention on the first slide that can be shown."""
    scheme = primary_scheme(study.folds.schemes)
    board = in_order(ranking.read(study, "leaderboard"))
    encoder = next(encoder for encoder, probe, _ in board if probe == "abmil" and encoder != FUSION)
    attention = pd.read_parquet(study.attention_parquet(scheme, encoder, "abmil"))
    label = f"{encoder}, {probe_name('abmil')}, {scheme_name(scheme)}"
    return figures.slide_attention(study, attention, slides_to_show(study, 1)[0], label=label)
