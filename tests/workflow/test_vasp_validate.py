"""The validate stage with code vasp through Snakemake: atomate2, custodian and the emulator in VASP's place."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from helpers import REPOSITORY, snakemake, write_config

sys.path[:0] = [str(REPOSITORY / "tests" / "emulators" / "vasp"), str(REPOSITORY / "tests" / "unit" / "validate")]

from emulated_energies import EnergyServer  # noqa: E402
from fake_potcars import write_potcars  # noqa: E402
from validate_stand_ins import rock_salt, write_store  # noqa: E402

from sluice.store import Store  # noqa: E402
from sluice.task_library import TaskLibrary  # noqa: E402

RULES = ("plan_tasks", "compute_references", "compute_compounds", "collect_energies")
PROGRAM = REPOSITORY / "tests" / "emulators" / "vasp" / "vasp_std"


def campaign(folder: Path) -> Path:
    """A campaign that has got as far as its shortlist: LiF."""
    workdir = folder / "results" / "vasp"
    ranks = {"rank": np.array([1]), "mlip_formation_energy_ev_per_atom": np.array([-3.0])}
    for name in ("round_1/screen", "curate"):
        (workdir / name).mkdir(parents=True)
    write_store(workdir / "round_1/screen/shortlist.h5", "shortlist", ["r1-a"], [rock_salt("Li", "F", 4.1)], **ranks)
    write_store(workdir / "curate/dataset.h5", "dataset", [], [])
    return write_config(
        folder,
        campaign="vasp",
        chemistry={"elements": ["Li", "Na", "F"]},
        validate={"code": "vasp", "command": str(PROGRAM), "launch": "", "batches": 1},
    )


def validate(config: Path):
    target = "round_1/validate/validated.h5"
    return snakemake(config, "--cores", "1", target, "--allowed-rules", *RULES)


def test_plan_references_compounds_energies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = campaign(tmp_path)
    with tempfile.TemporaryDirectory(prefix="vasp") as emulator:
        monkeypatch.setenv("VASP_EMULATOR", emulator)
        monkeypatch.setenv("PMG_VASP_PSP_DIR", str(write_potcars(tmp_path / "potcars", ["Li", "F", "Na"])))
        with EnergyServer(Path(emulator)):
            done = validate(config)
        runs = [json.loads(line) for line in (Path(emulator) / "runs.jsonl").read_text().splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    with Store(tmp_path / "results/vasp/round_1/validate/validated.h5", "validated") as store:
        assert store.ids() == ["r1-a"]
        raw, corrected = (store.column(f"formation_energy_{kind}ev_per_atom")[0] for kind in ("", "corrected_"))
        # CHGNet's LiF against its own lithium and F2; MP2020 corrects fluorides by -0.462 eV a fluorine.
        assert -3.6 < raw < -2.6 and corrected - raw == pytest.approx(-0.231, abs=1e-6)
        assert store.text("code") == ["vasp"] and store.text("protocol") == ["MPGGADoubleRelaxStaticMaker"]
        assert (
            store.text("setup") == store.text("references") == ["vasp 6.4.2, MPGGADoubleRelaxStaticMaker, PBE, 520 eV"]
        )
        assert store.text("run_type") == ["GGA"] and "MaterialsProject2020" in store.text("corrections")[0]
        assert store.column("confirmed").all() and store.column("space_group").tolist() == [225]
    library = TaskLibrary(tmp_path / "results" / "dft")
    names = sorted(path.name for path in library.path.iterdir())
    assert [name.rpartition("-")[0] for name in names] == ["LiF", "ref-F", "ref-Li"]
    fluorine = library.result(names[1])
    assert fluorine is not None and fluorine["settings"]["relax"] == "ions"
    assert fluorine["potcars"] == {"F": "PAW_PBE F 01Jan1970"}
    boxes = {tuple(np.ravel(run["lattice"]).round(6)) for run in runs if "ref-F" in run["directory"]}
    assert len(boxes) == 1  # the box stays as it is


def test_without_potcars_no_job_is_run_and_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = campaign(tmp_path)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(write_potcars(tmp_path / "potcars", ["Li", "F"])))
    done = validate(config)
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert "no POTCARs (PBE) of Na_pv" in text and "PMG_VASP_PSP_DIR" in text and "pmg config -p" in text
    assert not (tmp_path / "results" / "dft").exists()
