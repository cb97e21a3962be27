"""The study: one validated, frozen description of everything that decides a result, and its paths."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from wsibench.artefacts import digest
from wsibench.errors import StudyError

CHECKOUT = Path(__file__).resolve().parents[1]
"""The clone that this package runs from: where notebooks/, data/ and figures/ lie."""

Scheme = Literal["preserved-site", "random-patient"]
"""How patients are divided into folds; the preserved-site arm is the primary one."""


TileArtefact = Literal["pen", "blur", "fold", "edge", "bubble"]
"""What may spoil a tile; `wsibench.quality` says how each is recognised."""


class Section(BaseModel):
    """A frozen part of study.yaml that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SimulatedCohort(Section):
    """Synthetic H&E slides with a known truth, made by `wsibench.simulate`."""

    source: Literal["simulate"]
    patients: int = Field(132, ge=10)
    sites: int = Field(12, ge=2)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _a_patient_a_site(self) -> "SimulatedCohort":
        if self.sites > self.patients:
            raise ValueError(f"{self.sites} sites need at least as many patients, not {self.patients}")
        return self


class LocalCohort(Section):
    """A cohort from the user's own tables.

    `slides` has ``slide_id, patient_id, path`` and optionally ``site, subtype, mpp``; a cohort with
    slide-level features and no slides gives `patients` (``patient_id`` and optionally ``site,
    subtype``) instead.  `columns` maps our names to the tables' own, e.g. ``{subtype: pam50}``.
    """

    source: Literal["local"]
    slides: str | None = None
    patients: str | None = None
    expression: str | None = None
    columns: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_table_of_patients(self) -> "LocalCohort":
        if (self.slides is None) == (self.patients is None):
            raise ValueError("give exactly one of `slides` (a table with paths) and `patients`")
        return self


class XenaMatrices(Section):
    """UCSC Xena's matrices of a GDC project, instead of one STAR counts file a patient."""

    tpm: str
    """``TCGA-….star_tpm.tsv.gz``."""
    counts: str | None = None
    """``TCGA-….star_counts.tsv.gz``."""
    annotation: str
    """Xena's probemap, or any STAR counts file of the GDC (which also tells gene types)."""

    @property
    def paths(self) -> list[str]:
        """Paths that are given, as they stand in study.yaml."""
        return [path for path in (self.tpm, self.counts, self.annotation) if path]


class GdcCohort(Section):
    """A TCGA project of the Genomic Data Commons: diagnostic slides paired with STAR counts."""

    source: Literal["gdc"]
    project: str = Field(pattern=r"^TCGA-[A-Z]+$")
    snapshot: str | None = None
    """An answer of the GDC that was kept (``gdc/snapshot.json.gz`` of an earlier run); unset, it is asked."""
    slides: str | None = None
    """Folder of slides already downloaded, as gdc-client lays it out: verified instead of fetched."""
    rna: str | None = None
    """Likewise for STAR counts files."""
    xena: XenaMatrices | None = None
    clinical: str | None = None
    """Table of subtype and clinic; `wsibench.gdc.clinical` says which columns are understood."""
    stream: bool = False
    """Fetch each slide only when it is embedded, and delete it then."""

    @property
    def paths(self) -> list[str]:
        """Paths that are given, as they stand in study.yaml."""
        own = [path for path in (self.snapshot, self.slides, self.rna, self.clinical) if path]
        return own + (self.xena.paths if self.xena else [])


class Tiles(Section):
    """Which tissue is looked at; the same for every encoder."""

    tile_um: float = Field(112.0, gt=0, strict=False)
    """Side of a tile in µm."""
    max_tiles: int = Field(4000, ge=1)
    """Most tiles a slide contributes; drawn at random when there are more."""
    min_tissue: float = Field(0.5, ge=0, le=1, strict=False)
    """Least share of a tile that must be tissue."""
    slide_mpp: float | None = Field(None, gt=0, strict=False)
    """µm/px to assume for slides that state none and have none in slides.csv; unset, they fail."""
    drop: list[TileArtefact] = ["pen", "blur"]
    """Tiles that show one of these are left out."""
    seed: int = 0


