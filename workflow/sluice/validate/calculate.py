"""One task from its address to the record of its result: settings, pseudopotentials, the code itself."""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from sluice.config import SUPPORTED_ELEMENTS, ValidateSettings
from sluice.errors import MissingProgramError, SluiceError
from sluice.task_library import structure_to_json, task_id
from sluice.validate.espresso.pseudos import PseudoLibrary, find_pseudos
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import TIERS, CalculationSettings, calculation_settings, tier_for
from sluice.validate.run_batch import Record, Task, failure_record

# Kinds of failure as ``validate/espresso`` words them, and those that may be the machine's fault, not the crystal's.
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
                [command], input="", capture_output=True, text=True, timeout=120, cwd=empty, check=False
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


def settings_for(structure: Structure, *, element: str, tier: str, settings: ValidateSettings) -> CalculationSettings:
    """Settings of one task.

    Args:
        structure: what is going to be calculated.
        element: symbol if it is that element's reference, else "".
        tier: name of the cutoff tier.
        settings: protocol and spin-polarized elements.
    """
    further: dict[str, Any] = {}
    if element:
        reference = reference_structure(element)
        further = {
            "relax": reference.relax,
            "box": reference.box,
            "magnetic": reference.magnetic,
            "total_moment": reference.total_moment,
            "nosym": reference.nosym,
        }
    return calculation_settings(
        structure, protocol=settings.protocol, tier=tier, spin_elements=settings.spin_elements, **further
    )


def setup_text(code: str, version: str, calculation: CalculationSettings) -> str:
    """What must be equal for two energies to be compared, in words."""
    return (
        f"{code} {version}, {calculation.protocol}, {calculation.tier} {calculation.ecutwfc_ry:g}/"
        f"{calculation.ecutrho_ry:g} Ry, {calculation.smearing} {calculation.degauss_ry:g} Ry, "
        f"{calculation.kspacing_per_angstrom:g} 1/A"
    )


def tier_scope(tier: str, settings: ValidateSettings) -> tuple[list[str], list[str]]:
    """Elements that a tier covers, and those of them that no lower tier covers."""
    order = list(TIERS)
    own = {element: tier_for([element], settings.protocol).name for element in SUPPORTED_ELEMENTS}
    covers = [element for element, name in own.items() if order.index(name) <= order.index(tier)]
    return covers, [element for element in covers if own[element] == tier]


class Calculator:
    """Computes tasks with the configured code.

    Args:
        settings: code, protocol, launch command, limits.
        pseudos: where the pseudopotentials are; None: found by the settings.
    """

    def __init__(self, settings: ValidateSettings, pseudos: PseudoLibrary | None = None) -> None:
        self.settings = settings
        self.pseudos = find_pseudos(settings.pseudos) if pseudos is None else pseudos

    @cached_property
    def version(self) -> str:
        """Version of the code, asked once."""
        return code_version(self.settings.command)

    def digests(self, structure: Structure) -> dict[str, str]:
        """SHA-256 of the pseudopotential of each element."""
        return {element: self.pseudos.sha256(element) for element in sorted(structure.symbol_set)}

    def address(self, structure: Structure, *, element: str, tier: str) -> str:
        """The id of a task."""
        name = f"ref-{element}" if element else structure.composition.reduced_formula
        calculation = settings_for(structure, element=element, tier=tier, settings=self.settings)
        return task_id(
            name=name,
            structure=structure,
            code=self.settings.code,
            code_version=self.version,
            settings=calculation.model_dump(mode="json"),
            tier=tier,
            pseudos=self.digests(structure),
        )

    def __call__(self, task: Task, work: Path, scratch: Path) -> Record:
        """Compute one task; a calculation that fails is a record with a reason.

        Raises:
            SluiceError: if program, pseudopotentials or plan are not what they were when the tasks were planned.
        """
        address = self.address(task.structure, element=task.element, tier=task.tier)
        if address != task.task_id:
            raise SluiceError(
                f"{task.candidate_id} was planned as {task.task_id}, but with this machine's {self.settings.command} "
                f"({self.version}) and pseudopotentials it is {address}. Use those of the plan, or delete the round's "
                "validate directory to plan again."
            )
        calculation = settings_for(task.structure, element=task.element, tier=task.tier, settings=self.settings)
        digests = self.digests(task.structure)
        covers, needed_by = tier_scope(task.tier, self.settings)
        common: Record = {
            "candidate": task.candidate_id,
            "formula": task.structure.composition.reduced_formula,
            "code": self.settings.code,
            "code_version": self.version,
            "protocol": self.settings.protocol,
            "setup": setup_text(self.settings.code, self.version, calculation),
            "settings": calculation.model_dump(mode="json"),
            "pseudos": digests,
            "tier_covers": covers,
            "tier_needed_by": needed_by,
            "input": structure_to_json(task.structure),
        }
        return {**self._run(task, work, scratch, calculation), **common}

    def _run(self, task: Task, work: Path, scratch: Path, calculation: CalculationSettings) -> Record:
        # jobflow and custodian take seconds to import; who only plans does without.
        from sluice.validate.espresso.flows import run_calculation
        from sluice.validate.espresso.run import Launch

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
        )
        found: Mapping[str, Any] = {
            "energy_ev_per_atom": _finite(result.energy_ev_per_atom),
            "space_group": int(result.space_group or 0),
            "magnetization_mu_b_per_cell": _finite(result.magnetization),
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


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
