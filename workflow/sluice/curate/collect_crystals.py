"""Collect the crystals to learn from: decorate prototypes, or read the user's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sluice.config import BuildSettings, Chemistry, CurateSettings
from sluice.crystals import Crystals
from sluice.curate.lattice_guess import guess_lattice_constants
from sluice.curate.prototypes import crystal_id, decorate, decorations, find_prototypes, formulas
from sluice.curate.shares import shuffle
from sluice.curate.user_crystals import write_user_crystals
from sluice.errors import ConfigError
from sluice.step import run_step
from sluice.store import StoreWriter

REVISION = 1


def collect_crystals(
    *, settings: CurateSettings, chemistry: Chemistry, seed: int, campaign: str, crystals: Path
) -> None:
    """Write the crystals of the campaign's database, not labelled yet.

    Args:
        settings: where they come from.
        chemistry: elements and space groups to build from.
        seed: decides which share of the formulas becomes the database.
        campaign: the campaign's name.
        crystals: the collected crystals (schema ``crystals``).

    Raises:
        ConfigError: if no prototype is left to build from.
        BadDataError: if too many of the user's crystals cannot be used.
    """
    if settings.source == "files":
        write_user_crystals(settings, campaign, crystals, REVISION)
        return
    ids, prototypes, space_groups, found = build_crystals(settings.build, chemistry, seed)
    with StoreWriter(
        crystals,
        "crystals",
        settings={"curate": settings.model_dump(mode="json"), "chemistry": chemistry.model_dump(mode="json")},
        campaign=campaign,
        revision=REVISION,
        attributes={"seed": seed},
    ) as writer:
        writer.append(ids, {"prototype": prototypes, "space_group": space_groups}, crystals=found)
        writer.count(made=len(ids), came_in=0)


def build_crystals(
    settings: BuildSettings, chemistry: Chemistry, seed: int
) -> tuple[list[str], list[str], np.ndarray, Crystals]:
    """Decorate the prototypes with a seeded share of the possible formulas.

    Whole formulas are drawn, so every crystal of a formula that is left out stays to be discovered.

    Returns:
        n ids, prototype names, (n,) space groups and the crystals with guessed lattice constants.
    """
    possible = find_prototypes(settings.prototypes, chemistry.space_groups)
    if not possible:
        raise ConfigError(
            f"curate.build.prototypes: none of {', '.join(settings.prototypes)} lies in chemistry.space_groups"
            f" {list(chemistry.space_groups)}"
        )
    everything = [decorations(prototype, chemistry.elements) for prototype in possible]
    found = [formula for one, choices in zip(possible, everything, strict=True) for formula in formulas(one, choices)]
    rows = choose_formulas(found, settings.share, settings.max_crystals, seed)
    ends = np.cumsum([len(choices) for choices in everything])
    ids: list[str] = []
    names: list[str] = []
    groups: list[int] = []
    parts: list[Crystals] = []
    for prototype, choices, end in zip(possible, everything, ends, strict=True):
        start = end - len(choices)
        chosen = [choices[row - start] for row in rows[(rows >= start) & (rows < end)]]
        parts.append(decorate(prototype, chosen, guess_lattice_constants(prototype, chosen)))
        ids += [crystal_id(prototype, elements) for elements in chosen]
        names += [prototype.name] * len(chosen)
        groups += [prototype.space_group] * len(chosen)
    return ids, names, np.array(groups, dtype=np.int16), Crystals.concatenate(parts)


def choose_formulas(formulas: list[str], share: float, max_crystals: int, seed: int) -> np.ndarray:
    """Indices of the crystals whose formula is drawn, in their given order.

    Args:
        formulas: the n crystals' reduced formulas.
        share: of the different formulas that is drawn.
        max_crystals: drawing ends before the crystals become more.
        seed: decides the order of drawing.
    """
    members: dict[str, list[int]] = {}
    for i, formula in enumerate(formulas):
        members.setdefault(formula, []).append(i)
    order = shuffle(members, seed, "database")
    chosen: list[int] = []
    for formula in order[: max(1, round(share * len(order)))]:
        if len(chosen) + len(members[formula]) > max_crystals:
            break
        chosen += members[formula]
    return np.array(sorted(chosen), dtype=np.int64)


if __name__ == "__main__":
    run_step(collect_crystals)
