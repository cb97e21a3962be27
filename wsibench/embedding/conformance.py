"""Check the record of an encoder on its weights, with one painted tile whose results others can compare."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wsibench.core import versions
from wsibench.embedding.encoders import (
    as_pinned,
    encoder as find_encoder,
    fetch,
    local_folder,
    weight_files,
    weights_hash,
)
from wsibench.embedding.models import load
from wsibench.embedding.one_pass import devices, embed

# Tile of 112 µm and 224 px that the simulation painted.
TILE = Path(__file__).with_name("tile.png")
# Number of values of the embedding that are given, to compare machines whose last bits differ.
SHOWN = 8


def check_record(name: str) -> dict[str, Any]:
    """Embed the painted tile in float32 and in the precision of the record.

    Parameters
    ----------
    name
        Encoder of encoders.yaml, whose weights are on this machine or can be fetched.

    Returns
    -------
    dict
        What was embedded by what, the cosine between the two embeddings, the digest (of the float16 values in
        float32 arithmetic) and first values of the embedding, and under ``confirms`` the fields of the record that
        hold for these weights.

    Raises
    ------
    WeightsError
        If the weights are absent, or are not those of the record.
    """
    record = find_encoder(name)
    folder = fetch(record, local_folder(name)) if record.needs_weights else None
    tile = np.array(Image.open(TILE).convert("RGB"))[None]
    exact, used = (
        embed(tile, load(record, folder, devices()[0], precision=precision))[0].astype(np.float64)
        for precision in ("fp32", record.precision)
    )
    confirms = {"arch": True, "parameters": record.parameters is not None, "dim": record.dim == len(exact)}
    if folder:
        confirms["sha256"] = bool(as_pinned(record, folder))
    return {
        "encoder": name,
        "record": record.decides(),
        "weights": weights_hash(record, folder),
        "files": [str(file.relative_to(folder)) for file in weight_files(record, folder)] if folder else [],
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": versions(),
        "tile": hashlib.sha256(tile.tobytes()).hexdigest(),
        "precision": record.precision,
        "cosine": float(exact @ used / np.linalg.norm(exact) / np.linalg.norm(used)),
        "digest": hashlib.sha256(exact.astype(np.float16).tobytes()).hexdigest(),
        "norm": float(np.linalg.norm(exact)),
        "first": [round(value, 5) for value in exact[:SHOWN].tolist()],
        "confirms": [field for field, holds in confirms.items() if holds],
    }


def check_text(found: dict[str, Any]) -> str:
    """Format the result of `check_record` for a terminal."""
    lines = {
        "weights": found["weights"],
        "cosine": f"{found['cosine']:.6f} between float32 and {found['precision']} on {found['device']}",
        "embedding": f"digest {found['digest'][:16]}, norm {found['norm']:.4f}, first values {found['first']}",
        "confirms": ", ".join(found["confirms"]),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in {"encoder": found["encoder"], **lines}.items())
