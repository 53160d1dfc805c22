"""One task with VASP, from its address to the record of its result."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from pymatgen.core import Structure

from sluice.config import ValidateSettings
from sluice.errors import MissingProgramError
from sluice.task_library import structure_to_json
from sluice.validate.calculate import Calculator, finite
from sluice.validate.energies import SNAPSHOT
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import space_group_number
from sluice.validate.run_batch import Record, Task, failure_record
from sluice.validate.vasp import planning
from sluice.validate.vasp.potcars import HOW, find_potcars
from sluice.validate.vasp.references import SnapshotError, snapshot_reference
from sluice.validate.vasp.sets import VaspCalculationSettings, calculation_settings

# Kinds of failure, and those that may be the machine's fault, not the crystal's.
CATEGORIES = (
    "scf not converged",
    "ionic steps used up",
    "out of time",
    "error in VASP",
    "atoms overlap",
    "VASP hangs",
    "incomplete output",
    "no output",
    "crashed",
)
TRANSIENT = ("VASP hangs", "incomplete output", "no output", "crashed", "calculation did not finish")


def code_version(settings: ValidateSettings) -> str:
    """What VASP says it is, e.g. ``6.4.2``: it prints so before it looks for a second input file.

    Args:
        settings: command and launcher; the launcher is tried where the program alone does not answer.

    Raises:
        MissingProgramError: if it cannot be started or is no VASP.
    """
    launcher = shlex.split(settings.launch.format(ranks=1))
    answer = ""
    command = shlex.split(settings.command)
    for words in (command, [*launcher, *command] if launcher else []):
        if not words:
            continue
        try:
            with tempfile.TemporaryDirectory() as empty:
                (Path(empty) / "INCAR").write_text("SYSTEM = what version is this\n", encoding="ascii")
                found = subprocess.run(
                    words, cwd=empty, capture_output=True, text=True, timeout=120, check=False,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
                outcar = Path(empty) / "OUTCAR"
                answer = found.stdout + (outcar.read_text(errors="replace") if outcar.exists() else "")
        except (OSError, subprocess.SubprocessError) as error:
            answer = str(error)
            continue
        match = re.search(r"\bvasp\.(\d+(?:\.\d+)+)", answer)
        if match:
            return match[1]
    raise MissingProgramError(
        f"validate.command: {settings.command!r} does not answer like VASP ({answer[:200]!r}); load VASP's module or"
        " give the path of vasp_std"
    )


class VaspCalculator(Calculator):
    """Computes tasks with VASP through atomate2.

    Args:
        settings: flow, launch command, limits.
    """

    planning = planning

    def __init__(self, settings: ValidateSettings) -> None:
        super().__init__(settings)
        functional = calculation_settings(reference_structure("Na").structure, flow=settings.vasp.flow).functional
        self.potcars = find_potcars(settings.vasp.potcars, functional)

    @cached_property
    def version(self) -> str:
        """Version of the code, asked once."""
        return code_version(self.settings)

    def _symbols(self, elements: Iterable[str]) -> dict[str, str]:
        """POTCAR's symbol of each element."""
        found: dict[str, str] = {}
        for element in elements:
            cell = planning.reference_cell(element)
            found |= calculation_settings(cell, flow=self.settings.vasp.flow).potcars
        return found

    def check(self, elements: Iterable[str]) -> None:
        """See that POTCARs, snapshot and program are there.

        Raises:
            MissingProgramError: if something is missing; says what to do.
            SnapshotError: if the snapshot cannot be used beside these POTCARs.
        """
        self.check_files(elements)
        super().check(elements)

    def check_files(self, elements: Iterable[str]) -> None:
        """See that POTCARs and snapshot are there; raises as ``check``."""
        symbols = self._symbols(elements)
        if lost := self.potcars.missing(symbols.values()):
            raise MissingProgramError(
                f"no POTCARs ({self.potcars.functional}) of {', '.join(lost)} in {self.potcars.folder}; {HOW}"
            )
        if self.settings.vasp.references is not None:
            for element, symbol in symbols.items():
                self._check_snapshot(element, symbol)

    def _check_snapshot(self, element: str, symbol: str) -> None:
        path = self.settings.vasp.references
        assert path is not None
        entry, own = snapshot_reference(path, element), self.potcars.potcar(symbol).titel
        if entry.titel != own:
            raise SnapshotError(
                f"validate.vasp.references: {path}: {element} ({entry.entry_id}) was computed with {entry.titel}, but"
                f" the POTCAR here is {own}; use Materials Project's, or leave the snapshot out to compute references"
            )

    def digests(self, structure: Structure) -> dict[str, str]:
        """SHA-256 of the POTCAR of each element."""
        symbols = self._symbols(sorted(structure.symbol_set))
        return {element: self.potcars.potcar(symbol).sha256 for element, symbol in sorted(symbols.items())}

    def estimate(self, structure: Structure, *, element: str, tier: str) -> float:
        """Expected CPU-seconds; nothing for what a snapshot holds."""
        if element and self.settings.vasp.references is not None:
            return 0.0
        return super().estimate(structure, element=element, tier=tier)

    def setup_text(self, calculation: VaspCalculationSettings) -> str:
        """What must be equal for two energies to be compared, in words; a snapshot stands in for code and version."""
        code = f"{SNAPSHOT} {calculation.snapshot[:12]}" if calculation.snapshot else f"vasp {self.version}"
        return f"{code}, {calculation.flow}, {calculation.functional}, {calculation.incar['ENCUT']:g} eV"

    def _run(self, task: Task, work: Path, scratch: Path, calculation: VaspCalculationSettings) -> Record:
        titles = {element: self.potcars.potcar(symbol).titel for element, symbol in calculation.potcars.items()}
        said: Record = {"run_type": calculation.run_type, "hubbards": calculation.hubbards, "potcars": titles}
        if calculation.snapshot:
            return self._take_from_snapshot(task, calculation) | said
        # atomate2 and custodian take seconds to import; who only plans does without.
        from sluice.validate.remote import open_queue
        from sluice.validate.vasp.flows import run_calculation
        from sluice.validate.vasp.jobs import Launch, Options

        self.potcars.use()
        settings, vasp = self.settings, self.settings.vasp
        result = run_calculation(
            structure=task.structure,
            settings=calculation,
            task_id=task.task_id,
            task_dir=work,
            scratch=scratch,
            options=Options(
                launch=Launch(settings.launch, settings.ranks, settings.command, vasp.gamma_command),
                max_attempts=settings.max_attempts,
                max_continuations=settings.max_continuations,
                max_seconds=3600.0 * settings.max_hours,
                hang_seconds=3600.0 * vasp.hang_hours,
                kpar=vasp.kpar,
                ncore=vasp.ncore,
            ),
            queue=open_queue(settings),
        )
        found: Record = {
            **said,
            "space_group": space_group_number(result.structure),
            "magnetization_mu_b_per_cell": finite(result.magnetization),
            "cpu_seconds": float(result.cpu_seconds),
            "wall_seconds": float(result.wall_seconds),
            "attempts": int(result.attempts),
            "continuations": int(result.continuations),
            "history": json.loads(json.dumps(result.history, default=str)),
        }
        document = result.document
        reason = result.reason
        if document is not None and (document.run_type, document.hubbards) != (said["run_type"], said["hubbards"]):
            reason = (
                f"error in VASP: planned as {said['run_type']} {said['hubbards']}, but VASP ran {document.run_type}"
            )
        if not result.converged or reason:
            kind = category(reason)
            return failure_record(kind, reason, transient=kind in TRANSIENT) | found
        return {
            "converged": True,
            "reason": "",
            "detail": "",
            "energy_ev_per_atom": finite(result.energy_ev_per_atom),
            **found,
            "structure": structure_to_json(result.structure),
        }

    def _take_from_snapshot(self, task: Task, calculation: VaspCalculationSettings) -> Record:
        """The record of a reference that Materials Project computed; its crystal stays the table's."""
        path = self.settings.vasp.references
        assert path is not None
        self._check_snapshot(task.element, calculation.potcars[task.element])
        entry = snapshot_reference(path, task.element)
        return failure_record("", f"{entry.entry_id} of {path.name}, SHA-256 {calculation.snapshot}") | {
            "converged": True,
            "energy_ev_per_atom": entry.energy_ev_per_atom,
            "space_group": space_group_number(task.structure),
            "structure": structure_to_json(task.structure),
            "snapshot": {"file": path.name, "sha256": calculation.snapshot, "entry": entry.entry_id},
        }


def category(reason: str) -> str:
    """The kind of failure in a reason in words, so that few distinct ones are counted."""
    return next((kind for kind in CATEGORIES if kind in reason), "calculation did not finish")
