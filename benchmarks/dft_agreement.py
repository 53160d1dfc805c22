"""Formation energies of known compounds against Materials Project's uncorrected PBE values.

    python benchmarks/dft_agreement.py run      # calculates what is missing, cheapest first; resumes after any stop
    python benchmarks/dft_agreement.py table    # writes docs/experiments/dft-agreement.{md,csv} from what is done

Structures and energies are read from ``$SLUICE_DATA`` (``mp_structures``, ``elemental_refs_hull``: Materials Project,
CC-BY 4.0). The work lives in ``results/dft-agreement``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import math
import os
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from make_reference_table import candidates
from pymatgen.core import Composition, Lattice, Structure

from sluice.validate.espresso.flows import run_calculation
from sluice.validate.espresso.pseudos import find_pseudos
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import (
    CalculationSettings,
    calculation_settings,
    prepare_structure,
    tier_for,
)

ROOT = Path(__file__).parents[1]
WORK = ROOT / "results" / "dft-agreement"
DOCS = ROOT / "docs" / "experiments"
PROTOCOL = "balanced"
CRYSTALLINE = ("Cl", "F")
SPIN_ELEMENTS = ("Cr", "Mn", "Fe", "Co", "Ni")
# Two chemistries, each with the cutoff tier of its hardest element throughout, as in two campaigns.
MAIN = ("Li", "Na", "Mg", "Al", "Ca", "Ti", "Co", "Ni", "Pt", "Be", "Sc", "O", "F", "S", "Cl")
NITRIDES = ("Li", "Al", "Sc", "N")
# In the order of work: cheap ones and those that share references first.
# fmt: off
COMPOUNDS = (
    ("mp-1138", "LiF", "halide"), ("mp-682", "NaF", "halide"), ("mp-1960", "Li2O", "oxide"),
    ("mp-2605", "CaO", "oxide"),
    ("mp-2741", "CaF2", "halide"), ("mp-22862", "NaCl", "halide"), ("mp-1067", "LiAl", "intermetallic"),
    ("mp-1487", "AlNi", "intermetallic"), ("mp-2593", "AlNi3", "intermetallic"), ("mp-2352", "Na2O", "oxide"),
    ("mp-1672", "CaS", "sulfide"), ("mp-1153", "Li2S", "sulfide"), ("mp-648", "Na2S", "sulfide"),
    ("mp-661", "AlN", "nitride"), ("mp-2251", "Li3N", "nitride"), ("mp-945", "NiPt", "intermetallic"),
    ("mp-2542", "BeO", "oxide"), ("mp-422", "BeS", "sulfide"), ("mp-2857", "ScN", "nitride"),
    ("mp-1315", "MgS", "sulfide"), ("mp-284", "AlCo", "intermetallic"), ("mp-1033", "BeNi", "intermetallic"),
    ("mp-949", "CoPt", "intermetallic"), ("mp-1953", "TiAl", "intermetallic"),
)
# fmt: on


def data(*parts: str) -> Path:
    return Path(os.environ["SLUICE_DATA"]).joinpath(*parts)


@cache
def mp_structure(material: str) -> Structure:
    """Materials Project's structure, from the arrays of all those with up to 20 atoms."""
    arrays = np.load(data("mp_structures", "mp_le20.npz"), allow_pickle=False)
    i = int(np.flatnonzero(arrays["material_id"].astype(str) == material)[0])
    atoms = slice(int(arrays["offset"][i]), int(arrays["offset"][i + 1]))
    lattice = Lattice.from_parameters(*arrays["cell"][i])
    return Structure(lattice, arrays["z"][atoms].tolist(), arrays["frac"][atoms])


@cache
def mp_energies() -> dict[str, tuple[Composition, float]]:
    """Material → composition and total energy in eV per atom, as listed."""
    with gzip.open(data("elemental_refs_hull", "gnome_mp_materials_summary.csv.gz"), "rt") as handle:
        return {
            row["MaterialId"]: (Composition(row["Composition"]), float(row["Corrected Energy"]) / float(row["NSites"]))
            for row in csv.DictReader(handle)
        }


@cache
def mp_elements() -> dict[str, float]:
    """Element → uncorrected PBE energy of Materials Project's own elemental reference, eV/atom."""
    with gzip.open(data("elemental_refs_hull", "mp-elemental-reference-entries-2023-02-07.json.gz"), "rt") as handle:
        entries = json.load(handle)
    return {element: entry["energy"] / sum(entry["composition"].values()) for element, entry in entries.items()}


