"""Crystals as ragged arrays: the one in-memory form that every stage works on."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from pymatgen.core import Composition, Element, Lattice, Structure

HASH_DECIMALS = 4  # Å for the lattice, fractions for coordinates


@dataclass(frozen=True)
class Crystals:
    """``n`` crystals with ``m`` atoms in all.

    Attributes:
        lattice: (n, 3, 3) float64, rows are the cell vectors in Å.
        atom_offsets: (n + 1,) int64, atoms of crystal i are ``atom_offsets[i]:atom_offsets[i + 1]``.
        numbers: (m,) uint8 atomic numbers.
        frac_coords: (m, 3) float64 fractional coordinates.
    """

    lattice: NDArray[np.float64]
    atom_offsets: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    frac_coords: NDArray[np.float64]

    def __post_init__(self) -> None:
        n, m = len(self.lattice), len(self.numbers)
        if self.lattice.shape != (n, 3, 3):
            raise ValueError(f"lattice has shape {self.lattice.shape}, expected ({n}, 3, 3)")
        if self.atom_offsets.shape != (n + 1,):
            raise ValueError(f"atom_offsets has shape {self.atom_offsets.shape}, expected ({n + 1},)")
        if self.frac_coords.shape != (m, 3):
            raise ValueError(f"frac_coords has shape {self.frac_coords.shape}, expected ({m}, 3)")
        if self.atom_offsets[0] != 0 or self.atom_offsets[-1] != m or np.any(np.diff(self.atom_offsets) < 0):
            raise ValueError(f"atom_offsets must rise from 0 to {m}")

    @classmethod
    def empty(cls) -> Crystals:
        """Return no crystals at all."""
        return cls(np.zeros((0, 3, 3)), np.zeros(1, np.int64), np.zeros(0, np.uint8), np.zeros((0, 3)))

    @classmethod
    def from_arrays(
        cls, lattices: Sequence[NDArray], numbers: Sequence[NDArray], frac_coords: Sequence[NDArray]
    ) -> Crystals:
        """Stack per-crystal arrays: (3, 3) cells, (k,) atomic numbers and (k, 3) coordinates."""
        if len(lattices) == 0:
            return cls.empty()
        offsets = np.concatenate([[0], np.cumsum([len(z) for z in numbers])]).astype(np.int64)
        return cls(
            np.asarray(lattices, dtype=np.float64).reshape(-1, 3, 3),
            offsets,
            np.concatenate([np.asarray(z, dtype=np.uint8) for z in numbers]),
            np.concatenate([np.asarray(x, dtype=np.float64).reshape(-1, 3) for x in frac_coords]),
        )

    @classmethod
    def from_structures(cls, structures: Iterable[Structure]) -> Crystals:
        """Stack ordered pymatgen structures.

        Raises:
            ValueError: if a structure has partial occupancy.
        """
        structures = list(structures)
        for structure in structures:
            if not structure.is_ordered:
                raise ValueError(f"{structure.composition.reduced_formula}: a site is partially occupied")
        return cls.from_arrays(
            [s.lattice.matrix for s in structures],
            [np.array([site.specie.Z for site in s]) for s in structures],
            [s.frac_coords for s in structures],
        )

    @classmethod
    def from_atoms(cls, frames: Iterable[Atoms]) -> Crystals:
        """Stack ASE atoms objects."""
        frames = list(frames)
        return cls.from_arrays(
            [np.asarray(a.cell) for a in frames],
            [a.numbers for a in frames],
            [a.get_scaled_positions(wrap=False) for a in frames],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Crystals]) -> Crystals:
        """Put several sets one after the other."""
        if not parts:
            return cls.empty()
        counts = np.concatenate([p.n_atoms for p in parts])
        return cls(
            np.concatenate([p.lattice for p in parts]),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([p.numbers for p in parts]),
            np.concatenate([p.frac_coords for p in parts]),
        )

    def __len__(self) -> int:
        return len(self.lattice)

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """(n,) number of atoms in each crystal."""
        return np.diff(self.atom_offsets)

    @property
    def volumes(self) -> NDArray[np.float64]:
        """(n,) cell volumes in Å³."""
        return np.abs(np.linalg.det(self.lattice)) if len(self) else np.zeros(0)

    def __getitem__(self, index: slice | NDArray | Sequence[int]) -> Crystals:
        """Select crystals by slice, boolean mask or integer indices (repeats allowed)."""
        chosen = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        counts = self.n_atoms[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        atoms = np.repeat(self.atom_offsets[chosen] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Crystals(self.lattice[chosen], offsets, self.numbers[atoms], self.frac_coords[atoms])

    def atoms_of(self, i: int) -> slice:
        """Slice of the atom arrays that belongs to crystal ``i``."""
        return slice(int(self.atom_offsets[i]), int(self.atom_offsets[i + 1]))

    def structure(self, i: int) -> Structure:
        """Crystal ``i`` as a pymatgen structure."""
        part = self.atoms_of(i)
        return Structure(Lattice(self.lattice[i]), self.numbers[part].tolist(), self.frac_coords[part])

    def ase_atoms(self, i: int) -> Atoms:
        """Crystal ``i`` as ASE atoms with periodic boundaries."""
        part = self.atoms_of(i)
        return Atoms(
            numbers=self.numbers[part], cell=self.lattice[i], scaled_positions=self.frac_coords[part], pbc=True
        )

    def structures(self) -> Iterator[Structure]:
        """All crystals as pymatgen structures, one at a time."""
        return (self.structure(i) for i in range(len(self)))

    def reduced_formulas(self) -> list[str]:
        """Reduced formula of each crystal, e.g. ``KMgF3``."""
        formulas = []
        for i in range(len(self)):
            z, counts = np.unique(self.numbers[self.atoms_of(i)], return_counts=True)
            formulas.append(reduced_formula(tuple(z.tolist()), tuple(counts.tolist())))
        return formulas

    def structure_hashes(self) -> NDArray[np.bytes_]:
        """(n,) S16 hex digests of the rounded arrays; a relaxed crystal gets a new one."""
        hashes = np.zeros(len(self), dtype="S16")
        lattice = np.round(self.lattice, HASH_DECIMALS) + 0.0
        frac = np.round(np.mod(self.frac_coords, 1.0), HASH_DECIMALS) % 1.0 + 0.0
        counts = self.n_atoms
        for k in np.unique(counts):
            rows = np.flatnonzero(counts == k)
            atoms = self.atom_offsets[rows][:, None] + np.arange(k)
            parts = (lattice[rows].reshape(len(rows), 9), self.numbers[atoms], frac[atoms].reshape(len(rows), 3 * k))
            # The bytes of one crystal in a row: lattice, numbers, coordinates.
            table = np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts], axis=1)
            hashes[rows] = [hashlib.blake2b(row, digest_size=8).hexdigest().encode() for row in table]
        return hashes


@lru_cache(maxsize=1_000_000)
def reduced_formula(numbers: tuple[int, ...], counts: tuple[int, ...]) -> str:
    """Reduced formula of so many atoms of different elements, e.g. ``KMgF3``.

    Args:
        numbers: atomic numbers, rising.
        counts: atoms of each.
    """
    amounts = {Element.from_Z(z): n for z, n in zip(numbers, counts, strict=True)}
    with warnings.catch_warnings():
        # Noble gases have no Pauling electronegativity; pymatgen says so every time it orders them.
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        return Composition(amounts).reduced_formula
