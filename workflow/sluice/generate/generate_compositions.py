"""Draw a batch of compositions from WGAN or MatGAN."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

import numpy as np

from sluice.chemistry.composition_store import reduced, written_formulas
from sluice.config import Chemistry, GenerateSettings
from sluice.errors import SluiceError
from sluice.generate.generate_candidates import allowed_elements, batch_size
from sluice.models.composition_sampling import REASONS, CompositionSampler, Decoding, Draw, strangers
from sluice.models.modelfile import load_model
from sluice.models.wgan import CompositionGan
from sluice.step import report_progress, run_step
from sluice.store import StoreWriter

REVISION = 1
NOT_ALLOWED = "element that is not to be drawn"


def generate_compositions(
    *,
    model: Path,
    settings: GenerateSettings,
    chemistry: Chemistry,
    decoding: str,
    seed: int,
    round: int,
    batch: int,
    device: str,
    candidates: Path,
) -> None:
    """Draw batch ``batch``: the same compositions whatever other batches run beside it, in memory that does not grow.

    A draw that is no composition (no element, two counts for one, …), is not among the critic's favourites, or holds
    an element that is not to be drawn, is a rejected row; the others are written in the smallest integers.

    Args:
        model: the generator's model file.
        settings: how many, of which elements.
        chemistry: elements of the campaign.
        decoding: how a drawn matrix is read, ``threshold`` or ``sampled``.
        seed: of the campaign.
        round: number of this round.
        batch: number of this batch, from 0.
        device: ``auto``, ``cpu`` or ``cuda``.
        candidates: store to write, schema ``composition_candidates``.

    Raises:
        SluiceError: if the model is no generator of compositions.
    """
    generator = load_model(model)
    if not isinstance(generator.network, CompositionGan):
        raise SluiceError(f"{model}: a {generator.kind} model draws no compositions; give a wgan or a matgan")
    total = batch_size(settings, batch)
    allowed = allowed_elements(settings, chemistry)
    sampler = CompositionSampler(
        generator.network,
        decoding=cast(Decoding, decoding),
        critic_share=settings.critic_share,
        allowed=allowed,
        device=device,
    )
    words = json.dumps([seed, round, batch, "compositions"]).encode()
    own_seed = int.from_bytes(hashlib.sha256(words).digest()[:8], "little")
    with StoreWriter(
        candidates,
        "composition_candidates",
        settings={**settings.model_dump(mode="json"), "decoding": decoding},
        inputs=[model],
        campaign=str(generator.facts.get("campaign", "")),
        round_number=round,
        revision=REVISION,
        with_crystals=False,
    ) as writer:
        for draw in sampler.draw(total, own_seed):
            _write(writer, draw, allowed, prefix=f"r{round}-b{batch}-")
            report_progress(writer.counts["made"], total, "compositions", f"generate batch {batch}")
    print(f"{writer.counts['made']} drawn, {writer.counts['out']} written, {writer.counts['rejected']} rejected")


def _write(writer: StoreWriter, draw: Draw, allowed: np.ndarray, *, prefix: str) -> None:
    """Append the draws of one run, or drop them with their reason: made = out + rejected."""
    start = writer.counts["made"]
    n = len(draw.reason)
    ids = np.array([f"{prefix}{i:07d}" for i in range(start, start + n)], dtype="S64")
    writer.count(made=n)
    none = draw.reason > 0
    writer.drop(ids[none], [REASONS[k - 1] for k in draw.reason[none].tolist()])
    found, names = draw.compositions, ids[~none]
    outside = strangers(found, allowed)
    writer.drop(names[outside], NOT_ALLOWED)
    writer.append(names[~outside], {"formula": written_formulas(reduced(found[~outside]))})


if __name__ == "__main__":
    run_step(generate_compositions)
