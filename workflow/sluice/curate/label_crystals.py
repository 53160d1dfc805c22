"""Label crystals with formation energies: CHGNet's (an interatomic potential, not DFT) or the user's own."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.config import CurateSettings
from sluice.crystals import Crystals
from sluice.curate.equation_of_state import NO_ENERGY, find_minima, strained
from sluice.models.potential import NAME, energies, formation_energies, why_no_energy
from sluice.schemas import SCHEMAS
from sluice.step import report_progress, run_step
from sluice.store import Chunk, Store, StoreWriter

REVISION = 1
BLOCK = 240  # crystals labelled together
USER = "user"
NO_REFERENCE = "no elemental reference energy"
ENERGY_COLUMN = "formation_energy_ev_per_atom"


def label_crystals(
    *, crystals: Path, settings: CurateSettings, batches: int, batch: int, device: str, labelled: Path
) -> None:
    """Label one batch: rows ``batch``, ``batch + batches``, ``batch + 2 batches``, … of the collected crystals.

    Built crystals first get the lattice constant of lowest CHGNet energy from an equation of state; crystals of the
    user's own stay as they are. Formation energies that came with them are kept as they are, too.

    Args:
        crystals: the collected crystals (schema ``crystals``).
        settings: the strains of the equation of state.
        batches: number of batches.
        batch: which of them this is, from 0.
        device: ``auto``, ``cpu`` or ``cuda``.
        labelled: crystals with ``formation_energy_ev_per_atom`` and ``label_source`` (schema ``labelled``).
    """
    with Store(crystals, "crystals") as store:
        known = {**SCHEMAS["crystals"][1], **SCHEMAS["labelled"][1]}
        with StoreWriter(
            labelled,
            "labelled",
            columns={name: column for name, column in store.columns.items() if name not in known},
            settings=settings,
            inputs=[crystals],
            campaign=str(store.attributes.get("campaign", "")),
            revision=REVISION,
            attributes={"batch": batch, "potential": NAME},
        ) as writer:
            mine = np.arange(batch, len(store), batches)
            for start in range(0, len(mine), BLOCK):
                rows = mine[start : start + BLOCK]
                chunk = store.rows(int(rows[0]), int(rows[-1]) + 1).select(rows - rows[0])
                _label_block(chunk, settings, device, writer)
                report_progress(start + len(rows), len(mine), "crystals", "labelling")


def _label_block(chunk: Chunk, settings: CurateSettings, device: str, writer: StoreWriter) -> None:
    assert chunk.crystals is not None
    given = chunk.columns.get(ENERGY_COLUMN, np.full(len(chunk), np.nan))
    has_label = np.isfinite(given)
    if has_label.any():
        part = chunk.select(has_label)
        writer.append_chunk(part, **{ENERGY_COLUMN: given[has_label], "label_source": np.full(len(part), USER)})
    part = chunk.select(~has_label)
    if len(part) == 0:
        return
    assert part.crystals is not None
    reason, detail = [""] * len(part), [""] * len(part)
    found = part.crystals
    if settings.source == "build":
        found, reason, detail = relax_lattice(part.crystals, settings.build.strains, device)
    labels = label(found, reason, detail, device)
    good = np.array([r == "" for r in reason], dtype=bool)
    part = Chunk(found, part.candidate_id, part.parent_id, part.columns)
    writer.append_chunk(
        part.select(good), **{ENERGY_COLUMN: labels[good], "label_source": np.full(int(good.sum()), NAME)}
    )
    bad = np.flatnonzero(~good)
    writer.drop(part.candidate_id[bad], [reason[i] for i in bad], kind="failed", detail=[detail[i] for i in bad])


def relax_lattice(crystals: Crystals, strains: tuple[float, ...], device: str) -> tuple[Crystals, list[str], list[str]]:
    """Give every crystal the lattice constant of lowest CHGNet energy.

    Returns:
        The crystals (unchanged where there is no minimum), and for each "" or the reason and its particulars.
    """
    minima = find_minima(crystals, strains, partial(energies, device=device))
    return strained(crystals, np.nan_to_num(minima.strain)), minima.reason, minima.detail


def label(crystals: Crystals, reason: list[str], detail: list[str], device: str) -> NDArray[np.float64]:
    """(n,) CHGNet formation energies in eV/atom of those without a reason yet; adds reasons where there is none."""
    todo = np.flatnonzero([r == "" for r in reason])
    labels = np.full(len(crystals), np.nan)
    found = energies(crystals[todo], device=device)
    labels[todo] = formation_energies(crystals[todo], found)
    for i, energy in zip(todo.tolist(), found, strict=True):
        if not np.isfinite(energy):
            reason[i], detail[i] = NO_ENERGY, why_no_energy(crystals[[i]])
        elif not np.isfinite(labels[i]):
            reason[i] = NO_REFERENCE
            detail[i] = crystals[[i]].reduced_formulas()[0]
    return labels


if __name__ == "__main__":
    run_step(label_crystals)
