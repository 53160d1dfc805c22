"""The Flow: ids from the task's, everything in it serializable, outputs of real VASP read like the emulator's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ase.test
import pytest
from emmet.core.tasks import TaskDoc
from jobflow import Flow
from monty.json import MontyDecoder, MontyEncoder, jsanitize
from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar, Vasprun

from sluice.errors import MissingProgramError
from sluice.validate.vasp.handlers import ended
from sluice.validate.vasp.jobs import Launch, Options, make_flow, planned
from sluice.validate.vasp.schemas import VaspDocument
from sluice.validate.vasp.sets import FLOWS, calculation_settings

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # pymatgen, of POTCARs
    pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning"),  # spglib
]


@pytest.mark.parametrize("name", FLOWS)
def test_job_ids_follow_from_the_task_and_refer_to_each_other(halite: Structure, name: str) -> None:
    def build(task: str) -> Flow:
        return make_flow(task, halite, calculation_settings(halite, flow=name), Options())

    first, again, other = build("NaCl-1"), build("NaCl-1"), build("NaCl-2")
    ids = [job.uuid for job in first.jobs]
    assert len(ids) == 3 and ids == [job.uuid for job in again.jobs]
    assert not set(ids) & {job.uuid for job in other.jobs}
    assert [job.name[0] for job in first.jobs] == ["1", "2", "3"]
    for before, job in zip(first.jobs, first.jobs[1:], strict=False):
        assert planned(job)["structure"].uuid == planned(job)["prev_dir"].uuid == before.uuid


def test_the_flow_goes_through_json_for_other_managers(halite: Structure) -> None:
    flow = make_flow("NaCl-1", halite, calculation_settings(halite, flow="MPGGADoubleRelaxStaticMaker"), Options())
    text = json.dumps(flow, cls=MontyEncoder)
    back = json.loads(text, cls=MontyDecoder)
    assert [job.uuid for job in back.jobs] == [job.uuid for job in flow.jobs]
    assert [type(job.maker).__name__ for job in back.jobs] == ["MPGGARelaxMaker", "MPGGARelaxMaker", "MPGGAStaticMaker"]
    handlers = back.jobs[0].maker.run_vasp_kwargs["handlers"]
    assert [type(h).__name__ for h in handlers][-2:] == ["CrashHandler", "StopHandler"]


def test_programs_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingProgramError, match=r"'no-such-vasp' not found; load VASP's module"):
        Launch("", 1, "no-such-vasp").check()
    with pytest.raises(MissingProgramError, match="'no-such-mpirun'"):
        Launch("no-such-mpirun -n {ranks}", 2, "true").check()
    with pytest.raises(MissingProgramError, match="'no-such-gamma'"):
        Launch("", 1, "true", "no-such-gamma").check()


def test_output_of_real_vasp_is_read(tmp_path: Path) -> None:
    """ASE ships a vasprun.xml of VASP 6.3 (diamond, static) and an OUTCAR of a spin-polarized run of another."""
    shipped = Path(ase.test.__file__).parent / "testdata" / "vasp"
    if not (shipped / "vasprun_pstress.xml").exists():
        pytest.skip(f"{shipped} has no vasprun.xml: this ASE comes without its test data")
    shutil.copy(shipped / "vasprun_pstress.xml", tmp_path / "vasprun.xml")
    shutil.copy(shipped / "OUTCAR_example_1", tmp_path / "OUTCAR")
    diamond = Vasprun(tmp_path / "vasprun.xml", parse_potcar_file=False).final_structure
    Poscar(diamond).write_file(tmp_path / "CONTCAR")
    assert ended(tmp_path)
    document = VaspDocument.from_output(jsanitize(TaskDoc.from_directory(tmp_path), strict=True))
    assert document.successful and document.version == "6.3.0" and document.run_type == "GGA"
    assert document.structure.composition.reduced_formula == "C" and len(document.structure) == 2
    assert document.energy_ev == pytest.approx(-20.24010135)
    assert document.potcars == {"C": "PAW C 22Mar2012"} and document.hubbards == {}
    assert document.magnetization == pytest.approx(17.048, abs=1e-3)
    assert document.cpu_seconds == pytest.approx(124.972 * 512)  # of all its ranks
