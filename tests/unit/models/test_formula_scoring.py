"""From a CSV of formulas to scores, through the one door of all models."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from sluice.chemistry.alloy_features import PUBLISHED, AlloyElements, alloy_features, parse_alloy
from sluice.errors import BadDataError
from sluice.models.dvae import DisentangledVAE
from sluice.models.formula_scoring import read_formula_table
from sluice.models.modelfile import save_model
from sluice.models.scoring import score_input

TABLE = {
    "Fe": {"k": 170.0, "vm": 7.0, "tm": 1800.0, "vac": 8, "ar": 140.0, "chi": 1.8},
    "Ni": {"k": 180.0, "vm": 6.6, "tm": 1700.0, "vac": 10, "ar": 130.0, "chi": 1.9},
    "Al": {"k": 76.0, "vm": 10.0, "tm": 933.0, "vac": 3, "ar": 125.0, "chi": 1.6},
}
ELEMENTS = AlloyElements.from_tables(TABLE, {"Fe,Ni": -2.0, "Al,Fe": -11.0})


@pytest.fixture
def model(tmp_path):
    """A dVAE file of three members."""
    hyperparameters = {"elements": ["Fe", "Ni"], "features": list(PUBLISHED), "members": 3, "hidden": [6]}
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
    ],
)
def test_the_column_of_formulas_is_found(tmp_path, text, table):
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8")
    assert read_formula_table(path) == table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no formulas"),
        (b"formula\n", "holds no formulas"),
        (b"a,b\nFeNi,1\n", "which column holds formulas"),
        (b"\xff\xfe\x00", "not a readable CSV"),
    ],
)
def test_tables_without_formulas_are_refused(tmp_path, content, message):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=message):
        read_formula_table(path)
