"""CHGNet through our wrapper: known energies, relaxations that end as they should, nothing raised or printed."""

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from sluice.chemistry.symmetry import space_group
from sluice.crystals import Crystals
from sluice.errors import SluiceError
from sluice.models.potential import (
    energies,
    formation_energies,
    load_chgnet,
    reference_energies,
    relax,
    why_no_energy,
)

ENERGY_TOLERANCE = 1e-5  # eV/atom: single precision, other batches
# Formation energies in eV/atom of relaxed crystals on the Materials Project's corrected scale as CHGNet gave them
# with elemental references of the same project, measured apart from this code; references differ by snapshot.
FORMATION = {"NaCl": -2.074, "MgO": -3.059, "SrTiO3": -3.579}
FORMATION_TOLERANCE = 0.05
ELEMENT_TOLERANCE = 0.15  # eV/atom: CHGNet's own error, which is why its energies of elements are not the zero


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _space_group(crystal):
    return space_group(crystal.lattice[0], crystal.frac_coords, crystal.numbers, 1e-3)


def salt(cation, anion, length):
    return Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(length), [cation, anion], [[0, 0, 0], [0.5] * 3]
    ).get_primitive_structure()


def perovskite(length):
    return Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(length), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]
    )


@pytest.fixture(scope="module")
def known():
    return Crystals.from_structures([salt("Na", "Cl", 5.8), salt("Mg", "O", 4.3), perovskite(4.0)])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")  # CHGNet's own
def test_energies_equal_chgnets_own(known):
    model = load_chgnet("cpu")
    expected = [float(model.predict_structure(s, task="e")["e"]) for s in known.structures()]
    assert energies(known, device="cpu") == pytest.approx(expected, abs=ENERGY_TOLERANCE)


def test_batches_and_repeats_do_not_matter(known):
    many = known[np.array([0, 1, 2, 2, 1, 0, 0])]
    one = energies(many, device="cpu", batch_size=16)
    assert np.array_equal(one, energies(many, device="cpu", batch_size=16))
    assert energies(many, device="cpu", batch_size=2) == pytest.approx(one, abs=ENERGY_TOLERANCE)


def test_relaxed_formation_energies(known):
    relaxed = list(relax(known, max_force=0.02, max_steps=50, device="cpu"))
    assert [r.reason for r in relaxed] == ["", "", ""]
    assert all(r.converged and r.max_force < 0.02 for r in relaxed)
    found = formation_energies(
        Crystals.concatenate([r.crystal for r in relaxed]), np.array([r.energy for r in relaxed])
    )
    assert found == pytest.approx(list(FORMATION.values()), abs=FORMATION_TOLERANCE)


def test_relaxation_finds_the_same_minimum_from_both_sides_and_keeps_symmetry(known):
    stretched = Crystals.from_structures([perovskite(4.5), perovskite(3.6)])
    one, two = relax(stretched, max_force=0.02, max_steps=100, device="cpu")
    assert one.converged and two.converged
    assert one.crystal.volumes[0] == pytest.approx(two.crystal.volumes[0], rel=0.01)
    assert one.energy == pytest.approx(two.energy, abs=1e-3)
    assert _space_group(one.crystal) == 221
    (again,) = relax(stretched[:1], max_force=0.02, max_steps=100, device="cpu")
    assert np.array_equal(again.crystal.lattice, one.crystal.lattice) and again.energy == one.energy


def test_collapsed_and_exploded_crystals_are_given_up_at_once_and_others_not_touched():
    """From 3.6 Å the cell grows by 1.35 in volume, from 4.5 Å it shrinks by as much, from 4.0 Å it stays."""
    crystals = Crystals.from_structures([perovskite(a) for a in (3.6, 4.5, 4.0)])
    free = list(relax(crystals, max_force=0.02, max_steps=100, device="cpu"))
    bound = list(relax(crystals, max_force=0.02, max_steps=100, max_volume_change=1.1, device="cpu"))
    assert all(r.converged for r in free)
    assert [(r.reason, r.converged) for r in bound] == [("exploded", False), ("collapsed", False), ("", True)]
    for one, other, start in zip(bound[:2], free[:2], crystals.volumes, strict=False):
        assert 0 < one.steps < other.steps and np.isnan(one.energy)
        ratio = one.crystal.volumes[0] / start
        assert 1.1 < max(ratio, 1 / ratio) < 1.3  # stopped on the way
        assert "limit" in one.detail
    assert (bound[2].energy, bound[2].steps, bound[2].max_force) == (free[2].energy, free[2].steps, free[2].max_force)
    assert np.array_equal(bound[2].crystal.lattice, free[2].crystal.lattice)
    assert np.array_equal(bound[2].crystal.frac_coords, free[2].crystal.frac_coords)