class FeatureTable(Section):
    """One vector a slide or patient, computed elsewhere (CSV, Parquet or h5ad)."""

    table: str
    id: Literal["patient_id", "slide_id"] = "patient_id"
    tcga: Literal["yes", "no", "unknown"] = "unknown"
    """Whether TCGA was in the training data of whatever made the features."""
    width: int | None = Field(None, ge=1)
    """Number of feature columns to insist on."""


class FeatureFolder(Section):
    """Tile features computed elsewhere, one file a slide: ``features: {uni: {folder: …, layout: trident}}``."""

    folder: str
    layout: Literal["trident", "clam", "lazyslide"] = "trident"
    table: str | None = None
    """LazySlide's name of the table, such as ``uni_tiles``."""
    tcga: Literal["yes", "no", "unknown"] = "unknown"
    """Whether TCGA was in the training data, for an encoder that wsibench does not know."""


class OwnEncoder(Section):
    """A user's own encoder: ``encoders: [{name: mine, callable: "module:function"}]``; runs only with ``--trust``."""

    callable: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """Called once a process with torch's name of the device.

    It returns a function from uint8 tiles (b, 3, px, px) on that device to embeddings (b, width).
    The module may lie beside study.yaml.
    """
    px: int = Field(224, ge=1)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    tcga: Literal["yes", "no", "unknown"] = "unknown"


class Embedding(Section):
    """How a tile becomes an embedding."""

    geometry: Literal["tile", "card"] = "tile"
    """``tile``: every encoder sees the whole tile.  ``card``: an encoder whose card crops sees that crop."""
    stain: Literal["macenko", "reinhard"] | None = None
    """Stain normalisation, fitted once a slide; `wsibench.staining` says how."""


class Expression(Section):
    """What is predicted."""

    unit: Literal["log2_tpm", "log2_cpm", "zscore", "as_is"] = "as_is"
    """Unit of the table as it is read; said on axes, never a transformation."""
    genes: str | list[str] = "all"
    """``all``, ``protein_coding``, a file with one symbol a line, or a list of symbols."""
    clip: float | None = Field(None, gt=0, strict=False)
    """Values are clipped to ± this before anything else."""


class Folds(Section):
    """How patients are divided."""

    schemes: list[Scheme] = ["preserved-site", "random-patient"]
    n: int = Field(5, ge=2)
    seed: int = 0


class Abmil(Section):
    """Settings of gated attention MIL (the paper's probe)."""

    tiles_train: int = Field(128, ge=1)
    """Most tiles of a patient that a network trains on, another draw for each seed; all of them are predicted from."""
    pca: int | None = Field(256, ge=1)
    """Components of a PCA fitted on training tiles, for features wider than this; null feeds the raw features."""
    embed: int = Field(128, ge=1)
    attention: int = Field(64, ge=1)
    dropout: float = Field(0.25, ge=0, lt=1, strict=False)
    lr: float = Field(3e-3, gt=0, strict=False)
    """Of AdamW, at the start of a cosine to 0."""
    weight_decay: float = Field(1e-5, ge=0, strict=False)
    batch: int = Field(16, ge=1)
    """Patients a step."""
    epochs: int = Field(30, ge=1)
    patience: int = Field(10, ge=1)
    """Epochs without a better inner validation before training stops."""
    seeds: int = Field(3, ge=1)
    """Networks that are averaged."""


class Ranking(Section):
    """Uncertainty of the leaderboard."""

    bootstrap: int = Field(2000, ge=100)
    permutations: dict[str, int] = {"ridge": 100, "abmil": 5}
    """Refits under permuted pairing, by probe; 0 or absent for none."""
    seed: int = 0
    """Of the bootstrap and the permutations."""
    rope: float = Field(0.01, ge=0, strict=False)
    """Differences of mean ρ smaller than this count as practically equal."""


