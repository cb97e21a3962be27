"""Sections of study.yaml and the record of an encoder: frozen and validated by pydantic, unknown keys refused."""

import re
import reprlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

# Pattern of names that become names of files or folders: of encoders, feature tables, slides, studies.
SAFE_ID = re.compile(r"\w[\w.+=@-]{0,199}")

Name = Annotated[str, StringConstraints(pattern=f"^{SAFE_ID.pattern}$")]
Known = Literal["yes", "no", "unknown"]
# Arithmetic of an encoder on a CUDA device: float32, TensorFloat-32 products, or autocast to half precision.
Precision = Literal["fp32", "tf32", "fp16", "bf16"]
# How patients are divided into folds.
# ``preserved-site`` is the primary scheme: no site is in two folds. ``external`` is the one scheme of a study with
# `train` and `test`: the test patients are one fold, and the training patients are never held out.
Scheme = Literal["preserved-site", "random-patient", "external"]

# Quality faults of a tile, as `wsibench.tiling` detects them.
TileArtefact = Literal["pen", "blur", "fold", "edge", "bubble"]

# Errors of pydantic that are said in plainer words.
PLAIN = {"extra_forbidden": "not a known key", "missing": "missing"}

# Control encoders of tiles, none of which needs a download.
TILE_CONTROLS = ("colour", "texture", "random-vit")

# Controls that are one vector a patient, made at assembly.
PATIENT_CONTROLS = ("site", "clinical", "subtype-oracle", "oracle")

Channels = tuple[float, float, float]
# Fields of an encoder that decide the values of an embedding.
DECIDES = {
    "loader", "arch", "kwargs", "pool", "prefix_tokens", "dim", "px", "interpolation", "mean", "std", "precision"
}  # fmt: skip


class Section(BaseModel):
    """A frozen part of study.yaml that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SimulatedCohort(Section):
    """Synthetic H&E slides and expression with a known ground truth."""

    source: Literal["simulate"]
    # Numbers of patients, and of sites that they are distributed over.
    patients: int = Field(132, ge=10)
    sites: int = Field(12, ge=2)
    seed: int = Field(0, ge=0)  # seed of the simulation


class LocalCohort(Section):
    """A cohort from the user's own tables."""

    source: Literal["local"]
    slides: str | None = None  # table with ``slide_id, patient_id, path`` and optionally ``site, subtype, mpp``
    folder: str | None = None  # folder that the paths in `slides` start from; unset, the table's own
    # Table with ``patient_id`` and optionally ``site, subtype``, instead of `slides` for a cohort that has features
    # but no slides.
    patients: str | None = None
    expression: str | None = None  # table of patients × genes; unset, the study ends with features
    # Names of columns of these tables that differ from ours, e.g. ``{subtype: pam50}``.
    columns: dict[str, str] = {}

    @model_validator(mode="after")
    def _check_tables(self) -> "LocalCohort":
        if (self.slides is None) == (self.patients is None):
            raise ValueError("give exactly one of `slides` (a table with paths) and `patients`")
        return self


class GdcCohort(Section):
    """A TCGA project of the Genomic Data Commons: diagnostic slides paired with STAR counts."""

    source: Literal["gdc"]
    # Name of the project, e.g. ``TCGA-BRCA``.
    project: str = Field(pattern=r"^TCGA-[A-Z]+$")
    # A stored answer of the GDC (``gdc/snapshot.json.gz`` of an earlier run); unset, the GDC is asked.
    snapshot: str | None = None
    # Folders of slides and of STAR counts files in gdc-client's layout, verified instead of downloaded.
    slides: str | None = None
    rna: str | None = None
    clinical: str | None = None  # table of subtypes and clinical data
    stream: bool = False  # download each slide only when it is embedded, and delete it afterwards


Cohort = Annotated[SimulatedCohort | LocalCohort | GdcCohort, Field(discriminator="source")]


class Tiles(Section):
    """Tissue that is analysed, the same for every encoder."""

    tile_um: float = Field(112.0, gt=0, strict=False)  # side of a tile in µm
    max_tiles: int = Field(4000, ge=1)  # maximal number of tiles a slide; a random sample where there are more
    min_tissue: float = Field(0.5, ge=0, le=1, strict=False)  # minimal share of a tile that is tissue
    # Resolution in µm/px of slides that state none and have none in slides.csv; unset, these slides fail.
    slide_mpp: float | None = Field(None, gt=0, strict=False)
    drop: list[TileArtefact] = ["pen", "blur"]  # quality faults for which a tile is left out
    seed: int = 0  # seed of the sample


