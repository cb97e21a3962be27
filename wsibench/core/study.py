"""The study: one validated, frozen description of everything that decides a result."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from wsibench.core import roles
from wsibench.core.artefacts import digest
from wsibench.core.errors import StudyError
from wsibench.core.paths import CHECKOUT, Places, data_root
from wsibench.core.settings import (
    TILE_CONTROLS,
    Abmil,
    Clinical,
    Embedding,
    Expression,
    FeatureFolder,
    FeatureTable,
    Folds,
    GdcCohort,
    Limits,
    LocalCohort,
    OwnEncoder,
    Ranking,
    Section,
    SimulatedCohort,
    Target,
    Tiles,
    explain,
)

AFTER_ASSEMBLY = {"folds", "probes", "abmil", "ranking", "limits"}
"""Sections that leave a study's benchmark as it is, and with it the studies that it is a part of."""


FUSION = "fusion"
"""What the mean of several encoders' predictions is called among the encoders."""


class Study(Places, Section):
    """A study as its study.yaml states it.  Read one with `Study.load`."""

    title: str
    cohort: Annotated[SimulatedCohort | LocalCohort | GdcCohort, Field(discriminator="source")] | None = None
    """None exactly where `train` and `test` are given."""
    train: str | None = None
    """Of external validation: the study whose patients are trained on."""
    test: str | None = None
    """The study whose patients are predicted."""
    tiles: Tiles = Tiles()
    encoders: list[str] = []
    controls: list[str] | None = None
    """Unset, every control that applies to the cohort (`wsibench.embedding.controls`); ``[]`` for none."""
    features: dict[str, FeatureTable] = {}
    weights: dict[str, str] = {}
    """Local folder of an encoder's weights, by encoder."""
    own: dict[str, OwnEncoder] = {}
    """The user's own encoders, given in `encoders` or `controls`."""
    folders: dict[str, FeatureFolder] = {}
    """Folders of tile features, given in `features`; each is one of the `encoders`."""
    embedding: Embedding = Embedding()
    expression: Expression = Expression()
    clinical: Clinical = Clinical()
    targets: dict[str, Target] = {}
    """What is predicted besides genes, by name."""
    folds: Folds = Folds()
    probes: list[str] = ["ridge", "abmil"]
    abmil: Abmil = Abmil()
    fusion: list[str] | Literal["all"] = []
    """Encoders and features tables whose predictions are averaged, as a competitor of its own."""
    ranking: Ranking = Ranking()
    limits: Limits = Limits()

    @model_validator(mode="before")
    @classmethod
    def _set_apart(cls, content: Any) -> Any:
        """Own encoders and folders of features become names of encoders, with what defines them beside."""
        content = dict(content)
        own, folders = dict(content.get("own", {})), dict(content.get("folders", {}))
        for section in ("encoders", "controls"):
            listed = content.get(section)
            for item in listed if isinstance(listed, list) else []:
                if isinstance(item, dict) and isinstance(item.get("name"), str):
                    own[item["name"]] = {key: value for key, value in item.items() if key != "name"}
            if isinstance(listed, list):
                content[section] = [item.get("name", item) if isinstance(item, dict) else item for item in listed]
        if isinstance(features := content.get("features"), dict):
            folders |= {name: each for name, each in features.items() if isinstance(each, dict) and "folder" in each}
            content["features"] = {name: each for name, each in features.items() if name not in folders}
        named = [*(content.get("encoders") or []), *(content.get("controls") or [])]
        if folders:
            content["encoders"] = [*(content.get("encoders") or []), *(name for name in folders if name not in named)]
        return content | {"own": own, "folders": folders}

    _name: str = PrivateAttr("")
    _yaml: Path = PrivateAttr(Path())
    _parts: dict[str, "Study"] = PrivateAttr({})

    @classmethod
    def load(cls, name: str) -> "Study":
        """Read and check ``data/<name>/study.yaml``.

        Raises
        ------
        StudyError
            For an unknown study, key, encoder, probe or variable; names what is allowed.
        """
        path = _find(name)
        try:
            content = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise StudyError(f"{path} is not valid YAML: {error}.") from None
        if not isinstance(content, dict):
            raise StudyError(f"{path} holds no study.", "It needs at least `title` and `cohort`; see data/README.md.")
        parts = {role: cls.load(part) for role, part in roles.named(path, content, name, _find).items()}
        if parts:
            offered = {role: part._offered() for role, part in parts.items()}
            units = {part.expression.unit for part in parts.values()}
            content = roles.completed(path, content, offered, units)
        try:
            study = cls.model_validate(content)
        except ValidationError as error:
            raise StudyError(f"{path} cannot be used: {explain(error, cls)}") from None
        study._name, study._yaml, study._parts = name, path, parts
        study._check_names()
        return study

    def _check_names(self) -> None:
        both = sorted(set(self.encoders + (self.controls or [])) & set(self.features))
        if both:
            raise StudyError(f"{self._yaml}: {', '.join(both)} stands both under encoders and under features.")
        if "external" in self.folds.schemes and not self._parts:
            raise StudyError(
                f"{self._yaml}: the scheme external is for a study with `train` and `test`.", "See docs/external.md."
            )
        competing = [*self.encoders, *self.features]
        if FUSION in (*competing, *(self.controls or [])):
            raise StudyError(f"{self._yaml}: {FUSION!r} is what fused encoders are called.", "Choose another name.")
        unknown = [name for name in self.fused if name not in competing]
        if unknown or (self.fusion and len(set(self.fused)) < 2):
            raise StudyError(
                f"{self._yaml}: fusion needs at least two encoders or features tables, not {', '.join(self.fused)}."
                if not unknown
                else f"{self._yaml}: fusion names {', '.join(unknown)}, which does not compete in this study.",
                f"Choose among {', '.join(competing)}.",
            )
        for text in self._paths():
            self.resolve(text)

    def _paths(self) -> list[str]:
        cohort = self.cohort
        own: list[str | None] = []
        if isinstance(cohort, LocalCohort):
            own = [cohort.slides, cohort.patients, cohort.expression]
        elif isinstance(cohort, GdcCohort):
            own = [*cohort.paths]
        own += [self.clinical.table, *(each.genes for each in self.targets.values() if isinstance(each.genes, str))]
        given = [*(table.table for table in self.features.values()), *(each.folder for each in self.folders.values())]
        given += [text for text in (self.ranking.gene_sets or {}).values() if isinstance(text, str)]
        given += [self.ranking.covariates] if self.ranking.covariates else []
        return [text for text in own if text] + given + [*self.weights.values(), *self.folds.given.values()]

    def resolve(self, text: str, *, table: Path | None = None) -> Path:
        """A path of study.yaml: ``${VAR}`` from the environment, relative to study.yaml's folder.

        Parameters
        ----------
        text
            The path as it is written.
        table
            The table that it is written in, when that is not study.yaml.

        Raises
        ------
        StudyError
            When a variable is not set; names it.
        """
        file = table or self._yaml

        def value(match: re.Match) -> str:
            found = os.environ.get(match[1])
            if not found:
                raise StudyError(
                    f"{file} uses ${{{match[1]}}}, which is not set.", f"Set it: export {match[1]}=/path/to/…"
                )
            return found

        return (file.parent / Path(re.sub(r"\$\{(\w+)\}", value, text)).expanduser()).resolve()

    # What the study is called and hashed to

    @property
    def name(self) -> str:
        """Name of the study: its folder's under data/."""
        return self._name

    @property
    def key(self) -> str:
        """First 12 hex digits of the sha256 of everything in study.yaml but its title."""
        stated = self.model_dump(mode="json", exclude={"title", "train", "test"})
        for role, part in self._parts.items():
            stated[role] = part.model_dump(mode="json", exclude={"title", "train", "test", *AFTER_ASSEMBLY})
        return digest(stated)[:12]

    @property
    def parts(self) -> dict[str, "Study"]:
        """The studies of external validation by role, ``train`` and ``test``; none of a study with a cohort."""
        return self._parts

    @property
    def no_cohort(self) -> str | None:
        """Why the study has no cohort of its own, or None."""
        if not self._parts:
            return None
        return f"The patients come from the studies {self.train} (to train on) and {self.test} (to be tested on)."

    @property
    def tables(self) -> dict[str, FeatureTable]:
        """Feature tables by name; of external validation those of the training study that are compared."""
        if not self._parts:
            return self.features
        theirs = self._parts["train"].features
        return {name: theirs[name] for name in [*self.encoders, *(self.controls or [])] if name in theirs}

    def _offered(self) -> dict[str, str]:
        """What the study can lend to external validation, by name: what kind of features it is."""
        controls = TILE_CONTROLS if self.controls is None else self.controls
        return dict.fromkeys([*self.encoders, *controls], "an encoder") | dict.fromkeys(self.features, "a table")

    @property
    def fused(self) -> list[str]:
        """Encoders and features tables that are fused."""
        return [*self.encoders, *self.features] if self.fusion == "all" else self.fusion

    @property
    def streamed(self) -> bool:
        """Whether slides are fetched one by one when they are embedded, and not kept."""
        return isinstance(self.cohort, GdcCohort) and self.cohort.stream

    @property
    def study_yaml(self) -> Path:
        """The file that it was read from."""
        return self._yaml


def studies() -> list[str]:
    """Names of all studies that have a study.yaml."""
    return sorted({path.parent.name for root in _roots() for path in root.glob("*/study.yaml")})


def _roots() -> list[Path]:
    # A moved data folder may hold studies of its own; the tracked ones stay in the checkout.
    return list(dict.fromkeys([data_root(), CHECKOUT / "data"]))


def _find(name: str) -> Path:
    for root in _roots():
        path = root / name / "study.yaml"
        if re.fullmatch(r"[\w.-]+", name) and path.exists():
            return path
    close = difflib.get_close_matches(name, studies(), n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    raise StudyError(
        f"There is no study {name!r}.",
        f"{hint}Studies: {', '.join(studies())}. To add one, write {data_root()}/<name>/study.yaml.",
    )
