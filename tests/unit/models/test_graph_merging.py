import numpy as np
import pytest
import torch
from crystals_for_models import decorated
from pymatgen.core import Lattice, Structure

from sluice.crystals import Crystals
from sluice.models.cgcnn import CGCNN
from sluice.models.graph_merging import merge_equal
from sluice.models.graphs import build_graphs

SIZES = {"hidden_size": 16, "head_size": 8, "convolutions": 3, "gaussians": 21, "neighbours": 12, "cutoff": 6.0}


def real_and_random():
    rng = np.random.default_rng(1)
    crystals = decorated()[0][::90]
    structures = list(crystals.structures())
    structures += [s.make_supercell([[2, 0, 0], [0, 1, 0], [1, 0, 1]], in_place=False) for s in structures[:3]]
    for _ in range(3):
        structures.append(Structure(Lattice.from_parameters(4, 5, 6, 80, 95, 105), [3, 9, 12], rng.random((3, 3))))
    for structure in structures[:2]:  # noise far below what counts, some at a boundary of rounding
        noisy = structure.copy().perturb(1e-6)
        structures.append(noisy)
    return Crystals.from_structures(structures)


@pytest.fixture(scope="module")
def both():
    crystals = real_and_random()
    return [build_graphs(crystals, neighbours=12, cutoff=6.0, merge=merge) for merge in (False, True)]


def test_symmetry_equivalent_atoms_are_one_node_and_atoms_are_kept(both):
    full, merged = both
    assert len(merged.numbers) < 0.6 * len(full.numbers)
    np.testing.assert_array_equal(full.n_atoms, merged.n_atoms)
    for i in range(len(full)):
        a, b = (slice(g.node_offsets[i], g.node_offsets[i + 1]) for g in both)
        found = np.repeat(merged.numbers[b], merged.node_counts[b])
        np.testing.assert_array_equal(np.sort(found), np.sort(full.numbers[a]))
    bonds = np.add.reduceat(merged.edge_counts.astype(int), merged.edge_offsets[:-1])
    assert (bonds * merged.node_counts).sum() == len(full.distances)


def test_perovskite_has_three_nodes():
    perovskite = Structure(
        Lattice.cubic(3.9),
        ["Sr", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )
    merged = build_graphs(Crystals.from_structures([perovskite]), neighbours=12, cutoff=8.0)
    assert merged.numbers.tolist() == [38, 22, 8]
    assert merged.node_counts.tolist() == [1, 1, 3]
    assert merged.edge_counts[: merged.edge_offsets[1]].tolist() == [12]  # strontium: twelve oxygens


def test_answers_and_gradients_are_the_same(both):
    outputs, gradients = [], []
    for graphs in both:
        torch.manual_seed(0)
        network = CGCNN(**SIZES)
        out = network(graphs.batch(np.arange(len(graphs))))
        (out * torch.arange(len(out))).sum().backward()
        outputs.append(out.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    torch.testing.assert_close(outputs[0], outputs[1], atol=2e-5, rtol=1e-4)
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 1 - 1e-6


def test_different_atoms_stay_apart():
    """Two sites of one element whose first neighbours agree and whose second neighbours do not."""
    chain = Structure(Lattice.orthorhombic(4.0, 9.0, 9.0), ["Na", "Na"], [[0, 0, 0], [0.5, 0, 0]])
    other = Structure(
        Lattice.orthorhombic(8.1, 9.0, 9.0), ["Na"] * 4, [[0, 0, 0], [0.25, 0, 0], [0.5, 0, 0], [0.76, 0, 0]]
    )
    merged = build_graphs(Crystals.from_structures([chain, other]), neighbours=6, cutoff=8.0)
    assert np.diff(merged.node_offsets).tolist()[0] == 1
    assert np.diff(merged.node_offsets).tolist()[1] > 1


def test_merging_twice_is_refused(both):
    merged = both[1]
    names = ("node_offsets", "numbers", "node_counts", "edge_offsets", "neighbours", "distances", "edge_counts")
    with pytest.raises(ValueError, match="merged before"):
        merge_equal(*[getattr(merged, name) for name in names])
