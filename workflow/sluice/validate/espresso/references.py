"""Elemental references: for every element of SSSP up to Bi without Ce-Lu, the structure that stands for it.

``references.csv`` is made by ``benchmarks/make_reference_table.py`` from Materials Project's PBE-relaxed polymorphs
(CC-BY 4.0); molecules sit in a box. Its column ``above_ground_state_ev_per_atom`` says how far the chosen polymorph
lies above the lowest one in that data, ``assumption`` what stands in for what.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

from sluice.errors import SluiceError
from sluice.validate.espresso.sets import Relaxation

TABLE = Path(__file__).with_name("references.csv")


@dataclass(frozen=True)
class Reference:
    """An element's reference.

    Attributes:
        element: symbol.
        structure: primitive cell, or molecule in a box (Å); pass it on as it is.
        prototype: name in words.
        space_group: international number; 0 for a molecule.
        relax: what may move: ``cell``, ``ions`` or ``none``.
        box: a molecule in a box, calculated at Γ.
        magnetic: spin-polarized whatever the campaign's list says.
        total_moment: fixed moment of the cell, μB; None lets it float.
        nosym: symmetry switched off (the degenerate shells of O2).
        above_ground_state_ev_per_atom: PBE energy above the lowest polymorph in the source, NaN if unknown.
        source: where the numbers are from.
        assumption: what stands in for what; None if nothing does.
    """

    element: str
    structure: Structure
    prototype: str
    space_group: int
    relax: Relaxation
    box: bool
    magnetic: bool
    total_moment: float | None
    nosym: bool
    above_ground_state_ev_per_atom: float
    source: str
    assumption: str | None


# ASSUME: simpler polymorphs and isolated molecules stand in where the table's column ``assumption`` says so.
@cache
def reference_table() -> dict[str, Reference]:
    """All references, element → reference, in order of atomic number."""
    table = {}
    with TABLE.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            cell = np.array(row["cell"].split(), dtype=float).reshape(3, 3)
            frac = np.array([xyz.split() for xyz in row["frac_coords"].split(";")], dtype=float)
            moment = float(row["total_moment"]) if row["total_moment"] else None
            box = row["prototype"].endswith("in a box")
            table[row["element"]] = Reference(
                element=row["element"],
                structure=Structure(Lattice(cell), [row["element"]] * len(frac), frac),
                prototype=row["prototype"],
                space_group=int(row["space_group"]),
                relax=row["relax"],  # type: ignore[arg-type]
                box=box,
                magnetic=row["magnetic"] == "1",
                total_moment=moment,
                nosym=box and moment is not None,
                above_ground_state_ev_per_atom=float(row["above_ground_state_ev_per_atom"] or "nan"),
                source=row["source"],
                assumption=row["assumption"] or None,
            )
    return table


def reference_structure(element: str) -> Reference:
    """The reference of an element.

    Raises:
        SluiceError: if there is none; says which elements have one.
    """
    try:
        return reference_table()[element]
    except KeyError:
        raise SluiceError(
            f"no elemental reference for {element!r}; there are references for H to La and Hf to Bi"
        ) from None
