"""The report's tables beside the leaderboard: what they pick, what they leave to the CSV, what they say of it."""

import boards
import numpy as np
import pandas as pd

from wsibench.figures import findings

BOARD = boards.leaderboard(boards.scores())
PRIMARY = BOARD[BOARD["scheme"] == "preserved-site"]
FIRST = PRIMARY[PRIMARY["rank"] == 1].iloc[0]
TABLES = {
    "leaderboard": BOARD,
    "differences": boards.differences(BOARD),
    "sets": boards.sets(BOARD),
    "adjusted": boards.adjusted(BOARD),
    "spread": boards.spread(BOARD),
    "sites": boards.sites(BOARD),
    "targets": boards.targets(BOARD),
}


def sections(**tables):
    return {section.name: section for section in findings.sections(lambda name: (TABLES | tables)[name], 0.01)}


def test_every_table_with_rows_becomes_a_section_of_even_rows():
    found = sections()
    assert set(found) == set(TABLES) - {"leaderboard"}
    for section in found.values():
        assert {len(row) for row in section.rows} == {len(section.header)}
        assert section.caption[-1] == "."
    nothing = pd.DataFrame()
    assert set(sections(sets=nothing, targets=nothing)) == set(found) - {"sets", "targets"}
    only_none = TABLES["adjusted"][TABLES["adjusted"]["adjustment"] == "none"]
    assert "adjusted" not in sections(adjusted=only_none)


def test_differences_are_of_the_primary_scheme_with_the_best_on_top():
    section = sections()["differences"]
    part = TABLES["differences"][TABLES["differences"]["scheme"] == "preserved-site"]
    assert len(section.rows) + section.left_out == len(part)
    assert section.rows[0][0].startswith(FIRST["encoder"])
    assert section.rows[0][2] == f"{part.iloc[0]['delta']:.3f}"


def test_tests_over_folds_get_columns_where_the_ranking_has_them():
    more = TABLES["differences"].assign(p_corrected_t=0.0004, p_a_better=0.2, p_equal=0.7, p_b_better=0.1)
    section = sections(differences=more)["differences"]
    assert section.header[-2:] == ["p (corrected t)", "P(equal)"]
    assert section.rows[0][-2:] == ["< 0.001", "70 %"]


def test_sets_are_those_of_the_best_competitor_never_of_a_control():
    table = TABLES["sets"].copy()
    table.loc[table["encoder"] == "colour", "mean_rho"] = 0.99
    section = sections(sets=table)["sets"]
    own = table[(table["scheme"] == "preserved-site") & ~table["encoder"].isin(list(boards.CONTROLS))]
    best = own.loc[own.groupby("set")["mean_rho"].idxmax()].sort_values("mean_rho", ascending=False)
    assert [row[0] for row in section.rows] == best["set"].tolist()
    assert [row[3] for row in section.rows] == [f"{value:.3f}" for value in best["mean_rho"]]
    assert not any(row[1].startswith("colour") for row in section.rows)
    # The last set was not compared with random ones.
    assert [row[5:] for row in section.rows if row[0] == boards.SETS[-1]] == [["–", "–"]]


def test_what_was_not_repeated_has_a_dash():
    rows = {row[0]: row for row in sections()["spread"].rows}
    assert rows["uni · ridge"][-1] == "–"
    assert rows["uni · attention MIL"][-1].endswith(" (3)")
    assert next(iter(rows)).startswith(FIRST["encoder"])


def test_adjustments_that_could_not_be_made_are_left_out():
    table = TABLES["adjusted"].copy()
    table.loc[table["adjustment"] == "given purity", "mean_rho"] = np.nan
    rows = sections(adjusted=table)["adjusted"].rows
    assert {row[1] for row in rows} == set(boards.ADJUSTMENTS) - {"none", "given purity"}
    assert len({row[0] for row in rows}) == 2  # the first encoder of each probe


def test_targets_show_every_measure_beside_its_chance():
    rows = sections()["targets"].rows
    shown = {(row[0], row[1]): row[-1] for row in rows}
    assert shown["subtype", "AUROC"] == "0.50"
    assert shown["subtype", "balanced accuracy"] == "0.33"
    assert shown["purity", "R²"] == "0.00"
    assert len(shown) == 2 * len(boards.TARGETS)


def test_the_worst_offender_stands_first():
    accuracies = [float(row[2]) for row in sections()["sites"].rows]
    assert accuracies == sorted(accuracies, reverse=True)
