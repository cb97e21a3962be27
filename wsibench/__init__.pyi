from . import (
    assembly as assembly,
    cli as cli,
    cohort as cohort,
    core as core,
    embedding as embedding,
    figures as figures,
    ranking as ranking,
    regression as regression,
    tiling as tiling,
)
from .core import Study as Study, studies as studies
