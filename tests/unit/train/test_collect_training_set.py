from dataclasses import replace

import numpy as np
import pytest
from crystals_for_models import decorated, shortlist_of, write_dataset, write_shortlist, write_validated

from sluice.store import Store
from sluice.train.collect_training_set import HELD_OUT, collect_training_set


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "dataset.h5", elements=(8, 9, 11, 12))


def test_first_round_is_the_database(dataset, tmp_path):
    collect_training_set(dataset=dataset, validated=[], shortlists=[], round=1, training_set=tmp_path / "set.h5")
    with Store(dataset) as before, Store(tmp_path / "set.h5", "dataset") as after:
        assert after.ids() == before.ids()
        assert after.text("split") == before.text("split")
        assert after.structure_hashes() == before.structure_hashes()
        assert not after.column("confirmed").any()
        assert not after.column("label_round").any()
        assert after.attributes["campaign"] == "unit"


def test_dft_rows_join_training_only(dataset, tmp_path):
    new = decorated((3, 17, 19))[0][:4]
    with Store(dataset) as store:
        held_out = store.crystals()[np.flatnonzero(store.column("split") == b"test")[:1]]
    both = type(new).concatenate([new, held_out])
    validated = write_validated(
        tmp_path / "validated.h5",
        both,
        [-1.0, -2.0, -3.0, np.nan, -4.0],
        corrected=[np.nan, -2.5, np.nan, np.nan, -4.5],
        converged=[True, True, False, True, True],
        confirmed=[False, True, False, False, True],
    )
    collect_training_set(
        dataset=dataset,
        validated=[validated],
        shortlists=[shortlist_of(validated)],
        round=2,
        training_set=tmp_path / "set.h5",
    )
    with Store(tmp_path / "set.h5", "dataset") as store, Store(dataset) as before:
        rows = store.rows(len(before))
        assert [i.decode() for i in rows.candidate_id] == ["r1-b0-0000000", "r1-b0-0000001"]
        # The corrected energy where it is defined, else the raw one.
        assert rows.columns["formation_energy_ev_per_atom"].tolist() == [-1.0, -2.5]
        assert rows.columns["confirmed"].tolist() == [False, True]
        assert rows.columns["label_round"].tolist() == [1, 1]
        assert set(rows.columns["split"].tolist()) == {b"train"}
        assert set(rows.columns["label_source"].tolist()) == {b"dft"}
        assert store.reasons() == {HELD_OUT: 1, "no converged DFT energy": 2}
        counts = store.counts
        assert counts["in"] == len(before) + 5
        assert counts["in"] + counts["made"] - counts["merged"] == counts["out"] + counts["rejected"] + counts["failed"]


def test_splits_stay_disjoint_by_formula(dataset, tmp_path):
    with Store(dataset) as store:
        everything = store.crystals()
    validated = write_validated(tmp_path / "validated.h5", everything, np.full(len(everything), -1.0))
    collect_training_set(
        dataset=dataset,
        validated=[validated],
        shortlists=[shortlist_of(validated)],
        round=2,
        training_set=tmp_path / "set.h5",
    )
    with Store(tmp_path / "set.h5", "dataset") as store:
        formulas = np.array(store.crystals().reduced_formulas())
        split = store.column("split")
        assert (store.column("label_round") > 0).sum() > 10
        train, held_out = set(formulas[split == b"train"]), set(formulas[split != b"train"])
        assert not train & held_out


def test_restarted_calculation_teaches_the_same(dataset, tmp_path):
    crystals = decorated((3, 17, 19))[0][:3]
    noisy = replace(crystals, lattice=crystals.lattice * (1 + 1e-3), frac_coords=crystals.frac_coords + 1e-4)
    contents = []
    for name, found, energies in (("a", crystals, [-1.0, -2.0, -3.0]), ("b", noisy, [-1.0004, -1.9996, -3.0003])):
        validated = write_validated(tmp_path / f"{name}.h5", found, energies)
        write_shortlist(shortlist_of(validated), crystals)  # both were sent to DFT as the same crystals
        collect_training_set(
            dataset=dataset,
            validated=[validated],
            shortlists=[shortlist_of(validated)],
            round=2,
            training_set=tmp_path / f"{name}_set.h5",
        )
        with Store(tmp_path / f"{name}_set.h5", "dataset") as store:
            contents.append(store.content_sha256)
    assert contents[0] == contents[1]
