import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sluice.crystals import Crystals
from sluice.models.graphs import build_graphs, usable

CUTOFF = 6.0


@pytest.fixture(scope="module")
def structures():
    rng = np.random.default_rng(7)
    perovskite = Structure(
        Lattice.cubic(4.0),
        ["Sr", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )
    rocksalt = Structure(Lattice([[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]]), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    skewed = Structure(
        Lattice.from_parameters(3.1, 4.7, 9.2, 75, 98, 117), ["Li", "F", "Mg", "O"], rng.random((4, 3)) * 3
    )
    sparse = Structure(Lattice.cubic(5.5), ["Ar"], [[0, 0, 0]])
    return [perovskite, rocksalt, skewed, sparse]


@pytest.fixture(scope="module")
def graphs(structures):
    return build_graphs(Crystals.from_structures(structures), neighbours=12, cutoff=CUTOFF)


def test_distances_are_pymatgens(structures, graphs):
    for i, structure in enumerate(structures):
        rows = slice(graphs.atom_offsets[i], graphs.atom_offsets[i + 1])
        for atom, found in enumerate(structure.get_all_neighbors(CUTOFF)):
            expected = sorted(n.nn_distance for n in found)[:12]
            mask = graphs.mask[rows][atom]
            assert mask.sum() == len(expected)
            np.testing.assert_allclose(graphs.distances[rows][atom][mask], expected, atol=1e-5)


def test_neighbours_are_where_the_distance_says(structures, graphs):
    for i, structure in enumerate(structures):
        rows = slice(graphs.atom_offsets[i], graphs.atom_offsets[i + 1])
        for atom, found in enumerate(structure.get_all_neighbors(CUTOFF)):
            pairs = {(n.index, round(n.nn_distance, 3)) for n in found}
            for index, distance in zip(
                graphs.neighbours[rows][atom][graphs.mask[rows][atom]],
                graphs.distances[rows][atom][graphs.mask[rows][atom]],
                strict=True,
            ):
                assert any(index == j and abs(distance - d) < 2e-3 for j, d in pairs)


def test_few_neighbours_are_masked(graphs):
    assert graphs.mask[-1].sum() == 6  # simple cubic, a = 5.5 Å: only the first shell lies within 6 Å
    assert np.all(graphs.distances[-1][~graphs.mask[-1]] == CUTOFF)


def test_batch_equals_parts(graphs):
    batch = graphs.batch(np.array([3, 0, 2]))
    assert batch.counts.tolist() == [1, 5, 4]
    start = 0
    for i, count in zip([3, 0, 2], batch.counts.tolist(), strict=True):
        rows = slice(graphs.atom_offsets[i], graphs.atom_offsets[i + 1])
        np.testing.assert_array_equal(batch.numbers[start : start + count], graphs.numbers[rows])
        np.testing.assert_array_equal(batch.neighbours[start : start + count] - start, graphs.neighbours[rows])
        np.testing.assert_array_equal(batch.distances[start : start + count], graphs.distances[rows])
        start += count


def test_unusable_crystals_are_told():
    cell = np.eye(3) * 4.0
    flat = np.array([[4.0, 0, 0], [0, 4.0, 0], [4.0, 4.0, 0.0]])
    crystals = Crystals.from_arrays(
        [cell, cell * np.nan, flat, cell * 0.1, cell, cell],
        [[11], [11], [11], [11], [11], []],
        [np.zeros((1, 3))] * 4 + [np.array([[np.nan, 0, 0]]), np.zeros((0, 3))],
    )
    assert usable(crystals).tolist() == [True, False, False, False, False, False]
    with pytest.raises(ValueError, match="crystal 1"):
        build_graphs(crystals, neighbours=12, cutoff=CUTOFF)
