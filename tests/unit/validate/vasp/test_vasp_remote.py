"""atomate2's Flow sent to a queue like jobflow-remote's gives what it gives here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pymatgen.core import Structure
from vasp_stand_ins import Emulator

sys.path.append(str(Path(__file__).parents[1]))

from file_queue import FileQueue  # isort: skip, beside the tests of all codes

from sluice.validate import remote
from sluice.validate.remote import Queue
from sluice.validate.vasp.flows import run_calculation
from sluice.validate.vasp.jobs import Launch, Options
from sluice.validate.vasp.schemas import CalculationResult
from sluice.validate.vasp.sets import calculation_settings

pytestmark = pytest.mark.filterwarnings("ignore:cd is deprecated:FutureWarning")  # monty, by jobflow


def run(emulator: Emulator, structure: Structure, where: Path, queue: Queue | None = None) -> CalculationResult:
    return run_calculation(
        structure=structure,
        settings=calculation_settings(structure, flow="MPGGADoubleRelaxStaticMaker", relax="cell"),
        task_id="NaCl-1",
        task_dir=where / "work",
        scratch=where / "work" / "scratch",
        options=Options(launch=Launch("", 1, str(emulator.program)), poll_seconds=0.02, monitor_seconds=0.1),
        queue=queue,
    )


@pytest.mark.long
def test_sent_flow_gives_what_a_local_one_gives(
    emulator: Emulator, halite: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, potcars: Path
) -> None:
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("PMG_VASP_PSP_DIR", str(potcars))  # the worker's own setting
    here = run(emulator, halite, tmp_path / "here")
    queue = FileQueue(tmp_path / "queue")
    there = run(emulator, halite, tmp_path / "there", queue)
    assert there.converged, (queue.folder / "log").read_text()
    assert there.energy_ev_per_atom == here.energy_ev_per_atom
    assert there.structure == here.structure
    assert [run["incar"]["NSW"] for run in emulator.runs] == [99, 99, 0] * 2
    again = run(emulator, halite, tmp_path / "there", queue)
    assert again.energy_ev_per_atom == here.energy_ev_per_atom and len(emulator.runs) == 6
