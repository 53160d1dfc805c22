"""Crystal graphs as flat arrays: every atom's nearest neighbours, made once, batched by index arithmetic.

Atoms that no network of distances can tell apart are one node, and equal bonds of a node one edge; both carry the
number that they stand for (``graph_merging``), so that a sum over atoms or bonds is a weighted sum over nodes or edges.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from ase.data import covalent_radii
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres

from sluice.crystals import Crystals
from sluice.models.graph_merging import merge_equal
from sluice.step import report_progress

ATOMS_PER_CHUNK = 20_000  # atoms whose pairs are held at a time
SELF_TOLERANCE = 1e-8  # Å; nearer means the atom itself
TIE = 1e-3  # Å; distances equal to so much count as one shell
FIRST_GUESS = 2.5  # the search starts with a sphere that holds so many times the neighbours wanted
# ASSUME: no crystal is denser than 0.3 Å³ an atom or thinner than 0.5 Å between faces; such cells come from broken
# input, and their neighbour lists would not end.
MIN_VOLUME_PER_ATOM = 0.3
MIN_HEIGHT = 0.5


@dataclass(frozen=True)
class Graphs:
    """Graphs of ``n`` crystals with ``m`` nodes and ``e`` edges in all.

    Attributes:
        node_offsets: (n + 1,) nodes of graph i are ``node_offsets[i]:node_offsets[i + 1]``.
        numbers: (m,) atomic numbers.
        node_counts: (m,) atoms that each node stands for.
        edge_offsets: (m + 1,) edges of node j are ``edge_offsets[j]:edge_offsets[j + 1]``, nearest first.
        neighbours: (e,) node at the far end, counted within its own crystal.
        distances: (e,) in Å.
        edge_counts: (e,) bonds of one atom that each edge stands for.
    """

    node_offsets: NDArray[np.int64]
    numbers: NDArray[np.uint8]
    node_counts: NDArray[np.int32]
    edge_offsets: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    distances: NDArray[np.float32]
    edge_counts: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.node_offsets) - 1

    @property
    def nbytes(self) -> int:
        """Memory of all arrays, bytes."""
        return sum(getattr(self, f.name).nbytes for f in fields(self))

    @property
    def crystal_of_node(self) -> NDArray[np.int64]:
        """(m,) crystal that each node belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.node_offsets))

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """(n,) atoms of each crystal."""
        return (
            np.add.reduceat(self.node_counts.astype(np.int64), self.node_offsets[:-1])
            if len(self)
            else np.zeros(0, np.int64)
        )

    def __getitem__(self, index: NDArray | slice) -> Graphs:
        """Select graphs by slice, boolean mask or integer indices."""
        chosen = np.arange(len(self))[index]
        nodes, node_offsets = _runs(self.node_offsets, chosen)
        edges, edge_offsets = _runs(self.edge_offsets, nodes)
        return Graphs(
            node_offsets,
            self.numbers[nodes],
            self.node_counts[nodes],
            edge_offsets,
            self.neighbours[edges],
            self.distances[edges],
            self.edge_counts[edges],
        )

    @staticmethod
    def concatenate(parts: list[Graphs]) -> Graphs:
        """Put several sets one after the other."""
        return Graphs(
            _join_offsets([p.node_offsets for p in parts]),
            np.concatenate([p.numbers for p in parts]),
            np.concatenate([p.node_counts for p in parts]),
            _join_offsets([p.edge_offsets for p in parts]),
            np.concatenate([p.neighbours for p in parts]),
            np.concatenate([p.distances for p in parts]),
            np.concatenate([p.edge_counts for p in parts]),
        )

    def scaled(self, factors: NDArray) -> Graphs:
        """The same graphs with all distances of crystal i multiplied by ``factors[i]``."""
        per_node = np.repeat(factors, np.diff(self.node_offsets))
        per_edge = np.repeat(per_node, np.diff(self.edge_offsets))
        return replace(self, distances=(self.distances * per_edge).astype(np.float32))

    @cached_property
    def _on_device(self) -> dict[str, dict[str, torch.Tensor]]:
        return {}

    def _tensors(self, device: torch.device | str) -> dict[str, torch.Tensor]:
        """The arrays as tensors, moved to a device once; on a CPU they share memory with the arrays."""
        key = str(device)
        if key not in self._on_device:
            self._on_device[key] = {f.name: torch.from_numpy(getattr(self, f.name)).to(device) for f in fields(self)}
        return self._on_device[key]

    def batch(self, index: NDArray[np.int64], device: torch.device | str = "cpu") -> GraphBatch:
        """Put the chosen graphs side by side as one disconnected graph; all arithmetic is done on the device."""
        data = self._tensors(device)
        chosen = torch.from_numpy(np.ascontiguousarray(index, dtype=np.int64)).to(device)
        nodes, n_nodes = _take(data["node_offsets"], chosen)  # (M,), (B,)
        edges, n_edges = _take(data["edge_offsets"], nodes)  # (E,), (M,)
        starts = n_nodes.cumsum(0) - n_nodes  # (B,)
        centres = torch.repeat_interleave(n_edges)  # (E,)
        start_of_node = torch.repeat_interleave(starts, n_nodes)  # (M,)
        counts = data["node_counts"][nodes].float()  # (M,)
        crystal_of_node = torch.repeat_interleave(n_nodes)  # (M,)
        return GraphBatch(
            numbers=data["numbers"][nodes].long(),
            node_counts=counts,
            crystals=crystal_of_node,
            centres=centres,
            neighbours=data["neighbours"][edges].long() + start_of_node[centres],
            distances=data["distances"][edges],
            edge_counts=data["edge_counts"][edges].float(),
            n_atoms=torch.zeros(len(chosen), device=counts.device).index_add(0, crystal_of_node, counts),
        )


