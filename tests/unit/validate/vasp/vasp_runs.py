"""Runs of the whole flow with the emulator in VASP's place, and the energies that they have to find."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from pymatgen.core import Structure
from vasp_stand_ins import Emulator

from emulated_energies import evaluate  # isort: skip, vasp_stand_ins knows where they lie
from emulated_inputs import Cell  # isort: skip

from sluice.validate.vasp.flows import run_calculation
from sluice.validate.vasp.jobs import Launch, Options
from sluice.validate.vasp.schemas import CalculationResult
from sluice.validate.vasp.sets import calculation_settings

FLOW = "MPGGADoubleRelaxStaticMaker"
MEV = 1e-3  # eV


def run(
    emulator: Emulator, structure: Structure, where: Path, *, relax: str = "none", **further: object
) -> CalculationResult:
    options = Options(launch=Launch("", 1, str(emulator.program)), poll_seconds=0.02, monitor_seconds=0.1)
    return run_calculation(
        structure=structure,
        settings=calculation_settings(structure, flow=FLOW, relax=relax),
        task_id="NaCl-1",
        task_dir=where / "work",
        scratch=where / "work" / "scratch",
        options=replace(options, **further),
    )


def chgnet(structure: Structure) -> float:
    """CHGNet's energy of a geometry, eV/atom."""
    cell = Cell(structure.lattice.matrix, [s.specie.symbol for s in structure], structure.frac_coords)
    return evaluate(cell).energy / len(structure)


@cache
def lowest(length: float) -> float:
    """CHGNet's lowest energy of rock salt, eV/atom, by the cell's length alone (Å, of the primitive cell)."""
    lattice = length * np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    scales = np.linspace(0.92, 1.02, 11)
    cells = [Structure(scale * lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for scale in scales]
    found = [chgnet(cell) for cell in cells]
    near = np.argsort(found)[:4]
    a, b, c = np.polyfit(scales[near], np.array(found)[near], 2)
    return float(c - b**2 / (4 * a))


def relaxed_energy(structure: Structure) -> float:
    """What a relaxation of rock salt has to find."""
    return lowest(structure.lattice.a * 2**0.5)
