"""Data, splits and choices of TSDNN's experiments, on small files made here."""

import gzip
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from sluice.errors import BadDataError
from sluice.experiments.mp_structures import FILES, cell_vectors, read_structures
from sluice.experiments.tsdnn_candidates_compare import choose, precision_in_top_half
from sluice.experiments.tsdnn_data import (
    folds_by_formula,
    formula_of_id,
    read_candidates,
    read_labels,
    split_by_formula,
)
from sluice.experiments.tsdnn_synthesizability_runs import recall_and_precision

ANGLES = np.array([[3.0, 4.0, 5.0, 90, 90, 90], [4.1, 5.2, 6.3, 71, 98, 113], [5, 5, 5, 60, 60, 60.0]])


def test_cell_vectors_are_pymatgens():
    for parameters, found in zip(ANGLES, cell_vectors(ANGLES), strict=True):
        np.testing.assert_allclose(found, Lattice.from_parameters(*parameters).matrix, atol=1e-10)


@pytest.fixture
def structures(tmp_path):
    """The three files with two small and one large structure."""
    cells = {FILES[0]: [("mp-1", 2), ("mp-2", 1)], FILES[1]: [("mp-3", 30)], FILES[2]: []}
    for file, rows in cells.items():
        counts = np.array([n for _, n in rows], dtype=np.int64)
        np.savez(
            tmp_path / file,
            material_id=np.array([name for name, _ in rows], dtype="U10"),
            cell=np.tile(ANGLES[:1], (len(rows), 1)).astype(np.float32),
            offset=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            z=np.full(int(counts.sum()), 11, np.uint8),
            frac=np.linspace(0, 0.9, int(counts.sum()) * 3, dtype=np.float32).reshape(-1, 3),
        )
    return tmp_path


def test_structures_are_those_wanted_and_small_enough(structures):
    ids, crystals = read_structures(structures, {"mp-2", "mp-3", "mp-9"}, max_atoms=20)
    assert ids == ["mp-2"]
    assert crystals.n_atoms.tolist() == [1]
    ids, crystals = read_structures(structures, {"mp-1", "mp-2", "mp-3"}, max_atoms=50)
    assert ids == ["mp-1", "mp-2", "mp-3"]
    assert crystals.n_atoms.tolist() == [2, 1, 30]


@pytest.fixture
def candidates(tmp_path):
    folder = tmp_path / "paper_results"
    folder.mkdir()
    names = ["8-NaCl-225-1", "8-KCl-225-2"]
    with zipfile.ZipFile(folder / "cifs.zip", "w") as packed:
        for name in names:
            metal = name.split("-")[1].removesuffix("Cl")
            cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.7), [metal, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
            packed.writestr(f"some/../../folder/{name}.cif", str(CifWriter(cell)))
        packed.writestr("some/8-RbCl-225-3.cif", "not a crystal")
    table = pd.DataFrame({"index": [1, 2], "formula": names, "score": [0.9, 0.8], "Eform": [-0.002, 0.0015]})
    table.to_csv(folder / "results.csv", index=False)
    return tmp_path


def test_candidates_come_with_energies_in_ev_and_stay_in_their_folder(candidates):
    found = read_candidates(candidates)
    order = np.argsort(found.names)
    assert [found.names[k] for k in order] == ["8-KCl-225-2", "8-NaCl-225-1"]
    np.testing.assert_allclose(found.formation_energy[order], [1.5, -2.0])
    assert found.crystals.n_atoms.tolist() == [8, 8]
    assert not list(candidates.parent.glob("**/8-NaCl-225-1.cif"))


def test_missing_candidates_are_told(tmp_path):
    with pytest.raises(BadDataError, match=r"results\.csv and cifs\.zip are missing"):
        read_candidates(tmp_path)


def test_labels_are_read_without_a_header_and_counted_once(tmp_path):
    (tmp_path / "datasets").mkdir()
    with gzip.open(tmp_path / "datasets" / "x.csv.gz", "wt") as handle:
        handle.write("mp-1,1\nmp-2,0\nmp-1,1\n")
    assert read_labels(tmp_path, "x.csv.gz").to_dict() == {"mp-1": 1, "mp-2": 0}


def test_no_formula_is_in_two_splits_or_folds():
    formulas = [f"A{k % 90}" for k in range(400)]
    split, fold = split_by_formula(formulas, 3), folds_by_formula(formulas, 5, 3)
    for values in (split, fold):
        assert all(len(set(values[np.array(formulas) == f])) == 1 for f in set(formulas))
    assert set(split) == {"train", "val", "test"} and set(fold) == set(range(5))
    assert 0.5 < (split == "train").mean() < 0.85
    assert (split_by_formula(formulas, 4) != split).any()


def test_formula_of_a_candidates_id():
    assert formula_of_id("36-La(GeO3)2-225-4611188") == "La(GeO3)2"


def test_precision_in_the_better_half():
    assert precision_in_top_half(np.array([1, 0, 1, 0]), np.array([0.9, 0.1, 0.2, 0.8])) == 0.5


def test_recall_and_precision_by_hand():
    found = recall_and_precision(np.array([0.9, 0.4, 0.8, 0.1]), np.array([1, 1, 0, 0]))
    assert found == {"tpr": 0.5, "precision": 0.5, "n_positive": 2}


def test_the_classifier_is_chosen_on_materials(tmp_path):
    runs = {}
    for name, value in (("unseparated", 0.7), ("unseparated_touching", 0.8), ("separated", 0.99)):
        runs[name] = [tmp_path / name]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"val_strained_roc_auc": value}))
    assert choose(runs) == "unseparated_touching"  # the separated labels are of another limit
