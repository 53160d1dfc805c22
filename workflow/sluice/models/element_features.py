"""Tabulated properties of the elements as fixed numbers that networks start from."""

from __future__ import annotations

import math
import warnings
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
from pymatgen.core import Element

MAX_Z = 103
CONTINUOUS = (
    "electronegativity (Pauling)",
    "covalent radius",
    "atomic radius",
    "van der Waals radius",
    "first ionization energy",
    "electron affinity",
    "Mendeleev number",
    "molar mass",
)
GROUPS, ROWS, BLOCKS = 18, 7, "spdf"
N_FEATURES = GROUPS + ROWS + len(BLOCKS) + len(CONTINUOUS)


def _number(value: object) -> float:
    """A float, or NaN where pymatgen has no value."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _continuous(element: Element) -> list[float]:
    radius = _number(element.atomic_radius)
    return [
        _number(element.X),
        _number(CovalentRadius.radius.get(element.symbol)),
        _number(element.atomic_radius_calculated) if math.isnan(radius) else radius,
        _number(element.van_der_waals_radius),
        _number(element.ionization_energy),
        _number(element.electron_affinity),
        _number(element.mendeleev_no),
        _number(element.atomic_mass),
    ]


@cache
def continuous_table() -> NDArray[np.float64]:
    """(104, 8) properties of ``CONTINUOUS`` by atomic number, standardized over H to Lr.

    # ASSUME: a value that nobody tabulated is taken as the mean over the elements (0 after standardization).

    Source: pymatgen's element data.
    """
    table = np.full((MAX_Z + 1, len(CONTINUOUS)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of every value it lacks
        for z in range(1, MAX_Z + 1):
            table[z] = _continuous(Element.from_Z(z))
    table = (table - np.nanmean(table, axis=0)) / np.nanstd(table, axis=0)
    return np.nan_to_num(table)


@cache
def feature_table() -> NDArray[np.float32]:
    """(104, 37) features by atomic number: group, row and block one-hot, then the continuous ones."""
    table = np.zeros((MAX_Z + 1, N_FEATURES), dtype=np.float32)
    for z in range(1, MAX_Z + 1):
        element = Element.from_Z(z)
        table[z, element.group - 1] = 1
        table[z, GROUPS + element.row - 1] = 1
        table[z, GROUPS + ROWS + BLOCKS.index(element.block)] = 1
    table[:, -len(CONTINUOUS) :] = continuous_table()
    return table
