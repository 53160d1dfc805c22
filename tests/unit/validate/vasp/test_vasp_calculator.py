"""The validate stage with code vasp, step by step: plan, references of a snapshot, compounds, formation energies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_potcars import title, write_potcars
from pymatgen.core import Lattice, Structure
from vasp_stand_ins import Emulator

from sluice.config import Chemistry, DuplicateSettings, ValidateSettings
from sluice.errors import MissingProgramError, SluiceError
from sluice.store import Store
from sluice.task_library import TaskLibrary, known_references
from sluice.validate.calculate import make_calculator
from sluice.validate.collect_energies import collect_energies
from sluice.validate.compute_compounds import compute_compounds
from sluice.validate.compute_references import compute_references
from sluice.validate.plan_tasks import plan_tasks
from sluice.validate.task_stores import read_tasks
from sluice.validate.vasp.calculator import code_version

sys.path.insert(0, str(Path(__file__).parents[1]))
from validate_stand_ins import rock_salt, write_store

CHEMISTRY = Chemistry(elements=("Na", "Cl", "Fe", "O"))
ENERGIES = {"Na": -1.3, "Cl": -1.8, "Fe": -8.4, "O": -4.9}  # eV/atom
pytestmark = [
    pytest.mark.filterwarnings("ignore:cd is deprecated:FutureWarning"),  # monty, by jobflow
    pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning"),  # spglib
]


def snapshot(folder: Path, **changed: Any) -> Path:
    """Elemental entries with the titles of the fake POTCARs."""
    entries = {
        element: {
            "entry_id": f"mp-{element}-GGA",
            "energy": 2 * energy,
            "composition": {element: 2.0},
            "parameters": {"run_type": "GGA", "potcar_spec": [{"titel": title(element)}]},
        }
        for element, energy in ENERGIES.items()
    }
    path = folder / "snapshot.json"
    path.write_text(json.dumps(entries | changed))
    return path


def settings(emulator: Emulator, **vasp: Any) -> ValidateSettings:
    return ValidateSettings(code="vasp", command=str(emulator.program), launch="", batches=1, vasp=vasp)


def plan(folder: Path, chosen: ValidateSettings, crystals: dict[str, Structure], library: Path) -> Path:
    shortlist = write_store(
        folder / "shortlist.h5", "shortlist", list(crystals), list(crystals.values()),
        rank=np.arange(len(crystals)) + 1,
    )  # fmt: skip
    tasks = folder / "tasks.h5"
    plan_tasks(shortlist=shortlist, settings=chosen, chemistry=CHEMISTRY, library=library, tasks=tasks)
    return tasks


def test_from_shortlist_to_formation_energies_with_a_snapshot(emulator: Emulator, tmp_path: Path) -> None:
    chosen = settings(emulator, references=snapshot(tmp_path))
    crystals = {"r1-halite": rock_salt("Na", "Cl", 5.7), "r1-wustite": rock_salt("Fe", "O", 4.3)}
    library = tmp_path / "dft"
    tasks = plan(tmp_path, chosen, crystals, library)
    planned = {task.candidate_id: task for task in read_tasks(tasks)}
    assert {task.tier for task in planned.values()} == {"520 eV"}
    assert planned["ref-Na"].estimated_cpu_seconds == 0.0 < planned["r1-halite"].estimated_cpu_seconds
    references, compounds = tmp_path / "references.h5", tmp_path / "compounds.h5"
    compute_references(tasks=tasks, settings=chosen, batch=0, library=library, results=references)
    assert emulator.runs == []
    assert known_references(library, ["Na", "K"], chosen, CHEMISTRY) == {"Na": True, "K": False}
    computed = settings(emulator)  # other references are not those
    assert make_calculator(computed).address(planned["ref-Na"].structure, element="Na", tier="520 eV") not in {
        task.task_id for task in planned.values()
    }
    compute_compounds(
        tasks=tasks, references=[references], settings=chosen, batch=0, library=library, results=compounds
    )
    validated = tmp_path / "validated.h5"
    known = write_store(tmp_path / "dataset.h5", "dataset", [], [])
    collect_energies(
        shortlist=tmp_path / "shortlist.h5", tasks=tasks, references=[references], compounds=[compounds], known=known,
        settings=chosen, duplicates=DuplicateSettings(), validated=validated,
    )  # fmt: skip
    with Store(compounds, "results") as store:
        total = dict(zip(store.ids(), store.column("energy_ev_per_atom"), strict=True))
        assert store.column("attempts").min() >= 1
    with Store(validated, "validated") as store:
        row = {name: i for i, name in enumerate(store.ids())}
        raw = store.column("formation_energy_ev_per_atom")
        corrected = store.column("formation_energy_corrected_ev_per_atom")
        confirmed, kinds = store.column("confirmed"), store.text("run_type")
        assert all(text.startswith("mp-snapshot ") for text in store.text("references"))
        assert store.text("hubbards")[row["r1-wustite"]] == "Fe:5.3"
    halite, wustite = row["r1-halite"], row["r1-wustite"]
    assert raw[halite] == pytest.approx(total["r1-halite"] - (ENERGIES["Na"] + ENERGIES["Cl"]) / 2, abs=1e-6)
    assert corrected[halite] - raw[halite] == pytest.approx(-0.307, abs=1e-6)
    # GGA+U against GGA: no raw value, only that of the scheme; -2.256 eV an iron, -0.687 eV an oxygen.
    mixture = total["r1-wustite"] - (ENERGIES["Fe"] + ENERGIES["O"]) / 2
    assert np.isnan(raw[wustite]) and corrected[wustite] == pytest.approx(mixture - (2.256 + 0.687) / 2, abs=1e-6)
    assert [kinds[halite], kinds[wustite]] == ["GGA", "GGA+U"]
    assert bool(confirmed[wustite]) == (corrected[wustite] < 0) and confirmed[halite]
    record = TaskLibrary(library).result(planned["ref-Na"].task_id)
    assert record is not None and record["snapshot"]["entry"] == "mp-Na-GGA" and record["snapshot"]["sha256"]
    # The second time nothing is computed.
    before = len(emulator.runs)
    compute_compounds(
        tasks=tasks, references=[references], settings=chosen, batch=0, library=library, results=compounds
    )
    assert len(emulator.runs) == before


def test_a_failure_is_a_row_with_its_kind_and_particulars(emulator: Emulator, tmp_path: Path) -> None:
    emulator.fail({"kind": "set_core_wf"})
    chosen, library = settings(emulator, references=snapshot(tmp_path)), tmp_path / "dft"
    tasks = plan(tmp_path, chosen, {"r1-halite": rock_salt("Na", "Cl", 5.7)}, library)
    references, compounds = tmp_path / "references.h5", tmp_path / "compounds.h5"
    compute_references(tasks=tasks, settings=chosen, batch=0, library=library, results=references)
    compute_compounds(
        tasks=tasks, references=[references], settings=chosen, batch=0, library=library, results=compounds
    )
    with Store(compounds, "results") as store:
        assert store.column("converged").tolist() == [False]
        assert store.text("reason") == ["error in VASP"]
        assert store.text("detail") == ["error in VASP: set_core_wf"]
        assert np.isnan(store.column("energy_ev_per_atom")).all()


def test_ids_depend_on_what_decides_the_number_and_on_nothing_else(emulator: Emulator, tmp_path: Path) -> None:
    halite = rock_salt("Na", "Cl", 5.64).get_primitive_structure()
    wustite = rock_salt("Fe", "O", 4.3).get_primitive_structure()

    def address(chosen: ValidateSettings, structure: Structure = wustite) -> str:
        return make_calculator(chosen).address(structure, element="", tier="520 eV")

    first = address(settings(emulator))
    assert first == address(settings(emulator, kpar=4, ncore=2, gamma_command="vasp_gam", hang_hours=1))
    assert first == address(settings(emulator, references=snapshot(tmp_path)))  # a compound's energy is its own
    lattice, frac = wustite.lattice.matrix[[1, 2, 0]], wustite.frac_coords[::-1][:, [1, 2, 0]]
    turned = Structure(Lattice(lattice), wustite.species[::-1], frac)
    assert first == address(settings(emulator), turned)
    others = [settings(emulator, hubbard_u=False), settings(emulator, potcars=write_potcars(tmp_path, ["Fe", "O"]))]
    (tmp_path / "POT_GGA_PAW_PBE" / "O" / "POTCAR").write_text(
        (tmp_path / "POT_GGA_PAW_PBE" / "O" / "POTCAR").read_text() + " 4.0\n"
    )
    assert first not in {address(other) for other in others}
    assert address(settings(emulator), halite) == address(settings(emulator, hubbard_u=False), halite)


def test_what_is_missing_stops_the_plan(emulator: Emulator, tmp_path: Path) -> None:
    crystals = {"r1-halite": rock_salt("Na", "Cl", 5.7)}
    few = write_potcars(tmp_path / "few", ["Na", "Cl"])
    with pytest.raises(MissingProgramError, match=r"no POTCARs \(PBE\) of Fe_pv, O in .*pmg config -p"):
        plan(tmp_path, settings(emulator, potcars=few), crystals, tmp_path / "dft")
    with pytest.raises(MissingProgramError, match="no POTCARs"):  # also for an element that no candidate has
        make_calculator(settings(emulator, potcars=few)).check(["Fe"])
    parameters = {"run_type": "GGA", "potcar_spec": [{"titel": "PAW_PBE Na 1"}]}
    entry = {"energy": -1.3, "composition": {"Na": 1.0}, "entry_id": "mp-x", "parameters": parameters}
    other = snapshot(tmp_path, Na=entry)
    with pytest.raises(
        SluiceError, match=r"Na \(mp-x\) was computed with PAW_PBE Na 1, but the POTCAR here is .*Na_pv"
    ):
        plan(tmp_path, settings(emulator, references=other), crystals, tmp_path / "dft")
    assert not (tmp_path / "tasks.h5").exists() and emulator.runs == []


def test_the_version_is_vasps_own_word(emulator: Emulator) -> None:
    assert code_version(settings(emulator)) == "6.4.2"
    for command, words in (("true", "does not answer like VASP"), ("no-such-vasp", "No such file")):
        with pytest.raises(MissingProgramError, match=words):
            code_version(ValidateSettings(code="vasp", command=command, launch=""))
