import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from sluice.crystals import Crystals
from sluice.models import graphs as graphs_module
from sluice.models.graphs import Graphs, build_graphs, usable

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
    return build_graphs(Crystals.from_structures(structures), neighbours=12, cutoff=CUTOFF, merge=False)


def edges_of(graphs, i):
    """For each atom of graph i: partners and distances."""
    for node in range(graphs.node_offsets[i], graphs.node_offsets[i + 1]):
        part = slice(graphs.edge_offsets[node], graphs.edge_offsets[node + 1])
        yield graphs.neighbours[part], graphs.distances[part]


def random_structures(count, seed):
    """Cells of all shapes and densities, sparse ones included."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n = int(rng.integers(1, 9))
        lengths, angles = rng.uniform(3.0, 9.0, 3), rng.uniform(65, 115, 3)
        lattice = Lattice.from_parameters(*lengths, *angles)
        scale = np.cbrt(max(1.0, 8.0 * n / lattice.volume))
        yield Structure(Lattice(lattice.matrix * scale), rng.integers(1, 95, n), rng.random((n, 3)) * 4 - 2)


def check_against_pymatgen(graphs, structures, cutoff):
    """CGCNN's own way: all neighbours within the cutoff, sorted by distance, the first twelve."""
    for i, structure in enumerate(structures):
        for (_, distances), found in zip(
            edges_of(graphs, i), structure.get_all_neighbors(cutoff, include_index=True), strict=True
        ):
            expected = sorted(n.nn_distance for n in found)[:12]
            np.testing.assert_allclose(np.sort(distances), expected, atol=2e-3)
            np.testing.assert_allclose(distances.mean() if len(distances) else 0, np.mean(expected or 0), atol=5e-4)


def test_distances_are_pymatgens(structures, graphs):
    check_against_pymatgen(graphs, structures, CUTOFF)


@pytest.mark.parametrize("cutoff", [5.0, 8.0])
def test_distances_of_random_cells_are_pymatgens(cutoff):
    structures = list(random_structures(25, seed=3))
    found = build_graphs(Crystals.from_structures(structures), neighbours=12, cutoff=cutoff, merge=False)
    check_against_pymatgen(found, structures, cutoff)


def test_distances_of_real_structures_are_pymatgens(sluice_data):
    table = np.load(sluice_data / "mp_structures" / "mp_le20.npz")
    offset, rows = table["offset"], np.random.default_rng(0).choice(len(table["cell"]), 30, replace=False)
    structures = [
        Structure(
            Lattice.from_parameters(*table["cell"][i].astype(float)),
            table["z"][offset[i] : offset[i + 1]],
            table["frac"][offset[i] : offset[i + 1]],
        )
        for i in rows
    ]
    found = build_graphs(Crystals.from_structures(structures), neighbours=12, cutoff=8.0, merge=False)
    check_against_pymatgen(found, structures, 8.0)


def test_neighbours_are_where_the_distance_says(structures, graphs):
    for i, structure in enumerate(structures):
        for (indices, distances), found in zip(edges_of(graphs, i), structure.get_all_neighbors(CUTOFF), strict=True):
            pairs = {(n.index, round(n.nn_distance, 3)) for n in found}
            for index, distance in zip(indices, distances, strict=True):
                assert any(index == j and abs(distance - d) < 2e-3 for j, d in pairs)


def test_the_sphere_grows_only_up_to_the_cutoff(graphs):
    sizes = [len(found) for found, _ in edges_of(graphs, 3)]
    assert sizes == [6]  # simple cubic, a = 5.5 Å: only the first shell lies within 6 Å


def test_the_choice_among_ties_does_not_depend_on_the_order_of_atoms():
    """In rock salt the second shell has twelve of one kind; the third, cut through, would be of both."""
    cell = Lattice.cubic(5.6)
    atoms = [("Na", x) for x in ([0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5])]
    atoms += [("Cl", [x + 0.5 for x in point]) for _, point in atoms]
    first = Structure(cell, [e for e, _ in atoms], [x for _, x in atoms])
    second = Structure(cell, [e for e, _ in atoms[::-1]], [x for _, x in atoms[::-1]])
    one, two = (
        build_graphs(Crystals.from_structures([s]), neighbours=10, cutoff=8.0, merge=True) for s in (first, second)
    )
    for a, b in ((one.edge_counts, two.edge_counts), (one.distances, two.distances)):
        np.testing.assert_allclose(np.sort(a), np.sort(b), atol=1e-5)


@pytest.mark.parametrize("merge", [False, True])
def test_batch_equals_parts(structures, merge):
    graphs = build_graphs(Crystals.from_structures(structures), neighbours=12, cutoff=CUTOFF, merge=merge)
    chosen = np.array([3, 0, 2, 0])
    batch = graphs.batch(chosen)
    assert batch.n_atoms.tolist() == [1, 5, 4, 5]
    start = first_edge = 0
    for i, place in zip(chosen, range(4), strict=True):
        rows = slice(graphs.node_offsets[i], graphs.node_offsets[i + 1])
        count = rows.stop - rows.start
        edges = slice(graphs.edge_offsets[rows.start], graphs.edge_offsets[rows.stop])
        here = slice(first_edge, first_edge + edges.stop - edges.start)
        np.testing.assert_array_equal(batch.numbers[start : start + count], graphs.numbers[rows])
        np.testing.assert_array_equal(batch.node_counts[start : start + count], graphs.node_counts[rows])
        assert (batch.crystals[start : start + count] == place).all()
        np.testing.assert_array_equal(batch.neighbours[here] - start, graphs.neighbours[edges])
        np.testing.assert_array_equal(batch.distances[here], graphs.distances[edges])
        np.testing.assert_array_equal(batch.edge_counts[here], graphs.edge_counts[edges])
        assert (np.diff(batch.centres) >= 0).all()
        start, first_edge = start + count, here.stop


def test_selecting_and_joining(graphs):
    parts = graphs[np.array([2, 0])], graphs[1:2]
    joined = Graphs.concatenate(list(parts))
    one, two = joined.batch(np.arange(3)), graphs.batch(np.array([2, 0, 1]))
    for name in ("numbers", "neighbours", "distances", "centres", "n_atoms"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert graphs.n_atoms.tolist() == [5, 2, 4, 1]


def test_chunks_do_not_matter(structures, graphs, monkeypatch):
    monkeypatch.setattr(graphs_module, "ATOMS_PER_CHUNK", 6)
    parts = build_graphs(Crystals.from_structures(structures), neighbours=12, cutoff=CUTOFF, merge=False)
    np.testing.assert_array_equal(parts.neighbours, graphs.neighbours)
    np.testing.assert_array_equal(parts.node_offsets, graphs.node_offsets)


def test_no_crystals_no_graphs():
    graphs = build_graphs(Crystals.empty(), neighbours=12, cutoff=CUTOFF)
    assert len(graphs) == 0
    assert len(graphs.batch(np.zeros(0, np.int64))) == 0


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
