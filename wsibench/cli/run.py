"""Run the stages of a study: one notebook each, executed by papermill when a file that it makes is due."""

import sys
import textwrap
import time

from wsibench import figures, ranking
from wsibench.cli.checks import check, say
from wsibench.cli.stages import STAGES, Stage, select_stages, status
from wsibench.core import Study, WsibenchError, writing


def run(study: Study, *, first: str = "", last: str = "", force: bool = False) -> None:
    """Run the stages of a study that are due, and print what is done.

    Parameters
    ----------
    study
        The study.
    first, last
        Stages to begin and end with, as the beginning of their names (``03``).
    force
        Execute the notebooks even when nothing is due; files that are current are not made again.

    Raises
    ------
    WsibenchError
        When the study has a fault that a check finds, or a notebook fails.
    """
    chosen = select_stages(first, last)
    say(f"{study.title} (study {study.name}, key {study.key})")
    check(study, chosen)
    for stage in chosen:
        before = status(study, stage)
        if before.state == "not applicable" or (before.state == "done" and not force):
            say(before)
            continue
        say(f"{stage.name:<14} running         {before.why}")
        started = time.monotonic()
        execute(study, stage)
        say(f"{stage.name:<14} done            in {time.monotonic() - started:.0f} s")
        if stage is STAGES[0]:
            check(study, chosen[1:])  # against the cohort, which is known from now on
    if STAGES[-1] in chosen:
        figures.export_notebooks(study)  # the report links the notebooks, the last of which has just ended
        figures.write_report(study)


def execute(study: Study, stage: Stage) -> None:
    """Execute the notebook of a stage, print what it prints, and store the executed copy.

    papermill marks the cells of a killed kernel as completed. A notebook has succeeded when there is
    no error, every cell has a number, and every file is there.

    Raises
    ------
    WsibenchError
        When the notebook fails, with the error of the failing cell and the path of the notebook.
    """
    # papermill takes a second to import, which a run with nothing due can do without.
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    running = study.notebooks / f".{stage.name}.running.ipynb"
    failed = study.notebooks / f"{stage.name}.failed.ipynb"
    remedy = f"The notebook up to the error: {failed}"
    try:
        study.notebooks.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(stage.notebook),
            str(running),
            parameters={"study": study.name},
            kernel_name="python3",
            cwd=str(stage.notebook.parent),
            progress_bar=False,
            stdout_file=sys.stdout,
            config=Config(KernelManager={"transport_encryption": "auto"}),  # else ipykernel warns at every start
            shutdown_kernel="immediate",  # else a failing kernel is interrupted, and logs that
        )
        cells = nbformat.read(running, as_version=4).cells
        if any(cell.cell_type == "code" and cell.source and not cell.execution_count for cell in cells):
            raise WsibenchError(f"{stage.name}: some cells were not run.", remedy)
        after = status(study, stage)
        if after.state == "due" and not after.why.startswith("the files are current"):
            raise WsibenchError(f"{stage.name} ran, but not all of its files are there: {after.why}.", remedy)
        with writing(stage.executed(study, stage.folder.expected(study))) as temporary:
            running.replace(temporary)
        failed.unlink(missing_ok=True)
    except PapermillExecutionError as error:
        raise WsibenchError(f"{stage.name} failed: {error.ename}: {error.evalue}", remedy) from None
    except DeadKernelError:
        raise WsibenchError(f"{stage.name} failed: its kernel died, perhaps for lack of memory.", remedy) from None
    except OSError as error:
        what = f"{stage.name} failed: {error}."
        raise WsibenchError(what, f"Check the disk and the rights of {study.root}.") from None
    finally:
        if running.exists():
            running.replace(failed)


def leaderboard_text(study: Study) -> str:
    """Format the leaderboard for a terminal, the primary scheme first, with the headline and its warnings."""
    board = ranking.read(study, "leaderboard")
    columns = ["rank", "encoder", "probe", "scheme", "mean_rho", "ci_low", "ci_high", "median_rho", "p_best", "tcga"]
    board["rank"] = board["rank"].astype("string").fillna("")  # of controls, which have none
    text = board[columns].to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3g}")
    warnings = [
        textwrap.fill(" ".join(filter(None, ("warning:", row.scheme, row.message))), 100, subsequent_indent="  ")
        for row in ranking.read(study, "warnings").itertuples()
    ]
    counts = f"{board['n_patients'].max()} patients, {board['n_genes'].max()} genes, study key {study.key}"
    return "\n".join([text, counts, ranking.headline(study), *warnings])
