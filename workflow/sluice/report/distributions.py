"""Elements of sets of crystals or compositions, lattice constants and space groups of crystals, read in chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.compositions import Compositions
from sluice.crystals import Crystals
from sluice.store import Store

LATTICE_BIN = 0.1  # Å
LATTICE_EDGES = np.arange(2.0, 20.0 + LATTICE_BIN / 2, LATTICE_BIN)


def cubic_lattice_constants(crystals: Crystals) -> NDArray[np.float64]:
    """(n,) lattice constants of the conventional cubic cells in Å, whether the cell is primitive or conventional.

    Cells with three angles of 90° (P), 60° (F) and 109.47° (I) are understood; any other gets the cube root of
    its volume.
    """
    lengths = np.linalg.norm(crystals.lattice, axis=2)  # (n, 3)
    a, b, c = (crystals.lattice[:, i] for i in range(3))
    la, lb, lc = lengths.T
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.stack([(b * c).sum(1) / (lb * lc), (a * c).sum(1) / (la * lc), (a * b).sum(1) / (la * lb)], axis=1)
    result = np.cbrt(crystals.volumes)
    for cosine, factor in ((0.0, 1.0), (0.5, np.sqrt(2.0)), (-1.0 / 3.0, 2.0 / np.sqrt(3.0))):
        match = np.all(np.abs(cosines - cosine) < 0.01, axis=1)
        result[match] = lengths[match].mean(axis=1) * factor
    return result


@dataclass
class Distributions:
    """Counts over a set of crystals or compositions.

    Attributes:
        crystals: how many.
        elements: (119,) number of crystals that contain the element of that atomic number.
        lattice: histogram of lattice constants over ``LATTICE_EDGES``.
        space_groups: number of crystals by international number.
    """

    crystals: int = 0
    elements: NDArray[np.int64] = field(default_factory=lambda: np.zeros(119, np.int64))
    lattice: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(LATTICE_EDGES) - 1, np.int64))
    space_groups: Counter[int] = field(default_factory=Counter)

    def add(self, crystals: Crystals, space_groups: NDArray[np.integer]) -> None:
        """Count a chunk of crystals."""
        self.crystals += len(crystals)
        owner = np.repeat(np.arange(len(crystals)), crystals.n_atoms)
        pairs = np.unique(owner * 256 + crystals.numbers)
        self.elements += np.bincount(pairs % 256, minlength=119)[:119]
        self.lattice += np.histogram(cubic_lattice_constants(crystals), LATTICE_EDGES)[0]
        self.space_groups.update(space_groups.tolist())

    def add_compositions(self, compositions: Compositions) -> None:
        """Count a chunk of compositions; their elements are all they have."""
        self.crystals += len(compositions)
        self.elements += np.bincount(compositions.numbers, minlength=119)[:119]

    @property
    def element_shares(self) -> NDArray[np.float64]:
        """(119,) share of the crystals that contain each element."""
        return self.elements / max(1, self.crystals)


def distributions_of(
    paths: Iterable[Path], schema: str, space_group: str, *, split: str | None = None
) -> Distributions:
    """Count stores chunk by chunk.

    Args:
        paths: the stores.
        schema: theirs.
        space_group: name of the column to count.
        split: only rows of that split of a data set.
    """
    found = Distributions()
    for path in paths:
        with Store(path, schema, verify=False) as store:  # read_funnel has verified every store
            for chunk in store.chunks():
                rows = chunk if split is None else chunk.select(chunk.columns["split"] == split.encode())
                if rows.crystals is not None:
                    found.add(rows.crystals, rows.columns[space_group])
    return found
