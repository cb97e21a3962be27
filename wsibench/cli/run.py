"""Run the stages of a study: one notebook each, executed by papermill when a file that it makes is due."""

import textwrap
import time
from collections.abc import Callable

from wsibench.cli.checks import check
from wsibench.cli.stages import STAGES, Stage, select_stages, status
from wsibench.core import Study, WsibenchError, writing


def run(
    study: Study, *, first: str = "", last: str = "", force: bool = False, say: Callable[[str], None] = print
) -> None:
    """Run the stages of a study that are due.

    Parameters
    ----------
    study
        The study.
    first, last
        Stages to begin and end with, as the beginning of their names (``03``).
    force
        Execute the notebooks even when nothing is due; files that are current are not made again.
    say
        Function that is called with every line of the log.

    Raises
    ------
    WsibenchError
        When the study has a fault that a check finds, or a notebook fails.
    """
    chosen = select_stages(first, last)
    say(f"{study.title} (study {study.name}, key {study.key})")
    check(study, chosen, say)
    for stage in chosen:
        before = status(study, stage)
        if before.state == "not applicable" or (before.state == "done" and not force):
            say(str(before))
            continue
        say(f"{stage.name:<14} running         {before.why}")
        started = time.monotonic()
        execute(study, stage, say)
        say(f"{stage.name:<14} done            in {time.monotonic() - started:.0f} s")
        if stage is STAGES[0]:
            check(study, chosen[1:], say)  # against the cohort, which is known from now on
    if STAGES[-1] in chosen:
        from wsibench import figures

        figures.export_notebooks(study)  # the report links the notebooks, the last of which has just ended
        figures.write_report(study)


def execute(study: Study, stage: Stage, say: Callable[[str], None] = print) -> None:
    """Execute the notebook of a stage, and store the executed copy.

    papermill marks the cells of a killed kernel as completed. A notebook has succeeded when there is
    no error, every cell has a number, and every file is there.

    Parameters
    ----------
    study
        The study.
    stage
        The stage.
    say
        Function that is called with every line that the notebook prints.

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
            stdout_file=_Indented(say),
            kernel_manager_class=_quiet_kernel_manager(),
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
        raise WsibenchError(
            f"{stage.name} failed: {error}.", f"Check the disk and the rights of {study.root}."
        ) from None
    finally:
        if running.exists():
            running.replace(failed)


def _quiet_kernel_manager() -> type:
    """Define a kernel manager that encrypts where it can, since ipykernel otherwise warns at every start."""
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class QuietKernelManager(AsyncKernelManager):
        @default("transport_encryption")
        def _encrypt_where_possible(self) -> str:
            return "auto"

    return QuietKernelManager


class _Indented:
    """A text stream that passes on whole lines, indented below their stage."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.rest = ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            self.say(f"{'':<14} {line}")

    def flush(self) -> None:
        """Do nothing: only the beginning of a line is held back."""


def leaderboard_text(study: Study) -> str:
    """Format the leaderboard for a terminal, the primary scheme first, with the headline and its warnings."""
    from wsibench import ranking

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
