import numpy as np
import pytest
import torch
from crystals_for_models import decorated
from pymatgen.core import Structure

from sluice.crystals import Crystals
from sluice.models.cgcnn import CGCNN
from sluice.models.graphs import build_graphs

SIZES = {"hidden_size": 12, "head_size": 8, "convolutions": 2, "gaussians": 21, "neighbours": 12, "cutoff": 6.0}
TOLERANCE = 2e-5  # of single precision sums in another order


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = CGCNN(**SIZES)
    graphs = build_graphs(decorated()[0][::20], neighbours=12, cutoff=6.0)
    with torch.no_grad():  # give batch normalization statistics that are not trivial
        for _ in range(20):
            net(graphs.batch(np.arange(len(graphs))))
    return net.eval()


def outputs(network, structures):
    graphs = build_graphs(Crystals.from_structures(structures), neighbours=12, cutoff=6.0)
    with torch.no_grad():
        return network(graphs.batch(np.arange(len(graphs)))).numpy()


@pytest.fixture(scope="module")
def structures():
    return list(decorated()[0][::40].structures())


def test_different_crystals_differ(network, structures):
    assert np.unique(np.round(outputs(network, structures), 4)).size > len(structures) / 2


def test_order_of_atoms_does_not_matter(network, structures):
    rng = np.random.default_rng(1)
    shuffled = [Structure.from_sites([s[int(i)] for i in rng.permutation(len(s))]) for s in structures]
    np.testing.assert_allclose(outputs(network, shuffled), outputs(network, structures), atol=TOLERANCE)


def test_supercells_do_not_matter(network, structures):
    larger = [s.make_supercell([[2, 0, 0], [0, 1, 0], [1, 0, 1]], in_place=False) for s in structures]
    np.testing.assert_allclose(outputs(network, larger), outputs(network, structures), atol=TOLERANCE)


def test_rotation_and_shift_do_not_matter(network, structures):
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    moved = [
        Structure(s.lattice.matrix @ turn.T, s.species, s.frac_coords + np.array([0.13, 0.77, 0.41]))
        for s in structures
    ]
    np.testing.assert_allclose(outputs(network, moved), outputs(network, structures), atol=TOLERANCE)


def test_output_does_not_depend_on_company(network, structures):
    together = outputs(network, structures)
    alone = np.array([outputs(network, [s])[0] for s in structures])
    np.testing.assert_allclose(alone, together, atol=TOLERANCE)


def test_volume_matters(network, structures):
    grown = [Structure(s.lattice.matrix * 1.2, s.species, s.frac_coords) for s in structures]
    assert np.abs(outputs(network, grown) - outputs(network, structures)).max() > 1e-3
