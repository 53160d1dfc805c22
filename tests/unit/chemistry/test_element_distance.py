"""Element mover's distance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from sluice.chemistry import element_distance
from sluice.chemistry.compositions import Compositions, FormulaError, symbols
from sluice.chemistry.element_distance import (
    SCALE,
    element_distances,
    nearest_compositions,
    scale_positions,
)

# ElMD 0.5.15, metric "mod_petti".
ELMD = [
    ("CaTiO3", "NaCl", 19.60000000000002),
    ("SrTiO3", "BaTiO3", 0.2),
    ("Fe2O3", "Fe3O4", 0.7428571428571413),
    ("Al0.5CoCrFeNi", "NbTaTiZr", 16.30555555555556),
    ("H2O", "UO2", 24.333333333333336),
    ("YBa2Cu3O7", "La1.85Sr0.15CuO4", 6.185164835164826),
    ("He", "H", 102.0),
    ("Ca3(PO4)2", "KMgF3", 8.784615384615378),
]


def random_compositions(n, seed, largest=6):
    rng = np.random.default_rng(seed)
    rows = []
    for size in rng.integers(1, 6, n):
        elements = rng.choice(np.arange(1, 104), size, replace=False).tolist()
        rows.append(dict(zip(elements, rng.integers(1, largest, size).tolist(), strict=True)))
    return Compositions.from_rows(rows)


@pytest.mark.parametrize(("first", "second", "distance"), ELMD)
def test_equal_to_elmd(first, second, distance):
    a, b = Compositions.from_formulas([first]), Compositions.from_formulas([second])
    assert element_distances(a, b)[0, 0] == pytest.approx(distance, abs=1e-12)


def test_scale():
    assert len(set(SCALE)) == 103 and set(SCALE) == set(symbols()[1:104])
    assert scale_positions()[[2, 1, 104]].tolist() == [0, 102, -1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_equal_to_the_wasserstein_distance(seed):
    both = random_compositions(2, seed)
    a, b = both[[0]], both[[1]]
    places = scale_positions()
    expected = wasserstein_distance(places[a.numbers], places[b.numbers], a.amounts, b.amounts)
    assert element_distances(a, b)[0, 0] == pytest.approx(expected, abs=1e-12)


def test_a_metric():
    rows = random_compositions(12, 3)
    d = element_distances(rows, rows)
    assert np.allclose(d, d.T) and np.allclose(np.diag(d), 0)
    assert (d[:, :, None] <= d[:, None, :] + d.T[None, :, :] + 1e-9).all()
    assert element_distances(Compositions.from_formulas(["Fe4O6"]), Compositions.from_formulas(["Fe2O3"]))[0, 0] == 0


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_of_all_pairs_agree(monkeypatch, block):
    first, second = random_compositions(5, 6), random_compositions(30, 7)
    expected = element_distances(first, second)
    monkeypatch.setattr(element_distance, "BLOCK", block)
    assert np.allclose(element_distances(first, second), expected, atol=1e-12)
    assert element_distances(first[:0], second).shape == (0, 30) and element_distances(first, second[:0]).shape == (
        5,
        0,
    )


@pytest.mark.parametrize(("k", "threads"), [(1, 1), (3, 1), (40, 1), (3, 2)])
def test_nearest_are_the_nearest(monkeypatch, k, threads):
    monkeypatch.setattr(element_distance, "QUERY_CELL", 7)
    monkeypatch.setattr(element_distance, "KNOWN_CELL", 11)
    queries, known = random_compositions(50, 1), random_compositions(200, 2)
    every = element_distances(queries, known)
    indices, distances = nearest_compositions(queries, known, k, threads=threads)
    assert np.allclose(distances, np.sort(every, axis=1)[:, :k], atol=1e-12)
    assert np.allclose(np.take_along_axis(every, indices, axis=1), distances, atol=1e-12)
    assert all(len(set(row)) == k for row in indices.tolist())


few = st.lists(
    st.dictionaries(st.sampled_from([1, 2, 3, 8, 26, 57, 103]), st.integers(1, 3), min_size=1, max_size=3),
    min_size=1,
    max_size=30,
)  # of few elements in small amounts: many are equal or equally far


@settings(max_examples=60, deadline=None)
@given(few, few, st.integers(1, 8), st.integers(1, 5), st.integers(1, 5))
def test_nearest_equal_to_brute_force(queries, known, k, query_cell, known_cell):
    queries, known, k = Compositions.from_rows(queries), Compositions.from_rows(known), min(k, len(known))
    places = scale_positions()
    sides = [[side[[row]] for row in range(len(side))] for side in (queries, known)]
    every = np.array(
        [
            [wasserstein_distance(places[a.numbers], places[b.numbers], a.amounts, b.amounts) for b in sides[1]]
            for a in sides[0]
        ]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(element_distance, "QUERY_CELL", query_cell)
        patch.setattr(element_distance, "KNOWN_CELL", known_cell)
        indices, distances = nearest_compositions(queries, known, k)
    assert np.allclose(distances, np.sort(every, axis=1)[:, :k], atol=1e-11)
    assert np.allclose(np.take_along_axis(every, indices, axis=1), distances, atol=1e-11)
    assert all(len(set(row)) == k for row in indices.tolist())


def test_few_cells_are_looked_at(monkeypatch):
    monkeypatch.setattr(element_distance, "QUERY_CELL", 10)
    monkeypatch.setattr(element_distance, "KNOWN_CELL", 100)
    known = random_compositions(5000, 4, largest=3)
    done = []
    real = element_distance.cdist
    monkeypatch.setattr(element_distance, "cdist", lambda a, b, m: done.append(len(a) * len(b)) or real(a, b, m))
    _, distances = nearest_compositions(known[:200], known, 1)
    assert not distances.any()  # each finds itself
    assert sum(done) < 0.2 * 200 * 5000


def test_bad_input():
    good = Compositions.from_formulas(["NaCl"])
    with pytest.raises(FormulaError, match="Rf is not on the modified Pettifor scale"):
        element_distances(good, Compositions.from_formulas(["RfO2"]))
    with pytest.raises(FormulaError, match="composition 1 is empty"):
        nearest_compositions(Compositions.from_rows([{}]), good)
    with pytest.raises(ValueError, match="k is 2; allowed are 1 to the number of known compositions, 1"):
        nearest_compositions(good, good, 2)
    indices, distances = nearest_compositions(good[:0], good)
    assert indices.shape == distances.shape == (0, 1)
