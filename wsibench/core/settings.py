"""The sections of study.yaml: frozen, documented, and strict about what they are given."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Scheme = Literal["preserved-site", "random-patient", "external"]
"""How patients are divided into folds; the preserved-site arm is the primary one.

``external`` is of studies with `train` and `test`, and there alone: the test patients are one fold, and
the training patients are never held out.
"""


TileArtefact = Literal["pen", "blur", "fold", "edge", "bubble"]
"""What may spoil a tile; `wsibench.tiling.quality` says how each is recognised."""


TILE_CONTROLS = ("colour", "texture", "random-vit")
"""Controls that look at tiles, and need no download."""


class Section(BaseModel):
    """A frozen part of study.yaml that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SimulatedCohort(Section):
    """Synthetic H&E slides with a known truth, made by `wsibench.cohort.simulation.simulate`."""

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
    """Table of subtype and clinic; `wsibench.cohort.gdc.clinical` says which columns are understood."""
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


class Expression(Section):
    """What is predicted."""

    unit: Literal["log2_tpm", "log2_cpm", "zscore", "as_is"] = "as_is"
    """Unit of the table as it is read; said on axes, never a transformation."""
    genes: str | list[str] = "all"
    """``all``, ``protein_coding``, a file with one symbol a line, or a list of symbols."""
    clip: float | None = Field(None, gt=0, strict=False)
    """Values are clipped to ± this before anything else."""
    highly_variable: int | None = Field(None, ge=1)
    """Score only genes that are among this many most variable ones of the training patients of every fold."""

    @model_validator(mode="after")
    def _variable_on_a_known_scale(self) -> "Expression":
        if self.highly_variable and not self.unit.startswith("log2"):
            raise ValueError(f"highly_variable compares genes on log2 TPM or CPM, and unit is {self.unit}")
        return self


class Clinical(Section):
    """What is known of patients besides slides and expression: any columns, for targets and the control `clinical`.

    The cohort's own ``site`` and ``subtype`` need no table, and TCGA's exports are read by ``cohort: {clinical: …}``.
    """

    table: str | None = None
    """CSV, one row a patient: ``patient_id`` and columns of any names."""
    columns: dict[str, str] = {}
    """Our names, or names that targets use, to the table's own: ``{patient_id: case, er: ER_status_2}``."""
    covariates: list[str] = []
    """Columns that the control `clinical` is made of."""

    @model_validator(mode="after")
    def _columns_of_a_table(self) -> "Clinical":
        if self.columns and not self.table:
            raise ValueError("`columns` renames columns of `table`, and there is none")
        return self


class Target(Section):
    """What is predicted besides genes: the mean of a gene set, or a column that is known of patients."""

    genes: str | list[str] | None = None
    """A file with one symbol a line, or a list of symbols: the target is their mean z-score."""
    column: str | None = None
    """``subtype``, ``site``, or a column of the clinical table."""
    kind: Literal["continuous", "categorical"] | None = None
    """Unset: continuous where every known value is a number."""
    classes: list[str] = Field([], min_length=2)
    """Of a categorical column: those to tell apart; whoever is of another counts as unknown.  Unset: all."""

    @model_validator(mode="after")
    def _one_source(self) -> "Target":
        if (self.genes is None) == (self.column is None):
            raise ValueError("give exactly one of `genes` and `column`")
        if self.genes is not None and self.kind == "categorical":
            raise ValueError("the score of a gene set is continuous")
        if self.classes and (self.genes is not None or self.kind == "continuous"):
            raise ValueError("only a categorical column has `classes`")
        return self


class Folds(Section):
    """How patients are divided."""

    schemes: list[Scheme] = ["preserved-site", "random-patient"]
    n: int = Field(5, ge=2)
    seed: int = 0
    repeats: int = Field(1, ge=1)
    """Times the patients are divided, by seed, seed + 1, …: how much the choice of folds matters to what competes."""
    given: dict[Scheme, str] = {}
    """Tables of folds made elsewhere, by scheme; `n` and `seed` then divide nothing."""

    @model_validator(mode="after")
    def _given_for_schemes_asked_for(self) -> "Folds":
        idle = sorted(set(self.given) - set(self.schemes))
        if idle:
            raise ValueError(f"given names {', '.join(idle)}, which is not among the schemes")
        return self


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
    head_components: int | None = Field(None, ge=1)
    """Principal components of the training patients' expression that the head predicts; null predicts every gene."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products of tiles; ``auto`` is bfloat16 where the device multiplies it natively."""


class Ranking(Section):
    """Uncertainty of the leaderboard."""

    bootstrap: int = Field(2000, ge=100)
    permutations: dict[str, int] = {"ridge": 100, "abmil": 5}
    """Refits under pairing permuted within sites, by probe; 0 or absent for none."""
    free_permutations: dict[str, int] = {}
    """Refits under pairing permuted over all patients, by probe; 0 or absent for none."""
    gene_sets: dict[str, str | Annotated[list[str], Field(min_length=1)]] | None = None
    """Sets of genes that are scored by themselves, against random sets of their size: a file with one symbol a
    line, a list, or a .gmt whose sets go by their own names.  Unset: the lists of data/genes that the study covers."""
    covariates: str | None = None
    """A table (CSV) of what else is known of patients: ``patient_id`` first, then columns of numbers."""
    given: list[str] = []
    """Columns of `covariates` that ρ is also given: purity, leukocyte fraction, …, one at a time."""
    seed: int = 0
    """Of the bootstrap, the permutations and the random sets."""
    rope: float = Field(0.01, ge=0, strict=False)
    """Differences of mean ρ smaller than this count as practically equal."""

    @model_validator(mode="after")
    def _columns_of_a_table(self) -> "Ranking":
        if bool(self.given) != bool(self.covariates):
            raise ValueError("`covariates` names a table and `given` its columns: give both or neither")
        if taken := {"subtype", "immune"} & set(self.given):
            raise ValueError(f"{' and '.join(sorted(taken))} is given from the study's own data: rename the column")
        return self


class Limits(Section):
    """What a stage tolerates."""

    failed_slides: float = Field(0.05, ge=0, le=1, strict=False)
    """Share of the slides that may fail in a stage."""
    bad_tiles: float = Field(0.05, ge=0, le=1, strict=False)
    """Share of a slide's tiles that may be undecodable before the slide fails."""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
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
            model = _arms(annotation) or annotation
        elif isinstance(model, tuple):
            tagged = [arm for arm in model if part in _tags(arm)]
            model = tagged[0] if tagged else next((arm for arm in model if hasattr(arm, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def _arms(annotation: Any) -> tuple[Any, ...]:
    """What a union may be, unions within it included."""
    arms = getattr(annotation, "__args__", ())
    return tuple(inner for arm in arms for inner in (_arms(arm) or (arm,)))


def _tags(arm: Any) -> tuple[Any, ...]:
    source = getattr(arm, "model_fields", {}).get("source")
    return source.annotation.__args__ if source else ()