class Limits(Section):
    """What a stage tolerates."""

    failed_slides: float = Field(0.05, ge=0, le=1, strict=False)
    """Share of the slides that may fail in a stage."""
    bad_tiles: float = Field(0.05, ge=0, le=1, strict=False)
    """Share of a slide's tiles that may be undecodable before the slide fails."""


class Study(Section):
    """A study as its study.yaml states it.  Read one with `Study.load`."""

    title: str
    cohort: Annotated[SimulatedCohort | LocalCohort | GdcCohort, Field(discriminator="source")]
    tiles: Tiles = Tiles()
    encoders: list[str] = []
    controls: list[str] = []
    features: dict[str, FeatureTable] = {}
    weights: dict[str, str] = {}
    """Local folder of an encoder's weights, by encoder."""
    own: dict[str, OwnEncoder] = {}
    """The user's own encoders, given in `encoders` or `controls`."""
    folders: dict[str, FeatureFolder] = {}
    """Folders of tile features, given in `features`; each is one of the `encoders`."""
    embedding: Embedding = Embedding()
    expression: Expression = Expression()
    folds: Folds = Folds()
    probes: list[str] = ["ridge", "abmil"]
    abmil: Abmil = Abmil()
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
        try:
            study = cls.model_validate(content)
        except ValidationError as error:
            raise StudyError(f"{path} cannot be used: {_explain(error, cls)}") from None
        study._name, study._yaml = name, path
        study._check_names()
        return study

    def _check_names(self) -> None:
        both = sorted(set(self.encoders + self.controls) & set(self.features))
        if both:
            raise StudyError(f"{self._yaml}: {', '.join(both)} stands both under encoders and under features.")
        for text in self._paths():
            self.resolve(text)

    def _paths(self) -> list[str]:
        cohort = self.cohort
        own: list[str | None] = []
        if isinstance(cohort, LocalCohort):
            own = [cohort.slides, cohort.patients, cohort.expression]
        elif isinstance(cohort, GdcCohort):
            own = [*cohort.paths]
        given = [*(table.table for table in self.features.values()), *(each.folder for each in self.folders.values())]
        return [text for text in own if text] + given + list(self.weights.values())

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
        return digest(self.model_dump(mode="json", exclude={"title"}))[:12]

    @property
    def streamed(self) -> bool:
        """Whether slides are fetched one by one when they are embedded, and not kept."""
        return isinstance(self.cohort, GdcCohort) and self.cohort.stream

    # The one place that knows paths

    @property
    def study_yaml(self) -> Path:
        """The file that it was read from."""
        return self._yaml

    @property
    def root(self) -> Path:
        """``data/<study>``, where everything generated lies."""
        return data_root() / self._name

    @property
    def figures(self) -> Path:
        """``figures/<study>``, what a paper takes."""
        return figures_root() / self._name

    @property
    def notebooks(self) -> Path:
        """Executed notebooks."""
        return self.root / "notebooks"

    @property
    def slides(self) -> Path:
        """Raw slides that the study generates or downloads."""
        return self.root / "slides"

    @property
    def rna(self) -> Path:
        """Raw expression files that the study downloads."""
        return self.root / "rna"

    @property
    def gdc(self) -> Path:
        """What the GDC answered, and the tables made of it."""
        return self.root / "gdc"

    @property
    def truth(self) -> Path:
        """What a simulated cohort was made from."""
        return self.root / "truth"

    @property
    def cohort_csv(self) -> Path:
        """One row a slide."""
        return self.root / "cohort.csv"

    @property
    def expression_h5ad(self) -> Path:
        """Patients × genes."""
        return self.root / "expression.h5ad"

    @property
    def exclusions_csv(self) -> Path:
        """Slides, patients and genes that the cohort's tables name and the study leaves out."""
        return self.root / "exclusions.csv"

    @property
    def failures_csv(self) -> Path:
        """Slides that a stage could not process."""
        return self.root / "failures.csv"

    @property
    def benchmark_h5ad(self) -> Path:
        """Patients × genes, with a mean feature an encoder in obsm."""
        return self.root / "benchmark.h5ad"

    @property
    def benchmark_exclusions_csv(self) -> Path:
        """Patients and feature columns of the cohort that the benchmark leaves out."""
        return self.root / "benchmark.exclusions.csv"

    @property
    def scores_parquet(self) -> Path:
        """One row a scheme, encoder, probe and gene."""
        return self.root / "scores.parquet"

    @property
    def leaderboard_csv(self) -> Path:
        """One row a scheme, encoder and probe."""
        return self.root / "leaderboard.csv"

    def tiles_parquet(self, slide_id: str) -> Path:
        """Where one slide's tissue is."""
        return self.root / "tiles" / f"{slide_id}.parquet"

    def features_h5(self, encoder: str, slide_id: str) -> Path:
        """One slide's tile features of one encoder."""
        return self.root / "features" / encoder / f"{slide_id}.h5"

    def folds_csv(self, scheme: str) -> Path:
        """Which patient is held out in which fold."""
        return self.root / "folds" / f"{scheme}.csv"

    def predictions_h5ad(self, scheme: str, encoder: str, probe: str) -> Path:
        """Out-of-fold predictions, patients × genes."""
        return self.root / "predictions" / scheme / f"{encoder}.{probe}.h5ad"

    def attention_parquet(self, scheme: str, encoder: str, probe: str) -> Path:
        """Out-of-fold attention of a bag probe, one row a tile."""
        return self.root / "predictions" / scheme / f"{encoder}.{probe}.attention.parquet"

    def null_parquet(self, scheme: str, encoder: str, probe: str) -> Path:
        """Scores under permuted pairing, one row a permutation and gene."""
        return self.root / "null" / scheme / f"{encoder}.{probe}.parquet"


