"""What a finished job and a finished calculation say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from pymatgen.core import Structure

from sluice.validate.espresso.handlers import Diagnosis, diagnose, explain


class EspressoTaskDocument(BaseModel):
    """One job: a relaxation or a static calculation.

    Attributes:
        calculation: pw.x's word.
        converged: whether it ended as it should (a relaxation: its geometry is final).
        reason: why not, else None.
        energy_ev: last converged total energy, eV per cell; None without one.
        structure: final geometry as pymatgen's dictionary (Å).
        magnetization: total moment, μB per cell.
        pressure_kbar: last pressure printed.
        total_force: last total force, Ry/bohr.
        n_kpoints: irreducible k-points.
        n_iterations: scf iterations of the last attempt.
        pw_version: pw.x's version.
        pw_starts: how often pw.x was started.
        failures: corrections after failures.
        continuations: continuations after time limits and interruptions.
        cpu_seconds: of all attempts.
        wall_seconds: likewise.
        attempts: every event of the job's history.
    """

    model_config = ConfigDict(extra="forbid")

    calculation: str
    converged: bool
    reason: str | None
    energy_ev: float | None
    structure: dict[str, Any]
    magnetization: float | None
    pressure_kbar: float | None
    total_force: float | None
    n_kpoints: int
    n_iterations: int
    pw_version: str
    pw_starts: int
    failures: int
    continuations: int
    cpu_seconds: float
    wall_seconds: float
    attempts: list[dict[str, Any]]

    @classmethod
    def from_directory(cls, directory: Path, reason: str | None = None) -> EspressoTaskDocument:
        """Read a job's directory.

        Args:
            directory: where it ran.
            reason: why it failed, if known already.
        """
        now = diagnose(directory)
        history, output = now.history, now.output
        converged = reason is None and now.diagnosis in (Diagnosis.DONE, Diagnosis.RELAXED)
        structure = output.structure
        if structure is None:  # a static calculation, or a restart that only noticed that it had been done
            structure = now.inputs.structure
        return cls(
            calculation=now.inputs.namelists["control"]["calculation"],
            converged=converged,
            reason=None if converged else reason or explain(directory),
            energy_ev=output.energies_ev[-1] if output.energies_ev else None,
            structure=structure.as_dict(),
            magnetization=output.magnetization,
            pressure_kbar=output.pressure_kbar,
            total_force=output.total_force,
            n_kpoints=output.n_kpoints,
            n_iterations=output.n_iterations,
            pw_version=output.version,
            pw_starts=history.starts,
            failures=history.failures,
            continuations=history.continuations,
            cpu_seconds=history.total("cpu_seconds"),
            wall_seconds=history.total("wall_seconds"),
            attempts=history.events(),
        )


@dataclass(frozen=True)
class CalculationResult:
    """A whole calculation, relaxation and static.

    Attributes:
        converged: whether relaxation and static calculation both ended as they should.
        reason: why not, else None.
        energy_ev: ``!`` energy of the static calculation, eV per cell; NaN if not converged.
        energy_ev_per_atom: the same per atom.
        structure: final geometry (the start's if nothing was relaxed).
        space_group: international number of the final geometry, 0 if none was found.
        magnetization: total moment of the static calculation, μB per cell; NaN without spin.
        cpu_seconds: of all attempts, also of earlier, interrupted processes.
        wall_seconds: likewise.
        attempts: failures + 1 of the job that needed most.
        continuations: continuations after time limits and interruptions, all jobs.
        pw_starts: how often pw.x was started, all jobs.
        history: job name → its events.
        pw_version: pw.x's version.
        relaxed_pressure_kbar: pressure at the end of the relaxation, NaN if the cell was kept.
    """

    converged: bool
    reason: str | None
    energy_ev: float
    energy_ev_per_atom: float
    structure: Structure
    space_group: int
    magnetization: float
    cpu_seconds: float
    wall_seconds: float
    attempts: int
    continuations: int
    pw_starts: int
    history: dict[str, list[dict[str, Any]]]
    pw_version: str
    relaxed_pressure_kbar: float
