"""The study: one validated, frozen description of everything that decides a result."""

import os
import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import PrivateAttr, ValidationError, model_validator

from wsibench.core import settings
from wsibench.core.artefacts import digest
from wsibench.core.errors import StudyError
from wsibench.core.paths import CHECKOUT, Paths, data_root
from wsibench.core.settings import SAFE_ID, TILE_CONTROLS, Name, Section, explain

# Name of the mean of several encoders' predictions among the encoders.
FUSION = "fusion"
UNHASHED = {"title", "train", "test"}
# Sections that do not change a study's benchmark, nor external studies that use it.
AFTER_ASSEMBLY = {"folds", "probes", "abmil", "ranking", "limits"}
# Sections of an external study; all others stand in its two studies.
EXTERNAL = {*UNHASHED, "encoders", "features", "controls", "folds", "probes", "abmil", "fusion", "ranking"}


class Study(Paths, Section):
    """A study as its study.yaml states it. Read one with `Study.load`."""

    title: str
    # None exactly where `train` and `test` are given.
    cohort: settings.Cohort | None = None
    # External validation: names of the studies whose patients are trained on, and predicted.
    train: Name | None = None
    test: Name | None = None
    tiles: settings.Tiles = settings.Tiles()
    encoders: list[Name] = []
    controls: list[Name] | None = None  # unset, every control that applies to the cohort; [] for none
    features: dict[Name, settings.FeatureTable] = {}
    weights: dict[Name, str] = {}  # local folder of an encoder's weights, by encoder
    # Own encoders, given in `encoders` or `controls`, and folders of tile features, given in `features`, by name.
    own: dict[Name, settings.Encoder] = {}
    folders: dict[Name, settings.FeatureFolder] = {}
    embedding: settings.Embedding = settings.Embedding()
    expression: settings.Expression = settings.Expression()
    clinical: settings.Clinical = settings.Clinical()
    targets: dict[Name, settings.Target] = {}  # prediction targets besides genes
    folds: settings.Folds = settings.Folds()
    probes: list[Name] = ["ridge", "abmil"]
    abmil: settings.Abmil = settings.Abmil()
    fusion: list[Name] | Literal["all"] = []  # encoders and feature tables whose mean prediction competes
    ranking: settings.Ranking = settings.Ranking()
    limits: settings.Limits = settings.Limits()

    _name: str = PrivateAttr("")
    _yaml: Path = PrivateAttr(Path())
    _parts: dict[str, "Study"] = PrivateAttr({})

    @model_validator(mode="before")
    @classmethod
    def _name_definitions(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Reduce own encoders and folders of features to names of encoders, and keep their definitions apart."""
        content = dict(content)
        own: dict[str, dict[str, Any]] = {}
        for section in ("encoders", "controls"):
            if isinstance(listed := content.get(section), list):
                records = [item for item in listed if isinstance(item, dict)]
                own |= {record["name"]: dict(record) for record in records if isinstance(record.get("name"), str)}
                content[section] = [item.get("name", item) if isinstance(item, dict) else item for item in listed]
        if not isinstance(features := content.get("features"), dict):
            return {"own": own} | content
        folders = {name: each for name, each in features.items() if isinstance(each, dict) and "folder" in each}
        content["features"] = {name: each for name, each in features.items() if name not in folders}
        encoders, controls = content.get("encoders") or [], content.get("controls") or []
        if folders and isinstance(encoders, list) and isinstance(controls, list):
            content["encoders"] = [*encoders, *(name for name in folders if name not in [*encoders, *controls])]
        return {"own": own, "folders": folders} | content

    @model_validator(mode="after")
    def _check_names(self) -> "Study":
        competing = [*self.encoders, *self.features]
        if both := set(self.encoders + (self.controls or [])) & set(self.features):
            raise ValueError(f"{', '.join(sorted(both))} is both an encoder and a feature table")
        if FUSION in [*competing, *(self.controls or [])]:
            raise ValueError(f"{FUSION!r} is the name of the mean prediction: rename the encoder")
        if unknown := [name for name in self.fused if name not in competing]:
            raise ValueError(f"fusion names {', '.join(unknown)}, not among {', '.join(competing)}")
        if self.fusion and len(set(self.fused)) < 2:
            raise ValueError("fusion needs at least two encoders or feature tables")
        external = bool(self.train and self.test)
        if external == bool(self.cohort) or external != bool(self.train or self.test):
            raise ValueError("give either `cohort`, or both `train` and `test` (docs/external.md)")
        if external != ("external" in self.folds.schemes):
            raise ValueError("the scheme `external` is for studies with `train` and `test` (docs/external.md)")
        return self

    @classmethod
    def load(cls, name: str) -> "Study":
        """Read and check ``data/<name>/study.yaml``.

        Raises
        ------
        StudyError
            For an unknown study, a file that is no study, an unknown key or a value that is not allowed.
        """
        path = _find(name)
        content, parts = _with_parts(path, name, _read_yaml(path))
        try:
            study = cls.model_validate(content)
        except ValidationError as error:
            raise StudyError(f"{path} cannot be used:\n  {explain(error)}", "See data/README.md.") from None
        study._name, study._yaml, study._parts = name, path, parts
        study._check_parts()
        for variable in re.findall(r"\$\{(\w+)\}", study.model_dump_json(exclude={"title"})):
            if not os.environ.get(variable):
                raise StudyError(
                    f"{path} uses ${{{variable}}}, which is not set.", f"Set it: export {variable}=/path/to/…"
                )
        return study

    def _check_parts(self) -> None:
        for role, part in self._parts.items():
            controls = TILE_CONTROLS if part.controls is None else part.controls
            available = [*part.encoders, *controls, *part.features, "site"]
            if missing := set(self.encoders + (self.controls or [])) - set(available):
                raise StudyError(
                    f"{self._yaml} names {', '.join(sorted(missing))}, which study {part.name} ({role}) does not have.",
                    f"It has {', '.join(available)}.",
                )

    def resolve(self, text: str) -> Path:
        """Turn a path of study.yaml, relative to its folder and with ``${VARIABLES}``, into an absolute one.

        Raises
        ------
        StudyError
            When the path cannot be resolved, or names a file that the study writes.
        """
        try:
            path = (self._yaml.parent / Path(os.path.expandvars(text)).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # too long, no such home folder or a loop of links, NUL
            raise StudyError(
                f"{self._yaml}: {text[:200]!r} is not a usable path: {error}.", "Correct the path."
            ) from None
        if path in self.outputs:
            raise StudyError(
                f"{self._yaml} names {path} as input, which the study itself writes.",
                "Give your own table another name, or keep it in another folder, and correct study.yaml.",
            )
        return path

    @property
    def name(self) -> str:
        """Name of the study, and of its folder."""
        return self._name

    @property
    def key(self) -> str:
        """First 12 hex digits of the sha256 of everything in study.yaml but its title."""
        stated = self.model_dump(mode="json", exclude=UNHASHED)
        for role, part in self._parts.items():
            stated[role] = part.model_dump(mode="json", exclude=UNHASHED | AFTER_ASSEMBLY)
        return digest(stated)[:12]

    @property
    def parts(self) -> dict[str, "Study"]:
        """The two studies of external validation, ``train`` and ``test``; empty for a study with a cohort."""
        return self._parts

    @property
    def no_cohort(self) -> str | None:
        """Reason why the study has no cohort of its own, or None."""
        if not self._parts:
            return None
        return f"The patients come from the studies {self.train} (to train on) and {self.test} (to be tested on)."

    @property
    def tables(self) -> dict[str, settings.FeatureTable]:
        """Feature tables by name; in external validation those of the training study that are compared."""
        if not self._parts:
            return self.features
        theirs = self._parts["train"].features
        return {name: theirs[name] for name in [*self.encoders, *(self.controls or [])] if name in theirs}

    @property
    def fused(self) -> list[str]:
        """Encoders and feature tables of the fusion."""
        return [*self.encoders, *self.features] if self.fusion == "all" else self.fusion

    @property
    def without_slides(self) -> bool:
        """True for a cohort that is a table of patients."""
        return isinstance(self.cohort, settings.LocalCohort) and self.cohort.slides is None

    @property
    def streamed(self) -> bool:
        """True for slides that are downloaded one by one when they are embedded, and not kept."""
        return isinstance(self.cohort, settings.GdcCohort) and self.cohort.stream

    @property
    def study_yaml(self) -> Path:
        """The file that the study was read from."""
        return self._yaml


def studies() -> list[str]:
    """List the names of all studies that have a study.yaml."""
    return sorted({path.parent.name for root in _roots() for path in root.glob("*/study.yaml")})


def _roots() -> list[Path]:
    # A moved data folder may hold studies of its own; the tracked ones stay in the checkout.
    return list(dict.fromkeys([data_root(), CHECKOUT / "data"]))


def _find(name: str) -> Path:
    found = [root / name / "study.yaml" for root in _roots() if SAFE_ID.fullmatch(name)]
    for path in found:
        if path.exists():
            return path
    raise StudyError(
        f"There is no study {name!r}.",
        f"Studies: {', '.join(studies())}. To add one, write {data_root()}/<name>/study.yaml.",
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    # OSError for a folder, ValueError for text that is not UTF-8 and numbers of thousands of digits.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise StudyError(f"{path} is not valid YAML: {str(error)[:500]}.", "Save it as UTF-8 text.") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path} holds no study.", "It needs at least `title` and `cohort`; see data/README.md.")
    return content


def _with_parts(path: Path, name: str, content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Study]]:
    """Load the two studies of external validation, and add the settings that follow from them."""
    roles = {role: content[role] for role in ("train", "test") if isinstance(content.get(role), str)}
    if len(roles) < 2:
        return content, {}
    if len({name, *roles.values()}) < 3:
        raise StudyError(f"{path}: `train` and `test` are {' and '.join(roles.values())}.", "Name two other studies.")
    for part in roles.values():
        if {"train", "test"} & set(_read_yaml(_find(part))):
            raise StudyError(f"{path} names {part}, which has no cohort of its own.", "Name a study that has one.")
    if misplaced := sorted(map(str, set(content) - EXTERNAL)):
        raise StudyError(f"{path} gives {', '.join(misplaced)} beside `train` and `test`.", "Give it in these studies.")
    folds, encoders, features = content.get("folds") or {}, content.get("encoders") or [], content.get("features") or []
    lists = isinstance(encoders, list) and isinstance(features, list)
    if not (lists and isinstance(folds, dict) and set(folds) <= {"seed"}):
        raise StudyError(
            f"{path}: beside `train` and `test`, `encoders` and `features` are lists, and `folds` has a `seed` only.",
            "List names that both studies have, and leave out the rest of `folds`.",
        )
    parts = {role: Study.load(part) for role, part in roles.items()}
    units = {part.expression.unit for part in parts.values()}
    content = {"controls": ["site"]} | content
    content |= {"encoders": [*encoders, *features], "folds": {**folds, "schemes": ["external"]}, "features": {}}
    content["expression"] = {"unit": units.pop() if len(units) == 1 else "as_is"}
    return content, parts
