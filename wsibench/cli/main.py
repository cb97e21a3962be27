"""The ``wsibench`` command."""

import argparse
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wsibench.cli.run import leaderboard_text, run
from wsibench.cli.stages import STAGES, statuses
from wsibench.core import Study, WsibenchError, read_failures, studies


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    asked = _parser().parse_args(arguments)
    try:
        return asked.do(asked)
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

    def add(do: Callable[[argparse.Namespace], int], text: str, example: str) -> argparse.ArgumentParser:
        name = do.__name__.strip("_")
        command = commands.add_parser(name, help=text, description=text, epilog=f"example: wsibench {name} {example}")
        command.set_defaults(do=do)
        return command

    command = add(_run, "run the notebooks of a study that are due", "demo --from 05")
    command.add_argument("study", help=f"a folder of data/ with a study.yaml: {', '.join(studies())}")
    names = ", ".join(stage.name for stage in STAGES)
    command.add_argument("--from", dest="first", default="", metavar="STAGE", help=f"begin with: {names}")
    command.add_argument("--to", dest="last", default="", metavar="STAGE", help="end with")
    command.add_argument("--force", action="store_true", help="execute notebooks even when nothing is due")
    command.add_argument("--workers", type=_positive, help="worker processes (default: one a core)")
    command.add_argument("--trust", action="store_true", help="run the code of encoders that the study itself names")

    command = add(_status, "show for every stage whether it is done or due", "demo")
    command.add_argument("study")

    command = add(_figures, "draw a study's figures and report again", "demo")
    command.add_argument("study")

    command = add(_cohort, "build a study's cohort, or show what that would take", "tcga-brca --plan")
    command.add_argument("study")
    command.add_argument("--plan", action="store_true", help="show slides, gigabytes, hours and disk; download nothing")
    command.add_argument("--mb-per-s", type=float, default=50.0, help="bandwidth to assume (default: 50)")

    command = add(_folds, "write a study's folds to a CSV", "demo -o folds.csv")
    command.add_argument("study")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="a CSV")
    command.add_argument("--scheme", help="preserved-site or random-patient (default: the study's first)")

    command = add(
        _fit,
        "fit a probe on all of a study's patients, and save it",
        "demo --encoder colour --probe ridge -o colour.safetensors",
    )
    command.add_argument("study")
    command.add_argument("--encoder", required=True, help="an encoder or a feature table of the study")
    command.add_argument("--probe", required=True, help="ridge, abmil, … (any probe that a study can have)")
    command.add_argument("-o", "--output", required=True, metavar="FILE.safetensors", help="file to write")

    command = add(_predict, "apply a saved fit to the patients of a study", "colour.safetensors new-patients")
    command.add_argument("fit", metavar="FILE.safetensors", help="a file of `wsibench fit`")
    command.add_argument("study", help="a study of the new patients; it needs no expression")
    command.add_argument("-o", "--output", metavar="FILE", help=".h5ad or .csv (default: predicted/ of the study)")

    command = add(_encoders, "list the encoders, their licences and their exposure to TCGA", "--format csv")
    command.add_argument("--format", choices=["table", "csv", "json"], default="table")

    command = add(_doctor, "check the machine, and a study for faults that would stop it", "demo")
    command.add_argument("study", nargs="?")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _say(line: str) -> None:
    print(line, flush=True)  # at once, also when the output is a pipe


def _run(asked: argparse.Namespace) -> int:
    if asked.workers:
        os.environ["WSIBENCH_WORKERS"] = str(asked.workers)  # the notebooks' kernels inherit it
    if asked.trust:
        os.environ["WSIBENCH_TRUST"] = "1"
    study = Study.load(asked.study)
    run(study, first=asked.first, last=asked.last, force=asked.force, say=_say)
    _summary(study)
    return 0


