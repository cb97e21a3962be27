"""Run a study: its notebooks in order through papermill, each only when something it leaves is due."""

import hashlib
import importlib
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from wsibench.core import CHECKOUT, Artefact, NotReady, Study, WsibenchError, make_key, read_failures, writing

FORMAT = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One notebook and the room whose files it leaves."""

    name: str
    room_name: str

    @property
    def notebook(self) -> Path:
        """The stripped notebook in the checkout."""
        return CHECKOUT / "notebooks" / f"{self.name}.ipynb"

    @property
    def room(self) -> ModuleType:
        """The room, imported only when asked for."""
        return importlib.import_module(f"wsibench.{self.room_name}")

    def executed(self, study: Study, expected: Iterable[Artefact]) -> Artefact:
        """The executed copy; another notebook text or other artefacts make it due again."""
        source = hashlib.sha256(self.notebook.read_bytes()).hexdigest()
        keys = sorted(artefact.key for artefact in expected)
        key = make_key("notebook", FORMAT, {"source": source, "study": study.name}, keys)
        return Artefact(study.notebooks / f"{self.name}.ipynb", key)


STAGES = (
    Stage("01_cohort", "cohort.build"),
    Stage("02_tiling", "tiling"),
    Stage("03_embedding", "embedding"),
    Stage("04_assembly", "assembly.build"),
    Stage("05_regression", "regression.fit"),
    Stage("06_ranking", "ranking.leaderboard"),
    Stage("07_figures", "figures"),
)


@dataclass(frozen=True)
class Status:
    """Where one stage of a study stands."""

    stage: Stage
    state: str
    """``done``, ``due`` or ``not applicable``."""
    why: str

    def __str__(self) -> str:
        return f"{self.stage.name:<14} {self.state:<15} {self.why}"


def status(study: Study, stage: Stage) -> Status:
    """Whether a stage is done, due or not applicable, and why."""
    reason = stage.room.not_applicable(study)
    if reason:
        return Status(stage, "not applicable", reason)
    try:
        expected = stage.room.expected(study)
    except NotReady as error:
        return Status(stage, "due", error.what)
    reasons = Counter[str]()
    known = {row.key: row for row in read_failures(study.failures_csv)}
    failed = set()
    for artefact in expected:
        why = artefact.due()
        if why and artefact.key in known:
            failed.add(known[artefact.key].slide_id)
        elif why:
            reasons[why] += 1
    failures = f"; {len(failed)} slides failed (failures.csv)" if failed else ""
    if reasons:
        what = ", ".join(f"{n} {why}" for why, n in reasons.items())
        return Status(stage, "due", f"{sum(reasons.values())} of {len(expected)} files: {what}{failures}")
    why = stage.executed(study, expected).due()
    if why:
        return Status(stage, "due", f"the files are current, the executed notebook is {why}{failures}")
    return Status(stage, "done", f"all {len(expected) - len(failed)} files carry the study's keys{failures}")


def statuses(study: Study) -> list[Status]:
    """Where all stages stand; one that rests on a stage that is due is due with it."""
    found: list[Status] = []
    for stage in STAGES:
        one = status(study, stage)
        waits_for = next((before.stage.name for before in found if before.state == "due"), None)
        if waits_for and one.state == "done":
            one = Status(stage, "due", f"once {waits_for} has run")
        found.append(one)
    return found


def run(study: Study, *, first: str = "", last: str = "~", force: bool = False, say: Say = print) -> None:
    """Run the stages of a study that are due.

    Parameters
    ----------
    study
        What to run.
    first, last
        Stages to begin and end with, as the beginning of their names (``03``).
    force
        Execute the notebooks even when nothing is due; files that are current stay as they are.
    say
        Told one line at a time.

    Raises
    ------
    WsibenchError
        When a notebook fails; names the error of its failing cell and where the notebook lies.
    """
    say(f"{study.title} (study {study.name}, key {study.key})")
    _check_names(study)
    for stage in STAGES:
        if not first <= stage.name or not stage.name[: len(last)] <= last:
            continue
        before = status(study, stage)
        if before.state == "not applicable" or (before.state == "done" and not force):
            say(str(before))
            continue
        say(f"{stage.name:<14} running         {before.why}")
        started = time.monotonic()
        execute(study, stage, say)
        say(f"{stage.name:<14} done            in {time.monotonic() - started:.0f} s")
    if STAGES[-1].name[: len(last)] <= last:
        _report(study)


def _check_names(study: Study) -> None:
    """Refuse an unknown encoder or probe now, rather than after the hours that come before it."""
    from wsibench import embedding
    from wsibench.regression import probes

    embedding.tile_encoders(study)
    for probe in study.probes:
        probes.offer(probe)


def _report(study: Study) -> None:
    """Bring the report up to date: it links the notebooks, the last of which has only now ended."""
    from wsibench.figures import report

    report.export_notebooks(study)
    report.report(study)


def execute(study: Study, stage: Stage, say: Say = print) -> None:
    """Execute one notebook on a study and keep the executed copy.

    The output notebook is never asked whether all went well: papermill marks the cells of a killed
    kernel as completed.  Success is no error, a number beside every cell, and every file there.
    """
    # papermill takes a second to import, which a run with nothing due should not pay for.
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    study.notebooks.mkdir(parents=True, exist_ok=True)
    running = study.notebooks / f".{stage.name}.running.ipynb"
    failed = study.notebooks / f"{stage.name}.failed.ipynb"
    try:
        papermill.execute_notebook(
            str(stage.notebook),
            str(running),
            parameters={"study": study.name},
            kernel_name="python3",
            cwd=str(stage.notebook.parent),
            progress_bar=False,
            stdout_file=_Indented(say),
            kernel_manager_class=_quiet_kernel_manager(),
        )
        cells = nbformat.read(running, as_version=4).cells
        if any(cell.cell_type == "code" and cell.source and not cell.execution_count for cell in cells):
            raise WsibenchError(f"{stage.name}: some cells were not run.")
        after = status(study, stage)
        if after.state == "due" and not after.why.startswith("the files are current"):
            raise WsibenchError(f"{stage.name} ran, but left its work unfinished: {after.why}.")
    except PapermillExecutionError as error:
        running.replace(failed)
        raise WsibenchError(
            f"{stage.name} failed: {error.ename}: {error.evalue}", f"The notebook as far as it came: {failed}"
        ) from None
    except BaseException:
        if running.exists():
            running.replace(failed)
        raise
    with writing(stage.executed(study, stage.room.expected(study))) as temporary:
        running.replace(temporary)
    failed.unlink(missing_ok=True)


def _quiet_kernel_manager() -> type:
    """A kernel manager that encrypts where it can, since ipykernel otherwise warns at every start."""
    from jupyter_client.manager import AsyncKernelManager
    from traitlets import default

    class QuietKernelManager(AsyncKernelManager):
        @default("transport_encryption")
        def _encrypt_where_possible(self) -> str:
            return "auto"

    return QuietKernelManager


class _Indented:
    """A text stream that hands on whole lines, indented under the stage they belong to."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.rest = ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.strip():
                self.say(f"{'':<14} {line}")

    def flush(self) -> None:
        """Nothing is held back but the beginning of a line."""


def leaderboard_text(study: Study) -> str:
    """The leaderboard as a table for a terminal, the primary scheme first, and what has to be known beside it."""
    from wsibench.ranking import caveats
    from wsibench.ranking.leaderboard import read

    board = read(study, "leaderboard")
    columns = ["rank", "encoder", "probe", "scheme", "mean_rho", "ci_low", "ci_high", "median_rho", "p_best", "tcga"]
    board["rank"] = board["rank"].astype("string").fillna("")  # of controls, which have none
    text = board[columns].to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3g}")
    warnings = [
        textwrap.fill(" ".join(filter(None, ("warning:", row.scheme, row.message))), 100, subsequent_indent="  ")
        for row in caveats.read(study).itertuples()
    ]
    counts = f"{board['n_patients'].max()} patients, {board['n_genes'].max()} genes, study key {study.key}"
    return "\n".join([text, counts, *warnings])


def say_line(line: str) -> None:
    """Print a line at once, also when the output is a pipe."""
    print(line, file=sys.stdout, flush=True)
