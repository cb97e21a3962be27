from . import notebook as notebook
from .artefacts import (
    Artefact as Artefact,
    Failure as Failure,
    check_failures as check_failures,
    digest as digest,
    failure as failure,
    file_sha256 as file_sha256,
    key_at as key_at,
    make_key as make_key,
    meta_path as meta_path,
    read_failures as read_failures,
    read_meta as read_meta,
    record_failures as record_failures,
    replacing as replacing,
    sign as sign,
    slide_identity as slide_identity,
    versions as versions,
    write_text as write_text,
    writing as writing,
)
from .errors import (
    CohortError as CohortError,
    FitError as FitError,
    GdcError as GdcError,
    NotReady as NotReady,
    SlideError as SlideError,
    StudyError as StudyError,
    TooManyFailures as TooManyFailures,
    WeightsError as WeightsError,
    WsibenchError as WsibenchError,
)
from .notebook import inline_image as inline_image
from .parallel import (
    clock as clock,
    n_workers as n_workers,
    parallel_map as parallel_map,
    progress as progress,
)
from .paths import (
    CHECKOUT as CHECKOUT,
    data_root as data_root,
)
from .settings import (
    PATIENT_CONTROLS as PATIENT_CONTROLS,
    TILE_CONTROLS as TILE_CONTROLS,
    Abmil as Abmil,
    Embedding as Embedding,
    Encoder as Encoder,
    FeatureFolder as FeatureFolder,
    FeatureTable as FeatureTable,
    Folds as Folds,
    GdcCohort as GdcCohort,
    Known as Known,
    LocalCohort as LocalCohort,
    Precision as Precision,
    Scheme as Scheme,
    SimulatedCohort as SimulatedCohort,
    Target as Target,
    TileArtefact as TileArtefact,
    Tiles as Tiles,
)
from .study import (
    FUSION as FUSION,
    Study as Study,
    studies as studies,
)
from .tables import (
    read_matrix as read_matrix,
    read_rows as read_rows,
    some as some,
)
