"""What duplicates are told by: keys of compositions, fingerprints, patterns that make StructureMatcher answer once."""

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sluice.chemistry import duplicates
from sluice.chemistry.duplicates import DuplicateFinder, Source
from sluice.chemistry.matching import fingerprints, formula_keys, patterns
from sluice.config import DuplicateSettings
from sluice.crystals import Crystals
from sluice.models.orbits import build_crystals, space_group
from sluice.store import StoreWriter


def on_grid(n, seed, elements=(3, 9, 12, 19), sites=3):
    """Random crystals of few elements, so that most compositions occur often in different arrangements."""
    rng = np.random.default_rng(seed)
    numbers = rng.choice([216, 221, 225], n)
    points = []
    for number in numbers:
        group = space_group(number)
        small = np.flatnonzero(group.sizes <= 3)
        points.append(group.representative[rng.choice(small, sites, replace=len(small) < sites)])
    atoms = np.array([rng.choice(elements, sites, replace=False) for _ in range(n)])
    apart = np.array([len(set(p)) == sites for p in points])
    return build_crystals(
        numbers[apart], np.array(points)[apart], atoms[apart], rng.uniform(3, 9, apart.sum())
    ), numbers[apart]


def write(path, crystals, numbers):
    with StoreWriter(path, "symmetry") as writer:
        n = len(crystals)
        columns = {"requested_space_group": numbers, "space_group": numbers}
        columns |= {"min_distance_ratio": np.ones(n), "density_g_per_cm3": np.ones(n)}
        writer.append([f"c-{i:06d}" for i in range(n)], columns, crystals=crystals)
    return path


def test_formula_keys_are_of_the_reduced_composition():
    perovskite = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(4), ["K", "Mg", "F"], [[0.5] * 3, [0] * 3, [0.5, 0, 0]]
    )
    doubled = perovskite.copy()
    doubled.make_supercell([2, 1, 1])
    inverse = perovskite.copy()
    inverse.replace_species({"K": "Mg", "Mg": "K"})
    other = perovskite.copy()
    other.replace_species({"F": "Mg", "Mg": "F"})
    keys = formula_keys(Crystals.from_structures([perovskite, doubled, inverse, other])).tolist()
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_patterns_forget_size_and_elements_but_not_who_sits_where():
    points = np.array([[0, 42, 21]] * 4)  # 4a, 4b, 8c of 225
    elements = np.array([[3, 9, 12], [19, 35, 37], [9, 3, 12], [3, 9, 12]])
    crystals = build_crystals(np.full(4, 225), points, elements, np.array([5.0, 8.0, 5.0, 1.5]))
    found = patterns(crystals).tolist()
    assert found[0] == found[1] != found[2]
    assert found[3] == [0, 0]  # so small that pymatgen's search for smaller cells could take neighbours for one
    assert len({tuple(p) for p in fingerprints(crystals).tolist()}) == 3


def test_what_is_off_the_grid_has_no_pattern():
    shifted = Structure(Lattice.cubic(5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.49]])
    flat = Crystals(np.zeros((1, 3, 3)), np.array([0, 1]), np.array([11], np.uint8), np.zeros((1, 3)))
    with np.errstate(all="ignore"):
        assert not patterns(Crystals.concatenate([Crystals.from_structures([shifted]), flat])).any()


@pytest.mark.parametrize("seed", [1, 2])
def test_remembered_answers_are_structure_matchers(tmp_path, monkeypatch, seed):
    """On-grid crystals at random, each compared anew, and once for every pair of patterns."""
    crystals, numbers = on_grid(260, seed)
    source = Source(write(tmp_path / "s.h5", crystals, numbers), "symmetry", "space_group", "duplicate")
    found = {}
    for name, most in (("remembered", 1_000_000), ("anew", 0)):
        monkeypatch.setattr(duplicates, "MAX_ANSWERS", most)
        with DuplicateFinder([], [source], DuplicateSettings(), tmp_path / "scratch") as finder:
            found[name] = finder.verdicts(0, len(crystals)), finder.matcher.calls
    assert found["remembered"][0] == found["anew"][0]
    assert found["remembered"][1] < found["anew"][1]
    assert 10 < sum(kind == "duplicate" for kind, _ in found["anew"][0]) < len(crystals) - 10
