"""Crystal graphs as flat arrays: every atom's nearest neighbours, made once, batched by index arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from sluice.crystals import Crystals

CHUNK = 1000  # crystals whose full neighbour lists are held at a time
SELF_TOLERANCE = 1e-8  # Å; nearer means the atom itself
TIE_DECIMALS = 3  # distances equal to so many decimals (Å) count as one shell
# ASSUME: no crystal is denser than 1 Å³ an atom or thinner than 0.5 Å between faces; such cells come from broken input,
# and their neighbour lists would not end.
MIN_VOLUME_PER_ATOM = 1.0
MIN_HEIGHT = 0.5


@dataclass(frozen=True)
class Graphs:
    """Graphs of ``n`` crystals with ``m`` atoms and up to ``k`` neighbours each.

    Attributes:
        atom_offsets: (n + 1,) atoms of graph i are ``atom_offsets[i]:atom_offsets[i + 1]``.
        numbers: (m,) atomic numbers.
        neighbours: (m, k) index of each neighbour among the atoms of its own crystal, nearest first; padded with the
            atom itself.
        distances: (m, k) in Å; padded with the cutoff.
        mask: (m, k) True where there is a neighbour.
    """

    atom_offsets: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    neighbours: NDArray[np.int32]
    distances: NDArray[np.float32]
    mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.atom_offsets) - 1

    def batch(self, index: NDArray[np.int64], device: torch.device | str = "cpu") -> GraphBatch:
        """Put the chosen graphs side by side as one disconnected graph."""
        index = np.asarray(index, dtype=np.int64)
        counts = self.atom_offsets[index + 1] - self.atom_offsets[index]  # (B,)
        starts = np.cumsum(counts) - counts  # (B,)
        within = np.arange(int(counts.sum())) - np.repeat(starts, counts)  # (M,)
        atoms = np.repeat(self.atom_offsets[index], counts) + within  # (M,)
        neighbours = self.neighbours[atoms] + np.repeat(starts, counts)[:, None]  # (M, K)

        def tensor(values: NDArray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)

        return GraphBatch(
            numbers=tensor(self.numbers[atoms].astype(np.int64)),
            neighbours=tensor(neighbours.astype(np.int64)),
            distances=tensor(self.distances[atoms]),
            mask=tensor(self.mask[atoms]),
            counts=tensor(counts),
        )


@dataclass(frozen=True)
class GraphBatch:
    """B graphs side by side, M atoms in all.

    Attributes:
        numbers: (M,) atomic numbers.
        neighbours: (M, K) index of each neighbour among the M atoms.
        distances: (M, K) in Å.
        mask: (M, K) True where there is a neighbour.
        counts: (B,) atoms in each graph.
    """

    numbers: torch.Tensor
    neighbours: torch.Tensor
    distances: torch.Tensor
    mask: torch.Tensor
    counts: torch.Tensor


def usable(crystals: Crystals) -> NDArray[np.bool_]:
    """(n,) whether a graph can be made: atoms present, all numbers finite, cell not collapsed."""
    n = len(crystals)
    finite_atoms = np.isfinite(crystals.frac_coords).all(axis=1) & (crystals.numbers > 0)
    bad_before = np.concatenate([[0], np.cumsum(~finite_atoms)])
    good = (bad_before[crystals.atom_offsets[1:]] == bad_before[crystals.atom_offsets[:-1]]) & (crystals.n_atoms > 0)
    good &= np.isfinite(crystals.lattice).reshape(n, 9).all(axis=1)
    lattice = np.where(good[:, None, None], crystals.lattice, np.eye(3))
    volume = np.abs(np.linalg.det(lattice)) if n else np.zeros(0)
    faces = np.linalg.norm(np.cross(lattice[:, [1, 2, 0]], lattice[:, [2, 0, 1]]), axis=2)  # (n, 3)
    heights = volume[:, None] / np.maximum(faces, 1e-12)
    good &= volume >= MIN_VOLUME_PER_ATOM * crystals.n_atoms
    good &= (heights >= MIN_HEIGHT).all(axis=1)
    return good


def build_graphs(crystals: Crystals, *, neighbours: int, cutoff: float) -> Graphs:
    """Make the graph of every crystal.

    Where several atoms share the last distance that still fits, those of lower atomic number are taken, so that the
    graph does not depend on the order of the atoms.

    Args:
        crystals: crystals that are all ``usable``.
        neighbours: greatest number of neighbours of an atom.
        cutoff: greatest distance in Å.

    Raises:
        ValueError: if a crystal is not usable.
    """
    good = usable(crystals)
    if not good.all():
        raise ValueError(
            f"no graph can be made of crystal {int(np.flatnonzero(~good)[0])}: empty, not finite or collapsed"
        )
    m = len(crystals.numbers)
    own = (np.arange(m) - np.repeat(crystals.atom_offsets[:-1], crystals.n_atoms)).astype(np.int32)
    index = np.tile(own[:, None], (1, neighbours))
    distances = np.full((m, neighbours), cutoff, dtype=np.float32)
    mask = np.zeros((m, neighbours), dtype=bool)
    for start in range(0, len(crystals), CHUNK):
        centre, point, distance = _pairs(crystals, start, min(start + CHUNK, len(crystals)), cutoff)
        offset = np.repeat(crystals.atom_offsets[:-1], crystals.n_atoms)[centre]
        order = np.lexsort((distance, crystals.numbers[offset + point], np.round(distance, TIE_DECIMALS), centre))
        centre, point, distance = centre[order], point[order], distance[order]
        first = np.searchsorted(centre, centre)  # where each atom's own pairs begin
        rank = np.arange(len(centre)) - first
        near = rank < neighbours
        where = centre[near], rank[near]
        index[where], distances[where], mask[where] = point[near], distance[near], True
    return Graphs(crystals.atom_offsets, crystals.numbers, index, distances, mask)


def _pairs(crystals: Crystals, start: int, stop: int, cutoff: float) -> tuple[NDArray, NDArray, NDArray]:
    """All pairs within the cutoff: atom (counted over all crystals), partner (within its crystal), distance in Å."""
    periodic = np.ones(3, dtype=np.int64)
    centres, points, distances = [], [], []
    for i in range(start, stop):
        part = crystals.atoms_of(i)
        lattice = np.ascontiguousarray(crystals.lattice[i])
        positions = np.ascontiguousarray(np.mod(crystals.frac_coords[part], 1.0) @ lattice)
        centre, point, _, distance = find_points_in_spheres(
            positions, positions, r=cutoff, pbc=periodic, lattice=lattice, tol=SELF_TOLERANCE
        )
        other = (centre != point) | (distance > SELF_TOLERANCE)
        centres.append(centre[other] + part.start)
        points.append(point[other])
        distances.append(distance[other])
    return np.concatenate(centres), np.concatenate(points), np.concatenate(distances)