def data_root() -> Path:
    """The data folder: ``WSIBENCH_DATA``, or the checkout's."""
    return Path(os.environ.get("WSIBENCH_DATA") or CHECKOUT / "data").expanduser().resolve()


def figures_root() -> Path:
    """The figures folder: ``WSIBENCH_FIGURES``; else beside a moved data folder, else the checkout's."""
    if os.environ.get("WSIBENCH_FIGURES"):
        return Path(os.environ["WSIBENCH_FIGURES"]).expanduser().resolve()
    return data_root().parent / "figures" if os.environ.get("WSIBENCH_DATA") else CHECKOUT / "figures"


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


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """pydantic's errors in the words of study.yaml."""
    lines = []
    for item in error.errors():
        where = [str(part) for part in item["loc"]]
        if item["type"] == "extra_forbidden":
            *section, key = where
            allowed = _allowed(model, section)
            close = difflib.get_close_matches(key, allowed, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            place = f" in `{section[0]}`" if section else ""
            lines.append(f"unknown key {key!r}{place}{hint}; allowed: {', '.join(allowed)}")
        elif item["type"] == "missing":
            lines.append(f"`{'.'.join(where)}` is missing")
        else:
            lines.append(f"`{'.'.join(where)}` = {item['input']!r}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines) + "."


def _allowed(model: Any, section: list[str]) -> list[str]:
    """Keys allowed at a place of study.yaml, following sections, unions and tables of sections."""
    for part in section:
        if part in (fields := getattr(model, "model_fields", {})):
            annotation = fields[part].annotation
            arms = getattr(annotation, "__args__", ())
            model = arms if arms else annotation
        elif isinstance(model, tuple):
            tagged = [arm for arm in model if part in _tags(arm)]
            model = tagged[0] if tagged else next((arm for arm in model if hasattr(arm, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def _tags(arm: Any) -> tuple[Any, ...]:
    source = getattr(arm, "model_fields", {}).get("source")
    return source.annotation.__args__ if source else ()
