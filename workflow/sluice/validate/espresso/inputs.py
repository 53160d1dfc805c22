"""A calculation's input as data: made from settings, changed by handlers, written through ASE."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ase.io import write
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from sluice.validate.espresso.pseudos import PseudoLibrary, pseudopotential
from sluice.validate.espresso.sets import CalculationSettings

STATE_FILE = "inputs.json"
INPUT_FILE = "pw.in"
OUTPUT_FILE = "pw.out"
ERROR_FILE = "pw.err"
PREFIX = "sluice"


@dataclass
class EspressoInputs:
    """Everything that goes into ``pw.in``.

    Attributes:
        structure: geometry to start from (Å).
        namelists: namelist → key → value, as pw.x names them.
        kpoints: Γ-centred divisions; None for the Γ point with real wave functions.
        pseudo_files: element → name of its UPF file in ``pseudo_dir``.
        moments: element → starting moment in μB.
        flags: further words of pw.x's command line.
    """

    structure: Structure
    namelists: dict[str, dict[str, Any]]
    kpoints: tuple[int, int, int] | None
    pseudo_files: dict[str, str]
    moments: dict[str, float]
    flags: tuple[str, ...] = ()

    def changed(self, changes: dict[str, dict[str, Any]], structure: Structure | None = None) -> EspressoInputs:
        """A copy with other values in some namelists (None removes a key) and maybe another geometry."""
        namelists = copy.deepcopy(self.namelists)
        for name, values in changes.items():
            for key, value in values.items():
                if value is None:
                    namelists[name].pop(key, None)
                else:
                    namelists.setdefault(name, {})[key] = value
        return EspressoInputs(
            self.structure if structure is None else structure,
            namelists,
            self.kpoints,
            self.pseudo_files,
            self.moments,
            self.flags,
        )

    def to_json(self) -> str:
        """The state as JSON text."""
        values = {
            "structure": self.structure.as_dict(),
            "namelists": self.namelists,
            "kpoints": self.kpoints,
            "pseudo_files": self.pseudo_files,
            "moments": self.moments,
            "flags": list(self.flags),
        }
        return json.dumps(values, indent=1, default=float)

    @classmethod
    def read(cls, directory: Path) -> EspressoInputs:
        """The state as last written to a directory."""
        values = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        grid = values["kpoints"]
        return cls(
            Structure.from_dict(values["structure"]),
            values["namelists"],
            None if grid is None else (int(grid[0]), int(grid[1]), int(grid[2])),
            values["pseudo_files"],
            values["moments"],
            tuple(values["flags"]),
        )

    def write(self, directory: Path) -> None:
        """Write ``pw.in`` and, last and whole, the state."""
        atoms = AseAtomsAdaptor.get_atoms(self.structure, msonable=False)
        atoms.calc = None
        for name in list(atoms.arrays):
            if name not in ("numbers", "positions"):
                del atoms.arrays[name]
        if self.moments:
            # ASE hands these on as pw.x's starting_magnetization, a share of the valence electrons.
            share = {e: moment / pseudopotential(e).valence_electrons for e, moment in self.moments.items()}
            atoms.set_initial_magnetic_moments([share.get(symbol, 0.0) for symbol in atoms.get_chemical_symbols()])
        write(
            directory / INPUT_FILE,
            atoms,
            format="espresso-in",
            input_data=copy.deepcopy(self.namelists),
            pseudopotentials=self.pseudo_files,
            kpts=self.kpoints,
            koffset=(0, 0, 0),
            crystal_coordinates=True,
        )
        partial = directory / f".{STATE_FILE}.{os.getpid()}"
        partial.write_text(self.to_json(), encoding="utf-8")
        partial.replace(directory / STATE_FILE)


def make_inputs(
    structure: Structure,
    settings: CalculationSettings,
    pseudos: PseudoLibrary,
    *,
    calculation: str,
    outdir: Path,
    max_seconds: float | None = None,
    from_density: bool = False,
) -> EspressoInputs:
    """The first attempt's input.

    Args:
        structure: geometry (Å), used as it is.
        settings: what decides the number.
        pseudos: verified pseudopotentials.
        calculation: ``scf``, ``relax`` or ``vc-relax``.
        outdir: pw.x's working files.
        max_seconds: wall time at which pw.x stops itself to be continued.
        from_density: start from the density that the relaxation left in ``outdir``.
    """
    paths = {e: pseudos.path(e) for e in sorted({site.specie.symbol for site in structure})}
    control: dict[str, Any] = {
        "calculation": calculation,
        "restart_mode": "from_scratch",
        "prefix": PREFIX,
        "outdir": str(outdir),
        "pseudo_dir": str(pseudos.directory),
        "disk_io": "low",
    }
    if max_seconds is not None:
        control["max_seconds"] = float(max_seconds)
    system: dict[str, Any] = {
        "ecutwfc": settings.ecutwfc_ry,
        "ecutrho": settings.ecutrho_ry,
        "occupations": "smearing",
        "smearing": settings.smearing,
        "degauss": settings.degauss_ry,
    }
    if settings.nosym:
        system["nosym"] = True
    if settings.starting_moments:
        system["nspin"] = 2
    if settings.total_moment is not None:
        system["tot_magnetization"] = settings.total_moment
    electrons: dict[str, Any] = {"conv_thr": settings.scf_threshold_ry, "mixing_beta": 0.5, "electron_maxstep": 80}
    if from_density:
        electrons["startingpot"] = "file"
    namelists = {"control": control, "system": system, "electrons": electrons}
    if calculation != "scf":
        control |= {
            "etot_conv_thr": settings.energy_threshold_ry,
            "forc_conv_thr": settings.force_threshold_ry_per_bohr,
            "tprnfor": True,
            "nstep": 50,
        }
        namelists["ions"] = {"ion_dynamics": "bfgs", "upscale": 1.0}
    if calculation == "vc-relax":
        control["tstress"] = True
        namelists["cell"] = {"cell_dynamics": "bfgs", "press_conv_thr": settings.pressure_threshold_kbar}
    grid = settings.kpoints if calculation == "scf" else settings.relax_kpoints
    return EspressoInputs(structure, namelists, grid, {e: p.name for e, p in paths.items()}, settings.starting_moments)
