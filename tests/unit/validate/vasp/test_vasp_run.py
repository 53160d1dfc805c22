"""Real atomate2 flows under the real custodian, with the emulator in VASP's place: success and failures."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure
from vasp_runs import MEV, chgnet, relaxed_energy, run
from vasp_stand_ins import Emulator

from sluice.task_library import pack_directory

pytestmark = pytest.mark.filterwarnings("ignore:cd is deprecated:FutureWarning")  # monty, by jobflow


def test_two_relaxations_and_a_static_calculation(emulator: Emulator, halite: Structure, tmp_path: Path) -> None:
    result = run(emulator, halite, tmp_path, relax="cell")
    assert result.converged and result.reason == "" and result.attempts == 1 and result.continuations == 0
    assert emulator.jobs == ["relax_1", "relax_2", "static"]
    assert [run["incar"]["NSW"] for run in emulator.runs] == [99, 99, 0]
    # The energy is the model's at its own minimum.
    assert result.energy_ev_per_atom == pytest.approx(chgnet(result.structure), abs=1e-6)
    assert result.energy_ev_per_atom == pytest.approx(relaxed_energy(halite), abs=MEV)
    assert chgnet(halite) > result.energy_ev_per_atom + MEV
    assert result.document is not None
    assert (result.document.run_type, result.document.version) == ("GGA", "6.4.2")
    assert result.document.potcars == {"Na": "PAW_PBE Na_pv 01Jan1970", "Cl": "PAW_PBE Cl 01Jan1970"}
    # What stays is text; nothing of it is the licensor's.
    pack_directory(tmp_path / "work", tmp_path / "files.tar.xz")
    with tarfile.open(tmp_path / "files.tar.xz") as tar:
        names = tar.getnames()
    for job in ("1_mp_gga_relax_1", "2_mp_gga_relax_2", "3_mp_gga_static"):
        kept = {Path(name).name for name in names if name.startswith(f"{job}/")}
        assert {"INCAR.gz", "OUTCAR.gz", "CONTCAR.gz", "vasprun.xml.gz", "attempts.jsonl", "custodian.json.gz"} <= kept
        assert not any(name.startswith(("POTCAR", "WAVECAR", "CHG")) for name in kept)


# Each message, the handler's change that cures it.
CURES = {
    "brmix": {"IMIX": 1},
    "edddav": {"ALGO": "All"},
    "too_few_bands": None,
    "rot_matrix": {"ISYM": 0},
    "pricel": {"SYMPREC": 1e-8, "ISYM": 0},
    "amin": {"AMIN": 0.01},
    "eddrmm": {"ALGO": "Normal"},
    "posmap": {"SYMPREC": 1e-6},
    "grad_not_orth": None,
}


@pytest.mark.parametrize("kind", CURES)
def test_custodian_corrects_what_vasp_complains_of(
    emulator: Emulator, halite: Structure, tmp_path: Path, kind: str
) -> None:
    emulator.fail({"kind": kind})
    result = run(emulator, halite, tmp_path)
    assert result.converged, result.reason
    assert len(emulator.runs) == result.attempts > 1
    events = result.history["1_mp_gga_static"]
    corrections = [event for event in events if event["event"] == "correction"]
    assert {event["problem"] for event in corrections} == {kind}
    assert {(event["kind"], event["handler"]) for event in corrections} == {("failure", "EarlyErrorHandler")}
    last = emulator.runs[-1]["incar"]
    cure = CURES[kind]
    assert "NBANDS" in last if cure is None else {tag: last[tag] for tag in cure} == cure


def test_custodian_corrects_relaxations_and_goes_on_from_their_geometry(
    emulator: Emulator, halite: Structure, tmp_path: Path
) -> None:
    emulator.fail(
        {"kind": "zbrent", "step": 2, "job": "relax_1", "times": 1},
        {"kind": "nicht_konv", "job": "relax_1", "times": 1},
        {"kind": "subspacematrix", "job": "relax_2", "times": 1},
    )
    result = run(emulator, halite, tmp_path, relax="cell")
    assert result.converged and result.attempts == 3
    assert emulator.jobs == ["relax_1", "relax_1", "relax_1", "relax_2", "relax_2", "static"]
    first, second, third, fourth, fifth, _ = emulator.runs
    assert [str(run["incar"]["LREAL"]).lower() for run in (first, second, fourth, fifth)] == ["auto", "false"] * 2
    assert second["incar"]["EDIFF"] > third["incar"]["EDIFF"] == 1e-6
    assert np.allclose(first["lattice"], second["lattice"])  # there was no other geometry yet
    assert not np.allclose(second["lattice"], third["lattice"])
    assert result.energy_ev_per_atom == pytest.approx(relaxed_energy(halite), abs=MEV)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("set_core_wf", "error in VASP: set_core_wf"), ("hopeless", "error in VASP: edddav")],
)
def test_what_nothing_cures_is_a_failure_with_its_reason(
    emulator: Emulator, halite: Structure, tmp_path: Path, kind: str, reason: str
) -> None:
    emulator.fail({"kind": kind})
    result = run(emulator, halite, tmp_path, max_attempts=3)
    assert not result.converged and result.reason.startswith(reason)
    assert np.isnan(result.energy_ev_per_atom)
    assert len(emulator.runs) <= 3
    assert result.history["1_mp_gga_static"][-1]["event"] == "gave_up"
    assert (tmp_path / "work" / "1_mp_gga_static" / "vasp.out.gz").exists()


def test_no_later_job_starts_after_a_failure(emulator: Emulator, halite: Structure, tmp_path: Path) -> None:
    emulator.fail({"kind": "set_core_wf", "job": "relax_2"})
    result = run(emulator, halite, tmp_path, relax="cell")
    assert not result.converged and emulator.jobs == ["relax_1", "relax_2"]


def test_a_hanging_run_is_ended_and_begun_again(emulator: Emulator, halite: Structure, tmp_path: Path) -> None:
    emulator.fail({"kind": "hang", "times": 1})
    result = run(emulator, halite, tmp_path, hang_seconds=6.0)
    assert result.converged and result.attempts == 2
    (correction,) = [e for e in result.history["1_mp_gga_static"] if e["event"] == "correction"]
    assert (correction["handler"], correction["problem"]) == ("FrozenJobErrorHandler", "Frozen job")


def test_an_scf_that_does_not_converge_gets_a_steadier_algorithm(
    emulator: Emulator, halite: Structure, tmp_path: Path
) -> None:
    emulator.fail({"kind": "unconverged"})
    result = run(emulator, halite, tmp_path)
    assert result.converged and [run["incar"]["ALGO"] for run in emulator.runs] == ["Fast", "Normal"]


@pytest.mark.parametrize(
    ("kind", "reason"), [("truncate", "crashed"), ("memory", "crashed: slurmstepd: error: Detected 1 oom-kill event")]
)
def test_a_death_without_a_message_is_tried_again_and_then_given_up(
    emulator: Emulator, halite: Structure, tmp_path: Path, kind: str, reason: str
) -> None:
    emulator.fail({"kind": kind, "times": 1})
    result = run(emulator, halite, tmp_path / "once")
    assert result.converged and result.attempts == 2
    emulator.fail({"kind": kind, "job": "always"})
    result = run(emulator, halite, tmp_path / "always", max_attempts=10)
    assert not result.converged and result.reason.startswith(reason)
    assert len(emulator.runs) == 2 + 3


def test_a_program_that_says_nothing_is_no_output(emulator: Emulator, halite: Structure, tmp_path: Path) -> None:
    emulator.fail({"kind": "silent"})
    result = run(emulator, halite, tmp_path)
    assert not result.converged and result.reason.startswith("no output")


def test_overlapping_atoms_are_refused_before_vasp_starts(emulator: Emulator, tmp_path: Path) -> None:
    overlap = Structure(np.eye(3) * 4, ["Na", "Cl"], [[0, 0, 0], [0.05, 0, 0]])
    result = run(emulator, overlap, tmp_path)
    assert not result.converged and "atoms overlap" in result.reason and emulator.runs == []
