"""What rules ask while the DAG is made."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from sluice import dag
from sluice.config import Config, CurateSettings, FilesSettings, Objective, ScreenerSettings, ScreenSettings


def round_(number: int) -> SimpleNamespace:
    return SimpleNamespace(round=str(number))


def test_first_round_has_nothing_before():
    for name in (
        "earlier_decision",
        "earlier_generator",
        "earlier_screener",
        "earlier_validated",
        "earlier_shortlists",
    ):
        assert getattr(dag, name)(round_(1)) == []


def test_later_rounds_look_back():
    assert dag.earlier_decision(round_(3)) == ["round_2/decision.h5"]
    assert dag.earlier_validated(round_(3)) == ["round_1/validate/validated.h5", "round_2/validate/validated.h5"]
    assert dag.earlier_shortlists(round_(2)) == ["round_1/screen/shortlist.h5"]
    assert "round_1/train/generator.ckpt" in dag.earlier_generator(round_(2))
    assert "round_1/train/screener.ckpt" in dag.earlier_screener(round_(2))


def test_only_a_screener_that_draws_waits_for_the_generator():
    assert dag.drawing_generator(ScreenerSettings())(round_(2)) == []
    draws = ScreenerSettings.model_validate({"model": "tsdnn"})
    assert dag.drawing_generator(draws)(round_(2)) == ["round_2/train/generator.ckpt"]
    known = ScreenerSettings.model_validate({"model": "tsdnn", "tsdnn": {"generated": 0}})
    assert dag.drawing_generator(known)(round_(2)) == []


def test_scorer_of_formulas_waits_for_the_wgan_whose_vectors_it_takes():
    def plan(**scorer: str) -> Config:
        sections = {"generator": {"model": "wgan"}, "scorer": scorer}
        return Config.model_validate({"candidates": "compositions", "compositions": sections})

    found = dag.vectors_of_the_generator(plan(model="head", encoding="embedding"))(round_(1))
    assert found == ["round_1/train/composition_generator.ckpt"]
    for other in (plan(), plan(model="head", encoding="magpie")):
        assert dag.vectors_of_the_generator(other)(round_(1)) == []


def test_resources_double_with_every_attempt():
    assert [dag.memory_mb(2000)(None, [], n) for n in (1, 2, 3)] == [2000, 4000, 8000]
    assert [dag.runtime_minutes(30)(None, [], n) for n in (1, 2, 3)] == [30, 60, 120]


def write_cells(path: Path, *sizes: int) -> str:
    """A store of crystals with so many atoms each, as far as its offsets."""
    with h5py.File(path, "w") as store:
        store["crystals/atom_offsets"] = np.cumsum([0, *sizes])
    return str(path)


def test_resources_grow_with_the_atoms_of_the_inputs(tmp_path):
    one, other = write_cells(tmp_path / "one.h5", 4, 40), write_cells(tmp_path / "other.h5", *[5] * 391)
    inputs = [one, other, str(tmp_path / "model.ckpt")]
    assert dag.count_atoms(inputs) == (1999, 40)
    assert dag.memory_mb(2000, per_thousand_atoms=10)(None, [*inputs, write_cells(tmp_path / "c.h5", 1)], 1) == 2020
    assert dag.memory_mb(2000, per_cell_atom=50)(None, inputs, 2) == 2 * (2000 + 50 * 40)
    assert dag.runtime_minutes(120, per_thousand_atoms=1.5)(None, inputs, 1) == 123, "up to the next minute"


def test_inputs_that_tell_no_work_count_as_none_until_they_do(tmp_path):
    path = tmp_path / "batch.h5"
    need = dag.memory_mb(2000, per_cell_atom=100)
    assert need(None, [str(path)], 1) == 2000, "not there yet"
    path.write_bytes(b"")
    assert need(None, [str(path)], 1) == 2000, "not readable"
    write_cells(path)
    assert need(None, [str(path)], 1) == 2000, "empty batches are legal"
    write_cells(path, 7)
    assert need(None, [str(path)], 1) == 2700


def test_settings_are_one_section_as_json():
    config = Config()
    one = json.loads(dag.settings_json(config.screen.geometry)(None))
    assert one == config.screen.geometry.model_dump(mode="json")
    two = json.loads(dag.settings_json(config.screen.geometry, config.stop)(None))
    assert two == [one, {"confirmed": None}]


def test_settings_keep_braces_and_do_not_change_between_runs():
    text = dag.settings_json(Config().validate_)(None)
    assert "{ranks}" in text
    assert text == dag.settings_json(Config.model_validate({}).validate_)(None)


def test_commands_of_rules_find_this_python_first(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    dag.prefer_this_python()
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


def test_every_step_states_its_revision_and_one_without_is_an_error():
    assert dag.revision("train.train_screener") >= 1
    with pytest.raises(ValueError, match="REVISION"):
        dag.revision("train.common")


def test_files_of_the_user_are_inputs(tmp_path):
    assert dag.user_files(CurateSettings()) == []
    folder = tmp_path / "cifs"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.cif", "a.CIF", "deeper/c.cif", "{d}.cif", "notes.txt"):
        (folder / name).write_text("")
    table = tmp_path / "energies.csv"
    settings = CurateSettings(source="files", files=FilesSettings(path=folder, properties=table))
    names = [str(folder / name) for name in ("a.CIF", "b.cif", "deeper/c.cif")]
    assert dag.user_files(settings) == [*names, str(table)]
    single = CurateSettings(source="files", files=FilesSettings(path=tmp_path / "all.extxyz"))
    assert dag.user_files(single) == [str(tmp_path / "all.extxyz")]
    unused = CurateSettings(source="build", files=FilesSettings(path=folder))
    assert dag.user_files(unused) == []


def test_a_table_of_formulas_takes_the_place_of_the_database():
    assert dag.database_of_crystals(Config()) == ["curate/dataset.h5"] and dag.formula_table(Config()) == []
    for path, inputs in (("/data/my table.csv", ["/data/my table.csv"]), ("/data/{x}.csv", [])):
        config = Config.model_validate({"candidates": "compositions", "compositions": {"data": {"path": path}}})
        assert dag.database_of_crystals(config) == [] and dag.formula_table(config) == inputs


def test_models_of_objectives_are_inputs():
    assert dag.objective_models(ScreenSettings()) == []
    by_model = Objective(quantity="output", model=Path("m.ckpt"), direction="maximize")
    assert dag.objective_models(ScreenSettings(objectives=(by_model,))) == ["m.ckpt"]


def test_container_image_is_the_users_or_none(monkeypatch):
    monkeypatch.setenv("SLUICE_CONTAINER", "/images/sluice.sif")
    assert dag.container_image() == "/images/sluice.sif"
    monkeypatch.setenv("SLUICE_CONTAINER", "")
    assert dag.container_image() is None
