"""Late fusion: a competitor that predicts the mean of what several encoders predict.

The weights are equal, so that nothing is fitted and nothing can leak; every prediction is out of fold
already, and in the unit of the expression.  What is fused by one probe competes with it under the name
``fusion``.  It has no permuted null: members are refitted under permuted pairing each by itself, and
only their scores are kept.
"""

import json
from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd

from wsibench.assembly import read_benchmark
from wsibench.core import FUSION, Artefact, Scheme, Study, make_key, writing
from wsibench.regression import Fit, fits, fold_spearman, read_predictions

FORMAT = 1
STAGE = "fusion"


@dataclass(frozen=True)
class Fusion:
    """The encoders of one probe under one scheme, fused; named like a job of the regression."""

    study: Study
    scheme: Scheme
    probe: str
    members: tuple[Fit, ...]
    encoder: str = FUSION

    @property
    def predictions(self) -> Artefact:
        """Its predictions, which depend on its members' alone."""
        keys = [member.predictions.key for member in self.members]
        path = self.study.predictions_h5ad(self.scheme, self.encoder, self.probe)
        return Artefact(path, make_key(STAGE, FORMAT, self.study.fused, keys))


def fusions(study: Study) -> list[Fusion]:
    """One a scheme and probe that reads all of the encoders to fuse; none where the study fuses nothing."""
    found: dict[tuple[Scheme, str], dict[str, Fit]] = {}
    for job in fits(study):
        found.setdefault((job.scheme, job.probe), {})[job.encoder] = job
    return [
        Fusion(study, scheme, probe, tuple(have[name] for name in study.fused))
        for (scheme, probe), have in found.items()
        if study.fused and set(study.fused) <= set(have)
    ]


def expected(study: Study) -> list[Artefact]:
    """Predictions of every fusion."""
    return [fusion.predictions for fusion in fusions(study)]


def fuse(study: Study) -> None:
    """Make what is due: predictions like those of `wsibench.regression.fit.read_predictions`.

    Raises
    ------
    NotReady
        When a member's predictions have not been made.
    """
    for fusion in fusions(study):
        if fusion.predictions.due():
            _fuse(fusion)


def _fuse(fusion: Fusion) -> None:
    members = [read_predictions(job.predictions.path) for job in fusion.members]
    first = members[0]
    mean = np.mean([adata.X for adata in members], axis=0, dtype=np.float64).astype(np.float32)
    names = [job.encoder for job in fusion.members]
    measured, fold = read_benchmark(fusion.study.benchmark_h5ad)[first.obs_names].X, first.obs["fold"].to_numpy()
    # Predictions of other splits are not kept, only their scores: a fusion has the first.
    varm = {"rho_by_split": fold_spearman(measured, mean, fold).mean()[:, None].astype(np.float32)}
    # The halves are the same patients for every member, so that the noise of a mean is the mean of the noise.
    layers = {"noise": np.mean([adata.layers["noise"] for adata in members], axis=0)}
    uns = {
        "key": fusion.predictions.key,
        "study_key": fusion.study.key,
        "chosen": json.dumps({str(label): {"members": names} for label in np.unique(first.obs["fold"])}),
    }
    facts = {
        "scheme": fusion.scheme,
        "encoder": fusion.encoder,
        "probe": fusion.probe,
        "n_patients": first.n_obs,
        "n_genes": first.n_vars,
        "members": names,
    }
    with writing(fusion.predictions, **facts) as path:
        var = pd.DataFrame(index=first.var_names)
        adata = anndata.AnnData(mean, first.obs.copy(), var, layers=layers, varm=varm, uns={"wsibench": uns})
        adata.write_h5ad(path, convert_strings_to_categoricals=False)