class Encoder(Section):
    """An encoder: how its model is built, how a tile becomes its embedding, and its terms of use.

    A record of encoders.yaml in `wsibench.embedding`, or of `encoders` in study.yaml.
    """

    name: Name
    # Builder of the model: our statistics, timm with random weights, timm, transformers, or the user's function.
    # ``import`` stands for features that were computed elsewhere.
    loader: Literal["statistics", "random", "timm", "transformers", "callable", "import"]
    # Function of `wsibench.embedding.statistics`, timm's model name, transformers' class, the user's
    # ``module:function``, or the layout of imported features. ``config.json``: timm's model that the repository's
    # file of that name states. A user's function takes torch's name of a device and returns a function from uint8
    # tiles (b, 3, px, px) on that device to embeddings (b, dim); its module may lie beside study.yaml.
    arch: str
    # Arguments of the model, a layer class by its name; of statistics their format, raised when they change.
    kwargs: dict[str, Any] = Field(default={})
    # Part of the model's output that is the embedding.
    pool: Literal["vector", "cls", "cls+mean", "pooler", "projection"] = "vector"
    prefix_tokens: int = 1  # class and register tokens before the patch tokens
    dim: int | None = None  # width of the embedding, if known
    other_widths: dict[int, str] = Field(default={})  # widths of features that other tools make, and why they differ
    px: int = Field(default=224, ge=1)  # side of the input in pixels
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"  # interpolation of decoded tiles to this size
    read_px: int | None = None  # side that a tile is decoded at, where that is finer than the input
    # Side that the card resizes to, and the side that it then crops; used with ``geometry: card`` only.
    card_px: tuple[int, int] | None = Field(default=None, strict=False)
    mean: Channels = Field(default=(0.485, 0.456, 0.406), strict=False)  # of the channels, of values in [0, 1]
    std: Channels = Field(default=(0.229, 0.224, 0.225), strict=False)
    # Arithmetic on a CUDA device, tf32 where the card is silent; a CPU computes in float32.
    precision: Precision = "tf32"
    repo: str | None = None  # repository on the Hugging Face hub; of a user's function, its file
    package: str | None = None  # Python package that holds the weights instead of a repository
    file: str | None = None  # name of the file of weights, where there are others; unset, the only one
    revision: str | None = None  # commit of the repository that is fetched; unset, the newest
    sha256: str | None = None  # of the file of weights at this revision
    ordered: bool = False  # whether the checkpoint has other names for its tensors, and the model's order
    ignored: tuple[str, ...] = Field(default=(), strict=False)  # prefixes of the checkpoint's weights not needed
    parameters: int | None = None  # number of parameters
    gflops: float | None = Field(default=None, strict=False)  # of one tile, two operations for a multiply-add
    licence: str = "unknown"
    commercial: Known = "unknown"  # whether the licence allows commercial use
    gate: Literal["open", "gated", "unknown"] = "unknown"  # whether the hub asks for a login and the authors' consent
    data: str = "unknown"  # training data
    tcga: Known = "unknown"  # whether the training data included TCGA, a common test set
    tcga_source: str = "unknown"  # source of that statement
    citation: str = "unknown"
    # ``weights`` once `wsibench encoders --check` has confirmed the record on the weights themselves.
    checked: Literal["card", "weights"] = "card"
    sources: dict[str, str] = Field(default={})  # source of a field that does not come from the model card

    @model_validator(mode="after")
    def _check_function(self) -> "Encoder":
        if self.loader == "callable" and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.arch):
            raise ValueError(f"arch of a callable is module:function, not {self.arch!r}")
        return self

    def decides(self, geometry: str = "tile") -> dict[str, Any]:
        """Return what decides the values of an embedding: fields of the record, and sizes under a study's geometry."""
        sizes = {"input_px": self.input_px(geometry), "decoded_px": self.decoded_px(geometry)}
        return self.model_dump(mode="json", include=DECIDES) | sizes

    def input_px(self, geometry: str) -> int:
        """Return the side of a whole tile in pixels under a study's geometry, before any crop."""
        return self.card_px[0] if geometry == "card" and self.card_px else self.px

    def decoded_px(self, geometry: str) -> int:
        """Return the side in pixels that a tile is decoded at, if the slide is as fine."""
        return max(self.input_px(geometry), self.read_px or 0)

    @property
    def needs_device(self) -> bool:
        """True if it computes on a CUDA device where there is one."""
        return self.loader not in ("statistics", "import")

    @property
    def needs_weights(self) -> bool:
        """True if there are weights to fetch."""
        return self.loader in ("timm", "transformers")

    @property
    def needs_config(self) -> bool:
        """True if the repository's config.json decides the model."""
        return self.loader == "transformers" or self.arch == "config.json"


