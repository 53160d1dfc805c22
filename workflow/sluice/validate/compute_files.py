"""Formation energies of crystals in files, by the same tasks, references and library as a campaign's."""

from __future__ import annotations

import csv
import math
import os
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pymatgen.core import Structure
from rich.console import Console
from rich.table import Table

from sluice.config import SUPPORTED_ELEMENTS, ValidateSettings
from sluice.crystals import Crystals
from sluice.errors import MissingProgramError, SluiceError
from sluice.schemas import SCHEMAS, Column
from sluice.store import StoreWriter
from sluice.task_library import TaskLibrary
from sluice.validate.compute_compounds import without_reference
from sluice.validate.energies import MixedRunTypesError, TotalEnergy, formation_energies
from sluice.validate.plan_tasks import Planner, deal
from sluice.validate.run_batch import BatchRunner, Compute, Record, Task
from sluice.validate.task_stores import RESULT_COLUMNS, Result, result_of

REVISION = 1
MIN_DISTANCE = 0.5  # Å; closer atoms overlap
_COLUMNS = {
    "formula": Column("S64"),
    "formation_energy_ev_per_atom": Column("f8", "eV/atom"),
    "formation_energy_corrected_ev_per_atom": Column("f8", "eV/atom"),
    "code": Column("S32"),
    "protocol": Column("S32"),
    "tier": Column("S16"),
    **{name: RESULT_COLUMNS[name] for name in ("setup", "pseudos", "run_type", "hubbards")},
}
CSV_FIELDS = (
    "id", "file", "formula", "space_group", "formation_energy_ev_per_atom", "formation_energy_corrected_ev_per_atom",
    "energy_ev_per_atom", "magnetization_mu_b_per_cell", "converged", "reason", "detail", "code", "protocol", "tier",
    "setup", "pseudos", "run_type", "hubbards", "cpu_seconds",
)  # fmt: skip


@dataclass
class FileEnergy:
    """What became of one file.

    Attributes:
        name: unique, from the file's name.
        path: the file.
        task: its calculation; None if it could not be read or planned.
        result: of that calculation; None if there is none.
        raw: formation energy, eV/atom; ``corrected`` with MP2020's corrections; NaN where there is none.
        reason: category of what went wrong, "" if nothing; ``detail`` the particulars.
    """

    name: str
    path: Path
    task: Task | None = None
    result: Result | None = None
    raw: float = math.nan
    corrected: float = math.nan
    reason: str = ""
    detail: str = ""

    def fail(self, reason: str, detail: str) -> None:
        """Note why there is no energy."""
        self.reason, self.detail = reason, " ".join(detail.split())[:250]


