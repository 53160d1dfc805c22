"""The one parser of pw.x's text output: complete, partial or empty, it never raises on content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

RYDBERG_EV = 13.605693122994  # CODATA 2018
BOHR_ANGSTROM = 0.529177210903  # CODATA 2018

_NUMBER = r"([-+]?\d+\.?\d*(?:[EeDd][-+]?\d+)?)"
_ENERGY = re.compile(r"^!\s+total energy\s+=\s+" + _NUMBER, re.M)
_MOMENT = re.compile(r"^\s+total magnetization\s+=\s+" + _NUMBER, re.M)
_PRESSURE = re.compile(r"P=\s*" + _NUMBER)
_FORCE = re.compile(r"^\s+Total force =\s+" + _NUMBER, re.M)
_TIME = re.compile(r"^\s+PWSCF\s+:\s+(.+?)\s*CPU\s+(.+?)\s*WALL", re.M)
_ERROR = re.compile(
    r"%{20,}\s*\n\s*(?:Error in routine|task #.*\n\s*from)\s+(\S+)\s*(?:\(.*?\)|:.*)?\s*:?\s*\n(.*?)\n\s*%{20,}", re.S
)
_VERSION = re.compile(r"Program PWSCF v\.(\S+)")
_CELL = re.compile(r"CELL_PARAMETERS \(?(alat=\s*[\d.]+|angstrom|bohr)\)?\n((?:.*\n){3})")
_POSITIONS = re.compile(r"ATOMIC_POSITIONS \(?(\w+)\)?\n((?:[A-Z][A-Za-z0-9_-]*\s+[-\d.]+\s+[-\d.]+\s+[-\d.]+.*\n)+)")
_IRREDUCIBLE = re.compile(r"number of k points=\s*(\d+)")
_ITERATION = re.compile(r"^\s+iteration #", re.M)


@dataclass(frozen=True)
class PwOutput:
    """What an output of pw.x says.

    Attributes:
        empty: whether there is no output of pw.x at all.
        version: pw.x's version, "" if unknown.
        job_done: whether "JOB DONE" was printed (also after running out of time).
        energies_ev: converged total energies (``!``) in order, eV per cell.
        scf_failed: whether an scf ended without convergence (pw.x then stops).
        out_of_time: whether pw.x stopped itself at ``max_seconds`` or was told to.
        relaxed: whether a relaxation printed that it converged.
        final_scf: whether the scf after a converged relaxation of the cell has its energy.
        out_of_steps: whether a relaxation used all its steps.
        error: (routine, message) of pw.x's error box, None without one.
        structure: last complete geometry printed, None if there is none.
        magnetization: last total moment, μB per cell, None without spin.
        pressure_kbar: last pressure.
        total_force: last total force, Ry/bohr.
        n_kpoints: number of irreducible k-points.
        n_iterations: scf iterations in all.
        cpu_seconds: pw.x's own figure, one rank, 0 if it never printed it (its running one is wall time).
        wall_seconds: likewise.
    """

    empty: bool
    version: str
    job_done: bool
    energies_ev: tuple[float, ...]
    scf_failed: bool
    out_of_time: bool
    relaxed: bool
    final_scf: bool
    out_of_steps: bool
    error: tuple[str, str] | None
    structure: Structure | None
    magnetization: float | None
    pressure_kbar: float | None
    total_force: float | None
    n_kpoints: int
    n_iterations: int
    cpu_seconds: float
    wall_seconds: float

    @property
    def complete(self) -> bool:
        """Whether pw.x ended as it should: a final energy, converged, not out of time, no error."""
        return (
            self.job_done
            and bool(self.energies_ev)
            and not self.scf_failed
            and not self.out_of_time
            and self.error is None
        )


def _float(text: str) -> float:
    return float(text.replace("D", "E").replace("d", "e"))


def _last(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.findall(text)
    return _float(found[-1]) if found else None


def parse_duration(text: str) -> float:
    """Seconds from pw.x's ``1h 2m``, ``3m20.5s`` or ``7.41s``."""
    units = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)\s*([dhms])", text))


def _structure(text: str, start: Structure | None) -> Structure | None:
    """Last geometry printed; cell and positions that were not printed are those of the start."""
    positions = _POSITIONS.findall(text)
    if not positions:
        return None
    cells = _CELL.findall(text)
    if cells:
        unit, rows = cells[-1]
        values = np.array(rows.split(), dtype=float)
        if values.size != 9:
            return None
        scale = {"angstrom": 1.0, "bohr": BOHR_ANGSTROM}.get(unit) or float(unit.split("=")[1]) * BOHR_ANGSTROM
        lattice = Lattice(values.reshape(3, 3) * scale)
    elif start is not None:
        lattice = start.lattice
    else:
        return None
    unit, rows = positions[-1]
    words = [line.split() for line in rows.splitlines()]
    species = [re.sub(r"[\d_-].*$", "", w[0]) for w in words]
    xyz = np.array([[float(x) for x in w[1:4]] for w in words])
    if start is not None and len(xyz) != len(start):
        return None  # cut off while it was printed
    if unit == "crystal":
        return Structure(lattice, species, xyz)
    if unit not in ("angstrom", "bohr"):
        return None
    return Structure(lattice, species, xyz * (BOHR_ANGSTROM if unit == "bohr" else 1.0), coords_are_cartesian=True)


def parse_output(text: str, start: Structure | None = None) -> PwOutput:
    """Read the text of an output.

    Args:
        text: what pw.x printed so far.
        start: the structure it started from, for what relaxations at fixed cell do not print.
    """
    relaxed = re.search(r"bfgs converged in|End final coordinates", text)
    times = _TIME.findall(text)
    error = _ERROR.search(text)
    kpoints = _IRREDUCIBLE.findall(text)
    energies = [_float(e) * RYDBERG_EV for e in _ENERGY.findall(text)]
    return PwOutput(
        empty="Program PWSCF" not in text,
        version=(_VERSION.findall(text) or [""])[-1],
        job_done="JOB DONE" in text,
        energies_ev=tuple(energies),
        scf_failed="convergence NOT achieved" in text,
        out_of_time="Maximum CPU time exceeded" in text or "Program stopped by user request" in text,
        relaxed=relaxed is not None,
        final_scf="End final coordinates" in text and bool(_ENERGY.search(text, text.find("End final coordinates"))),
        out_of_steps="The maximum number of steps has been reached" in text,
        error=(error.group(1).strip(" :"), " ".join(error.group(2).split())) if error else None,
        structure=_structure(text, start),
        magnetization=_last(_MOMENT, text),
        pressure_kbar=_last(_PRESSURE, text),
        total_force=_last(_FORCE, text),
        n_kpoints=int(kpoints[-1]) if kpoints else 0,
        n_iterations=len(_ITERATION.findall(text)),
        cpu_seconds=parse_duration(times[-1][0]) if times else 0.0,
        wall_seconds=parse_duration(times[-1][1]) if times else 0.0,
    )


def read_output(path: Path, start: Structure | None = None) -> PwOutput:
    """Read an output file; one that does not exist counts as empty."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return parse_output(text, start)
