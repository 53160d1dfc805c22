"""Reject candidates that no crystal can look like: overlapping atoms, impossible densities, endless cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.geometry import MIN_VOLUME, densities, min_distance_ratios
from sluice.config import GeometrySettings
from sluice.crystals import Crystals
from sluice.screen.common import Verdicts, crystals_of, keep_passing
from sluice.step import run_step
from sluice.store import Chunk

REVISION = 1
MAX_ATOMIC_NUMBER = 118

NOT_FINITE = "not a number"
UNKNOWN_ELEMENT = "unknown element"
NO_ATOMS = "no atoms"
FLAT_CELL = "flat cell"
CELL_TOO_LONG = "cell too long"
TOO_CLOSE = "atoms too close"
TOO_LIGHT = "density too low"
TOO_DENSE = "density too high"


def examine(
    crystals: Crystals, settings: GeometrySettings
) -> tuple[NDArray[np.object_], NDArray[np.float64], NDArray[np.float64]]:
    """Judge the geometry of n crystals.

    Returns:
        reasons: (n,) the first rule a crystal breaks, "" for a possible one.
        ratios: (n,) least distance over the sum of covalent radii; NaN where undefined.
        density: (n,) g/cm³; NaN where undefined.
    """
    n = len(crystals)
    reasons = np.full(n, "", dtype=object)
    bad_atoms: NDArray[np.bool_] = (crystals.numbers == 0) | (crystals.numbers > MAX_ATOMIC_NUMBER)
    not_finite = np.asarray(~np.isfinite(crystals.frac_coords).all(axis=1))

    def any_atom(of: NDArray[np.bool_]) -> NDArray[np.bool_]:
        before = np.concatenate([[0], np.cumsum(of)])
        return before[crystals.atom_offsets[1:]] > before[crystals.atom_offsets[:-1]]

    finite = np.isfinite(crystals.lattice).all(axis=(1, 2)) & ~any_atom(not_finite)
    known = ~any_atom(bad_atoms)
    solid = np.zeros(n, dtype=bool)
    solid[finite] = crystals[finite].volumes > MIN_VOLUME
    usable = finite & known & solid & (crystals.n_atoms > 0)
    ratios, density = np.full(n, np.nan), np.full(n, np.nan)
    good = crystals[usable]
    ratios[usable], density[usable] = min_distance_ratios(good), densities(good)
    longest = np.linalg.norm(np.where(finite[:, None, None], crystals.lattice, 0.0), axis=2).max(axis=1, initial=0.0)
    rules = (  # the first that holds is the reason
        (crystals.n_atoms == 0, NO_ATOMS),
        (~known, UNKNOWN_ELEMENT),
        (~finite, NOT_FINITE),
        (~solid, FLAT_CELL),
        (longest > settings.max_lattice, CELL_TOO_LONG),
        (ratios < settings.min_distance_ratio, TOO_CLOSE),
        (density < settings.min_density, TOO_LIGHT),
        (density > settings.max_density, TOO_DENSE),
    )
    for broken, reason in reversed(rules):
        reasons[broken] = reason
    return reasons, ratios, density


def check_geometry(*, candidates: Path, settings: GeometrySettings, geometry: Path) -> None:
    """Keep the candidates of a batch whose geometry is possible.

    Args:
        candidates: generated candidates (schema ``candidates``).
        settings: limits of distances, density and cell length.
        geometry: those that pass, with ``min_distance_ratio`` and ``density_g_per_cm3`` (schema ``geometry``).
    """

    def judge(chunk: Chunk) -> Verdicts:
        reasons, ratios, density = examine(crystals_of(chunk), settings)
        return Verdicts(reasons, columns={"min_distance_ratio": ratios, "density_g_per_cm3": density})

    keep_passing(judge, (candidates, "candidates"), (geometry, "geometry"), settings=settings, revision=REVISION)


if __name__ == "__main__":
    run_step(check_geometry)