class FeatureTable(Section):
    """One vector a slide or patient, computed elsewhere (CSV, Parquet or h5ad)."""

    table: str  # path of the table
    id: Literal["patient_id", "slide_id"] = "patient_id"  # name of its first column
    tcga: Known = "unknown"  # whether the training data of the features' encoder included TCGA
    width: int | None = Field(None, ge=1)  # required number of feature columns; unset, any


class FeatureFolder(Section):
    """Tile features computed elsewhere, one file a slide: ``features: {uni: {folder: …, layout: trident}}``."""

    folder: str  # folder of the files
    layout: Literal["trident", "clam", "lazyslide"] = "trident"  # tool that wrote them
    table: str | None = None  # LazySlide's name of the features, such as ``uni_tiles``
    tcga: Known = "unknown"  # whether TCGA was in the training data of an encoder that wsibench does not know


class Embedding(Section):
    """Preparation of tiles for the encoders."""

    # ``tile``: every encoder sees the whole tile. ``card``: an encoder whose model card crops sees that crop.
    geometry: Literal["tile", "card"] = "tile"
    precision: dict[Name, Precision] = {}  # of an encoder, instead of its record's: ``{medsiglip: bf16}``


class Expression(Section):
    """Expression that is predicted."""

    # Unit of the table as it is read, for labels and checks; nothing is transformed.
    unit: Literal["log2_tpm", "log2_cpm", "zscore", "as_is"] = "as_is"
    genes: str | list[str] = "all"  # ``all``, ``protein_coding``, a file with one symbol a line, or a list of symbols
    clip: float | None = Field(None, gt=0, strict=False)  # values are clipped to ± this before anything else
    # Score only genes that are among this many most variable ones of the training patients of every fold.
    highly_variable: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check_scale(self) -> "Expression":
        if self.highly_variable and not self.unit.startswith("log2"):
            raise ValueError(f"highly_variable compares genes on log2 TPM or CPM, and unit is {self.unit}")
        return self


class Clinical(Section):
    """Data of patients besides slides and expression, for targets and the control `clinical`.

    The cohort's own ``site`` and ``subtype`` need no table; clinical data of TCGA are read by
    ``cohort: {clinical: …}``.
    """

    table: str | None = None  # CSV with one row a patient: ``patient_id`` and columns of any names
    # Names of columns of the table that differ from ours or from those of targets, e.g. ``{patient_id: case, er:
    # ER_status_2}``.
    columns: dict[str, str] = {}
    covariates: list[str] = []  # columns that the control `clinical` consists of

    @model_validator(mode="after")
    def _check_table(self) -> "Clinical":
        if self.columns and not self.table:
            raise ValueError("`columns` renames columns of `table`, and there is none")
        return self


class Target(Section):
    """A prediction target besides genes: the score of a gene set, or a clinical column."""

    # A file with one symbol a line, or a list of symbols: the target is their mean z-score.
    genes: str | list[str] | None = None
    column: str | None = None  # ``subtype``, ``site``, or a column of the clinical table
    # Kind of the column; unset, continuous where every known value is a number.
    kind: Literal["continuous", "categorical"] | None = None
    # Classes of a categorical column to compare, others count as unknown; unset, all.
    classes: list[str] = Field([], min_length=2)

    @model_validator(mode="after")
    def _check_source(self) -> "Target":
        if (self.genes is None) == (self.column is None):
            raise ValueError("give exactly one of `genes` and `column`")
        if self.genes is not None and self.kind == "categorical":
            raise ValueError("the score of a gene set is continuous")
        if self.classes and (self.genes is not None or self.kind == "continuous"):
            raise ValueError("only a categorical column has `classes`")
        return self