class GraphBatch:
    """B graphs side by side, M nodes and E edges in all.

    No dataclass: Fabric would cut the tensors of one down to the precision of a mixed-precision training.

    Attributes:
        numbers: (M,) atomic numbers.
        node_counts: (M,) atoms that each node stands for.
        crystals: (M,) graph of each node.
        centres: (E,) node at the near end, rising.
        neighbours: (E,) node at the far end.
        distances: (E,) in Å.
        edge_counts: (E,) bonds of one atom that each edge stands for.
        n_atoms: (B,) atoms of each crystal.
        expanded: distances in a basis, by its key; kept for the next network that sees the batch.
    """

    def __init__(
        self,
        *,
        numbers: torch.Tensor,
        node_counts: torch.Tensor,
        crystals: torch.Tensor,
        centres: torch.Tensor,
        neighbours: torch.Tensor,
        distances: torch.Tensor,
        edge_counts: torch.Tensor,
        n_atoms: torch.Tensor,
    ) -> None:
        self.numbers, self.node_counts, self.crystals = numbers, node_counts, crystals
        self.centres, self.neighbours, self.distances = centres, neighbours, distances
        self.edge_counts, self.n_atoms = edge_counts, n_atoms
        self.expanded: dict[tuple[float, int], torch.Tensor] = {}

    def scaled(self, factors: torch.Tensor) -> GraphBatch:
        """The same graphs with all distances of crystal i multiplied by ``factors[i]``."""
        found = copy(self)
        found.distances, found.expanded = self.distances * factors[self.crystals[self.centres]], {}
        return found

    def __len__(self) -> int:
        return len(self.n_atoms)

    def mean_over_atoms(self, values: torch.Tensor) -> torch.Tensor:
        """(…, B, C) mean over the atoms of each crystal of node values (…, M, C)."""
        weights = (self.node_counts / self.n_atoms[self.crystals])[:, None]
        return self.sum_over_nodes(values * weights)

    def sum_over_nodes(self, values: torch.Tensor) -> torch.Tensor:
        """(…, B, C) sum over the nodes of each crystal of values (…, M, C)."""
        shape = (*values.shape[:-2], len(self), values.shape[-1])
        return values.new_zeros(shape).index_add(-2, self.crystals, values)


