"""Draw a batch of candidates from the generator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.core import Element

from sluice.config import Chemistry, GenerateSettings
from sluice.errors import SluiceError
from sluice.models.cubicgan import SPACE_GROUPS, CubicGAN, round_points
from sluice.models.cubicgan_training import distinct, orbits_of, sort_sites
from sluice.models.devices import pick_device
from sluice.models.modelfile import Model, load_model
from sluice.models.orbits import build_crystals, grid_index
from sluice.step import run_step, track
from sluice.store import Store, StoreWriter

REVISION = 1
CHUNK = 4000  # candidates held at a time; part of what decides the random numbers


def generate_candidates(
    *,
    model: Path,
    decision: list[Path],
    settings: GenerateSettings,
    chemistry: Chemistry,
    seed: int,
    round: int,
    batch: int,
    device: str,
    candidates: Path,
) -> None:
    """Draw batch ``batch``: the same crystals whatever other batches run beside it, in memory that does not grow.

    The space group is drawn by its frequency in the training data, three distinct elements at random; the generator
    gives coordinates, which are rounded to multiples of 1/4, and the lattice constant.

    Args:
        model: CubicGAN's model file.
        decision: decision of the round before; if it says stop, the batch is empty.
        settings: how many, of which elements.
        chemistry: elements and space groups of the campaign.
        seed: of the campaign.
        round: number of this round.
        batch: number of this batch, from 0.
        device: ``auto``, ``cpu`` or ``cuda``.
        candidates: store to write, schema ``candidates``.

    Raises:
        SluiceError: if the model is no generator or knows none of the space groups.
    """
    total = 0 if _has_stopped(decision) else batch_size(settings, batch)
    generator = load_model(model)
    with StoreWriter(
        candidates,
        "candidates",
        settings=settings,
        inputs=[model, *decision],
        campaign=str(generator.facts.get("campaign", "")),
        round_number=round,
        revision=REVISION,
    ) as writer:
        if total:
            _fill(
                writer,
                generator,
                total,
                settings=settings,
                chemistry=chemistry,
                seed=seed,
                round=round,
                batch=batch,
                device=device,
            )
    print(f"{writer.counts['made']} drawn, {writer.counts['out']} written, {writer.counts['rejected']} rejected")


def _has_stopped(decision: list[Path]) -> bool:
    for path in decision:
        with Store(path, "decision") as store:
            if bool(store.column("stop").any()):
                return True
    return False


def batch_size(settings: GenerateSettings, batch: int) -> int:
    """Number of candidates in a batch; the first ones take what does not divide."""
    share, rest = divmod(settings.candidates, settings.batches)
    return share + (batch < rest)


def allowed_elements(settings: GenerateSettings, chemistry: Chemistry) -> NDArray[np.int64]:
    """Atomic numbers to draw from, ascending."""
    symbols = set(settings.allowed_elements or chemistry.elements) - set(settings.excluded_elements)
    return np.array(sorted(Element(symbol).Z for symbol in symbols), dtype=np.int64)


def group_weights(model: Model, wanted: Sequence[int]) -> NDArray[np.float64]:
    """(3,) probability of each of ``SPACE_GROUPS``: its frequency in training among those wanted.

    Raises:
        SluiceError: if none of them was trained on.
    """
    counts = np.array(model.facts["space_group_counts"], dtype=np.float64)
    counts[~np.isin(SPACE_GROUPS, list(wanted))] = 0
    if counts.sum() == 0:
        raise SluiceError(
            f"{model.path}: trained on no crystal of the space groups {sorted(wanted)}; change chemistry.space_groups"
        )
    return counts / counts.sum()


def _fill(
    writer: StoreWriter,
    model: Model,
    total: int,
    *,
    settings: GenerateSettings,
    chemistry: Chemistry,
    seed: int,
    round: int,
    batch: int,
    device: str,
) -> None:
    network = model.network
    if not isinstance(network, CubicGAN):
        raise SluiceError(f"{model.path}: a {model.kind} model generates nothing; give a generator.ckpt")
    where = pick_device(device)
    network = network.to(where).eval()
    words = json.dumps([seed, round, batch]).encode()
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(words).digest(), dtype=np.uint32))
    elements, weights = allowed_elements(settings, chemistry), group_weights(model, chemistry.space_groups)
    for start in track(range(0, total, CHUNK), f"generate batch {batch}", unit="chunks"):
        n = min(CHUNK, total - start)
        # Whole chunks are drawn, so that a batch begins the same however long it is.
        groups = rng.choice(len(SPACE_GROUPS), size=CHUNK, p=weights)[:n]
        chosen = elements[np.argsort(rng.random((CHUNK, len(elements))), axis=1)[:n, :3]]  # (n, 3)
        chosen = np.take_along_axis(chosen, sort_sites(chosen), axis=1)
        noise = rng.standard_normal((CHUNK, network.noise_size), dtype=np.float32)[:n]
        coordinates, lengths = _sample(network, where, noise, groups, chosen)
        ids = np.array([f"r{round}-b{batch}-{start + i:07d}" for i in range(n)], dtype="S64")
        _write(writer, ids, groups=groups, elements=chosen, coordinates=coordinates, lengths=lengths)


def _sample(
    network: CubicGAN, where: torch.device, noise: NDArray, groups: NDArray, elements: NDArray
) -> tuple[NDArray, NDArray]:
    """Coordinates (n, 3, 3), scaled, and lattice constants (n,), Å."""
    with torch.inference_mode():
        coordinates, lengths = network(
            *(torch.from_numpy(np.ascontiguousarray(values)).to(where) for values in (noise, groups, elements))
        )
    return coordinates.cpu().numpy(), network.unscale_lengths(lengths.cpu().numpy())


def _write(
    writer: StoreWriter,
    ids: NDArray,
    *,
    groups: NDArray,
    elements: NDArray,
    coordinates: NDArray,
    lengths: NDArray,
) -> None:
    """Expand, and append or drop with a reason: made = out + rejected + failed."""
    writer.count(made=len(ids))
    finite = np.isfinite(coordinates).all(axis=(1, 2)) & np.isfinite(lengths)
    points = grid_index(round_points(np.where(finite[:, None, None], coordinates, 0.0)))
    apart = distinct(orbits_of(groups, points))
    positive = lengths > 0
    writer.drop(ids[~finite], "generator gave no number", kind="failed")
    writer.drop(ids[finite & ~apart], "two sites coincide")
    writer.drop(ids[finite & apart & ~positive], "lattice constant not positive")
    good = finite & apart & positive
    numbers = np.array(SPACE_GROUPS)[groups[good]]
    crystals = build_crystals(numbers, points[good], elements[good], lengths[good])
    writer.append(ids[good], {"requested_space_group": numbers}, crystals=crystals)


if __name__ == "__main__":
    run_step(generate_candidates)
