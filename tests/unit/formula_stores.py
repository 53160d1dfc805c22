"""Small stores of campaigns of compositions, and the tables that they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sluice.schemas import SCHEMAS
from sluice.store import Store, StoreWriter

ELEMENTS = ("Li", "Na", "Mg", "Al", "O", "F", "Cl")
METALS, ANIONS = {"Li": 1, "Na": 1, "Mg": 2, "Al": 3}, {"O": 2, "F": 1, "Cl": 1}


def salts() -> list[str]:
    """Two metals and an anion, charge-neutral: 18 formulas."""
    pairs = [("Na", "Li"), ("Li", "Mg"), ("Li", "Al"), ("Na", "Mg"), ("Na", "Al"), ("Mg", "Al")]
    found = []
    for first, second in pairs:
        for anion, charge in ANIONS.items():
            total = METALS[first] + METALS[second]
            factor = 1 if total % charge == 0 else charge
            count = total * factor // charge
            found.append(f"{first}{factor}{second}{factor}{anion}{count}".replace("1", ""))
    return found


def energy_of(formula: str) -> float:
    """A made-up formation energy, eV/atom."""
    return -1.0 - 0.2 * formula.count("F") - 0.1 * formula.count("O") - 0.05 * formula.count("Al")


def write_csv(path: Path, formulas: Sequence[str], **columns: Sequence[Any]) -> Path:
    """A table as users have it; energies are made up where no column gives them."""
    values = {"formation_energy_ev_per_atom": [energy_of(formula) for formula in formulas], **columns}
    lines = [",".join(["formula", *values])]
    lines += [",".join([formula, *map(str, row)]) for formula, *row in zip(formulas, *values.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_formulas(
    path: Path, schema: str, formulas: Sequence[str], ids: Sequence[str] | None = None, **columns: Any
) -> Path:
    """A store of formulas; columns that are not given get a plain value."""
    n = len(formulas)
    values: dict[str, Any] = {"formula": list(formulas)}
    for name, kind in SCHEMAS[schema][1].items():
        if name not in values:
            given = columns.get(name, "" if kind.dtype.startswith("S") else 0)
            values[name] = [given] * n if isinstance(given, str | int | float) else given
            if not kind.dtype.startswith("S"):
                values[name] = np.array(values[name], dtype=kind.dtype)
    with StoreWriter(path, schema, campaign="test", round_number=1, with_crystals=False) as writer:
        writer.append([f"c{i:06d}" for i in range(n)] if ids is None else list(ids), values)
    return path


def known_formulas(path: Path, formulas: Sequence[str] | None = None, *, split: str | Sequence[str] = "train") -> Path:
    """The table of a campaign (schema ``compositions``)."""
    chosen = salts() if formulas is None else list(formulas)
    energies = [energy_of(formula) for formula in chosen]
    columns: Mapping[str, Any] = {"formation_energy_ev_per_atom": energies, "label_source": "user", "split": split}
    return write_formulas(path, "compositions", chosen, **columns)


def outcome(path: Path) -> tuple[list[str], dict[str, tuple[str, str]]]:
    """Formulas that went on, and candidate → (reason, detail) of the others, after checking the sums."""
    with Store(path) as store:
        counts, gone = store.counts, store.failures()
        left = counts["out"] + counts["rejected"] + counts["failed"]
        assert counts["in"] + counts["made"] - counts["merged"] == left
        assert len(gone) == counts["rejected"] + counts["failed"]
        reasons = dict(zip(gone.candidate_id, zip(gone.reason, gone.detail, strict=True), strict=True))
        return store.text("formula"), reasons