def mp_formation_energy(material: str, *, same_polymorph: bool) -> float:
    """Uncorrected PBE formation energy, eV/atom.

    The total energies of the list carry no anion corrections although their column says so (see ``check_corrections``).
    ``same_polymorph`` measures from the polymorph that our reference is, where Materials Project has it.
    """
    composition, energy = mp_energies()[material]
    for element, share in composition.fractional_composition.items():
        above = reference_structure(element.symbol).above_ground_state_ev_per_atom
        energy -= share * (mp_elements()[element.symbol] + (above if same_polymorph and not math.isnan(above) else 0.0))
    return energy


def settings_of(structure: Structure, tier: str, **options: object) -> CalculationSettings:
    return calculation_settings(
        structure,
        protocol=PROTOCOL,
        tier=tier,
        spin_elements=SPIN_ELEMENTS,
        **options,  # type: ignore[arg-type]
    )


def calculate(label: str, structure: Structure, settings: CalculationSettings) -> dict:
    """One calculation, or its result if it is there already."""
    text = json.dumps([settings.model_dump(), structure.as_dict()["sites"], structure.lattice.matrix.round(4).tolist()])
    task = f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    path = WORK / f"{task}.json"
    if path.exists():
        return json.loads(path.read_text())
    began = time.time()
    result = run_calculation(
        structure=structure, settings=settings, task_id=task, task_dir=WORK / "tasks" / task, pseudos=find_pseudos()
    )
    values = {
        "label": label,
        "energy_ev_per_atom": result.energy_ev_per_atom,
        "converged": result.converged,
        "reason": result.reason,
        "space_group": result.space_group,
        "magnetization": result.magnetization,
        "volume_per_atom": result.structure.volume / len(result.structure),
        "cpu_seconds": result.cpu_seconds,
        "wall_seconds": result.wall_seconds,
        "attempts": result.attempts,
        "continuations": result.continuations,
        "pw_starts": result.pw_starts,
        "pw_version": result.pw_version,
        "kpoints": settings.kpoints,
        "ecutwfc_ry": settings.ecutwfc_ry,
        "ecutrho_ry": settings.ecutrho_ry,
        "finished": time.time(),
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1))
    partial.replace(path)
    print(
        f"{datetime.now(UTC):%H:%M:%S} {label}: {result.energy_ev_per_atom:.4f} eV/atom, "
        f"{result.cpu_seconds:.0f} CPU-s, {time.time() - began:.0f} s {result.reason or ''}",
        flush=True,
    )
    return values


def calculate_reference(element: str, tier: str) -> dict:
    reference = reference_structure(element)
    settings = settings_of(
        reference.structure,
        tier,
        relax=reference.relax,
        box=reference.box,
        magnetic=reference.magnetic,
        total_moment=reference.total_moment,
        nosym=reference.nosym,
    )
    return calculate(f"{tier}-{element}", reference.structure, settings)


def formation_energy(material: str, kind: str) -> dict:
    """Our formation energy of a compound with everything that it needs."""
    structure = prepare_structure(mp_structure(material))
    tier = tier_for(NITRIDES if kind == "nitride" else MAIN, PROTOCOL).name
    composition = structure.composition.fractional_composition
    references = {e.symbol: calculate_reference(e.symbol, tier) for e in composition}
    compound = calculate(f"{tier}-{material}", structure, settings_of(structure, tier))
    energy = compound["energy_ev_per_atom"] - sum(
        share * references[e.symbol]["energy_ev_per_atom"] for e, share in composition.items()
    )
    return {"compound": compound, "references": references, "formation_energy": energy, "tier": tier}


def crystalline(element: str) -> dict:
    """A halogen as the molecular crystal that Materials Project measures from, at its PBE geometry."""
    path = data("elemental_refs_hull", "MP-PBE-Element-Refs.json.gz")
    polymorphs = json.loads(gzip.decompress(path.read_bytes()))[element]
    structure = next(s for energy, s in candidates(polymorphs) if abs(energy - mp_elements()[element]) < 1e-3)
    tier = tier_for(MAIN, PROTOCOL).name
    return calculate(f"{tier}-{element}-crystal", structure, settings_of(structure, tier, relax="none"))


def run(hours: float) -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    end = time.time() + 3600 * hours
    for material, formula, kind in COMPOUNDS:
        if time.time() > end:
            print("out of time; run again to go on")
            return
        found = formation_energy(material, kind)
        print(
            f"{formula}: {found['formation_energy']:.3f} eV/atom; Materials Project"
            f" {mp_formation_energy(material, same_polymorph=False):.3f}",
            flush=True,
        )
    for element in CRYSTALLINE:
        crystalline(element)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--hours", type=float, default=3.0, help="start nothing new after this time")
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.hours)
    else:
        from dft_agreement_table import write_table

        write_table()
