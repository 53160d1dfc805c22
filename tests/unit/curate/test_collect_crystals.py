"""Collecting crystals: what is built and what is left to discover; what is read, and when too much of it is bad."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from sluice.chemistry.read_crystals import DUPLICATE_ID, NOT_FINITE, OVERLAP, UNPARSABLE
from sluice.config import BuildSettings, Chemistry, CurateSettings, FilesSettings
from sluice.curate.collect_crystals import build_crystals, choose_formulas, collect_crystals
from sluice.curate.user_crystals import NO_ENERGY
from sluice.errors import BadDataError, ConfigError
from sluice.store import Store

CHEMISTRY = Chemistry(elements=("Li", "Na", "Mg", "F", "Cl"))
CIF = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
K1 K 0.5 0.5 0.5
Mg1 Mg 0 0 0
F1 F 0.5 0 0
F2 F 0 0.5 0
F3 F 0 0 {z}
"""


def collect(tmp_path, settings, *, seed=1):
    out = tmp_path / "out" / "crystals.h5"
    collect_crystals(settings=settings, chemistry=CHEMISTRY, seed=seed, campaign="c", crystals=out)
    return out


def of_files(path, **more):
    limit = more.pop("max_bad_fraction", 0.5)
    return CurateSettings(source="files", files=FilesSettings(path=path, **more), max_bad_fraction=limit)


@pytest.fixture
def folder(tmp_path):
    cifs = tmp_path / "cifs"
    cifs.mkdir()
    (cifs / "cubic.cif").write_text(CIF.format(z="0.5"))
    (cifs / "shifted.cif").write_text(CIF.format(z="0.35"))
    (cifs / "overlap.cif").write_text(CIF.format(z="0.02"))
    (cifs / "junk.cif").write_text("nothing of use")
    return cifs


def test_build_counts_and_columns(tmp_path):
    with Store(collect(tmp_path, CurateSettings()), "crystals") as store:
        n = len(store)
        assert store.counts == {"in": 0, "made": n, "merged": 0, "out": n, "rejected": 0, "failed": 0}
        assert store.attributes["campaign"] == "c"
        assert set(store.text("prototype")) == {
            "half-heusler", "heusler", "perovskite", "K2PtCl6", "MgZrF6", "Mg3NF3", "Ca6LiGe"
        }  # fmt: skip
        assert set(store.column("space_group").tolist()) == {216, 221, 225}
        assert len(set(store.ids())) == n


def test_a_formula_is_drawn_whole_or_not_at_all():
    everything = build_crystals(BuildSettings(share=1.0), CHEMISTRY, 1)
    half = build_crystals(BuildSettings(share=0.5), CHEMISTRY, 1)
    all_formulas, drawn = everything[3].reduced_formulas(), half[3].reduced_formulas()
    assert len(set(drawn)) == round(0.5 * len(set(all_formulas)))
    for formula in set(drawn):
        assert drawn.count(formula) == all_formulas.count(formula)
    assert set(half[0]) < set(everything[0])


def test_everything_is_as_many_as_there_are_decorations():
    # 5 elements on 3 sites: 60 orders, 30 where two sites are interchangeable
    assert len(build_crystals(BuildSettings(share=1.0), CHEMISTRY, 1)[0]) == 3 * 60 + 4 * 30


def test_seed_decides_and_element_order_does_not():
    first = build_crystals(BuildSettings(), CHEMISTRY, 1)[0]
    turned = Chemistry(elements=tuple(reversed(CHEMISTRY.elements)))
    assert first == build_crystals(BuildSettings(), CHEMISTRY, 1)[0] == build_crystals(BuildSettings(), turned, 1)[0]
    assert first != build_crystals(BuildSettings(), CHEMISTRY, 2)[0]


def test_cap_and_choice_of_prototypes():
    ids, names, groups, crystals = build_crystals(BuildSettings(max_crystals=30), CHEMISTRY, 1)
    assert 25 <= len(ids) <= 30 and len(crystals) == len(ids)
    ids, names, groups, _ = build_crystals(BuildSettings(prototypes=("perovskite",), share=1.0), CHEMISTRY, 1)
    assert set(names) == {"perovskite"} and set(groups.tolist()) == {221} and len(ids) == 60
    only = Chemistry(elements=CHEMISTRY.elements, space_groups=(216,))
    assert set(build_crystals(BuildSettings(), only, 1)[1]) == {"half-heusler"}
    with pytest.raises(ConfigError, match=r"perovskite.*216"):
        build_crystals(BuildSettings(prototypes=("perovskite",)), only, 1)


