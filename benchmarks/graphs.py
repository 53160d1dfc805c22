"""Crystal graphs: Sluice's path from structures to tensors against CGCNN's own, answers compared.

CGCNN's path is that of its published ``CIFData.__getitem__``: pymatgen's ``get_all_neighbors``, sorted, the nearest 12,
Gaussian expansion, one tensor per crystal. Sluice's goes from the same pymatgen structures to the same tensors of a
batch: flat arrays, graphs, batch, Gaussians. Blocks of structures are interleaved; CPU time counts.

    SLUICE_DATA=… python benchmarks/graphs.py [--structures 200]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import torch
from mp_sample import mp_sample
from pymatgen.core import Structure

from sluice.crystals import Crystals
from sluice.models.graphs import build_graphs
from sluice.models.layers import expand

NEIGHBOURS, CUTOFF, GAUSSIANS = 12, 8.0, 41
TOLERANCE = 2e-3  # Å; which of several neighbours within 1e-3 Å comes first is a matter of convention
CENTRES = torch.linspace(0.0, CUTOFF, GAUSSIANS)


def published(structures: list[Structure]) -> list[tuple[torch.Tensor, torch.Tensor, np.ndarray]]:
    """Gaussians, indices and distances of each crystal."""
    found = []
    centres = CENTRES.numpy()
    width = CUTOFF / (GAUSSIANS - 1)
    for structure in structures:
        indices, distances = [], []
        for neighbours in structure.get_all_neighbors(CUTOFF, include_index=True):
            nearest = sorted(neighbours, key=lambda x: x[1])
            if len(nearest) < NEIGHBOURS:
                missing = NEIGHBOURS - len(nearest)
                indices.append([x[2] for x in nearest] + [0] * missing)
                distances.append([x[1] for x in nearest] + [CUTOFF + 1.0] * missing)
            else:
                indices.append([x[2] for x in nearest[:NEIGHBOURS]])
                distances.append([x[1] for x in nearest[:NEIGHBOURS]])
        values = np.array(distances)
        gaussians = np.exp(-((values[..., np.newaxis] - centres) ** 2) / width**2)
        found.append((torch.Tensor(gaussians), torch.LongTensor(np.array(indices)), values))
    return found


def ours(structures: list[Structure], *, merge: bool) -> tuple[torch.Tensor, torch.Tensor, object]:
    """Gaussians and indices of all crystals side by side."""
    graphs = build_graphs(Crystals.from_structures(structures), neighbours=NEIGHBOURS, cutoff=CUTOFF, merge=merge)
    batch = graphs.batch(np.arange(len(graphs)))
    return expand(batch.distances, CENTRES), batch.neighbours, graphs


def compare(reference: list[tuple[torch.Tensor, torch.Tensor, np.ndarray]], structures: list[Structure]) -> float:
    """Largest difference of the sorted distances of any atom, Å."""
    graphs = ours(structures, merge=False)[2]
    distances, offsets, worst, atom = graphs.distances, graphs.edge_offsets, 0.0, 0  # type: ignore[attr-defined]
    for _, _, values in reference:
        for row in values:
            mine = np.sort(distances[offsets[atom] : offsets[atom + 1]])
            theirs = row[row <= CUTOFF]
            assert len(mine) == len(theirs), f"atom {atom}: {len(mine)} neighbours, not {len(theirs)}"
            worst = max(worst, float(np.abs(mine - theirs).max(initial=0.0)))
            atom += 1
    return worst


def main() -> None:
    """Time both on interleaved blocks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=200)
    parser.add_argument("--block", type=int, default=50)
    given = parser.parse_args()
    torch.set_num_threads(1)
    crystals = mp_sample(given.structures, seed=2)
    structures = list(crystals.structures())
    times: dict[str, list[float]] = {"CGCNN's path": [], "Sluice, every atom a node": [], "Sluice": []}
    worst = 0.0
    ours(structures[:5], merge=True)  # imports and caches of both
    published(structures[:5])
    for start in range(0, len(structures), given.block):
        block = structures[start : start + given.block]
        begin = time.process_time()
        reference = published(block)
        times["CGCNN's path"].append((time.process_time() - begin) / len(block))
        for name, merge in (("Sluice, every atom a node", False), ("Sluice", True)):
            begin = time.process_time()
            ours(block, merge=merge)
            times[name].append((time.process_time() - begin) / len(block))
        worst = max(worst, compare(reference, block))
    assert worst < TOLERANCE, f"distances differ by {worst} Å"
    print(f"{len(structures)} structures, {crystals.n_atoms.mean():.1f} atoms each, blocks of {given.block};", end=" ")
    print(f"largest difference of a distance {worst:.1e} Å")
    print("| path | CPU ms a structure | ratio |\n|---|---|---|")
    base = median(times["CGCNN's path"])
    for name, spent in times.items():
        print(f"| {name} | {1e3 * median(spent):.2f} | {base / median(spent):.0f} |")


if __name__ == "__main__":
    main()
