"""Stable, unique, novel: crystals relaxed with CHGNet, held against the Materials Project's hull and crystals."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.structure_matcher import StructureMatcher

from sluice.chemistry.hull import Hull, element_fractions
from sluice.config import GeometrySettings
from sluice.crystals import Crystals
from sluice.experiments.cubicgan_data import KnownCrystals, plain_formula
from sluice.experiments.cubicgan_funnel import Sites
from sluice.models.modelfile import write_atomically
from sluice.models.orbits import build_crystals
from sluice.models.potential import NAME, relax
from sluice.provenance import sha256_of_arrays, sha256_of_text
from sluice.report.distributions import cubic_lattice_constants
from sluice.screen.check_geometry import examine
from sluice.step import report_progress

MAX_FORCE = 0.05  # eV/Å
MAX_STEPS = 150
MAX_VOLUME_CHANGE = 4.0


@dataclass
class Judged:
    """One crystal; energies and lattice constants are NaN where the relaxation failed."""

    formula: str
    energy_ev_per_atom: float
    above_hull_ev_per_atom: float
    made_length_angstrom: float
    relaxed_length_angstrom: float
    novel: bool
    unique: bool
    reason: str


COLUMNS = [field.name for field in fields(Judged)]


def judge(
    sites: Sites,
    possible: NDArray[np.bool_],
    hull: Hull,
    known: KnownCrystals,
    checkpoints: Path,
    *,
    device: str = "auto",
) -> list[Judged]:
    """Relax each crystal and compare; killed, the same call goes on behind the last crystal written down.

    Args:
        sites: crystals as drawn.
        possible: (n,) which are crystals at all; the others are judged without relaxation.
        hull: known compounds.
        known: known crystals.
        checkpoints: folder that outlives an interruption; what it holds of other crystals or settings is passed over.
        device: of the potential: ``auto``, ``cpu`` or ``cuda``.
    """
    path = checkpoints / "judged.jsonl"
    done = _begin(path, _digest(sites, possible, hull, known))
    crystals = build_crystals(
        sites.space_groups, np.where(possible[:, None], sites.points, 0), sites.elements, sites.lengths
    )
    keys = sites.keys()
    first = np.zeros(len(sites), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    reasons = examine(crystals, GeometrySettings())[0]
    compare = _Comparison(hull, known, device)
    with path.open("a", encoding="utf-8") as handle:
        for i in range(len(done), len(sites)):
            reason = "" if possible[i] else "sites coincide"
            found = compare(crystals[i : i + 1], float(sites.lengths[i]), reason or str(reasons[i]))
            found.unique = bool(first[i])
            handle.write(json.dumps(asdict(found)) + "\n")
            handle.flush()
            done.append(found)
            report_progress(len(done), len(sites), "crystals", "relax and judge")
    return done


def _digest(sites: Sites, possible: NDArray[np.bool_], hull: Hull, known: KnownCrystals) -> str:
    """Names everything that decides the rows."""
    parts = [
        sha256_of_arrays(*asdict(sites).values(), possible),
        sha256_of_arrays(hull.fractions, hull.energies),
        known.digest,
        GeometrySettings().model_dump_json(),
        [NAME, MAX_FORCE, MAX_STEPS, MAX_VOLUME_CHANGE],
        COLUMNS,
    ]
    return sha256_of_text(json.dumps(parts))


def _begin(path: Path, digest: str) -> list[Judged]:
    """Make the file ready for the next row; the rows that are there under the same digest, its first line."""
    head, lines = json.dumps({"digest": digest}), list[str]()
    if path.exists():
        first, *rest = path.read_text(encoding="utf-8").split("\n")
        if first == head:
            lines = rest[:-1]  # what follows the last newline was cut off
        else:
            print(f"{path}: crystals judged under other settings or data passed over", file=sys.stderr)
    write_atomically(path, "".join(f"{line}\n" for line in (head, *lines)).encode())
    return [Judged(**json.loads(line)) for line in lines]


class _Comparison:
    """Relaxes a crystal and holds it against the hull and the known crystals."""

    def __init__(self, hull: Hull, known: KnownCrystals, device: str) -> None:
        self.hull, self.known, self.device, self.matcher = hull, known, device, StructureMatcher()

    def __call__(self, crystal: Crystals, length: float, reason: str) -> Judged:
        nan = float("nan")
        formula = plain_formula(crystal.structure(0))
        missing = Judged(formula, nan, nan, length, nan, novel=False, unique=False, reason=reason)
        if reason:
            return missing
        relaxed = next(iter(relax(crystal, max_force=MAX_FORCE, max_steps=MAX_STEPS, device=self.device)))
        ratio = float(relaxed.crystal.volumes[0] / crystal.volumes[0])
        if relaxed.reason or not 1 / MAX_VOLUME_CHANGE < ratio < MAX_VOLUME_CHANGE:
            return replace(missing, reason=relaxed.reason or "volume changed too much")
        above = self.hull.distances(element_fractions(relaxed.crystal), np.array([relaxed.energy]))[0]
        structure = relaxed.crystal.structure(0)
        return Judged(
            formula,
            energy_ev_per_atom=relaxed.energy,
            above_hull_ev_per_atom=float(above),
            made_length_angstrom=length,
            relaxed_length_angstrom=float(cubic_lattice_constants(relaxed.crystal)[0]),
            novel=not any(self.matcher.fit(structure, other) for other in self.known.structures(formula)),
            unique=False,
            reason="",
        )


def shares(judged: list[Judged], threshold: float) -> dict[str, float]:
    """Shares of all crystals, and the error of lattice constants over those relaxed; NaN of no crystals.

    Args:
        judged: the crystals.
        threshold: energy above the hull up to which a crystal counts as stable, eV/atom.
    """
    above, made, relaxed = (
        np.array([getattr(j, name) for j in judged], dtype=float)
        for name in ("above_hull_ev_per_atom", "made_length_angstrom", "relaxed_length_angstrom")
    )
    unique, novel = (np.array([getattr(j, name) for j in judged], dtype=bool) for name in ("unique", "novel"))
    stable = above <= threshold  # NaN never is
    good = np.isfinite(relaxed)
    error = np.abs(made[good] - relaxed[good])
    return {
        "n": len(judged),
        "relaxed": _mean(good),
        "stable": _mean(stable),
        "unique": _mean(unique),
        "novel": _mean(novel),
        "sun": _mean(stable & unique & novel),
        "sun_on_hull": _mean((above <= 0) & unique & novel),
        "length_mae_angstrom": _mean(error),
        "length_error_percent": _mean(100 * error / relaxed[good]),
        "above_hull_median_ev_per_atom": float(np.nanmedian(above)) if np.isfinite(above).any() else float("nan"),
    }


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else float("nan")
