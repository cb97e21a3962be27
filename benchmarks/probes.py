"""CPU time of fitting: ridge against sklearn, and an epoch of attention MIL against a loop over bags.

    python benchmarks/probes.py [--full] [--genes 5000] [--patients 600] [--width 1024] [--encoders 1] [--peer-fits 5]

Ridge: a penalty of its own for every gene, chosen within each of five training folds, and out-of-fold predictions.
wsibench chooses by squared error over grouped inner folds, sklearn's RidgeCV(alpha_per_target=True) over patients
left out one by one, the only way it offers; penalties and standardisation are the same.  Predictions of the first
fit are compared where both chose the same penalty.
With it stands what 05_regression spends: the same fits, and those on two halves of every training fold that tell the
noise of its patients.  sklearn is run for `--peer-fits` of the fits and extrapolated.
`--full`: 20,000 genes, 1,000 patients, 5 encoders.

Attention MIL: epochs as the probe trains them, in float32 and, where the CPU has instructions for it (or with
`--bfloat16`), with the products of tiles in bfloat16, against a plain loop: a forward pass a bag in float32, torch's
own dropout and AdamW.  They have the same start and the same order of patients; losses are compared over further
epochs without dropout, whose draws differ.  The bags are those of a study with its defaults, after PCA, and larger
ones of a wider network.

Prints CPU seconds (getrusage, one thread) and peak memory, every way in a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from wsibench.core import Abmil
    from wsibench.regression.probes.abmil import Tiles

FOLDS = 5
GOAL_CPU_S, GOAL_GB, GOAL_RATIO, GOAL_EPOCH = 180, 2.0, 3.0, 1.7
"""CPU seconds and memory of the full ridge, how much slower sklearn, and how much slower a loop over bags."""
NETWORKS = {
    "defaults": {"patients": 128, "tiles": 128, "width": 256, "genes": 1000, "embed": 128, "attention": 64},
    "wide": {"patients": 32, "tiles": 1024, "width": 1024, "genes": 1000, "embed": 512, "attention": 256},
}
"""Bags and networks that an epoch is timed for."""
EPOCHS = 3


def cohort(patients: int, genes: int, width: int, encoder: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of one encoder (patients, width) and expression (patients, genes) of 20 shared latents."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((patients, 20), np.float32)
    strength = rng.random(genes, np.float32)
    y = z @ rng.standard_normal((20, genes), np.float32) * strength / 4
    y += rng.standard_normal(y.shape, np.float32)
    own = np.random.default_rng((1, encoder))
    x = z @ own.standard_normal((20, width), np.float32) + 3 * own.standard_normal((patients, width), np.float32)
    return x, y


def ours(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and penalties of wsibench."""
    from wsibench.regression.probes.base import Patients
    from wsibench.regression.probes.ridge import ALPHAS, Ridge

    train, held = np.arange(len(x)), np.arange(len(new))
    fitted = Ridge().fit(Patients(train, train, mean=x), y)
    return fitted.predict(Patients(held, held, mean=new)), ALPHAS[fitted.best]


