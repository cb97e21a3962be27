"""The ``wsibench`` command."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsibench import cohort, embedding, ranking, regression
from wsibench.cli import checks
from wsibench.cli.run import leaderboard_text, run
from wsibench.cli.stages import STAGES, statuses
from wsibench.core import Study, WsibenchError, read_failures, studies, write_text


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        asked = _parser().parse_args(arguments)
        return asked.do(asked) or 0
    except WsibenchError as error:
        print(f"wsibench: {error.what}", file=sys.stderr)
        if error.remedy:
            print(f"          {error.remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("wsibench: interrupted; finished files are kept, the same command continues.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("wsibench", description="Benchmark image foundation models on whole-slide images.")
    parser.add_argument("--version", action="version", version=f"wsibench {version('wsibench')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(do: Callable[[argparse.Namespace], Any], text: str, example: str, **study: Any) -> argparse.ArgumentParser:
        name = do.__name__.strip("_")
        command = commands.add_parser(name, help=text, description=text, epilog=f"example: wsibench {name} {example}")
        command.set_defaults(do=do)
        if study:
            command.add_argument("study", type=Study.load, **study)
        return command

    known = {"help": f"a folder of data/ with a study.yaml: {', '.join(studies())}"}
    command = add(_run, "run the notebooks of a study that are due", "demo --from 05", **known)
    names = ", ".join(stage.name for stage in STAGES)
    command.add_argument("--from", dest="first", default="", metavar="STAGE", help=f"begin with: {names}")
    command.add_argument("--to", dest="last", default="", metavar="STAGE", help="end with")
    command.add_argument("--force", action="store_true", help="execute notebooks even when nothing is due")
    command.add_argument("--workers", type=_positive, help="worker processes (default: one a core)")
    command.add_argument("--trust", action="store_true", help="run the code of encoders that the study itself names")

    add(_status, "show for every stage whether it is done or due", "demo", **known)
    add(_figures, "draw a study's figures and report again", "demo", **known)

    command = add(_cohort, "build a study's cohort, or show what that would take", "tcga-brca --plan", **known)
    command.add_argument("--plan", action="store_true", help="show slides, gigabytes, hours and disk; download nothing")
    command.add_argument("--mb-per-s", type=float, default=50.0, help="bandwidth to assume (default: 50)")

    command = add(_folds, "write a study's folds to a CSV", "demo -o folds.csv", **known)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="a CSV")
    command.add_argument("--scheme", help="preserved-site or random-patient (default: the study's first)")

    example = "demo --encoder colour --probe ridge -o colour.safetensors"
    command = add(_fit, "fit a probe on all of a study's patients, and save it", example, **known)
    command.add_argument("--encoder", required=True, help="an encoder or a feature table of the study")
    command.add_argument("--probe", required=True, help="ridge, abmil, … (any probe that a study can have)")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.safetensors", help="file to write")

    command = add(_predict, "apply a saved fit to the patients of a study", "colour.safetensors new-patients")
    command.add_argument("fit", type=Path, metavar="FILE.safetensors", help="a file of `wsibench fit`")
    command.add_argument("study", type=Study.load, help="a study of the new patients; it needs no expression")
    text = ".h5ad or .csv (default: predicted/ of the study)"
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help=text)

    command = add(_encoders, "list the encoders, their licences and their exposure to TCGA", "--format csv")
    command.add_argument("--format", choices=["table", "markdown", "csv", "json"], default="table")
    command.add_argument("--check", metavar="NAME", help="embed a painted tile, to check a record on its weights")
    command.add_argument("--record", action="store_true", help="with --check: write NAME.json for others to compare")

    add(_doctor, "check the machine, and a study for faults that would stop it", "demo", nargs="?", **known)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _run(asked: argparse.Namespace) -> None:
    if asked.workers:
        os.environ["WSIBENCH_WORKERS"] = str(asked.workers)  # the notebooks' kernels inherit it
    if asked.trust:
        os.environ["WSIBENCH_TRUST"] = "1"
    run(asked.study, first=asked.first, last=asked.last, force=asked.force)
    _summary(asked.study)


def _summary(study: Study) -> None:
    if failures := read_failures(study.failures_csv):
        print(f"\n{len(failures)} slides failed ({study.failures_csv}):")
        for row in failures:
            print(f"  {row.slide_id}, {row.stage}: {row.error} {row.remedy}")
    if study.leaderboard_csv.exists():
        print(f"\n{leaderboard_text(study)}")
    if (study.figures / "index.html").exists():
        print(f"\nfigures  {study.figures}\nreport   {study.figures / 'index.html'}")


def _status(asked: argparse.Namespace) -> None:
    print(f"{asked.study.title} (study {asked.study.name}, key {asked.study.key})")
    print(*statuses(asked.study), sep="\n")


def _figures(asked: argparse.Namespace) -> None:
    run(asked.study, first="07", force=True)
    _summary(asked.study)


def _cohort(asked: argparse.Namespace) -> None:
    if asked.plan:
        plan = checks.download_plan(asked.study, mb_per_s=asked.mb_per_s)
        print(plan.astype(object).to_string(index=False, na_rep=""))
    else:
        print(cohort.build(asked.study))


def _folds(asked: argparse.Namespace) -> None:
    scheme = asked.scheme or asked.study.folds.schemes[0]
    regression.folds.export(asked.study, scheme, asked.output)
    print(f"{scheme} folds of {asked.study.name}: {asked.output}")


def _fit(asked: argparse.Namespace) -> None:
    path = regression.saved.check_name(asked.output, ".safetensors")
    accuracy = _accuracy(asked.study, asked.encoder, asked.probe)
    fitted = regression.saved.fit(asked.study, asked.encoder, asked.probe, **accuracy)
    regression.saved.save(fitted, path)
    print(f"{fitted}\nwrote     {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _accuracy(study: Study, encoder: str, probe: str) -> dict[str, Any]:
    """Read out-of-fold scores and accuracy of an encoder and probe, if the ranking is current and has them."""
    if study.parts or any(artefact.due() for artefact in ranking.expected(study)):
        return {}
    board, scores = ranking.read(study, "leaderboard"), ranking.read(study, "scores")
    scheme = regression.saved.primary_scheme(study)
    chosen = f"scheme == {scheme!r} and encoder == {encoder!r} and probe == {probe!r}"
    if (row := board.query(chosen)).empty:
        return {}
    # Without ranks there are too few sites, and intervals are of no use.
    ranked = board.loc[board["scheme"] == scheme, "rank"].notna().any()
    columns = ["mean_rho", "ci_low", "ci_high"] if ranked else ["mean_rho"]
    return {"scores": scores.query(chosen).set_index("gene"), "accuracy": row[columns].iloc[0].astype(float).to_dict()}


def _predict(asked: argparse.Namespace) -> None:
    saved, study = regression.saved, asked.study
    fitted = saved.load(asked.fit)
    path = saved.check_name(asked.output or study.predicted_h5ad(asked.fit.stem), ".h5ad", ".csv")
    predicted = saved.predict(fitted, study)
    files = saved.write_predictions(predicted, path)
    print(f"{fitted}\n{saved.summary(predicted)}\nwrote     {' and '.join(map(str, files))}")


def _encoders(asked: argparse.Namespace) -> None:
    if not asked.check:
        print(embedding.encoders_table(asked.format))
        return
    found = embedding.check_record(asked.check)
    print(embedding.check_text(found))
    if asked.record:
        write_text(Path(f"{asked.check}.json"), json.dumps(found, indent=1) + "\n")


def _doctor(asked: argparse.Namespace) -> int:
    rows = checks.machine()
    for name, found in checks.faults(asked.study).items() if asked.study else []:
        rows += [(name, each, each.startswith(checks.WARNING)) for each in found] or [(name, "no fault found", True)]
    for name, found_there, good in rows:
        print(f"{'ok   ' if good else 'FAULT'} {name:<14} {found_there}")
    return 0 if all(good for *_, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
