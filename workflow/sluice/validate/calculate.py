"""One task from its address to the record of its result, whichever code computes it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from pymatgen.core import Structure

from sluice.chemistry.costs import estimate_cpu_seconds
from sluice.config import ValidateSettings
from sluice.errors import SluiceError
from sluice.task_library import structure_to_json, task_id
from sluice.validate.run_batch import Record, Task


class Planning(Protocol):
    """What ``validate/<code>/planning.py`` has; needs neither the program nor its pseudopotentials."""

    def tier_name(self, elements: Iterable[str], settings: ValidateSettings) -> str:
        """The cutoff tier of these elements."""

    def tier_scope(self, tier: str, settings: ValidateSettings) -> tuple[list[str], list[str]]:
        """Elements that a tier covers, and those of them that no lower tier covers."""

    def prepare_structure(self, structure: Structure) -> Structure:
        """The cell that is calculated and hashed."""

    def reference_cell(self, element: str) -> Structure:
        """The crystal or molecule that stands for an element."""

    def settings_for(self, structure: Structure, *, element: str, tier: str, settings: ValidateSettings) -> Any:
        """What decides the energy of a task besides structure, code and pseudopotentials."""


class Calculator(ABC):
    """Computes tasks with the configured code; ``validate/<code>/calculator.py`` says how.

    Args:
        settings: code, protocol, launch command, limits.

    Attributes:
        planning: the code's module of that name.
        version: the code's, as it reports it.
    """

    planning: Planning
    version: Any

    def __init__(self, settings: ValidateSettings) -> None:
        self.settings = settings

    @abstractmethod
    def digests(self, structure: Structure) -> dict[str, str]:
        """SHA-256 of the pseudopotential of each element."""

    @abstractmethod
    def setup_text(self, calculation: Any) -> str:
        """What must be equal for two energies to be compared, in words; begins with code and version."""

    @abstractmethod
    def _run(self, task: Task, work: Path, scratch: Path, calculation: Any) -> Record:
        """Compute a task whose id has been verified."""

    def tier(self, elements: Iterable[str]) -> str:
        """The cutoff tier of a chemistry."""
        return self.planning.tier_name(elements, self.settings)

    def calculation(self, structure: Structure, *, element: str, tier: str) -> Any:
        """What decides the energy of a task."""
        return self.planning.settings_for(structure, element=element, tier=tier, settings=self.settings)

    def estimate(self, structure: Structure, *, element: str, tier: str) -> float:
        """Expected CPU-seconds of a task."""
        return estimate_cpu_seconds(structure, self.calculation(structure, element=element, tier=tier))

    def check(self, elements: Iterable[str]) -> None:
        """See that nothing is missing for these elements, before any job.

        Raises:
            MissingProgramError: says what to do.
        """
        _ = self.version

    def address(self, structure: Structure, *, element: str, tier: str) -> str:
        """The id of a task."""
        name = f"ref-{element}" if element else structure.composition.reduced_formula
        return task_id(
            name=name,
            structure=structure,
            code=self.settings.code,
            code_version=self.version,
            settings=self.calculation(structure, element=element, tier=tier).model_dump(mode="json"),
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
        calculation = self.calculation(task.structure, element=task.element, tier=task.tier)
        digests = self.digests(task.structure)
        covers, needed_by = self.planning.tier_scope(task.tier, self.settings)
        common: Record = {
            "candidate": task.candidate_id,
            "formula": task.structure.composition.reduced_formula,
            "code": self.settings.code,
            "code_version": self.version,
            "protocol": self.settings.protocol_name,
            "setup": self.setup_text(calculation),
            "settings": calculation.model_dump(mode="json"),
            "pseudos": digests,
            "tier_covers": covers,
            "tier_needed_by": needed_by,
            "input": structure_to_json(task.structure),
        }
        return {**common, **self._run(task, work, scratch, calculation)}


def planning_of(settings: ValidateSettings) -> Planning:
    """The planning module of the configured code."""
    if settings.code == "vasp":
        from sluice.validate.vasp import planning as vasp

        return vasp
    from sluice.validate.espresso import planning as espresso

    return espresso


def make_calculator(settings: ValidateSettings) -> Calculator:
    """The calculator of the configured code.

    Raises:
        SluiceError: if its pseudopotentials are missing.
    """
    if settings.code == "vasp":
        from sluice.validate.vasp.calculator import VaspCalculator

        return VaspCalculator(settings)
    from sluice.validate.espresso.calculator import EspressoCalculator

    return EspressoCalculator(settings)


def finite(value: float | None) -> float | None:
    """None for what is no number, which JSON has no word for."""
    return None if value is None or not math.isfinite(value) else float(value)
