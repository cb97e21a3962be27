from . import notebook as notebook
from .artefacts import (
    Artefact as Artefact,
)
from .artefacts import (
    Failure as Failure,
)
from .artefacts import (
    check_failures as check_failures,
)
from .artefacts import (
    digest as digest,
)
from .artefacts import (
    failure as failure,
)
from .artefacts import (
    failures_table as failures_table,
)
from .artefacts import (
    file_sha256 as file_sha256,
)
from .artefacts import (
    key_at as key_at,
)
from .artefacts import (
    make_key as make_key,
)
from .artefacts import (
    meta_path as meta_path,
)
from .artefacts import (
    read_failures as read_failures,
)
from .artefacts import (
    read_meta as read_meta,
)
from .artefacts import (
    record_failures as record_failures,
)
from .artefacts import (
    replacing as replacing,
)
from .artefacts import (
    sign as sign,
)
from .artefacts import (
    slide_identity as slide_identity,
)
from .artefacts import (
    versions as versions,
)
from .artefacts import (
    write_text as write_text,
)
from .artefacts import (
    writing as writing,
)
from .encoder import (
    Encoder as Encoder,
)
from .errors import (
    CohortError as CohortError,
)
from .errors import (
    FitError as FitError,
)
from .errors import (
    GdcError as GdcError,
)
from .errors import (
    NotReady as NotReady,
)
from .errors import (
    SlideError as SlideError,
)
from .errors import (
    StudyError as StudyError,
)
from .errors import (
    TooManyFailures as TooManyFailures,
)
from .errors import (
    WeightsError as WeightsError,
)
from .errors import (
    WsibenchError as WsibenchError,
)
from .notebook import inline_image as inline_image
from .parallel import (
    LINE_EVERY_S as LINE_EVERY_S,
)
from .parallel import (
    clock as clock,
)
from .parallel import (
    interactive as interactive,
)
from .parallel import (
    n_workers as n_workers,
)
from .parallel import (
    parallel_map as parallel_map,
)
from .parallel import (
    progress as progress,
)
from .paths import (
    CHECKOUT as CHECKOUT,
)
from .paths import (
    data_root as data_root,
)
from .settings import (
    PATIENT_CONTROLS as PATIENT_CONTROLS,
)
from .settings import (
    TILE_CONTROLS as TILE_CONTROLS,
)
from .settings import (
    Abmil as Abmil,
)
from .settings import (
    Embedding as Embedding,
)
from .settings import (
    FeatureFolder as FeatureFolder,
)
from .settings import (
    GdcCohort as GdcCohort,
)
from .settings import (
    Known as Known,
)
from .settings import (
    LocalCohort as LocalCohort,
)
from .settings import (
    Scheme as Scheme,
)
from .settings import (
    SimulatedCohort as SimulatedCohort,
)
from .settings import (
    Target as Target,
)
from .settings import (
    TileArtefact as TileArtefact,
)
from .settings import (
    Tiles as Tiles,
)
from .study import (
    FUSION as FUSION,
)
from .study import (
    Study as Study,
)
from .study import (
    studies as studies,
)
from .tables import (
    read_matrix as read_matrix,
)
from .tables import (
    read_rows as read_rows,
)
from .tables import (
    some as some,
)