class Folds(Section):
    """Division of patients into folds."""

    schemes: list[Scheme] = ["preserved-site", "random-patient"]  # schemes by which patients are divided
    n: int = Field(5, ge=2)  # number of folds
    seed: int = 0  # seed of the division
    # Number of divisions, by seed, seed + 1, …, that show how much results depend on the choice of folds.
    repeats: int = Field(1, ge=1)
    given: dict[Scheme, str] = {}  # tables of folds made elsewhere, by scheme, to which `n` and `seed` do not apply

    @model_validator(mode="after")
    def _check_given(self) -> "Folds":
        if unused := sorted(set(self.given) - set(self.schemes)):
            raise ValueError(f"given names {', '.join(unused)}, which is not among the schemes")
        return self


class Abmil(Section):
    """Settings of gated attention-based multiple-instance learning."""

    # Maximal number of tiles of a patient in training, a new sample for each seed; all tiles are predicted from.
    tiles_train: int = Field(128, ge=1)
    # Components of a PCA fitted on training tiles, for wider features; null for none.
    pca: int | None = Field(256, ge=1)
    # Widths of the tile embedding and of the attention.
    embed: int = Field(128, ge=1)
    attention: int = Field(64, ge=1)
    dropout: float = Field(0.25, ge=0, lt=1, strict=False)  # share of units left out in training
    # Initial learning rate of a cosine schedule, and weight decay, of AdamW.
    lr: float = Field(3e-3, gt=0, strict=False)
    weight_decay: float = Field(1e-5, ge=0, strict=False)
    batch: int = Field(16, ge=1)  # patients a step
    # Maximal number of epochs, and of epochs without a better inner validation score.
    epochs: int = Field(30, ge=1)
    patience: int = Field(10, ge=1)
    seeds: int = Field(3, ge=1)  # networks whose predictions are averaged
    # Precision of products of tiles; ``auto`` is bfloat16 where the device multiplies it natively.
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Ranking(Section):
    """Scoring and uncertainty of the leaderboard."""

    bootstrap: int = Field(2000, ge=100)  # number of bootstrap draws of patients or sites
    # Number of refits to permuted expression by probe, permuted within sites or over all patients.
    permutations: dict[str, int] = {"ridge": 100, "abmil": 5}
    free_permutations: dict[str, int] = {}
    # Gene sets to score, by name, against random sets of their size: a file with one symbol a line, a list, or a .gmt
    # file. Unset: those of data/genes that the study covers.
    gene_sets: dict[str, str | Annotated[list[str], Field(min_length=1)]] | None = None
    # Table (CSV) with ``patient_id`` and numeric columns, and the columns that ρ is adjusted for, one at a time.
    covariates: str | None = None
    given: list[str] = []
    seed: int = 0  # seed of the bootstrap, the permutations and the random gene sets
    rope: float = Field(0.01, ge=0, strict=False)  # differences of mean ρ below this are practically equal

    @model_validator(mode="after")
    def _check_covariates(self) -> "Ranking":
        if bool(self.given) != bool(self.covariates):
            raise ValueError("`covariates` names a table and `given` its columns: give both or neither")
        if taken := {"subtype", "immune"} & set(self.given):
            raise ValueError(f"{' and '.join(sorted(taken))} is given from the study's own data: rename the column")
        return self


class Limits(Section):
    """Tolerated failures."""

    failed_slides: float = Field(0.05, ge=0, le=1, strict=False)  # share of the slides that may fail in a stage
    # Share of a slide's tiles that may be undecodable before the slide fails.
    bad_tiles: float = Field(0.05, ge=0, le=1, strict=False)


def explain(error: ValidationError) -> str:
    """Describe pydantic's errors by the keys of study.yaml, one line a fault."""
    short = reprlib.Repr()  # the repr of a few nested YAML aliases would fill the memory
    short.maxlevel, short.maxlist, short.maxdict, short.maxother = 2, 2, 2, 60
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(map(str, item["loc"]))[:200]
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] in PLAIN:
            lines.append(f"`{where}` is {PLAIN[item['type']]}")
        else:
            lines.append(f"`{where}` = {short.repr(item['input'])}: {message}" if where else message)
    return "\n  ".join(lines[:20])
