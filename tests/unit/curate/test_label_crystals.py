"""Labelling: built crystals get CHGNet's lattice and energy, the user's stay as they are, failures have reasons."""

import numpy as np
import pytest
import torch

from sluice.config import BuildSettings, Chemistry, CurateSettings, FilesSettings
from sluice.crystals import Crystals
from sluice.curate.collect_crystals import collect_crystals
from sluice.curate.label_crystals import NO_REFERENCE, USER, label_crystals
from sluice.models.potential import NAME, energies
from sluice.schemas import ENERGY
from sluice.store import Store, StoreWriter

BUILD = CurateSettings(build=BuildSettings(max_crystals=30, prototypes=("perovskite", "half-heusler"), share=1.0))
FILES = CurateSettings(source="files", files=FilesSettings(path="somewhere"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def label(crystals, settings, out, *, batches=1, batch=0):
    label_crystals(crystals=crystals, settings=settings, batches=batches, batch=batch, device="cpu", labelled=out)
    return out


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("built") / "crystals.h5"
    chemistry = Chemistry(elements=("K", "Mg", "F"))
    collect_crystals(settings=BUILD, chemistry=chemistry, seed=1, campaign="c", crystals=path)
    return path


@pytest.fixture(scope="module")
def whole(built, tmp_path_factory):
    return label(built, BUILD, tmp_path_factory.mktemp("whole") / "labelled.h5")


def test_lattice_and_formation_energy_of_a_known_crystal(whole):
    with Store(whole, "labelled") as store:
        i = store.ids().index("perovskite_K-Mg-F")
        # experiment: 3.99 Å; our PBE value -3.288 eV/atom with MP2020's correction for F (-0.462 eV/atom of F): -3.565
        assert np.cbrt(store.crystals(i, i + 1).volumes[0]) == pytest.approx(4.0, abs=0.1)
        assert store.column("formation_energy_ev_per_atom")[i] == pytest.approx(-3.565, abs=0.1)
        assert set(store.text("label_source")) == {NAME}
        assert store.attributes["campaign"] == "c"


def test_the_lattice_is_that_of_lowest_energy(whole):
    with Store(whole, "labelled") as store:
        crystals = store.crystals()

    def scaled(factor):
        larger = Crystals(crystals.lattice * factor, crystals.atom_offsets, crystals.numbers, crystals.frac_coords)
        return energies(larger, device="cpu")

    here = scaled(1.0)
    assert (here < scaled(1.04)).all() and (here < scaled(0.96)).all()


def test_batches_divide_the_rows_and_change_nothing(built, whole, tmp_path):
    parts = [label(built, BUILD, tmp_path / f"{k}.h5", batches=2, batch=k) for k in range(2)]
    ids, values = [], []
    for k, part in enumerate(parts):
        with Store(part, "labelled") as store, Store(built) as origin:
            assert store.counts["in"] == len(origin.ids()[k::2])
            assert store.counts["in"] == store.counts["out"] + store.counts["failed"]
            ids += store.ids()
            values += store.column("formation_energy_ev_per_atom").tolist()
    with Store(whole) as store:
        expected = dict(zip(store.ids(), store.column("formation_energy_ev_per_atom"), strict=True))
    assert sorted(ids) == sorted(expected)
    assert values == pytest.approx([expected[i] for i in ids], abs=1e-4)


def test_more_batches_than_crystals_give_empty_stores(built, tmp_path):
    with Store(label(built, BUILD, tmp_path / "e.h5", batches=1000, batch=999), "labelled") as store:
        assert len(store) == 0 and store.counts["in"] == 0


def test_labelling_twice_gives_the_same_store(built, whole, tmp_path):
    with Store(label(built, BUILD, tmp_path / "again.h5")) as again, Store(whole) as first:
        assert again.content_sha256 == first.content_sha256


@pytest.fixture
def users(tmp_path):
    lattice = np.tile(np.eye(3) * 3.4, (4, 1, 1))
    lattice[2] *= 4  # atoms without neighbours
    crystals = Crystals(
        lattice,
        np.arange(0, 9, 2, dtype=np.int64),
        np.array([55, 17, 55, 17, 55, 17, 84, 17], np.uint8),
        np.tile([[0.0, 0, 0], [0.5, 0.5, 0.5]], (4, 1)),
    )
    path = tmp_path / "users.h5"
    columns = {
        "prototype": [""] * 4,
        "space_group": [221] * 4,
        "formation_energy_ev_per_atom": [-2.2, np.nan, np.nan, np.nan],
    }
    with StoreWriter(path, "crystals", columns={"formation_energy_ev_per_atom": ENERGY}) as writer:
        writer.append(["given", "bare", "far-apart", "polonium"], columns, crystals=crystals)
    return path, crystals


def test_the_users_energies_are_kept_and_the_rest_labelled_as_it_is(users, tmp_path):
    path, crystals = users
    with Store(label(path, FILES, tmp_path / "l.h5"), "labelled") as store:
        assert store.ids() == ["given", "bare"]
        assert store.text("label_source") == [USER, NAME]
        assert store.column("formation_energy_ev_per_atom")[0] == -2.2
        assert np.array_equal(store.crystals().lattice, crystals.lattice[:2])
        failures = store.failures()
        assert failures.candidate_id == ["far-apart", "polonium"]
        assert failures.reason == ["no energy", NO_REFERENCE]
        assert "no neighbour" in failures.detail[0]
        assert failures.kind == ["failed", "failed"]