def _take(offsets: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of all members of the chosen runs, one run after the other, and the length of each run."""
    lengths = offsets[chosen + 1] - offsets[chosen]
    shift = offsets[chosen] - (lengths.cumsum(0) - lengths)
    return torch.repeat_interleave(shift, lengths) + torch.arange(int(lengths.sum()), device=offsets.device), lengths


def _runs(offsets: NDArray, chosen: NDArray) -> tuple[NDArray, NDArray]:
    """Positions of all members of the chosen runs, and the offsets of the new runs."""
    lengths = offsets[chosen + 1] - offsets[chosen]
    new = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.repeat(offsets[chosen] - new[:-1], lengths) + np.arange(new[-1]), new


def _join_offsets(parts: list[NDArray]) -> NDArray[np.int64]:
    lengths = np.concatenate([np.diff(p) for p in parts])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


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


def build_graphs(crystals: Crystals, *, neighbours: int, cutoff: float, merge: bool = True) -> Graphs:
    """Make the graph of every crystal.

    Where several atoms share the last distance that still fits, those of lower atomic number are taken, so that the
    graph does not depend on the order of the atoms. An atom with fewer neighbours within the cutoff has fewer edges,
    none if it stands alone; CGCNN's code adds bonds of no features to the crystal's first atom in their place.

    Args:
        crystals: crystals that are all ``usable``.
        neighbours: greatest number of neighbours of an atom.
        cutoff: greatest distance in Å.
        merge: make one node of atoms that no network can tell apart; answers are the same.

    Raises:
        ValueError: if a crystal is not usable.
    """
    good = usable(crystals)
    if not good.all():
        raise ValueError(
            f"no graph can be made of crystal {int(np.flatnonzero(~good)[0])}: empty, not finite or collapsed"
        )
    parts, start = [], 0
    while start < len(crystals):
        limit = crystals.atom_offsets[start] + ATOMS_PER_CHUNK
        stop = max(start + 1, int(np.searchsorted(crystals.atom_offsets, limit, side="right")) - 1)
        parts.append(_build(crystals[start:stop], neighbours, cutoff, merge))
        start = stop
        report_progress(stop, len(crystals), "crystals", "graphs")
    return Graphs.concatenate(parts) if parts else _build(crystals, neighbours, cutoff, merge)


def prepare_graphs(
    crystals: Crystals, *, neighbours: int, cutoff: float, scale: Literal["given", "touching"] = "given"
) -> Graphs:
    """The graphs that a network takes.

    Args:
        crystals: as of ``build_graphs``.
        neighbours: as there.
        cutoff: as there.
        scale: ``given``: distances as they are; ``touching``: of the crystal shrunk or blown up until its closest atoms
            touch (a distance is the sum of two covalent radii; Cordero et al., Dalton Trans. 2008, 2832), so that a
            lattice constant that was only guessed does not count.
    """
    graphs = build_graphs(crystals, neighbours=neighbours, cutoff=cutoff)
    if scale == "given":
        return graphs
    radii = covalent_radii[graphs.numbers]
    start = np.repeat(graphs.node_offsets[:-1], np.diff(graphs.node_offsets))
    degree = np.diff(graphs.edge_offsets)
    sums = np.repeat(radii, degree) + radii[graphs.neighbours + np.repeat(start, degree)]
    least = np.full(len(graphs), np.inf)
    np.minimum.at(least, np.repeat(graphs.crystal_of_node, degree), graphs.distances / sums)
    return graphs.scaled(np.where(np.isfinite(least), 1 / least, 1.0))


def _build(crystals: Crystals, neighbours: int, cutoff: float, merge: bool) -> Graphs:
    centre, point, distance = _pairs(crystals, neighbours, cutoff)
    m = len(crystals.numbers)
    offset = np.repeat(crystals.atom_offsets[:-1], crystals.n_atoms)
    shell = np.rint(distance / TIE).astype(np.int64)
    order = np.lexsort((distance, crystals.numbers[offset[centre] + point], (centre << 32) + shell))
    centre, point, distance = centre[order], point[order], distance[order]
    rank = np.arange(len(centre)) - np.searchsorted(centre, centre)
    near = rank < neighbours
    centre, point, distance = centre[near], point[near], distance[near]
    edge_offsets = np.concatenate([[0], np.cumsum(np.bincount(centre, minlength=m))]).astype(np.int64)
    arrays = (
        crystals.atom_offsets.astype(np.int64),
        crystals.numbers,
        np.ones(m, np.int32),
        edge_offsets,
        point.astype(np.int32),
        distance.astype(np.float32),
        np.ones(len(point), np.uint8),
    )
    return Graphs(*(merge_equal(*arrays) if merge else arrays))


def _pairs(crystals: Crystals, neighbours: int, cutoff: float) -> tuple[NDArray, NDArray, NDArray]:
    """Pairs that hold the nearest neighbours of all atoms: atom, partner (within its crystal), distance in Å.

    The sphere grows until it holds enough for every atom of a crystal, up to the cutoff.
    """
    periodic = np.ones(3, dtype=np.int64)
    centres, points, distances = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    volume = np.abs(np.linalg.det(crystals.lattice)) / np.maximum(crystals.n_atoms, 1)
    radius = np.minimum(cutoff, np.cbrt(FIRST_GUESS * neighbours * volume * 3 / (4 * np.pi)))
    for i in range(len(crystals)):
        part = crystals.atoms_of(i)
        lattice = np.ascontiguousarray(crystals.lattice[i])
        positions = np.ascontiguousarray(np.mod(crystals.frac_coords[part], 1.0) @ lattice)
        r = float(radius[i])
        while True:
            centre, point, _, distance = find_points_in_spheres(
                positions, positions, r=r, pbc=periodic, lattice=lattice, tol=SELF_TOLERANCE
            )
            other = (centre != point) | (distance > SELF_TOLERANCE)
            centre, point, distance = centre[other], point[other], distance[other]
            # Whole shells only: an atom at the rim may have partners of the same distance beyond it.
            inner = centre[distance < r - 2 * TIE]
            if r >= cutoff or np.bincount(inner, minlength=len(positions)).min() >= neighbours:
                break
            r = min(cutoff, 1.3 * r)
        centres.append(centre + part.start)
        points.append(point)
        distances.append(distance)
    return np.concatenate(centres), np.concatenate(points), np.concatenate(distances)
