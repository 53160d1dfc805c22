"""The experiment on its own data, cut to seconds; and the parts of it that need no data."""

import os
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sluice.config import GeneratorSettings
from sluice.datasets.registry import require_data
from sluice.experiments.cubicgan import EXPERIMENT, CubicGanConfig, Settings
from sluice.experiments.cubicgan_data import crystal_keys, plain_formula, split_by_formula
from sluice.experiments.cubicgan_funnel import Sites, distances
from sluice.experiments.cubicgan_stability import Judged, shares
from sluice.experiments.experiment import Job
from sluice.experiments.folders import read_metrics

NEEDS_DATA = pytest.mark.skipif("SLUICE_DATA" not in os.environ, reason="SLUICE_DATA names no folder of reference data")


def judged(above, *, novel=True, unique=True, made=4.0, relaxed=4.0):
    return Judged("KMgF3", -3.0, above, made, relaxed, novel, unique, "")


def test_only_what_is_stable_unique_and_novel_counts():
    nan = float("nan")
    rows = [
        judged(0.05, made=4.2), judged(-0.01), judged(0.2), judged(0.0, novel=False), judged(0.0, unique=False),
        judged(nan, relaxed=nan),
    ]  # fmt: skip
    found = shares(rows, 0.1)
    assert found["sun"] == pytest.approx(2 / 6)
    assert found["sun_on_hull"] == pytest.approx(1 / 6)
    assert found["stable"] == pytest.approx(4 / 6)
    assert found["relaxed"] == pytest.approx(5 / 6)
    assert found["length_mae_angstrom"] == pytest.approx(0.2 / 5)


def test_a_set_in_which_nothing_is_left_has_no_shares():
    found = shares([], 0.1)
    assert found.pop("n") == 0 and found.keys() == shares([judged(0.0)], 0.1).keys() - {"n"}
    assert np.isnan(list(found.values())).all()
    none = Sites(np.zeros(0, int), np.zeros((0, 3), int), np.zeros((0, 3), int), np.zeros(0))
    some = Sites(np.array([221]), np.array([[0, 42, 21]]), np.array([[19, 12, 9]]), np.array([4.0]))
    for made, real in ((none, some), (some, none)):
        assert np.isnan(list(distances(made, real).values())).all()
    assert distances(none, some).keys() == distances(some, some).keys()


def test_formulas_in_alphabetical_order():
    structure = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(4), ["K", "Mg", "F"], [[0.5] * 3, [0] * 3, [0.5, 0, 0]]
    )
    structure.make_supercell([2, 1, 1])
    assert plain_formula(structure) == plain_formula("KMgF3") == "F3KMg"


def test_a_formula_is_in_one_part_of_the_split():
    formulas = [f"X{i % 40}" for i in range(200)]
    split = split_by_formula(formulas, 3)
    assert set(split) == {"train", "val", "test"}
    for i in range(40):
        assert len(set(split[i::40])) == 1
    assert (split == split_by_formula(formulas, 3)).all()


def test_keys_know_a_crystal_in_every_description():
    points, elements = np.array([[0, 42, 21], [42, 0, 21], [0, 21, 42]]), np.array([[19, 12, 9]] * 3)
    keys = crystal_keys(np.full(3, 225), points, elements)
    assert keys[0] == keys[1] != keys[2]
    assert crystal_keys(np.full(1, 216), points[:1], elements[:1])[0] not in keys


def test_equal_distributions_have_no_distance():
    sites = Sites(
        np.array([225, 221]), np.array([[0, 42, 21], [0, 42, 2]]), np.array([[19, 12, 9]] * 2), np.array([5.0, 4.0])
    )
    assert all(value == pytest.approx(0, abs=1e-7) for value in distances(sites, sites).values())
    other = Sites(sites.space_groups, sites.points, sites.elements, sites.lengths + 0.5)
    found = distances(other, sites)
    assert found["distance_lattice_constant"] == pytest.approx(0.5)
    assert found["distance_elements"] == pytest.approx(0, abs=1e-7)


@NEEDS_DATA
@pytest.mark.long
def test_from_the_data_to_the_table(tmp_path):
    config = CubicGanConfig(
        experiment="cubicgan",
        title="t",
        paper="p",
        device="cpu",
        data_folders={name: require_data(name) for name in ("mp_structures", "elemental_refs_hull")},
        settings=Settings(
            samples=4000,
            critic_samples=4000,
            critic_share=0.01,
            relaxed=2,
            generator=GeneratorSettings(epochs=2, random_elements=0.5),
        ),
    )
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    EXPERIMENT.prepare(config, prepared)
    runs: dict[str, list[Path]] = {}
    for part in EXPERIMENT.parts(config):
        folder = tmp_path / part.variant
        folder.mkdir()
        needed = {name: runs[name] for name in part.needs}
        EXPERIMENT.run(config, Job(part.variant, 0, 1, prepared, needed, folder, tmp_path / "ckpt" / part.variant, 1))
        runs[part.variant] = [folder]
    counts = {name: values[0] for name, values in read_metrics(runs["draws"][0]).items()}
    assert counts["random_drawn"] == 4000
    steps = [counts[f"random_{name}"] for name in ("drawn", "distinct", "geometry", "symmetry", "charge", "unique")]
    assert steps == sorted(steps, reverse=True)
    table = EXPERIMENT.compare(config, prepared, runs)
    quantities = [row.quantity for row in table.rows]
    assert "S.U.N., the critic's favourites" in quantities
    assert len(quantities) == len(set(quantities))
    known = next(row for row in table.rows if row.quantity.startswith("held-out") and row.quantity.endswith(": novel"))
    assert known.sluice_mean == 0  # what is in the Materials Project is found there
    again = EXPERIMENT.compare(config, prepared, runs)
    assert [row.sluice_mean for row in again.rows] == pytest.approx(
        [row.sluice_mean for row in table.rows], nan_ok=True
    )
