"""Stages of a study, and their states."""

import hashlib
import importlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from wsibench.core import CHECKOUT, Artefact, NotReady, Study, WsibenchError, make_key, read_failures

FORMAT = 1


@dataclass(frozen=True)
class Stage:
    """A stage: a notebook, and the folder of the package that it is named after."""

    name: str

    @property
    def notebook(self) -> Path:
        """Path of the notebook without outputs."""
        return CHECKOUT / "notebooks" / f"{self.name}.ipynb"

    @property
    def folder(self) -> ModuleType:
        """Folder of the package, imported when it is asked for."""
        return importlib.import_module(f"wsibench.{self.name[3:]}")

    def executed(self, study: Study, expected: Iterable[Artefact]) -> Artefact:
        """Return the executed notebook, which is due when the notebook or an artefact of the stage changes."""
        source = hashlib.sha256(self.notebook.read_bytes()).hexdigest()
        keys = sorted(artefact.key for artefact in expected)
        key = make_key("notebook", FORMAT, {"source": source, "study": study.name}, keys)
        return Artefact(study.notebooks / f"{self.name}.ipynb", key)


NAMES = ("cohort", "tiling", "embedding", "assembly", "regression", "ranking", "figures")
STAGES = tuple(Stage(f"{number:02d}_{name}") for number, name in enumerate(NAMES, start=1))


@dataclass(frozen=True)
class Status:
    """State of one stage of a study: ``done``, ``due`` or ``not applicable``, and the reason."""

    stage: Stage
    state: str
    why: str

    def __str__(self) -> str:
        """Format as a line for a terminal."""
        return f"{self.stage.name:<14} {self.state:<15} {self.why}"


def status(study: Study, stage: Stage) -> Status:
    """Determine whether a stage of a study is done, due or not applicable."""
    if reason := stage.folder.not_applicable(study):
        return Status(stage, "not applicable", reason)
    try:
        expected = stage.folder.expected(study)
    except NotReady as error:
        return Status(stage, "due", error.what)
    known = {row.key: row.slide_id for row in read_failures(study.failures_csv)}
    due = [(artefact.key, why) for artefact in expected if (why := artefact.due())]
    failed = {known[key] for key, _ in due if key in known}
    failures = f"; {len(failed)} slides failed (failures.csv)" if failed else ""
    if reasons := Counter(why for key, why in due if key not in known):
        what = ", ".join(f"{n} {why}" for why, n in reasons.items())
        return Status(stage, "due", f"{reasons.total()} of {len(expected)} files: {what}{failures}")
    if why := stage.executed(study, expected).due():
        return Status(stage, "due", f"the files are current, the executed notebook is {why}{failures}")
    return Status(stage, "done", f"all {len(expected) - len(failed)} files carry the study's keys{failures}")


def statuses(study: Study) -> list[Status]:
    """Determine the state of all stages; a stage after one that is due is due as well."""
    found: list[Status] = []
    for stage in STAGES:
        one = status(study, stage)
        waits_for = next((before.stage.name for before in found if before.state == "due"), None)
        if waits_for and one.state == "done":
            one = Status(stage, "due", f"once {waits_for} has run")
        found.append(one)
    return found


def select_stages(first: str = "", last: str = "") -> list[Stage]:
    """List the stages from `first` to `last`, each given as the beginning of its name, such as ``03``.

    Raises
    ------
    WsibenchError
        When there is no such stage, or `last` comes before `first`.
    """
    names = [stage.name for stage in STAGES]
    for given in (first, last):
        if not any(name.startswith(given) for name in names):
            raise WsibenchError(f"There is no stage {given!r}.", f"Stages: {', '.join(names)}; `03` is enough.")
    chosen = [stage for stage in STAGES if first <= stage.name and (not last or stage.name[: len(last)] <= last)]
    if not chosen:
        raise WsibenchError(f"Stage {last!r} comes before {first!r}.", "Exchange --from and --to.")
    return chosen
