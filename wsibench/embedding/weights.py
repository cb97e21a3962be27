"""Weights of encoders: find them on this machine, fetch them from the Hugging Face hub, and hash them."""

import json
import os
from pathlib import Path

from wsibench.core import Encoder, Study, WeightsError, data_root, digest, file_sha256, write_text

FORMATS = (("*.safetensors",), ("*.bin", "*.pth"))
"""Patterns of weight files, the preferred format first; pickles are only read with ``weights_only``."""


def local_folder(name: str, study: Study | None = None) -> Path | None:
    """Return the local folder of an encoder's weights, if given by study.yaml or in ``WSIBENCH_WEIGHTS``."""
    if study and name in study.weights:
        return study.resolve(study.weights[name])
    root = os.environ.get("WSIBENCH_WEIGHTS")
    folder = Path(root).expanduser() / name if root else None
    return folder if folder and folder.is_dir() else None


def find(encoder: Encoder, folder: Path | None = None) -> Path:
    """Find the weights of an encoder on this machine, in a given folder or the Hugging Face cache.

    Raises
    ------
    WeightsError
        If there are none.
    """
    if folder is not None:
        if not weight_files(folder):
            raise WeightsError(f"{folder} holds no weights of {encoder.name}.", _remedy(encoder))
        return folder
    return _snapshot(encoder, local=True)


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
        if folder is not None:
            raise
    return _snapshot(encoder, local=False)


def _snapshot(encoder: Encoder, *, local: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, remedy = encoder.name, _remedy(encoder)
    if encoder.repo is None:
        raise WeightsError(f"The record of {name} names no repository.", remedy)
    try:
        for patterns in FORMATS:
            files = ["config.json", *patterns]
            path = snapshot_download(
                encoder.repo, revision=encoder.revision, allow_patterns=files, local_files_only=local
            )
            if weight_files(Path(path)):
                return Path(path)
    except GatedRepoError as error:
        unknown_user = error.response.status_code == 401
        refused = "you are not logged in" if unknown_user else "your account has not been granted access"
        raise WeightsError(f"{name} is gated on Hugging Face and {refused}.", _remedy(encoder, gated=True)) from None
    except RepositoryNotFoundError:
        raise WeightsError(f"There is no {encoder.repo} on Hugging Face, or you may not see it.", remedy) from None
    except LocalEntryNotFoundError:
        why = "" if local else ", and Hugging Face cannot be reached"
        raise WeightsError(f"The weights of {name} are not on this machine{why}.", remedy) from None
    except Exception as error:  # the HTTP client's own, cut connections, full disks
        raise WeightsError(f"The weights of {name} could not be fetched: {error}.", remedy) from error
    raise WeightsError(f"{encoder.repo} holds no weights of {name}.", remedy)


def _remedy(encoder: Encoder, *, gated: bool = False) -> str:
    folder = f"or give a local folder: weights: {{{encoder.name}: /path/to/dir}}"
    if encoder.repo is None:
        return f"Give its `repo`, {folder}."
    if not gated and encoder.gate == "open":
        return f"Where there is a network: hf download {encoder.repo}; {folder}"
    page = f"https://huggingface.co/{encoder.repo}"
    return f"1. request access: {page} (licence {encoder.licence}) 2. hf auth login, or set HF_TOKEN; {folder}"


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder, in the preferred format that it has."""
    for patterns in FORMATS:
        found = sorted(path for pattern in patterns for path in folder.glob(pattern))
        if found:
            return found
    return []


def weights_hash(encoder: Encoder, folder: Path | None) -> str:
    """Hash an encoder's weights: sha256 of the file, or of the hashes of several files.

    The hash of an encoder without weights is that of its construction.
    """
    if folder is None:
        return digest({"arch": encoder.arch, "kwargs": dict(encoder.kwargs)})
    hashes = [_remembered_sha256(path) for path in weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else digest(hashes)


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
