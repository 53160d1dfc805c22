"""Crystals without a label, drawn by the round's generator for a screener that learns from such."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from sluice.crystals import Crystals
from sluice.models.cubicgan_sampling import Sampler
from sluice.models.graphs import usable
from sluice.models.modelfile import Model

CHUNK = 4000  # draws held at a time; part of what decides the random numbers
MOST_CHUNKS_MORE = 20  # chunks beyond what would do if every draw were usable


def draw_unlabelled(
    generator: Model, n: int, *, seed: int, without: AbstractSet[str], device: str = "auto"
) -> Crystals:
    """Draw crystals over the elements and space groups that the generator was trained on.

    # ASSUME: raw draws stand for the candidates to be judged; no check but a usable cell and distinct sites has seen
    # them, so some are crystals that screening would take out before.

    Args:
        generator: CubicGAN's model.
        n: how many crystals are wanted.
        seed: decides which.
        without: reduced formulas that are left out: those held out for validation and test.
        device: ``auto``, ``cpu`` or ``cuda``.

    Returns:
        n crystals, fewer if the generator makes hardly any usable ones.

    Raises:
        SluiceError: if the model is no generator.
    """
    if n == 0:
        return Crystals.empty()
    counts = zip(generator.facts["space_groups"], generator.facts["space_group_counts"], strict=True)
    sampler = Sampler(
        generator,
        elements=np.array(generator.facts["elements"], dtype=np.int64),
        space_groups=[group for group, count in counts if count],
        critic_share=1.0,
        device=device,
    )
    rng = np.random.default_rng(seed)
    parts: list[Crystals] = []
    for _ in range(-(-n // CHUNK) + MOST_CHUNKS_MORE):
        draws = sampler.draw(rng, CHUNK)
        made = draws.crystals(draws.reasons == "")
        made = made[usable(made)]
        parts.append(made[np.array([formula not in without for formula in made.reduced_formulas()], dtype=bool)])
        if sum(map(len, parts)) >= n:
            break
    return Crystals.concatenate(parts)[:n]
