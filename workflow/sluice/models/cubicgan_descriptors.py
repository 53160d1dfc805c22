"""The 23 descriptors of an element that CubicGAN is given (the authors' list, from pymatgen's element data)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element

MAX_Z = 103


def _mean(values: Any) -> float:
    return sum(values) / len(values) if values else math.nan


DESCRIPTORS: dict[str, Callable[[Element], Any]] = {
    "atomic number": lambda e: e.Z,
    "electronegativity (Pauling)": lambda e: e.X,
    "row": lambda e: e.row,
    "group": lambda e: e.group,
    "atomic mass": lambda e: e.atomic_mass,
    "atomic radius": lambda e: e.atomic_radius,
    "Mendeleev number": lambda e: e.mendeleev_no,
    "average ionic radius": lambda e: e.average_ionic_radius,
    "average cationic radius": lambda e: e.average_cationic_radius,
    "average anionic radius": lambda e: e.average_anionic_radius,
    "sum of ionic radii": lambda e: sum(e.ionic_radii.values()),
    "largest oxidation state": lambda e: e.max_oxidation_state,
    "smallest oxidation state": lambda e: e.min_oxidation_state,
    "mean oxidation state": lambda e: _mean(e.oxidation_states),
    "mean common oxidation state": lambda e: _mean(e.common_oxidation_states),
    "noble gas": lambda e: e.is_noble_gas,
    "transition metal": lambda e: e.is_transition_metal,
    "post-transition metal": lambda e: e.is_post_transition_metal,
    "metalloid": lambda e: e.is_metalloid,
    "alkali metal": lambda e: e.is_alkali,
    "alkaline earth metal": lambda e: e.is_alkaline,
    "halogen": lambda e: e.is_halogen,
    "molar volume": lambda e: e.molar_volume,
}
N_DESCRIPTORS = len(DESCRIPTORS)


@cache
def descriptor_table() -> NDArray[np.float64]:
    """(104, 23) descriptors by atomic number in pymatgen's units; NaN where pymatgen has no value."""
    table = np.full((MAX_Z + 1, N_DESCRIPTORS), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of every value it lacks
        for z in range(1, MAX_Z + 1):
            for column, value_of in enumerate(DESCRIPTORS.values()):
                value = value_of(Element.from_Z(z))
                table[z, column] = math.nan if value is None else float(value)
    return table


def fit_descriptors(elements: NDArray[np.integer]) -> NDArray[np.float32]:
    """(104, 23) descriptors scaled so that these elements (atomic numbers, any shape) span 0 … 1.

    Other elements may lie outside. A descriptor that is equal for all of them is 0.

    # ASSUME: a value that nobody tabulated is the mean over these elements.
    """
    table = descriptor_table()
    used = table[np.unique(elements)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns that are missing for all of them
        low, high, mean = np.nanmin(used, axis=0), np.nanmax(used, axis=0), np.nanmean(used, axis=0)
    spread = np.where(high > low, high - low, np.inf)
    scaled = (np.where(np.isnan(table), mean, table) - low) / spread
    scaled[0] = 0.0
    return np.nan_to_num(scaled).astype(np.float32)
