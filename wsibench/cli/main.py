"""The ``wsibench`` command."""

import argparse
import os
import sys
from pathlib import Path

from wsibench.cli.run import STAGES, leaderboard_text, run, say_line, statuses
from wsibench.core import Study, WsibenchError, studies


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    asked = _parser().parse_args(arguments)
    try:
        return asked.do(asked)
    except WsibenchError as error:
        print(f"wsibench: {error.what}", file=sys.stderr)
        if error.remedy:
            print(f"          {error.remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("wsibench: interrupted; what was finished is kept, run the same command to go on.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("wsibench", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("run", help="run a study's notebooks, those that are due")
    command.add_argument("study", help=f"a folder of data/ with a study.yaml: {', '.join(studies())}")
    names = ", ".join(stage.name for stage in STAGES)
    command.add_argument("--from", dest="first", default="", metavar="STAGE", help=f"begin with: {names}")
    command.add_argument("--to", dest="last", default="~", metavar="STAGE", help="end with")
    command.add_argument("--force", action="store_true", help="execute notebooks even when nothing is due")
    command.add_argument("--workers", type=int, help="processes for per-slide work (default: one a core)")
    command.add_argument("--trust", action="store_true", help="run the code of encoders that the study itself names")
    command.set_defaults(do=_run)

    command = commands.add_parser("status", help="say stage by stage what is done and what is due")
    command.add_argument("study")
    command.set_defaults(do=_status)

    command = commands.add_parser("figures", help="draw a study's figures and report again")
    command.add_argument("study")
    command.set_defaults(do=_figures)

    command = commands.add_parser("cohort", help="build a study's cohort, or say what that would take")
    command.add_argument("study")
    command.add_argument("--plan", action="store_true", help="say slides, gigabytes, hours and disk; fetch nothing")
    command.add_argument("--mb-per-s", type=float, default=50.0, help="bandwidth to reckon with (default: 50)")
    command.set_defaults(do=_cohort)

    command = commands.add_parser("folds", help="write a study's folds for others to read")
    command.add_argument("study")
    command.add_argument("-o", "--output", required=True, metavar="FILE", help="a CSV; for sequoia a new folder")
    command.add_argument("--scheme", help="preserved-site or random-patient (default: the study's first)")
    forms = ("wsibench", "preservedsitecv", "sequoia")
    command.add_argument("--format", choices=forms, default="wsibench", help="default: wsibench")
    command.set_defaults(do=_folds)

    command = commands.add_parser("fit", help="fit a probe on all of a study's patients, and save it")
    command.add_argument("study")
    command.add_argument("--encoder", required=True, help="an encoder, or a features table, of the study")
    command.add_argument("--probe", required=True, help="ridge, abmil, … (any probe that a study may name)")
    command.add_argument("-o", "--output", required=True, metavar="FILE.safetensors", help="FILE.json comes beside it")
    command.set_defaults(do=_fit)

    command = commands.add_parser("predict", help="apply a saved fit to the patients of a study")
    command.add_argument("fit", metavar="FILE.safetensors", help="what `wsibench fit` wrote, FILE.json beside it")
    command.add_argument("study", help="a study of the new patients; it needs no expression")
    command.add_argument("-o", "--output", metavar="FILE", help=".h5ad or .csv (default: predicted/ of the study)")
    command.set_defaults(do=_predict)

    command = commands.add_parser("encoders", help="list the encoders, their licences and their exposure to TCGA")
    command.set_defaults(do=_encoders)

    command = commands.add_parser("doctor", help="say what this machine has and what a study lacks")
    command.add_argument("study", nargs="?")
    command.set_defaults(do=_doctor)
    return parser


def _run(asked: argparse.Namespace) -> int:
    for name in (asked.first, asked.last):
        if name not in ("", "~") and not any(stage.name.startswith(name) for stage in STAGES):
            raise WsibenchError(
                f"There is no stage {name!r}.", f"Stages: {', '.join(stage.name for stage in STAGES)}; `03` will do."
            )
    if asked.workers:
        os.environ["WSIBENCH_WORKERS"] = str(asked.workers)  # the notebooks' kernels inherit it
    if asked.trust:
        os.environ["WSIBENCH_TRUST"] = "1"
    study = Study.load(asked.study)
    run(study, first=asked.first, last=asked.last, force=asked.force, say=say_line)
    _summary(study)
    return 0


def _summary(study: Study) -> None:
    from wsibench.core import read_failures

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
    for one in statuses(study):
        print(one)
    return 0


def _figures(asked: argparse.Namespace) -> int:
    study = Study.load(asked.study)
    run(study, first="07", force=True, say=say_line)
    _summary(study)
    return 0


def _cohort(asked: argparse.Namespace) -> int:
    study = Study.load(asked.study)
    if asked.plan:
        from wsibench.cli.plan import cohort_plan, plan_text

        print(plan_text(cohort_plan(study, mb_per_s=asked.mb_per_s)))
    else:
        from wsibench.cohort.build import build

        print(build(study))
    return 0


def _folds(asked: argparse.Namespace) -> int:
    from wsibench.regression.folds import export

    study = Study.load(asked.study)
    scheme = asked.scheme or study.folds.schemes[0]
    export(study, scheme, Path(asked.output), asked.format)
    print(f"{scheme} folds of {study.name}: {asked.output} ({asked.format})")
    return 0


def _fit(asked: argparse.Namespace) -> int:
    from wsibench.regression import saved

    path = Path(asked.output)
    beside = saved.beside(path)  # a name that will not do is said before the work
    fitted = saved.fit(Study.load(asked.study), asked.encoder, asked.probe)
    saved.write(fitted, path)
    print(f"{fitted}\nwrote     {path} ({path.stat().st_size / 1e6:.1f} MB) and {beside.name}")
    return 0


def _predict(asked: argparse.Namespace) -> int:
    from wsibench.regression import prediction, saved

    fitted = saved.read(Path(asked.fit))
    study = prediction.load_study(fitted, asked.study)
    path = Path(asked.output) if asked.output else study.predicted_h5ad(Path(asked.fit).stem)
    prediction.check_name(path)
    predicted = prediction.predict(fitted, study)
    files = prediction.write(predicted, path)
    print(f"{fitted}\n{prediction.summary(predicted)}\nwrote     {' and '.join(map(str, files))}")
    return 0


def _encoders(asked: argparse.Namespace) -> int:
    from wsibench.embedding import encoders_table

    print(encoders_table())
    return 0


def _doctor(asked: argparse.Namespace) -> int:
    from wsibench.cli.doctor import check

    lines = check(Study.load(asked.study) if asked.study else None)
    print("\n".join(str(line) for line in lines))
    return 0 if all(line.good for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
