"""Training curves of attention MIL."""

import pandas as pd

from wsibench.figures.catalogue import figure
from wsibench.figures.style import COLUMN_MM, INK, PAGE_MM, Axes, Figure, describe, new_figure, palette


@figure(
    "Training of attention MIL",
    "One line a fold and seed; dots mark the epoch whose weights were kept.",
    "curves",
)
def training_curves(curves: pd.DataFrame) -> Figure:
    """Loss and validation ρ over the epochs of attention MIL, one column an encoder, one line a fold and seed.

    Parameters
    ----------
    curves
        Columns encoder, fold, seed, epoch, loss, validation_rho and chosen (bool: the epoch that was kept).
    """
    encoders = list(dict.fromkeys(curves["encoder"]))
    fig = new_figure(PAGE_MM if len(encoders) > 2 else COLUMN_MM, 72)
    axes = fig.subplots(2, len(encoders), sharex=True, sharey="row", squeeze=False)
    colours, values = palette(encoders), []
    for (upper, lower), encoder in zip(axes.T, encoders, strict=True):
        part = curves[curves["encoder"] == encoder]
        _lines(upper, part, "loss", colours[encoder])
        _lines(lower, part, "validation_rho", colours[encoder])
        upper.set_title(encoder)
        lower.set_xlabel("epoch")
        kept = part.loc[part["chosen"], ["validation_rho", "epoch"]].mean()
        values.append(f"{encoder} {kept['validation_rho']:.2f} at epoch {kept['epoch']:.0f}")
    axes[0, 0].set_ylabel("training loss\n(MSE of z-scores)")
    axes[1, 0].set_ylabel("validation ρ\n(mean over genes)")
    n = len(curves[["fold", "seed"]].drop_duplicates())
    alt = (
        f"Training curves of attention MIL, {n} fits an encoder; mean validation ρ at the epoch that was kept: "
        f"{', '.join(values)}."
    )
    return describe(fig, alt, curves)


def _lines(ax: Axes, part: pd.DataFrame, column: str, colour: str) -> None:
    for _, line in part.groupby(["fold", "seed"]):
        ax.plot(line["epoch"], line[column], color=colour, lw=0.5, alpha=0.5)
    kept = part[part["chosen"]]
    ax.plot(kept["epoch"], kept[column], "o", color=colour, ms=2.5, mec=INK, mew=0.3)
    ax.grid(axis="y")