def sklearn(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and penalties of sklearn, in wsibench's units of penalty."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    from wsibench.regression.probes.ridge import ALPHAS

    scaler, targets = StandardScaler().fit(x), StandardScaler().fit(y)
    ridge = RidgeCV(ALPHAS * x.shape[1], alpha_per_target=True).fit(scaler.transform(x), targets.transform(y))
    return targets.inverse_transform(ridge.predict(scaler.transform(new))), ridge.alpha_ / x.shape[1]


def with_halves(asked: argparse.Namespace) -> dict[str, float]:
    """All fits as 05_regression makes them, those on halves among them."""
    from wsibench.regression import out_of_fold
    from wsibench.regression.probes.base import Patients
    from wsibench.regression.probes.ridge import Ridge

    ids, cpu_s = np.arange(asked.patients), 0.0
    for encoder in range(asked.encoders):
        x, y = cohort(asked.patients, asked.genes, asked.width, encoder)
        started = _cpu()
        out_of_fold(Ridge(), Patients(ids, ids, mean=x), y, ids % FOLDS, split_half=True)
        cpu_s += _cpu() - started
    return {"cpu_s": cpu_s, "fits": 3 * FOLDS * asked.encoders, "peak_gb": _peak()}


def ridge(way: str, asked: argparse.Namespace, kept: Path) -> dict[str, float]:
    """All fits of one way, or as many as are asked of sklearn; the first fit's predictions go to `kept`."""
    fit = {"ours": ours, "sklearn": sklearn}[way]
    wanted = asked.encoders * FOLDS
    fits = min(wanted, asked.peer_fits) if way == "sklearn" else wanted
    fold = np.arange(asked.patients) % FOLDS
    cpu_s = 0.0
    for encoder in range(-(-fits // FOLDS)):
        x, y = cohort(asked.patients, asked.genes, asked.width, encoder)
        predicted = np.empty_like(y)
        for label in range(min(FOLDS, fits - encoder * FOLDS)):
            started = _cpu()
            train, held = fold != label, fold == label
            predicted[held], alpha = fit(x[train], y[train], x[held])
            cpu_s += _cpu() - started
            if encoder == label == 0:
                np.savez(kept, predicted=predicted[held], alpha=alpha)
    return {"cpu_s": cpu_s / fits * wanted, "fits": fits, "peak_gb": _peak()}


def attention(way: str, network: str) -> dict:
    """Epochs of attention MIL one way: CPU seconds an epoch with dropout, and the losses without."""
    import torch

    from wsibench.core import Abmil
    from wsibench.regression.probes.abmil import GatedAttention, Tiles

    torch.set_num_threads(1)
    size = NETWORKS[network]
    rng = np.random.default_rng(0)
    bags = [rng.standard_normal((size["tiles"], size["width"]), np.float32) for _ in range(size["patients"])]
    z = torch.from_numpy(rng.standard_normal((size["patients"], size["genes"]), np.float32))
    z += torch.from_numpy(np.stack([bag[:, :1].mean(axis=0) * np.sqrt(size["tiles"]) for bag in bags]))
    tiles = Tiles.pack(bags, torch.device("cpu"), torch.bfloat16 if way == "bfloat16" else torch.float32)
    del bags
    found = {}
    for dropout in (Abmil().dropout, 0.0):
        settings = Abmil(embed=size["embed"], attention=size["attention"], dropout=dropout)
        torch.manual_seed(0)
        model = GatedAttention(size["width"], size["genes"], settings)
        batches = np.array_split(rng.permutation(size["patients"]), -(-size["patients"] // settings.batch))
        epoch = (loop_of if way == "loop" else probe_of)(model, tiles, z, batches, settings)
        started = _cpu()
        losses = [epoch() for _ in range(EPOCHS)]
        if dropout:
            found["cpu_s"] = (_cpu() - started) / EPOCHS
        else:
            found["losses"] = losses
    return found | {"peak_gb": _peak()}


def probe_of(
    model: "nn.Module", tiles: "Tiles", z: "Tensor", batches: list, settings: "Abmil"
) -> "Callable[[], float]":
    """An epoch as the probe trains it."""
    import torch

    from wsibench.regression.probes.abmil import make_optimiser, train_epoch

    optimiser = make_optimiser(model, settings)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, 1.0)
    return lambda: train_epoch(model, tiles, z, batches, optimiser, schedule)


def loop_of(model: "nn.Module", tiles: "Tiles", z: "Tensor", batches: list, settings: "Abmil") -> "Callable[[], float]":
    """An epoch with a forward pass a bag."""
    import torch
    from torch.nn import functional

    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    bags = torch.tensor_split(tiles.x, torch.from_numpy(tiles.start[1:-1]))

    def forward(x: "Tensor") -> "Tensor":
        h = functional.dropout(torch.relu(model.embed(x)), settings.dropout)
        score = model.score(torch.tanh(model.tanh(h)) * torch.sigmoid(model.gate(h)))
        return model.head((torch.softmax(score, dim=0) * h).sum(dim=0))

    def epoch() -> float:
        loss = 0.0
        for patients in batches:
            missed = functional.mse_loss(torch.stack([forward(bags[i]) for i in patients]), z[patients])
            optimiser.zero_grad()
            missed.backward()
            optimiser.step()
            loss += missed.item() * len(patients) / len(z)
        return loss

    return epoch


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def options() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="20,000 genes, 1,000 patients, 5 encoders")
    parser.add_argument("--genes", type=int, default=5000)
    parser.add_argument("--patients", type=int, default=600)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--encoders", type=int, default=1)
    parser.add_argument("--peer-fits", type=int, default=FOLDS, help="fits that sklearn is timed for")
    parser.add_argument("--skip-ridge", action="store_true")
    parser.add_argument("--skip-attention", action="store_true")
    parser.add_argument("--bfloat16", action="store_true", help="time it even where the CPU has no instructions for it")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.full:
        asked.genes, asked.patients, asked.encoders = 20_000, 1000, 5
    return asked


def measured(*options: str) -> dict:
    """What a process of this script, with one thread, prints in its last line."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    command = [sys.executable, __file__, *options]
    done = subprocess.run(command, env=os.environ | threads, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare_ridge(asked: argparse.Namespace) -> None:
    """Measure ridge both ways, print the table."""
    print(
        f"ridge: {asked.encoders} encoder(s) × {FOLDS} folds × {asked.genes:,} genes × {asked.patients:,} patients, "
        f"{asked.width} features"
    )
    sizes = [f"--{name}={vars(asked)[name]}" for name in ("genes", "patients", "width", "encoders")]
    found, kept = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for way in ("ours", "halves", "sklearn"):
            path = Path(folder, f"{way}.npz")
            found[way] = measured("--way", way, *sizes, f"--peer-fits={asked.peer_fits}", f"--kept={path}")
            row = found[way]
            said = f"{row['fits']} of {asked.encoders * FOLDS * (3 if way == 'halves' else 1)} fits run"
            print(f"  {way:<10} {row['cpu_s']:>8.1f} CPU s  peak {row['peak_gb']:.2f} GB  ({said})", flush=True)
            if path.exists():
                kept[way] = dict(np.load(path))
    same = kept["ours"]["alpha"] == kept["sklearn"]["alpha"]
    same |= np.isclose(kept["ours"]["alpha"], kept["sklearn"]["alpha"])
    apart = np.abs(kept["ours"]["predicted"] - kept["sklearn"]["predicted"])[:, same].max(initial=0)
    print(f"  sklearn / ours {found['sklearn']['cpu_s'] / found['ours']['cpu_s']:.1f} × (goal {GOAL_RATIO:.0f} ×)")
    print(f"  same penalty for {same.mean():.1%} of genes, whose predictions differ by {apart:.1e} at most")
    if asked.full:
        print(f"  goals: {GOAL_CPU_S} CPU s and {GOAL_GB:.0f} GB")


def compare_attention(asked: argparse.Namespace) -> None:
    """Measure attention MIL each way, print the table."""
    import torch

    from wsibench.regression.probes.abmil import product_type

    taken = str(product_type("auto", torch.device("cpu"))).removeprefix("torch.")
    ways = ["loop", "float32", *(["bfloat16"] if taken == "bfloat16" or asked.bfloat16 else [])]
    for network, size in NETWORKS.items():
        print(f"attention MIL, {network}: " + ", ".join(f"{name} {value}" for name, value in size.items()))
        found = {}
        for way in ways:
            found[way] = row = measured("--way", way, "--network", network)
            said = "  (what the probe does on this CPU)" if way == taken else ""
            print(
                f"  {way:<10} {row['cpu_s']:>8.3f} CPU s an epoch  peak {row['peak_gb']:.2f} GB  "
                f"loss {row['losses'][0]:.3f} → {row['losses'][-1]:.3f}{said}",
                flush=True,
            )
        loop = found.pop("loop")
        for way, row in found.items():
            gap = np.abs(np.array(row["losses"]) / loop["losses"] - 1).max()
            goal = f" (goal {GOAL_EPOCH} ×)" if way == taken else ""
            print(
                f"  loop / {way} {loop['cpu_s'] / row['cpu_s']:.2f} ×{goal}; "
                f"losses of {EPOCHS} epochs differ by {gap:.1e} at most, relatively",
                flush=True,
            )
    if taken != "bfloat16":
        print("  This CPU has no instructions for bfloat16, so the probe takes float32 here.")


def main() -> None:
    """Measure and print, or be one of the processes that are measured."""
    asked = options()
    if asked.network:
        print(json.dumps(attention(asked.way, asked.network)))
    elif asked.way:
        print(json.dumps(with_halves(asked) if asked.way == "halves" else ridge(asked.way, asked, asked.kept)))
    else:
        if not asked.skip_ridge:
            compare_ridge(asked)
        if not asked.skip_attention:
            compare_attention(asked)


if __name__ == "__main__":
    main()
