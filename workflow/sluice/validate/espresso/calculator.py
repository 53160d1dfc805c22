"""One task with Quantum ESPRESSO, from its address to the record of its result."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from sluice.config import ValidateSettings
from sluice.errors import MissingProgramError
from sluice.task_library import structure_to_json
from sluice.validate.calculate import Calculator, finite
from sluice.validate.espresso import planning
from sluice.validate.espresso.pseudos import PseudoLibrary, find_pseudos
from sluice.validate.espresso.sets import CalculationSettings
from sluice.validate.run_batch import Record, Task, failure_record

# Kinds of failure as the handlers word them, and those that may be the machine's fault, not the crystal's.
CATEGORIES = (
    "scf not converged",
    "ionic steps used up",
    "out of time",
    "error in routine",
    "atoms overlap",
    "no output",
    "crashed",
)
TRANSIENT = ("no output", "crashed", "calculation did not finish")


def code_version(command: str) -> str:
    """What pw.x says it is, e.g. ``6.7MaX``.

    Raises:
        MissingProgramError: if it cannot be started.
    """
    try:
        with tempfile.TemporaryDirectory() as empty:
            output = subprocess.run(
                shlex.split(command), input="", capture_output=True, text=True, timeout=120, cwd=empty, check=False
            ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingProgramError(
            f"validate.command: {command!r} cannot be started ({error}); install Quantum ESPRESSO "
            "(Debian: apt-get install quantum-espresso) or give the path of pw.x"
        ) from error
    found = re.search(r"Program PWSCF v\.?\s*(\S+)", output)
    if found is None:
        raise MissingProgramError(
            f"validate.command: {command!r} does not answer like pw.x of Quantum ESPRESSO: {output[:200]!r}"
        )
    return found[1]


class EspressoCalculator(Calculator):
    """Computes tasks with pw.x.

    Args:
        settings: protocol, launch command, limits.
        pseudos: where the pseudopotentials are; None: found by the settings.
    """

    planning = planning

    def __init__(self, settings: ValidateSettings, pseudos: PseudoLibrary | None = None) -> None:
        super().__init__(settings)
        self.pseudos = find_pseudos(settings.pseudos) if pseudos is None else pseudos

    @cached_property
    def version(self) -> str:
        """Version of the code, asked once."""
        return code_version(self.settings.command)

    def digests(self, structure: Structure) -> dict[str, str]:
        """SHA-256 of the pseudopotential of each element."""
        return {element: self.pseudos.sha256(element) for element in sorted(structure.symbol_set)}

    def setup_text(self, calculation: CalculationSettings) -> str:
        """What must be equal for two energies to be compared, in words."""
        return (
            f"{self.settings.code} {self.version}, {calculation.protocol}, {calculation.tier} "
            f"{calculation.ecutwfc_ry:g}/{calculation.ecutrho_ry:g} Ry, {calculation.smearing} "
            f"{calculation.degauss_ry:g} Ry, {calculation.kspacing_per_angstrom:g} 1/A"
        )

    def _run(self, task: Task, work: Path, scratch: Path, calculation: CalculationSettings) -> Record:
        # jobflow and custodian take seconds to import; who only plans does without.
        from sluice.validate.espresso.flows import run_calculation
        from sluice.validate.espresso.run import Launch
        from sluice.validate.remote import open_queue

        settings = self.settings
        result = run_calculation(
            structure=task.structure,
            settings=calculation,
            task_id=task.task_id,
            task_dir=work,
            scratch=scratch.parent,
            pseudos=self.pseudos,
            launch=Launch(settings.launch, settings.ranks, settings.command),
            max_attempts=settings.max_attempts,
            max_continuations=settings.max_continuations,
            max_seconds=3600.0 * settings.max_hours,
            queue=open_queue(settings),
        )
        found: Mapping[str, Any] = {
            "energy_ev_per_atom": finite(result.energy_ev_per_atom),
            "space_group": int(result.space_group or 0),
            "magnetization_mu_b_per_cell": finite(result.magnetization),
            "cpu_seconds": float(result.cpu_seconds),
            "wall_seconds": float(result.wall_seconds),
            "attempts": int(result.attempts),
            "continuations": int(result.continuations),
            "pw_starts": int(result.pw_starts),
            "history": json.loads(json.dumps(result.history, default=str)),
        }
        if not result.converged:
            reason, detail = category(result.reason or ""), result.reason or ""
            transient = reason in TRANSIENT
            return failure_record(reason, detail, transient=transient) | dict(found) | {"energy_ev_per_atom": None}
        return {
            "converged": True,
            "reason": "",
            "detail": "",
            **found,
            "structure": structure_to_json(result.structure),
        }


def category(reason: str) -> str:
    """The kind of failure in a reason in words, so that few distinct ones are counted."""
    return next((kind for kind in CATEGORIES if kind in reason), "calculation did not finish")
