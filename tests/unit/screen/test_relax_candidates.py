"""Relaxation with the real CHGNet."""

import numpy as np
import pytest

from sluice.config import RANKABLE, RelaxSettings
from sluice.crystals import Crystals
from sluice.schemas import SCHEMAS
from sluice.screen.relax_candidates import bring_to_contact, perturb, relax_candidates
from sluice.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib


@pytest.fixture
def relax(tmp_path):
    def go(path, batch=0, name="out.h5", **settings):
        relax_candidates(
            candidates=path,
            settings=RelaxSettings(batches=2, **settings),
            symprec=0.1,
            seed=1,
            batch=batch,
            device="cpu",
            relaxed=tmp_path / name,
        )
        return tmp_path / name

    return go


def test_a_stretched_perovskite_finds_its_lattice_constant(crystal, write_store, relax, reasons_of):
    path = write_store("selected.h5", "selected", [crystal["perovskite"]("K", "Mg", "F", 4.3)], ["c1"], space_group=221)
    out = relax(path)
    assert reasons_of(out) == {}
    with Store(out, "relaxed") as store:
        assert store.ids() == ["c1-relaxed"]
        assert store.rows().parent_id.tolist() == [b"c1"]
        relaxed = store.crystals()
        # Experiment: 3.989 Å (Burley et al., J. Solid State Chem. 16, 209, 1976); PBE and CHGNet lie above.
        assert np.cbrt(relaxed.volumes[0]) == pytest.approx(4.03, abs=0.06)
        assert store.column("volume_change")[0] == pytest.approx(relaxed.volumes[0] / 4.3**3)
        assert store.column("relaxed_space_group").tolist() == [221]
        # Materials Project (corrected PBE, mp-3448): -3.53 eV/atom; CHGNet was fitted to that scale.
        assert store.column("mlip_formation_energy_ev_per_atom")[0] == pytest.approx(-3.5, abs=0.15)
        assert 0 <= store.column("max_force_ev_per_angstrom")[0] < 0.05


def test_a_result_does_not_depend_on_the_batch(crystal, write_store, relax):
    structures = [crystal["perovskite"](a, "Mg", "F", 4.2) for a in ("K", "Rb", "Na")]
    ids = ["a", "b", "c"]
    split = write_store("split.h5", "selected", structures, ids, batch=[0, 1, 0])
    together = write_store("together.h5", "selected", structures, ids, batch=0)
    with Store(relax(split, batch=0, name="0.h5")) as first, Store(relax(split, batch=1, name="1.h5")) as second:
        parts = {
            **dict(zip(first.ids(), first.structure_hashes(), strict=True)),
            second.ids()[0]: second.structure_hashes()[0],
        }
        assert first.ids() == ["a-relaxed", "c-relaxed"]
    with Store(relax(together, name="all.h5")) as store:
        assert dict(zip(store.ids(), store.structure_hashes(), strict=True)) == parts


def test_failures_have_reasons(crystal, write_store, relax, reasons_of):
    path = write_store("selected.h5", "selected", [crystal["perovskite"]("K", "Mg", "F", 4.6)], ["slow"])
    assert reasons_of(relax(path, max_steps=1))["slow"][:2] == ("failed", "not converged")
    path = write_store("wide.h5", "selected", [crystal["perovskite"]("K", "Mg", "F", 4.6)], ["wide"])
    kind, reason, detail = reasons_of(relax(path, max_volume_change=1.2, name="wide_out.h5"))["wide"]
    assert (kind, reason) == ("failed", "collapsed")
    assert "limit 1/1.2" in detail
    path = write_store("empty_space.h5", "selected", [crystal["perovskite"]("K", "Mg", "F", 19.0)], ["apart"])
    assert reasons_of(relax(path, rescale=False, name="apart_out.h5"))["apart"][0] == "failed"


def test_cells_start_from_where_atoms_touch(crystal, write_store, relax):
    sizes = {"overlapping": 2.6, "right": 4.0, "loose": 19.0}
    structures = [crystal["perovskite"]("K", "Mg", "F", a) for a in sizes.values()]
    path = write_store("sizes.h5", "selected", structures, list(sizes))
    with Store(relax(path), "relaxed") as store:
        assert store.ids() == [f"{name}-relaxed" for name in sizes]
        assert np.ptp(store.crystals().volumes) < 0.02 * store.crystals().volumes.mean()
    moved = bring_to_contact(Crystals.from_structures(structures))
    assert moved.lattice[1, 0, 0] == 4.0  # left alone where nothing is wrong
    assert moved.volumes[0] == pytest.approx(moved.volumes[2])


def test_perturbations_are_repeatable_and_of_the_size_asked_for(crystal):
    start = Crystals.from_structures([crystal["perovskite"]("K", "Mg", "F", 4.0)])
    once, again, other = (perturb(start, 0.1, 7, name) for name in ("a", "a", "b"))
    assert np.array_equal(once.frac_coords, again.frac_coords)
    assert not np.array_equal(once.frac_coords, other.frac_coords)
    shift = (once.frac_coords - start.frac_coords) @ start.lattice[0]
    assert 0.03 < np.sqrt((shift**2).mean()) < 0.25
    assert perturb(start, 0.0, 7, "a") is start


def test_a_batch_with_nothing_to_do_gives_an_empty_store(crystal, write_store, relax):
    path = write_store("selected.h5", "selected", [crystal["perovskite"]("K", "Mg", "F", 4.0)], batch=0)
    with Store(relax(path, batch=1), "relaxed") as store:
        assert len(store) == 0
    none = write_store("none.h5", "selected", Crystals.empty())
    with Store(relax(none, name="none_out.h5"), "relaxed") as store:
        assert len(store) == 0
        assert store.counts["in"] == 0


def test_what_can_be_ranked_by_is_what_is_written(crystal, write_store, relax):
    """The configuration's list of quantities, which must not import the table of schemas or this step."""
    path = write_store("selected.h5", "selected", [crystal["perovskite"]("K", "Mg", "F", 4.0)], ["c1"])
    with Store(relax(path, batch=1), "relaxed") as store:
        written = {name for name, column in store.columns.items() if column.dtype[0] in "fiu"}
    assert set(RANKABLE) == written and len(set(RANKABLE)) == len(RANKABLE)
    assert {name for name, column in SCHEMAS["relaxed"][1].items() if column.dtype[0] in "fiu"} <= set(RANKABLE)
