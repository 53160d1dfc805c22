"""From a CSV of formulas to scores, through the one door of all models."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from sluice.chemistry.alloy_features import PUBLISHED, AlloyElements, alloy_features, parse_alloy
from sluice.errors import BadDataError
from sluice.models.dvae import DisentangledVAE
from sluice.models.formula_table import read_formula_table
from sluice.models.modelfile import save_model
from sluice.models.scoring import score_input

TABLE = {
    "Fe": {"k": 170.0, "vm": 7.0, "tm": 1800.0, "vac": 8, "ar": 140.0, "chi": 1.8},
    "Ni": {"k": 180.0, "vm": 6.6, "tm": 1700.0, "vac": 10, "ar": 130.0, "chi": 1.9},
    "Al": {"k": 76.0, "vm": 10.0, "tm": 933.0, "vac": 3, "ar": 125.0, "chi": 1.6},
    "Y": {"k": 41.0, "vm": 19.9, "tm": 1799.0, "vac": 3, "ar": 180.0, "chi": 1.2},  # of no training alloy
}
ELEMENTS = AlloyElements.from_tables(TABLE, {"Fe,Ni": -2.0, "Al,Fe": -11.0, "Fe,Y": -1.0})


@pytest.fixture
def model(tmp_path):
    """A dVAE file of three members."""
    hyperparameters = {"elements": ["Fe", "Ni", "Al"], "features": list(PUBLISHED), "members": 3, "hidden": [6]}
    network = DisentangledVAE(**hyperparameters)
    network.initialize([0, 1, 2], None)
    network.fit_features(torch.rand(20, 8) * 100)
    path = tmp_path / "model.ckpt"
    save_model(
        path,
        kind="dvae",
        task="classification",
        hyperparameters=hyperparameters,
        state=network.state_dict(),
        facts={"alloy_elements": ELEMENTS.plain()},
    )
    return path, network.eval()


def scored(path, text, tmp_path):
    (tmp_path / "in.csv").write_text(text)
    score_input(path, tmp_path / "in.csv", tmp_path / "out.csv", device="cpu")
    with (tmp_path / "out.csv").open() as handle:
        return list(csv.DictReader(handle))


def test_score_is_the_members_mean_probability(model, tmp_path, capsys):
    path, network = model
    rows = scored(path, "Alloys\nAl0.5Fe\nFe\nXx\nAlNi\nFeNi\n", tmp_path)
    assert [row["id"] for row in rows] == ["Al0.5Fe", "Fe", "Xx", "AlNi", "FeNi"]
    fractions = ELEMENTS.fractions([parse_alloy(f) for f in ("Al0.5Fe", "Fe", "FeNi")])
    features = torch.tensor(alloy_features(fractions, ELEMENTS), dtype=torch.float32)
    expected = network.probabilities(features)[..., 0].mean(0).detach().numpy()
    assert np.allclose([float(rows[k]["score"]) for k in (0, 1, 4)], expected, atol=1e-5)
    assert rows[2]["score"] == "" and "Xx" in rows[2]["reason"]
    assert 0 < float(rows[3]["score"]) < 1 and rows[3]["reason"] == "estimated mixing enthalpy of Al-Ni"
    assert rows[4]["reason"] == ""
    said = capsys.readouterr().err
    assert "1 of 5 have no score" in said and "AlNi" not in said


def test_ids_are_kept(model, tmp_path):
    rows = scored(model[0], "material_id,formula\nm-1,FeNi\n", tmp_path)
    assert rows[0]["id"] == "m-1" and rows[0]["formula"] == "FeNi" and 0 < float(rows[0]["score"]) < 1


def test_every_row_of_a_strangers_file_has_its_row(model, tmp_path):
    """Spellings of one alloy, repeats, an empty cell, a decimal comma, unknown elements: one row each, in order."""
    written = ["Al0.5FeNi", "Al5Fe10Ni10", " Al0.5 Fe Ni ", "(FeNi)2Al", "Al20Fe40Ni40", "Al0.5FeNi"]
    others = ['""', "FeAl0,5Ni", "FeXe", "FeY", "Al0.5FeNi;2"]
    rows = scored(model[0], "Formula\n" + "\n".join([*written, *others]) + "\n\n", tmp_path)
    assert [row["formula"] for row in rows[:6]] == [text.strip() for text in written]
    assert len({row["score"] for row in rows[:6]}) == 1 and 0 < float(rows[0]["score"]) < 1
    empty, comma, unknown, outside, odd = rows[6:]
    assert [row["score"] for row in (empty, comma, unknown, odd)] == [""] * 4
    assert empty["reason"] == "empty formula" and unknown["reason"] == "no properties of Xe"
    # The first cell alone, FeAl0, would be iron.
    assert comma["formula"] == "FeAl0,5Ni" and "write decimal points" in comma["reason"]
    assert "';' cannot be read" in odd["reason"]
    assert 0 < float(outside["score"]) < 1 and outside["reason"] == "no training alloy holds Y"


def test_structures_are_refused_by_a_model_of_compositions(model, tmp_path):
    (tmp_path / "cifs").mkdir()
    with pytest.raises(BadDataError, match="scores compositions; give a CSV with a column `formula`"):
        score_input(model[0], tmp_path / "cifs", tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("FeNi\nNaN\n", [("FeNi", "FeNi"), ("NaN", "NaN")]),
        ("\ufeffFormula\nFeNi\n\n", [("FeNi", "FeNi")]),
        ("anything\nFeNi\n", [("FeNi", "FeNi")]),
        ("note,composition,id\nx,FeNi,7\n", [("7", "FeNi")]),
        ("formula,id\nFeNi\n", [("", "FeNi")]),
        ("# mine\n\nAlloy Composition (at.%),Phase\nFeNi,BCC\n", [("FeNi", "FeNi")]),
        ("ID,HEA,melts\n7,FeNi,1700\n", [("7", "FeNi")]),
        ("alloy_id;alloy name;Phase\na-1;FeNi;FCC\n", [("a-1", "FeNi")]),
        ("name,Phase\nFeNi,FCC\n", [("FeNi", "FeNi")]),
        ("formula,note\nFeNi,x\n,\n", [("FeNi", "FeNi"), ("", "")]),
    ],
)
def test_the_column_of_formulas_is_found(tmp_path, text, table):
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8")
    assert [(row.id, row.formula) for row in read_formula_table(path)] == table
    assert not any(row.problem for row in read_formula_table(path))


def test_rows_with_more_cells_than_columns_are_not_trusted(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,formula\na,AlCo0,5CrFe\nb,FeNi,\n")
    cut, good = read_formula_table(path)
    assert cut.id == "a" and cut.problem.startswith("3 cells in 2 columns")
    assert good == ("b", "FeNi", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no formulas"),
        (b"formula\n", "holds no formulas"),
        (b"a,b\nFeNi,FCC\n", "which column holds formulas"),
        (b"a,b\nx1,2\n", "which column holds formulas"),
        (b"\xff\xfe\x00", "not a readable CSV"),
    ],
)
def test_tables_without_formulas_are_refused(tmp_path, content, message):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=message):
        read_formula_table(path)