def test_cell_forces_count_for_convergence():
    """Symmetry makes all forces on atoms vanish here, so only the cell can be what has not converged."""
    (result,) = relax(Crystals.from_structures([perovskite(4.5)]), max_force=0.02, max_steps=0, device="cpu")
    assert not result.converged
    assert result.reason == "not converged" and result.max_force > 0.02
    assert np.isfinite(result.energy)


def test_impossible_crystals_come_back_with_reasons():
    lattice = np.stack([np.eye(3) * 9.0, np.eye(3) * 0.7, np.full((3, 3), np.nan), np.eye(3) * 4.2])
    numbers = np.array([11, 17, 11, 17, 11, 17, 96, 17], np.uint8)
    frac = np.tile([[0.0, 0, 0], [0.5, 0.5, 0.5]], (4, 1))
    crystals = Crystals(lattice, np.arange(0, 9, 2, dtype=np.int64), numbers, frac)
    results = list(relax(crystals, max_force=0.05, max_steps=5, device="cpu"))
    assert [r.reason for r in results] == ["exploded", "collapsed", "not a number", "unknown element"]
    assert all(not r.converged and np.isnan(r.energy) and r.detail for r in results)
    assert np.isnan(energies(crystals, device="cpu")).all()
    assert "no neighbour within 6 Å" in why_no_energy(crystals)


def test_one_bad_crystal_does_not_harm_the_others(known):
    bad = Crystals(np.eye(3)[None] * 9.0, np.array([0, 1]), np.array([11], np.uint8), np.zeros((1, 3)))
    found = energies(Crystals.concatenate([known[:1], bad, known[1:]]), device="cpu")
    assert np.isnan(found[1])
    assert np.delete(found, 1) == pytest.approx(energies(known, device="cpu"), abs=ENERGY_TOLERANCE)


@pytest.mark.parametrize(
    ("element", "group", "length"), [("Al", "Fm-3m", 4.04), ("Na", "Im-3m", 4.2), ("Si", "Fd-3m", 5.43)]
)
def test_elemental_references_are_on_chgnets_scale(element, group, length):
    crystal = Structure.from_spacegroup(group, Lattice.cubic(length), [element], [[0, 0, 0]]).get_primitive_structure()
    (result,) = relax(Crystals.from_structures([crystal]), max_force=0.02, max_steps=50, device="cpu")
    assert result.energy == pytest.approx(reference_energies()[crystal[0].specie.Z], abs=ELEMENT_TOLERANCE)


def test_references_cover_what_a_campaign_may_use():
    from pymatgen.core import Element

    from sluice.config import SUPPORTED_ELEMENTS

    assert all(np.isfinite(reference_energies()[Element(e).Z]) for e in SUPPORTED_ELEMENTS)


def test_an_element_has_no_formation_energy_and_an_unknown_one_none():
    crystals = Crystals(
        np.tile(np.eye(3) * 4.0, (2, 1, 1)), np.array([0, 1, 2]), np.array([13, 96], np.uint8), np.zeros((2, 3))
    )
    found = formation_energies(crystals, np.array([reference_energies()[13], -1.0]))
    assert found[0] == 0.0
    assert np.isnan(found[1])


def test_nothing_in_nothing_out(capsys):
    assert len(energies(Crystals.empty(), device="cpu")) == 0
    assert len(formation_energies(Crystals.empty(), np.zeros(0))) == 0
    assert list(relax(Crystals.empty(), max_force=0.05, max_steps=5)) == []


def test_silent(known, capsys):
    load_chgnet.cache_clear()
    assert len(list(relax(known[:1], max_force=0.05, max_steps=5, device="cpu"))) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(SluiceError, match="cuda"):
        load_chgnet("cuda")
