"""The equation of state finds minima that are known."""

import numpy as np
import pytest

from sluice.crystals import Crystals
from sluice.curate.equation_of_state import NO_ENERGY, NO_MINIMUM, find_minima, fit_minima, strained

STRAINS = (-0.06, -0.03, 0.0, 0.03, 0.06)


def birch_murnaghan(volume, minimum, energy, bulk, derivative):
    """Third-order Birch-Murnaghan energy (Phys. Rev. 71, 809)."""
    x = (minimum / volume) ** (2 / 3)
    return energy + 9 * minimum * bulk / 16 * ((x - 1) ** 3 * derivative + (x - 1) ** 2 * (6 - 4 * x))


def cubes(lengths):
    n = len(lengths)
    lattice = np.eye(3)[None] * np.asarray(lengths)[:, None, None]
    return Crystals(lattice, np.arange(n + 1, dtype=np.int64), np.full(n, 11, np.uint8), np.zeros((n, 3)))


@pytest.mark.parametrize("derivative", [3.0, 4.0, 6.0])
def test_fit_is_exact_for_birch_murnaghan(derivative):
    strains = np.tile(STRAINS, (3, 1))
    minima = np.array([-0.04, 0.0123, 0.05])
    volumes = (1 + strains) ** 3
    energies = birch_murnaghan(volumes, ((1 + minima) ** 3)[:, None], -3.0, 0.5, derivative)
    strain, energy = fit_minima(strains, energies)
    assert strain == pytest.approx(minima, abs=1e-9)
    assert energy == pytest.approx(np.full(3, -3.0), abs=1e-9)


def test_fit_reports_a_minimum_outside_as_missing():
    strains = np.tile(STRAINS, (2, 1))
    rising = np.array([[0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 0.9, 0.5, 0.9, 1.0]])
    strain, energy = fit_minima(strains, rising)
    assert np.isnan(strain[0]) and np.isnan(energy[0])
    assert strain[1] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("best", [4.0, 4.6, 5.5])
def test_scan_goes_downhill_to_minima_outside_the_first_strains(best):
    seen = []

    def energies_of(crystals):
        seen.append(len(crystals))
        return birch_murnaghan(crystals.volumes, best**3, -2.0, 0.3, 4.0)

    minima = find_minima(cubes([4.5, best]), STRAINS, energies_of)
    assert minima.reason == ["", ""]
    assert 4.5 * (1 + minima.strain[0]) == pytest.approx(best, abs=1e-6)
    assert minima.strain[1] == pytest.approx(0.0, abs=1e-9)
    assert minima.energy == pytest.approx([-2.0, -2.0], abs=1e-9)
    assert seen[0] == 10 and all(later == 2 for later in seen[1:])  # only the crystal that needs it is followed


def test_no_minimum_and_no_energy_are_reasons():
    minima = find_minima(cubes([4.0]), STRAINS, lambda c: -c.volumes)
    assert minima.reason == [NO_MINIMUM]
    assert "+0.30" in minima.detail[0]
    minima = find_minima(cubes([4.5]), STRAINS, lambda c: np.full(len(c), np.nan))
    assert minima.reason == [NO_ENERGY]
    assert np.isnan(minima.strain[0])


def test_missing_energies_far_from_the_minimum_do_no_harm():
    def energies_of(crystals):
        energies = birch_murnaghan(crystals.volumes, 4.0**3, -2.0, 0.3, 4.0)
        energies[crystals.lattice[:, 0, 0] > 4.5 * 1.05] = np.nan
        return energies

    minima = find_minima(cubes([4.5]), STRAINS, energies_of)
    assert minima.reason == [""]
    assert 4.5 * (1 + minima.strain[0]) == pytest.approx(4.0, abs=1e-6)


def test_strained_scales_the_cell_only():
    crystals = cubes([4.0, 5.0])
    found = strained(crystals, np.array([0.1, -0.1]))
    assert found.volumes == pytest.approx([4.4**3, 4.5**3])
    assert np.array_equal(found.frac_coords, crystals.frac_coords)


def test_no_crystals():
    assert len(find_minima(Crystals.empty(), STRAINS, lambda c: np.zeros(len(c))).strain) == 0
