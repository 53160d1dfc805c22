"""Draw a batch of candidates from the generator."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

from sluice.config import Chemistry, GenerateSettings
from sluice.models.cubicgan_sampling import NO_NUMBER, Draws, Sampler
from sluice.models.modelfile import Model, load_model
from sluice.step import run_step, track
from sluice.store import Store, StoreWriter

REVISION = 2
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

    The space group is drawn by its frequency in the training data, distinct elements at random; the generator gives
    coordinates, which are rounded to multiples of 1/4, and the lattice constant.

    Args:
        model: CubicGAN's model file.
        decision: decision of the round before; if it says stop, the batch is empty.
        settings: how many, of which elements and space groups.
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
    sampler = Sampler(
        model,
        elements=allowed_elements(settings, chemistry),
        space_groups=settings.space_groups or chemistry.space_groups,
        critic_share=settings.critic_share,
        device=device,
    )
    words = json.dumps([seed, round, batch]).encode()
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(words).digest(), dtype=np.uint32))
    for start in track(range(0, total, CHUNK), f"generate batch {batch}", unit="chunks"):
        # Whole chunks are drawn, so that a batch begins the same however long it is.
        _write(writer, sampler.draw(rng, CHUNK), min(CHUNK, total - start), prefix=f"r{round}-b{batch}-", start=start)


def _write(writer: StoreWriter, draws: Draws, n: int, *, prefix: str, start: int) -> None:
    """Append the first n draws, or drop them with their reason: made = out + rejected + failed."""
    writer.count(made=n)
    ids = np.array([f"{prefix}{i:07d}" for i in range(start, start + n)], dtype="S64")
    reasons = draws.reasons[:n]
    for reason in sorted(set(reasons) - {""}):
        writer.drop(ids[reasons == reason], reason, kind="failed" if reason == NO_NUMBER else "rejected")
    good = np.zeros(len(draws.reasons), bool)
    good[:n] = reasons == ""
    writer.append(ids[good[:n]], {"requested_space_group": draws.space_groups[good]}, crystals=draws.crystals(good))


if __name__ == "__main__":
    run_step(generate_candidates)