def _summary(study: Study) -> None:
    failures = read_failures(study.failures_csv)
    if failures:
        print(f"\n{len(failures)} slides failed ({study.failures_csv}):")
        for row in failures:
            print(f"  {row.slide_id}, {row.stage}: {row.error} {row.remedy}")
    if study.leaderboard_csv.exists():
        print(f"\n{leaderboard_text(study)}")
    if (study.figures / "index.html").exists():
        print(f"\nfigures  {study.figures}\nreport   {study.figures / 'index.html'}")


def _status(asked: argparse.Namespace) -> int:
    study = Study.load(asked.study)
    print(f"{study.title} (study {study.name}, key {study.key})")
    print(*statuses(study), sep="\n")
    return 0


def _figures(asked: argparse.Namespace) -> int:
    study = Study.load(asked.study)
    run(study, first="07", force=True, say=_say)
    _summary(study)
    return 0


def _cohort(asked: argparse.Namespace) -> int:
    study = Study.load(asked.study)
    if asked.plan:
        from wsibench.cli.plan import cohort_plan

        print(cohort_plan(study, mb_per_s=asked.mb_per_s).astype(object).to_string(index=False, na_rep=""))
    else:
        from wsibench.cohort import build

        print(build(study))
    return 0


def _folds(asked: argparse.Namespace) -> int:
    from wsibench.regression import folds

    study = Study.load(asked.study)
    scheme = asked.scheme or study.folds.schemes[0]
    folds.export(study, scheme, Path(asked.output))
    print(f"{scheme} folds of {study.name}: {asked.output}")
    return 0


def _fit(asked: argparse.Namespace) -> int:
    from wsibench.regression import saved

    path, study = saved.check_name(Path(asked.output), ".safetensors"), Study.load(asked.study)
    fitted = saved.fit(study, asked.encoder, asked.probe, **_accuracy(study, asked.encoder, asked.probe))
    saved.save(fitted, path)
    print(f"{fitted}\nwrote     {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


def _accuracy(study: Study, encoder: str, probe: str) -> dict[str, Any]:
    """Read out-of-fold scores and accuracy of an encoder and probe, if the ranking is current and has them."""
    from wsibench import ranking
    from wsibench.regression import saved

    if study.parts or any(artefact.due() for artefact in ranking.expected(study)):
        return {}
    board, scores = ranking.read(study, "leaderboard"), ranking.read(study, "scores")
    scheme = saved.primary_scheme(study)
    # Without ranks there are too few sites, and intervals are of no use.
    ranked = board.loc[board["scheme"] == scheme, "rank"].notna().any()
    columns = ["mean_rho", "ci_low", "ci_high"] if ranked else ["mean_rho"]
    names = [scheme, encoder, probe]
    board, scores = (
        table[(table[["scheme", "encoder", "probe"]] == names).all(axis=1)].set_index("probe")
        for table in (board, scores)
    )
    if board.empty:
        return {}
    return {"scores": scores.set_index("gene"), "accuracy": board[columns].iloc[0].astype(float).to_dict()}


def _predict(asked: argparse.Namespace) -> int:
    from wsibench.regression import saved

    fitted, study = saved.load(Path(asked.fit)), Study.load(asked.study)
    path = Path(asked.output) if asked.output else study.predicted_h5ad(Path(asked.fit).stem)
    saved.check_name(path, ".h5ad", ".csv")
    predicted = saved.predict(fitted, study)
    files = saved.write_predictions(predicted, path)
    print(f"{fitted}\n{saved.summary(predicted)}\nwrote     {' and '.join(map(str, files))}")
    return 0


def _encoders(asked: argparse.Namespace) -> int:
    from wsibench.embedding import encoders_table

    print(encoders_table(asked.format))
    return 0


def _doctor(asked: argparse.Namespace) -> int:
    from wsibench.cli.checks import WARNING, Finding, faults, machine

    findings = machine()
    for name, found in faults(Study.load(asked.study)).items() if asked.study else []:
        findings += [Finding(each.startswith(WARNING), name, each) for each in found] or [
            Finding(True, name, "no fault found")
        ]
    print(*findings, sep="\n")
    return 0 if all(one.good for one in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