def read_crystal(path: Path) -> Structure:
    """The one crystal of a file that pymatgen reads (CIF, POSCAR …).

    Raises:
        SluiceError: if it cannot be used; says why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            structure = Structure.from_file(path)
    except Exception as error:  # parsers raise whatever they like on files that are not theirs
        raise SluiceError(f"{path}: cannot be read as a crystal: {type(error).__name__}: {error}") from error
    if not structure.is_ordered:
        raise SluiceError(f"{path}: a site is partially occupied; DFT needs whole atoms")
    structure.remove_oxidation_states()
    unsupported = sorted(symbol for symbol in structure.symbol_set if symbol not in SUPPORTED_ELEMENTS)
    if unsupported:
        raise SluiceError(f"{path}: {', '.join(unsupported)} not supported; allowed: H to Bi without Ce-Lu")
    apart = structure.distance_matrix[~np.eye(len(structure), dtype=bool)]
    if len(apart) and apart.min() < MIN_DISTANCE:
        raise SluiceError(f"{path}: two atoms are closer than {MIN_DISTANCE} Å")
    return structure


def _names(paths: Sequence[Path]) -> list[str]:
    names: list[str] = []
    for path in paths:
        name, number = path.stem[:56], 2
        while name in names:
            name, number = f"{path.stem[:56]}-{number}", number + 1
        names.append(name)
    return names


def dft_files(
    inputs: list[Path],
    *,
    output: Path,
    settings: ValidateSettings,
    library: Path | None = None,
    elements: Sequence[str] | None = None,
    calculator: Compute | None = None,
    console: Console | None = None,
) -> list[FileEnergy]:
    """Relax the crystals of some files and compute their formation energies.

    Every finished calculation is kept in the task library, so that a second call goes on where the first one ended.
    Files that cannot be used are reported with a reason; the others go on.

    Args:
        inputs: files, one crystal each.
        output: path of the CSV; the store is written beside it with suffix ``.h5``.
        settings: code, protocol, launch command, scratch.
        library: the task library; None: that of the settings, else ``results/dft``.
        elements: the whole chemistry, whose hardest element sets one cutoff tier for all files, so that their total
            energies can be compared; files with other elements cannot be used. None: each file has the tier of its
            own elements, so that its energy does not depend on what other files are given.
        calculator: computes one task; None: the configured code.
        console: for messages; None: standard output.

    Returns:
        One entry a file, in order.

    Raises:
        SluiceError: if there are no files, or a program or pseudopotentials are missing.
    """
    if not inputs:
        raise SluiceError("no files given; name at least one CIF")
    console = Console() if console is None else console
    where = (library or settings.library or Path("results/dft")).resolve()
    planner = Planner(settings)
    entries = [FileEnergy(name, path) for name, path in zip(_names(inputs), inputs, strict=True)]
    for entry in entries:
        _plan(entry, planner, elements)
    _compute(
        entries,
        planner,
        BatchRunner(
            TaskLibrary(where),
            planner.calculator if calculator is None else calculator,
            scratch=settings.scratch,
            max_attempts=settings.max_attempts,
            scope=uuid.uuid4().hex,
        ),
    )
    _write_csv(output, entries, settings)
    _write_store(output.with_suffix(".h5"), entries, settings)
    console.print(results_table(entries))
    console.print(f"{output} and {output.with_suffix('.h5')} written; calculations are kept in {where}")
    return entries


def _plan(entry: FileEnergy, planner: Planner, elements: Sequence[str] | None) -> None:
    try:
        structure = read_crystal(entry.path)
        own = sorted(structure.symbol_set)
        if elements is not None and (outside := [symbol for symbol in own if symbol not in elements]):
            raise SluiceError(f"{entry.path}: {', '.join(outside)} not among the elements {', '.join(elements)}")
        tier = planner.planning.tier_name(own if elements is None else elements, planner.settings)
        entry.task = planner.compound(entry.name, structure, tier)
    except MissingProgramError:
        raise
    except SluiceError as error:
        entry.fail("cannot be used", str(error))


def _compute(entries: Sequence[FileEnergy], planner: Planner, runner: BatchRunner) -> None:
    """References of every tier first, then compounds; a result for everything that was planned."""
    planned = [entry for entry in entries if entry.task is not None]
    wanted = {(el, e.task.tier) for e in planned if e.task for el in e.task.structure.symbol_set}
    references = deal([planner.reference(element, tier) for element, tier in sorted(wanted)], 1)
    records = runner.run(references, 0)
    energies: dict[str, dict[str, TotalEnergy]] = {}
    failed: dict[str, dict[str, str]] = {}
    for task in references:
        record = records[task.task_id]
        if record["converged"]:
            energies.setdefault(task.tier, {})[task.element] = result_of(task, record).energy
        else:
            failed.setdefault(task.tier, {})[task.element] = record["reason"]
    possible: list[FileEnergy] = []
    for entry in planned:
        assert entry.task is not None
        tier = entry.task.tier
        problem = without_reference(entry.task, energies.get(tier, {}), failed.get(tier, {}))
        if problem is None:
            possible.append(entry)
        else:
            entry.fail(problem["reason"], problem["detail"])
    records = runner.run(deal([entry.task for entry in possible if entry.task], 1), 0)
    for entry in possible:
        assert entry.task is not None
        _conclude(entry, entry.task, records[entry.task.task_id], energies[entry.task.tier])


def _conclude(entry: FileEnergy, task: Task, record: Record, energies: dict[str, TotalEnergy]) -> None:
    entry.result = result_of(task, record)
    if entry.result.converged:
        try:
            entry.raw, entry.corrected = formation_energies(entry.result.structure, entry.result.energy, energies)
        except MixedRunTypesError as error:
            entry.fail("energies of different functionals", str(error))
    else:
        entry.fail(record["reason"], record["detail"])


def _row(entry: FileEnergy, settings: ValidateSettings) -> dict[str, object]:
    values = entry.result.values if entry.result else {}
    structure = entry.result.structure if entry.result else None
    return {
        "id": entry.name,
        "file": str(entry.path),
        "formula": structure.composition.reduced_formula if structure is not None else "",
        "formation_energy_ev_per_atom": entry.raw,
        "formation_energy_corrected_ev_per_atom": entry.corrected,
        "converged": bool(values.get("converged", False)),
        "reason": entry.reason,
        "detail": entry.detail,
        "code": settings.code,
        "protocol": settings.protocol_name,
        "tier": entry.task.tier if entry.task else "",
        **{
            name: values.get(name, "")
            for name in (
                "space_group",
                "energy_ev_per_atom",
                "magnetization_mu_b_per_cell",
                "setup",
                "pseudos",
                "run_type",
                "hubbards",
                "cpu_seconds",
            )
        },
    }


def _write_csv(path: Path, entries: Sequence[FileEnergy], settings: ValidateSettings) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, CSV_FIELDS)
        table.writeheader()
        for entry in entries:
            row = _row(entry, settings)
            empty = {name: "" for name, value in row.items() if isinstance(value, float) and math.isnan(value)}
            table.writerow(row | empty)
    temporary.replace(path)


def _write_store(path: Path, entries: Sequence[FileEnergy], settings: ValidateSettings) -> None:
    done = [entry for entry in entries if entry.result is not None and entry.result.converged]
    names = [*SCHEMAS["results"][1], *_COLUMNS]
    with StoreWriter(
        path, "results", columns=_COLUMNS, settings=settings, inputs=[e.path for e in done], revision=REVISION
    ) as writer:
        rows = [{**(e.result.values if e.result else {}), **_row(e, settings)} for e in done]
        writer.append(
            [entry.name for entry in done],
            {name: [row[name] for row in rows] for name in names},
            crystals=Crystals.from_structures([entry.result.structure for entry in done if entry.result]),
        )
        for entry in entries:
            if entry not in done:
                writer.drop([entry.name], entry.reason, kind="failed", detail=entry.detail)
        writer.count(came_in=len(entries))


def results_table(entries: Sequence[FileEnergy]) -> Table:
    """The formation energies as a table for the terminal."""
    table = Table(title="Formation energies", pad_edge=False)
    for name in ("file", "formula", "space group", "raw, eV/atom", "MP2020-corrected, eV/atom", "remark"):
        table.add_column(name, justify="right" if "eV" in name else "left", overflow="fold")
    for entry in entries:
        values = entry.result.values if entry.result else {}
        formula = entry.result.structure.composition.reduced_formula if entry.result else ""
        numbers = ["" if math.isnan(x) else f"{x:.3f}" for x in (entry.raw, entry.corrected)]
        remark = f"{entry.reason}: {entry.detail}" if entry.reason else ""
        table.add_row(entry.path.name, formula, str(values.get("space_group", "")), *numbers, remark)
    return table
