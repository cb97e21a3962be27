"""Write the numbers that README.md and docs/ quote, from the files of finished runs.

    python docs/quote_results.py            # rewrite every block whose study has been run
    python docs/quote_results.py --check    # compare instead; exit code 1 if a number is off by more than its tolerance

A block stands between ``<!-- numbers: <name> -->`` and ``<!-- /numbers -->``.  Results differ between kinds of
processor in the third decimal, so that correlations are compared to within `TOLERANCE`.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- numbers: ([\w-]+) -->\n)(.*?)(<!-- /numbers -->)", re.S)
NUMBER = re.compile(r"-?\d*\.\d+")
TOLERANCE = 0.01
"""Largest difference of a correlation or a share between the text and a fresh run on another processor."""
COLUMNS = ["encoder", "probe", "scheme", "mean_rho", "ci_low", "ci_high", "median_rho", "tcga"]
"""Rank and P(best) are left out: between encoders that hardly differ they change with the third decimal."""


def leaderboard(study: str, n_rows: int) -> Callable[[], str]:
    """Make the first rows of a study's leaderboard as a text block."""

    def text() -> str:
        board = pd.read_csv(results(study) / "leaderboard.csv", dtype={"tcga": str})
        table = board.head(n_rows)[COLUMNS].to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}")
        counts = f"{board['n_patients'].max()} patients, {board['n_genes'].max()} genes"
        return f"```text\n{table}\n…\n{counts}\n```\n"

    return text


def targets(study: str) -> str:
    """Make the table of a study's targets other than genes."""
    frame = pd.read_csv(results(study) / "targets.csv")
    frame["score"] = [f"{row.score:.3f} ({row.ci_low:.3f} to {row.ci_high:.3f})" for row in frame.itertuples()]
    frame["who"] = frame["encoder"] + ", " + frame["scheme"]
    wide = frame.pivot_table(index=["target", "measure"], columns="who", values="score", aggfunc="first", sort=False)
    lines = ["| " + " | ".join(["target", "measure", *wide.columns]) + " |", "|" + "---|" * (2 + len(wide.columns))]
    lines += [
        "| " + " | ".join([*index, *row]) + " |"
        for index, row in zip(wide.index, wide.fillna("").to_numpy(), strict=True)
    ]
    return "\n".join(lines) + "\n"


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "demo-leaderboard": ("demo", leaderboard("demo", 6)),
    "hif-leaderboard": ("tcga-brca-hif", leaderboard("tcga-brca-hif", 6)),
    "hif-targets": ("tcga-brca-hif", lambda: targets("tcga-brca-hif")),
}
IMAGES = {"demo": {"forest.png": "docs/images/demo-forest.png"}}


def results(study: str) -> Path:
    """Folder of a study's results."""
    return ROOT / "data" / study


def pages() -> list[Path]:
    """Every page that may hold a block."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fresh(name: str) -> str | None:
    """Make a block anew; None if its study has not been run."""
    study, make = BLOCKS[name]
    return make() if (results(study) / "leaderboard.csv").exists() else None


def write() -> None:
    """Rewrite all blocks and images whose study has been run."""
    for page in pages():
        text = page.read_text()
        page.write_text(BLOCK.sub(lambda block: block[1] + (fresh(block[2]) or block[3]) + block[4], text))
    for study, images in IMAGES.items():
        for image, place in images.items():
            if (made := ROOT / "figures" / study / image).exists():
                shutil.copyfile(made, ROOT / place)


def differences(study: str) -> list[str]:
    """List the numbers in blocks of a study that differ from its results by more than the tolerance."""
    found = []
    for page in pages():
        for _, name, stated, _ in BLOCK.findall(page.read_text()):
            now = fresh(name) if BLOCKS[name][0] == study else None
            if now is None:
                continue
            before, after = rows(stated), rows(now)
            found += [f"{page.name}, {name}: rows of only one of both: {row}" for row in before.keys() ^ after.keys()]
            found += [
                f"{page.name}, {name}: {row}: {a}, now {b}"
                for row in before.keys() & after.keys()
                for a, b in zip(before[row], after[row], strict=True)
                if abs(a - b) > TOLERANCE
            ]
    return found


def rows(block: str) -> dict[str, list[float]]:
    """Divide a block into rows: the numbers of each by its other words, in whatever order rows stand."""
    return {
        " ".join(NUMBER.sub("", line).split()): [float(number) for number in NUMBER.findall(line)]
        for line in block.splitlines()
    }


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if not parser.parse_args().check:
        write()
        return 0
    found = [line for study in dict.fromkeys(study for study, _ in BLOCKS.values()) for line in differences(study)]
    print("\n".join(found) or "All numbers agree.")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
