"""The Materials Project's data set made of CIF files: read back by the experiments, held against the reference data."""

import os

import numpy as np
import pandas as pd
import pytest
from mp_data import write_list
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from typer.testing import CliRunner

from sluice.cli import app
from sluice.datasets.registry import local_copy, registry, require_data
from sluice.errors import BadDataError, MissingProgramError, SluiceError
from sluice.experiments import mp_convert
from sluice.experiments.cubicgan_data import CUBIC_FILE, KnownCrystals, crystal_keys, read_cubic
from sluice.experiments.mp_convert import convert_mp_structures
from sluice.experiments.mp_structures import FILES, read_structures, read_table

NEEDS_DATA = pytest.mark.skipif("SLUICE_DATA" not in os.environ, reason="SLUICE_DATA names no folder of reference data")
PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.84), ["Ca", "Fe", "O"], [[0.5] * 3, [0] * 3, [0.5, 0, 0]]
)
HEUSLER = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(6.13281), ["Ir", "Sn", "Li"], [[0] * 3, [0.5] * 3, [0.25] * 3]
)
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
STRUCTURES = {
    "mp-1": PEROVSKITE,
    "mp-2": HEUSLER.get_primitive_structure(),
    "mp-3": SALT * (2, 2, 1),
    "mp-4": SALT * (2, 2, 2),
    "mp-5": SALT,  # of which no label is known
}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder of CIFs, and label tables in a data folder of their own."""
    cifs, data = tmp_path / "cif", tmp_path / "data"
    cifs.mkdir()
    for name, structure in STRUCTURES.items():
        CifWriter(structure).write_file(cifs / f"{name}.cif")
    properties = data / "mp_properties"
    properties.mkdir(parents=True)
    for name in registry()["mp_properties"].required:
        (properties / name).touch()
    for file, ids, column, rows in (
        ("mp-formation.csv.gz", "task_id", "formation_energy_per_atom", {"mp-1": -2.5, "mp-3": -2.1}),
        ("MP-bandgap.csv.gz", "task_id", "band_gap", {"mp-4": 5.0}),
        ("mpid_formula_sp.csv.gz", "material_id", "spacegroup", {"mp-1": 221, "mp-3": 225}),
    ):
        pd.DataFrame({ids: list(rows), column: list(rows.values())}).to_csv(properties / file, index=False)
    for name in registry()["tsdnn_labels"].required:
        write_list(data / "tsdnn_labels" / name, pd.DataFrame({"id": ["mp-2"], "label": [1]}))
    monkeypatch.setenv("SLUICE_DATA", str(data))
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path / "cache"))
    return cifs


def test_what_is_made_is_what_the_experiments_read(published, tmp_path):
    result = CliRunner().invoke(app, ["data", "convert", "mp_structures", str(published)])
    assert result.exit_code == 0, result.output
    assert "4 structures" in result.output
    folder = local_copy("mp_structures")
    assert folder == tmp_path / "cache" / "data" / "mp_structures"
    assert sorted(path.name for path in folder.iterdir()) == sorted(registry()["mp_structures"].required)
    ids, crystals = read_structures(folder, STRUCTURES, 1000)
    assert sorted(ids) == ["mp-1", "mp-2", "mp-3", "mp-4"]
    for name, found in zip(ids, crystals.structures(), strict=True):
        assert found.composition == STRUCTURES[name].composition
        assert found.lattice.parameters == pytest.approx(STRUCTURES[name].lattice.parameters, abs=1e-4)
        assert found.matches(STRUCTURES[name])
    sizes = [len(np.load(folder / file)["material_id"]) for file in FILES]
    assert sizes == [2, 1, 1]
    table = read_table(folder).set_index("material_id")
    assert table["formula"].to_dict() == {"mp-1": "CaFeO3", "mp-2": "IrLi2Sn", "mp-3": "ClNa", "mp-4": "ClNa"}
    assert table["e_form"].dropna().to_dict() == {"mp-1": -2.5, "mp-3": -2.1}
    assert table["band_gap"].dropna().to_dict() == {"mp-4": 5.0}
    assert table["e_form_mp20"].isna().all()
    assert table["spacegroup"].dropna().to_dict() == {"mp-1": 221, "mp-2": 225, "mp-3": 225}, "spglib's of ternaries"
    assert table["cubicgan_like"].to_dict() == {"mp-1": 1, "mp-2": 1, "mp-3": 0, "mp-4": 0}
    data, names, formulas = read_cubic(folder)
    assert names == ["mp-1", "mp-2"] and formulas == ["CaFeO3", "IrLi2Sn"]
    assert data.lengths == pytest.approx([3.84, 6.13281]) and data.space_groups.tolist() == [221, 225]
    assert "CaFeO3" in KnownCrystals(folder)


def test_files_that_cannot_be_used_are_named(published, tmp_path, monkeypatch, capsys):
    (published / "mp-2.cif").write_text("data_x\n_cell_length_a what?\n")
    with pytest.raises(BadDataError, match=r"1 of 4 cannot be used\n  mp-2: cannot be parsed"):
        convert_mp_structures(published, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    (published / "mp-4.cif").write_text("".join((published / f"{name}.cif").read_text() for name in ("mp-4", "mp-1")))
    monkeypatch.setattr(mp_convert, "MAX_BAD_SHARE", 0.5)
    capsys.readouterr()
    assert convert_mp_structures(published, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert (
        "2 of 4 cannot be used\n  mp-2: cannot be parsed" in said and "mp-4: not one structure (2 structures)" in said
    )
    (published / "mp-4.cif").unlink()
    assert convert_mp_structures(published, tmp_path / "out") == 2
    assert "1 of 4 materials with a label have no file there" in capsys.readouterr().err
    (tmp_path / "file").touch()
    with pytest.raises(SluiceError, match=r"file: cannot be written into .*give another --directory"):
        convert_mp_structures(published, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadDataError, match=r"empty: no files mp-\*.cif of materials that a label is known of"):
        convert_mp_structures(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "data" / "mp_properties" / "MP-bandgap.csv.gz").unlink()
    with pytest.raises(MissingProgramError, match="sluice data fetch mp_properties"):
        convert_mp_structures(published, tmp_path / "out")
    result = CliRunner().invoke(app, ["data", "convert", "supercon", str(published)])
    assert result.exit_code == 2 and "mp_structures alone" in " ".join(result.output.split())


@NEEDS_DATA
def test_the_table_is_the_reference_datas(tmp_path):
    """Of two hundred cubic ternaries and as many other crystals, from their structures alone."""
    folder = require_data("mp_structures")
    known = read_table(folder).set_index("material_id")
    cubic = known.index[known["cubicgan_like"] == 1]
    chosen = [*cubic[::40][:200], *known.index[known["cubicgan_like"] == 0][::500][:200]]
    ids, crystals = read_structures(folder, chosen, 60)
    values = {name: mp_convert._values(*where) for name, where in mp_convert.TABLES.items()}
    table = mp_convert._table(ids, crystals, values)
    known = known.loc[ids]
    for column in ("formula", "n_atoms", "n_elements"):
        assert table[column].tolist() == known[column].tolist()
    for column in ("e_form", "band_gap"):
        np.testing.assert_allclose(table[column], known[column], atol=1e-6)
    assert (table["cubicgan_like"].to_numpy() == known["cubicgan_like"].to_numpy()).mean() > 0.98
    mp_convert._cubic(crystals, table).to_csv(tmp_path / CUBIC_FILE, **mp_convert.CSV)
    (mine, names, _), (theirs, all_names, _) = read_cubic(tmp_path), read_cubic(folder)
    place = {name: k for k, name in enumerate(all_names)}
    missing = [name for name in ids if name in place and name not in names]
    assert not missing and len(names) > 150
    assert len(set(names) - set(all_names)) < 0.03 * len(names), "by another space group than the published table's"
    here = [k for k, name in enumerate(names) if name in place]
    there = [place[names[k]] for k in here]
    keys = [crystal_keys(d.space_groups, d.points, d.elements)[k] for d, k in ((mine, here), (theirs, there))]
    assert (keys[0] == keys[1]).all()
    np.testing.assert_allclose(mine.lengths[here], theirs.lengths[there], atol=2e-5)
