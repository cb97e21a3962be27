"""Report on a cohort: counts, and the patients, slides and genes that were left out."""

from dataclasses import dataclass
from html import escape

import pandas as pd

from wsibench.core import Failure, some


@dataclass(frozen=True)
class CohortReport:
    """Counts of a cohort, and the patients, slides and genes that were left out."""

    counts: dict[str, int]
    """Patients, slides, patients with several slides, sites, genes, …"""
    subtypes: dict[str, int]
    """Patients of each subtype."""
    exclusions: pd.DataFrame
    """Kind (what: slide, patient, gene), id and reason, as in exclusions.csv."""
    failures: list[Failure]
    """Slides whose files are missing."""
    unused_columns: list[str]
    """Columns of the sample table that were not read."""
    tables: dict[str, pd.DataFrame]
    """Further tables by title: of a GDC cohort the pairing rules with their counts, …"""

    @property
    def summary(self) -> pd.DataFrame:
        """Exclusions counted by kind and reason, with the first few ids."""
        # "missing values (3 patients)" and "missing values (4 patients)" are one reason.
        reason = self.exclusions["reason"].str.replace(r" \(.*\)$", "", regex=True)
        groups = self.exclusions.groupby(["what", reason], sort=False)["id"]
        return groups.agg(n="size", ids=lambda ids: some(list(ids))).reset_index()

    def _shown(self) -> dict[str, pd.DataFrame]:
        """Collect the tables that are printed, by title."""
        counts = {**self.counts, **{f"subtype {name}": n for name, n in self.subtypes.items()}}
        left_out = "Left out (exclusions.csv lists all)" if len(self.exclusions) else "Nothing was left out."
        shown = {"Cohort": pd.DataFrame(counts.items(), columns=["count", "n"]), left_out: self.summary}
        if self.unused_columns:
            shown[f"Columns not used: {', '.join(self.unused_columns)}"] = pd.DataFrame()
        return shown | self.tables

    def __str__(self) -> str:
        """Format the tables as text."""
        return "\n\n".join(
            title if table.empty else f"{title}\n{table.to_string(index=False)}"
            for title, table in self._shown().items()
        )

    def _repr_html_(self) -> str:
        """Format the tables for a notebook."""
        return "".join(
            f"<p>{escape(title)}</p>" + ("" if table.empty else table.to_html(index=False))
            for title, table in self._shown().items()
        )
