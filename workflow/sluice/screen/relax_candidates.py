"""Relax one batch of the selected candidates with CHGNet."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from sluice.chemistry.geometry import min_distance_ratios
from sluice.chemistry.symmetry import space_group
from sluice.config import RelaxSettings
from sluice.crystals import Crystals
from sluice.models.potential import formation_energies, relax
from sluice.schemas import Column
from sluice.screen.common import further_columns, lineage
from sluice.step import run_step, track
from sluice.store import Store, StoreWriter

REVISION = 2
SUFFIX = "-relaxed"
CONTACT_RANGE = (0.9, 1.25)  # of the closest distance over the sum of covalent radii; taken as it is inside
NO_REFERENCE = "no elemental reference energy"


def perturb(crystal: Crystals, amount: float, seed: int, candidate_id: str) -> Crystals:
    """Displace the atoms of one crystal by Gaussian noise of ``amount`` Å, the same for the same seed and id."""
    if amount == 0.0:
        return crystal
    digest = hashlib.sha256(f"{seed}|{candidate_id}".encode()).digest()
    noise = np.random.default_rng(int.from_bytes(digest[:8], "little")).normal(0.0, amount, crystal.frac_coords.shape)
    moved = crystal.frac_coords + noise @ np.linalg.inv(crystal.lattice[0])
    return Crystals(crystal.lattice, crystal.atom_offsets, crystal.numbers, moved)


def bring_to_contact(crystals: Crystals) -> Crystals:
    """Scale cells in which the closest atoms overlap or are far apart until they touch.

    A generator's lattice constant is a rough guess; a cell of half the volume has many times the neighbours and takes
    many more steps to relax.

    # ASSUME: atoms touch at the sum of their covalent radii; CHGNet finds the rest of the way.
    """
    ratio = min_distance_ratios(crystals)
    scale = np.where((ratio < CONTACT_RANGE[0]) | (ratio > CONTACT_RANGE[1]), 1.0 / ratio, 1.0)
    return replace(crystals, lattice=crystals.lattice * scale[:, None, None])


def relax_candidates(
    *,
    candidates: Path,
    settings: RelaxSettings,
    symprec: float,
    seed: int,
    batch: int,
    device: str,
    relaxed: Path,
) -> None:
    """Relax atoms and cell of the candidates dealt to one batch; the result does not depend on the batch.

    Without a perturbation the symmetry found is kept throughout; with one, atoms may leave it.

    Args:
        candidates: all selected candidates (schema ``selected``).
        settings: convergence, steps, volume limit and perturbation.
        symprec: spglib's tolerance in Å for the symmetry of the relaxed crystal.
        seed: the campaign's.
        batch: which candidates.
        device: ``auto``, ``cpu`` or ``cuda``.
        relaxed: relaxed crystals under new ids, with CHGNet's energies; collapsed, exploded and unconverged ones are
            failures (schema ``relaxed``).
    """
    with Store(candidates, "selected") as store:
        rows = store.rows()
        columns = further_columns(store, "relaxed", without=("batch",))
        origin = lineage(store)
    rows = rows.select(rows.columns["batch"] == batch)
    assert rows.crystals is not None
    names = [name.decode() for name in rows.candidate_id.tolist()]
    cells = bring_to_contact(rows.crystals) if settings.rescale else rows.crystals
    starts = Crystals.concatenate(
        [perturb(cells[i : i + 1], settings.perturbation, seed, name) for i, name in enumerate(names)]
    )
    results = relax(
        starts,
        max_force=settings.max_force,
        max_steps=settings.max_steps,
        max_volume_change=settings.max_volume_change,
        device=device,
        keep_symmetry=settings.perturbation == 0.0,
    )
    columns |= {"relaxation_steps": Column("i4"), "max_force_ev_per_angstrom": Column("f8", "eV/angstrom")}
    with StoreWriter(
        relaxed,
        "relaxed",
        columns=columns,
        settings=settings,
        inputs=[candidates],
        revision=REVISION,
        **origin,
    ) as writer:
        for i, result in enumerate(track(results, "relaxing", total=len(names), unit="candidates")):
            crystal, reason, detail = result.crystal, result.reason, result.detail
            energy = np.array([result.energy])
            formation = formation_energies(crystal, energy)
            if not reason and not np.isfinite(formation[0]):
                reason, detail = NO_REFERENCE, " ".join(crystal.reduced_formulas())
            if reason:
                writer.drop(names[i : i + 1], reason, kind="failed", detail=detail)
                continue
            group = space_group(crystal.lattice[0], crystal.frac_coords, crystal.numbers, symprec)
            kept = rows.select(np.array([i]))
            writer.append(
                [names[i] + SUFFIX],
                {
                    **{name: kept.columns[name] for name in writer.columns if name in kept.columns},
                    "mlip_energy_ev_per_atom": energy,
                    "mlip_formation_energy_ev_per_atom": formation,
                    "relaxed_space_group": np.array([group]),
                    "volume_change": crystal.volumes / cells.volumes[i],
                    "relaxation_steps": np.array([result.steps]),
                    "max_force_ev_per_angstrom": np.array([result.max_force]),
                },
                crystals=crystal,
                parent_id=names[i : i + 1],
            )


if __name__ == "__main__":
    run_step(relax_candidates)
