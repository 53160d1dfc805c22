"""Shortlists, data sets and a calculation that costs nothing, for the steps around the first-principles code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sluice.config import ValidateSettings
from sluice.crystals import Crystals
from sluice.schemas import SCHEMAS
from sluice.store import StoreWriter
from sluice.task_library import structure_to_json
from sluice.validate.espresso.calculator import EspressoCalculator
from sluice.validate.espresso.pseudos import PseudoLibrary, pseudo_table
from sluice.validate.run_batch import Record, Task, failure_record

# Total energies that stand in for pw.x's, eV/atom.
ELEMENT_ENERGIES = {"Na": -10.0, "K": -11.0, "Cl": -20.0, "Mg": -30.0, "O": -40.0, "F": -15.0}
BINDING_EV_PER_ATOM = -2.0


class TableCalculator(EspressoCalculator):
    """Addresses tasks like the real one, by the table's digests; its energies are the table above."""

    version = "6.7MaX"

    def __init__(self, settings: ValidateSettings, fail: Sequence[str] = ()) -> None:
        super().__init__(settings, PseudoLibrary(Path("nowhere")))
        self.fail, self.calls = fail, 0

    def digests(self, structure: Structure) -> dict[str, str]:
        return {element: pseudo_table()[element].sha256 for element in sorted(structure.symbol_set)}

    def _run(self, task: Task, work: Path, scratch: Path, calculation: object) -> Record:
        self.calls += 1
        if task.candidate_id in self.fail:
            return failure_record("scf not converged", "100 iterations", attempts=2, wall_seconds=1.0)
        amounts = task.structure.composition.get_el_amt_dict()
        energy = sum(n * ELEMENT_ENERGIES[el] for el, n in amounts.items()) / sum(amounts.values())
        return failure_record("", "") | {
            "converged": True,
            "energy_ev_per_atom": energy + (0.0 if task.element else BINDING_EV_PER_ATOM),
            "space_group": 225,
            "magnetization_mu_b_per_cell": 0.0,
            "attempts": 1,
            "structure": structure_to_json(task.structure),
        }


def use_table(monkeypatch: pytest.MonkeyPatch, fail: Sequence[str] = ()) -> list[TableCalculator]:
    """Let the steps compute with the table; returns the calculators as they are made."""
    made: list[TableCalculator] = []

    def make(settings: ValidateSettings) -> TableCalculator:
        made.append(TableCalculator(settings, fail))
        return made[-1]

    monkeypatch.setattr("sluice.validate.plan_tasks.make_calculator", make)
    monkeypatch.setattr("sluice.validate.compute_references.make_calculator", make)
    return made


def rock_salt(a: str, b: str, length: float) -> Structure:
    """The conventional cell."""
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]])


def write_store(path: Path, schema: str, names: Sequence[str], crystals: Sequence[Structure], **given: Any) -> Path:
    """A store with zeros where nothing is given; each of a shortlist's crystals has one it was relaxed from."""
    n = len(names)
    columns: dict[str, Any] = {
        name: np.zeros(n, column.dtype) if not column.dtype.startswith("S") else [""] * n
        for name, column in SCHEMAS[schema][1].items()
    }
    parents = [f"{name}-drawn" if schema == "shortlist" else "" for name in names]
    with StoreWriter(path, schema, campaign="halides", round_number=2) as writer:
        writer.append(list(names), columns | given, crystals=Crystals.from_structures(crystals), parent_id=parents)
    return path