def test_choose_formulas_keeps_the_given_order():
    formulas = ["B", "A", "B", "C", "D", "A"]
    chosen = choose_formulas(formulas, 0.5, 100, 3)
    assert np.array_equal(chosen, np.sort(chosen))
    assert len({formulas[i] for i in chosen}) == 2


def test_files_are_read_and_bad_ones_listed(tmp_path, folder):
    with Store(collect(tmp_path, of_files(folder)), "crystals") as store:
        assert store.ids() == ["cubic", "shifted"]
        assert store.counts == {"in": 4, "made": 0, "merged": 0, "out": 2, "rejected": 2, "failed": 0}
        assert store.text("prototype") == ["", ""]
        assert store.column("space_group").tolist() == [221, 99]
        assert np.isnan(store.column("formation_energy_ev_per_atom")).all()
        failures = store.failures()
        assert dict(zip(failures.candidate_id, failures.reason, strict=True)) == {
            "overlap": OVERLAP,
            "junk": UNPARSABLE,
        }
        assert all(failures.detail)


def test_provenance_holds_the_digest_of_folder_and_table(tmp_path, folder):
    table = tmp_path / "energies.csv"
    table.write_text("id,formation_energy_ev_per_atom\ncubic,-1.0\nshifted,-0.5\n")

    def digests() -> dict[str, str]:
        with Store(collect(tmp_path, of_files(folder, properties=table)), "crystals") as store:
            return json.loads(store.attributes["inputs_sha256"])

    first = digests()
    assert len(first) == 2
    (folder / "shifted.cif").write_text(CIF.format(z="0.36"))
    second = digests()
    assert sorted(Path(name).name for name in second if second[name] != first[name]) == ["cifs"]


def test_too_many_bad_rows_stop_with_the_list(tmp_path, folder):
    for i in range(30):
        (folder / f"junk{i:02d}.cif").write_text("nothing")
    with pytest.raises(BadDataError) as caught:
        collect(tmp_path, of_files(folder, max_bad_fraction=0.4))
    message = str(caught.value)
    assert "32 of 34 rows are bad" in message and "curate.max_bad_fraction = 0.4" in message
    assert message.count(UNPARSABLE) == 20 and "and 12 more" in message
    full = tmp_path / "out" / "bad_rows.csv"
    assert str(full) in message
    with full.open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 32 and {r["reason"] for r in rows} == {UNPARSABLE, OVERLAP}
    assert not (tmp_path / "out" / "crystals.h5").exists()
    collect(tmp_path, of_files(folder, max_bad_fraction=1.0))
    assert not full.exists()


def test_the_limit_itself_is_tolerated(tmp_path, folder):
    collect(tmp_path, of_files(folder, max_bad_fraction=0.5))
    with pytest.raises(BadDataError):
        collect(tmp_path, of_files(folder, max_bad_fraction=0.49))


def test_energies_of_the_users_own(tmp_path, folder):
    table = tmp_path / "energies.csv"
    for name in ("twice", "text", "unknown"):
        (folder / f"{name}.cif").write_text(CIF.format(z="0.5"))
    table.write_text("id,e\ncubic,-3.1\nshifted.cif,-2.5\ntwice,-1\ntwice,-2\ntext,low\nelsewhere,-9\n")
    settings = of_files(folder, properties=table, energy_column="e", max_bad_fraction=0.9)
    with Store(collect(tmp_path, settings), "crystals") as store:
        assert store.ids() == ["cubic", "shifted"]
        assert store.column("formation_energy_ev_per_atom").tolist() == [-3.1, -2.5]
        failures = store.failures()
        reasons = dict(zip(failures.candidate_id, failures.reason, strict=True))
    assert reasons["twice"] == DUPLICATE_ID
    assert reasons["text"] == NOT_FINITE
    assert reasons["unknown"] == NO_ENERGY
    assert "elsewhere" not in reasons


@pytest.mark.parametrize(("text", "missing"), [("", "id, e"), ("id,f\na,1\n", "no column e"), ("name,e\n", "id")])
def test_tables_without_the_columns_are_refused(tmp_path, folder, text, missing):
    table = tmp_path / "energies.csv"
    table.write_text(text)
    with pytest.raises(BadDataError, match=missing):
        collect(tmp_path, of_files(folder, properties=table, energy_column="e"))


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "cifs").mkdir()
    with pytest.raises(BadDataError, match="no crystals in it"):
        collect(tmp_path, of_files(tmp_path / "cifs"))
