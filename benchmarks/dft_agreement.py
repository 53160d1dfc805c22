"""Formation energies of known compounds, by ``sluice dft``, against Materials Project's uncorrected PBE values.

    python benchmarks/dft_agreement.py run      # calls sluice dft for each compound; resumes after any stop
    python benchmarks/dft_agreement.py table    # writes docs/experiments/dft-agreement.{md,csv} from what is done

Structures and energies are read from ``$SLUICE_DATA`` (``mp_structures``, ``elemental_refs_hull``: Materials Project,
CC-BY 4.0). The work lives in ``results/dft-agreement``: ``cifs`` that go in, ``energies`` that come out, and ``tasks``,
the task library.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from make_reference_table import candidates
from pymatgen.core import Composition, Lattice, Structure

from sluice.validate.espresso.references import reference_structure

ROOT = Path(__file__).parents[1]
WORK = ROOT / "results" / "dft-agreement"
LIBRARY = WORK / "tasks"
DOCS = ROOT / "docs" / "experiments"
PROTOCOL: Final = "balanced"
CRYSTALLINE = ("Cl", "F")
GOAL_COMPOUNDS = 20
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


def mp_formation_energy(material: str, *, same_polymorph: bool = False) -> float:
    """Uncorrected PBE formation energy, eV/atom.

    The total energies of the list carry no anion corrections although their column says so (see ``check_corrections``).
    ``same_polymorph`` measures from the polymorph that our reference is, where Materials Project has it.
    """
    composition, energy = mp_energies()[material]
    for element, share in composition.fractional_composition.items():
        above = reference_structure(element.symbol).above_ground_state_ev_per_atom
        energy -= share * (mp_elements()[element.symbol] + (above if same_polymorph and not math.isnan(above) else 0.0))
    return energy


def crystal_of_molecules(element: str) -> Structure:
    """A halogen as the molecular crystal that Materials Project measures from, at its PBE geometry."""
    path = data("elemental_refs_hull", "MP-PBE-Element-Refs.json.gz")
    polymorphs = json.loads(gzip.decompress(path.read_bytes()))[element]
    return next(s for energy, s in candidates(polymorphs) if abs(energy - mp_elements()[element]) < 1e-3)


def chemistry(kind: str) -> tuple[str, ...]:
    """The elements whose hardest sets the cutoff tier."""
    return NITRIDES if kind == "nitride" else MAIN


def formation_energy(name: str, structure: Structure, elements: tuple[str, ...], ranks: int) -> bool:
    """Call ``sluice dft`` for one crystal; whether its calculation converged."""
    cif, energy = WORK / "cifs" / f"{name}.cif", WORK / "energies" / f"{name}.csv"
    for path in (cif, energy):
        path.parent.mkdir(parents=True, exist_ok=True)
    structure.to(str(cif))
    words = ["--elements", ",".join(elements), "--protocol", PROTOCOL, "--ranks", str(ranks)]
    places = ["--output", str(energy), "--library", str(LIBRARY)]
    command = [sys.executable, "-m", "sluice.cli", "dft", str(cif), *words, *places]
    return subprocess.run(command, check=False, cwd=ROOT).returncode == 0


def run(hours: float, ranks: int) -> None:
    """Calculate what is missing in the order of work, as far as the time goes."""
    end = time.time() + 3600 * hours
    compounds = [(material, mp_structure(material), chemistry(kind)) for material, _, kind in COMPOUNDS]
    crystals = [(f"{element}-crystal", crystal_of_molecules(element), MAIN) for element in CRYSTALLINE]
    work = [*compounds[:GOAL_COMPOUNDS], *crystals, *compounds[GOAL_COMPOUNDS:]]
    failed = []
    for name, structure, elements in work:
        if time.time() > end:
            raise SystemExit("out of time; run again to go on")
        if not formation_energy(name, structure, elements, ranks):
            failed.append(name)
    if failed:
        raise SystemExit(f"no formation energy of {', '.join(failed)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--hours", type=float, default=3.0, help="start nothing new after this time")
    parser.add_argument("--ranks", type=int, default=2, help="MPI ranks of a calculation")
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.hours, arguments.ranks)
    else:
        from dft_agreement_table import write_table

        write_table()
