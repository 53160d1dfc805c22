"""Reading a user's crystals: good ones as they are, each kind of bad one with its reason."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write

from sluice.chemistry.read_crystals import (
    DISORDERED,
    DUPLICATE_ID,
    LONG_ID,
    NO_CELL,
    NOT_FINITE,
    OVERLAP,
    UNKNOWN_ELEMENT,
    UNPARSABLE,
    closest_pair,
    read_crystals,
)
from sluice.crystals import Crystals
from sluice.errors import BadDataError
from sluice.schemas import ENERGY
from sluice.store import StoreWriter

MIN_DISTANCE = 0.5


def cif(*sites, length="5.64", block="data_x", group="P 1"):
    """A CIF text; sites are (element, x, y, z, occupancy)."""
    rows = "\n".join(f"{s[0]}{i} {' '.join(str(v) for v in s)}" for i, s in enumerate(sites))
    return f"""{block}
_symmetry_space_group_name_H-M   '{group}'
_cell_length_a {length}
_cell_length_b {length}
_cell_length_c {length}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{rows}
"""


GOOD = cif(("Na", 0, 0, 0, 1), ("Cl", 0.5, 0.5, 0.5, 1))
BAD = {
    "empty": ("", UNPARSABLE),
    "prose": ("Dear editor, please find enclosed.", UNPARSABLE),
    "binary": ("\x00\x01\xff" * 40, UNPARSABLE),
    "cut": (GOOD[:150], UNPARSABLE),
    "words-for-numbers": (cif(("Na", "zero", 0, 0, 1), ("Cl", 0.5, 0.5, 0.5, 1)), UNPARSABLE),
    "nan-coordinate": (cif(("Na", "nan", 0, 0, 1), ("Cl", 0.5, 0.5, 0.5, 1)), NOT_FINITE),
    "nan-cell": (cif(("Na", 0, 0, 0, 1), ("Cl", 0.5, 0.5, 0.5, 1), length="nan"), NOT_FINITE),
    "overlap": (cif(("Na", 0, 0, 0, 1), ("Cl", 0.01, 0, 0, 1)), OVERLAP),
    "overlap-across-the-border": (cif(("Na", 0.01, 0, 0, 1), ("Cl", 0.97, 0, 0, 1)), OVERLAP),
    "same-place": (cif(("Na", 0, 0, 0, 1), ("Cl", 0, 0, 0, 1)), OVERLAP),
    "partial": (cif(("Na", 0, 0, 0, 0.5), ("Cl", 0.5, 0.5, 0.5, 1)), DISORDERED),
    "shared": (cif(("Na", 0, 0, 0, 0.5), ("K", 0, 0, 0, 0.5), ("Cl", 0.5, 0.5, 0.5, 1)), DISORDERED),
    "unknown": (cif(("Xq", 0, 0, 0, 1), ("Cl", 0.5, 0.5, 0.5, 1)), UNKNOWN_ELEMENT),
    "tiny-cell": (cif(("Na", 0, 0, 0, 1), ("Cl", 0.5, 0.5, 0.5, 1), length="0.1"), NO_CELL),
    "no-cell": (cif(("Na", 0, 0, 0, 1), ("Cl", 0.5, 0.5, 0.5, 1), length="0"), UNPARSABLE),
}


def read(path):
    return list(read_crystals(path, min_distance=MIN_DISTANCE))


def test_a_good_cif(tmp_path):
    (tmp_path / "salt.cif").write_text(GOOD)
    (reading,) = read(tmp_path)
    assert (reading.name, reading.reason) == ("salt", "")
    assert reading.crystal.reduced_formulas() == ["NaCl"]
    assert reading.crystal.volumes[0] == pytest.approx(5.64**3)


@pytest.mark.parametrize("name", BAD)
def test_each_kind_of_bad_cif_has_its_reason_and_spares_the_others(tmp_path, name):
    text, reason = BAD[name]
    (tmp_path / "a-good.cif").write_text(GOOD)
    (tmp_path / f"{name}.cif").write_text(text, encoding="latin-1")
    (tmp_path / "z-good.CIF").write_text(GOOD)
    readings = {r.name: r for r in read(tmp_path)}
    assert readings[name].reason == reason, readings[name].detail
    assert readings[name].crystal is None
    assert [readings[n].reason for n in ("a-good", "z-good")] == ["", ""]


def test_duplicate_ids_keep_the_first(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "salt.cif").write_text(GOOD)
    assert [r.reason for r in read(tmp_path)] == ["", DUPLICATE_ID]


def test_a_bad_namesake_does_not_use_up_the_id(tmp_path):
    for folder, text in (("one", "nonsense"), ("two", GOOD)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "salt.cif").write_text(text)
    assert [r.reason for r in read(tmp_path)] == [UNPARSABLE, ""]


def test_every_block_of_a_cif(tmp_path):
    (tmp_path / "two.cif").write_text(GOOD + "\n" + GOOD.replace("data_x", "data_y").replace("Na", "K"))
    assert [(r.name, r.crystal.reduced_formulas()) for r in read(tmp_path / "two.cif")] == [
        ("two", ["NaCl"]),
        ("two_2", ["KCl"]),
    ]


def test_a_bad_block_of_a_cif_spares_the_others(tmp_path):
    bad = GOOD.replace("data_x", "data_y").replace("Na", "Xq")
    header = "data_global\n_journal_name_full 'Acta'\n_publ_manuscript_incl_extra_item '_atom_site_label'\n"
    (tmp_path / "some.cif").write_text(header + GOOD + "\n" + bad + "\n" + GOOD.replace("Na", "K"))
    readings = read(tmp_path / "some.cif")
    assert [r.name for r in readings] == ["some", "some_2", "some_3"]
    assert [r.crystal and r.crystal.reduced_formulas() for r in readings] == [["NaCl"], None, ["KCl"]]
    assert readings[1].reason == UNKNOWN_ELEMENT
    unparsable = BAD["words-for-numbers"][0].replace("data_x", "data_y")
    (tmp_path / "other.cif").write_text(GOOD + "\n" + unparsable)
    readings = read(tmp_path / "other.cif")
    assert [r.reason for r in readings] == ["", UNPARSABLE] and "block data_y" in readings[1].detail


def test_further_blocks_leave_files_their_names(tmp_path):
    (tmp_path / "salt.cif").write_text(GOOD + "\n" + GOOD.replace("data_x", "data_y").replace("Na", "K"))
    (tmp_path / "salt_2.cif").write_text(GOOD.replace("Na", "Rb"))
    readings = read(tmp_path)
    assert {r.name: r.crystal.reduced_formulas() for r in readings} == {
        "salt": ["NaCl"],
        "salt_3": ["KCl"],
        "salt_2": ["RbCl"],
    }


def test_long_ids_are_named_not_cut(tmp_path):
    (tmp_path / f"{'x' * 90}.cif").write_text(GOOD)
    (reading,) = read(tmp_path)
    assert reading.reason == LONG_ID and "x" * 90 in reading.detail
    assert len(reading.name.encode()) <= 64


def test_extxyz_frames(tmp_path):
    first, second, flat, apart = (bulk("NaCl", "rocksalt", a=5.6) for _ in range(4))
    first.info.update(id="salt-1", formation_energy_ev_per_atom=-2.1)
    flat.pbc = False
    apart.positions[1] = apart.positions[0] + 0.01
    file = tmp_path / "many.extxyz"
    write(file, [first, second, flat, apart], format="extxyz")
    readings = read(file)
    assert [r.reason for r in readings] == ["", "", NO_CELL, OVERLAP]
    assert [r.name for r in readings] == ["salt-1", "many-1", "many-2", "many-3"]
    assert readings[0].values["formation_energy_ev_per_atom"] == -2.1


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [("Na ", "Xq ", UNKNOWN_ELEMENT), ("2.80000000", "two", UNPARSABLE), ("2.80000000", "nan", NOT_FINITE)],
)
def test_a_bad_frame_spares_the_others(tmp_path, old, new, reason):
    file = tmp_path / "many.xyz"
    write(file, [bulk("NaCl", "rocksalt", a=5.6)] * 3, format="extxyz")
    lines = file.read_text().splitlines()
    lines[4:8] = [line.replace(old, new) for line in lines[4:8]]
    file.write_text("\n".join(lines) + "\n")
    assert [r.reason for r in read(file)] == ["", reason, ""]


def test_a_cut_off_extxyz(tmp_path):
    file = tmp_path / "many.xyz"
    write(file, [bulk("NaCl", "rocksalt", a=5.6)] * 2, format="extxyz")
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    assert [r.reason for r in read(file)] == ["", UNPARSABLE]
    file.write_text("not xyz at all\n")
    assert [r.reason for r in read(file)] == [UNPARSABLE]


def test_a_store(tmp_path):
    lattice = np.tile(np.eye(3) * 5.0, (3, 1, 1))
    lattice[1] = np.nan
    crystals = Crystals(
        lattice,
        np.array([0, 2, 4, 6]),
        np.array([11, 17] * 3, np.uint8),
        np.tile([[0.0, 0, 0], [0.5, 0.5, 0.5]], (3, 1)),
    )
    columns = {"prototype": ["", "", ""], "space_group": [221, 0, 221], "energy": [-1.0, -2.0, np.nan]}
    with StoreWriter(tmp_path / "some.h5", "crystals", columns={"energy": ENERGY}) as writer:
        writer.append(["a", "b", "c"], columns, crystals=crystals)
    readings = read(tmp_path / "some.h5")
    assert [(r.name, r.reason) for r in readings] == [("a", ""), ("b", NOT_FINITE), ("c", "")]
    assert readings[0].values == {"energy": -1.0}


def test_neither_folder_nor_known_file(tmp_path):
    file = tmp_path / "crystals.pkl"
    file.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(BadDataError, match="neither a folder"):
        read(file)


def test_closest_pair_sees_periodic_images():
    lattice = np.eye(3) * 4.0
    assert closest_pair(lattice, np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]), 0.5) is None
    found = closest_pair(lattice, np.array([[0.05, 0, 0], [0.97, 0, 0]]), 0.5)
    assert found is not None and found[2] == pytest.approx(0.32)
    assert closest_pair(np.diag([0.4, 5.0, 5.0]), np.zeros((1, 3)), 0.5) == (0, 0, pytest.approx(0.4))
