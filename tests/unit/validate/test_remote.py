"""The Flow of a task through JSON, as jobflow-remote's queue keeps it, and through a queue that does the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from file_queue import FileQueue, open_store
from jobflow import Flow
from monty.json import MontyDecoder, MontyEncoder
from pymatgen.core import Lattice, Structure

from sluice.config_file import check_config
from sluice.errors import MissingProgramError, SluiceError
from sluice.validate import remote
from sluice.validate.espresso.flows import RelaxStaticMaker, run_calculation
from sluice.validate.espresso.pseudos import PseudoLibrary, find_pseudos
from sluice.validate.espresso.run import Launch
from sluice.validate.espresso.sets import CalculationSettings, calculation_settings
from sluice.validate.remote import open_queue, run_flow

pytestmark = [
    pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning"),  # spglib
    pytest.mark.filterwarnings("ignore:cd is deprecated:FutureWarning"),  # jobflow uses monty's
]
OUTPUTS = Path(__file__).parent / "espresso" / "data"  # of real pw.x runs on silicon
PLAYER = """#!{python}
import sys
from pathlib import Path
here = Path.cwd()
name = {{"relax": {relax!r}, "static": "done"}}[here.name]
sys.stdout.write((Path({data!r}) / name / "pw.out").read_text())
with Path({counter!r}).open("a") as played:
    played.write(here.name + "\\n")
sys.exit({{"done": 0, "relaxed": 0}}.get(name, 1))
"""


def silicon() -> Structure:
    lattice = Lattice.from_parameters(3.84, 3.84, 3.84, 60, 60, 60)
    return Structure(lattice, ["Si", "Si"], [[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]])


def library() -> PseudoLibrary:
    try:
        found = find_pseudos()
        found.path("Si")
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    return found


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "POLL_SECONDS", 0.01)


def calculate(folder: Path, *, relax: str = "relaxed", queue=None):
    folder.mkdir(exist_ok=True)
    program = folder / "pw-player"
    program.write_text(
        PLAYER.format(python=sys.executable, relax=relax, data=str(OUTPUTS), counter=str(folder / "played"))
    )
    program.chmod(0o755)
    settings = calculation_settings(silicon(), protocol="fast", tier="T30", spin_elements=(), relax="cell")
    return run_calculation(
        structure=silicon(),
        settings=settings,
        task_id="silicon",
        task_dir=folder / "task",
        pseudos=library(),
        launch=Launch("", 1, str(program)),
        max_attempts=1,
        queue=queue,
    )


def played(folder: Path) -> list[str]:
    return (folder / "played").read_text().split()


def test_flow_is_the_same_after_json(tmp_path):
    settings = calculation_settings(silicon(), protocol="fast", tier="T30", spin_elements=(), relax="cell")
    place = {"directory": str(tmp_path), "outdir": str(tmp_path), "pseudos": str(tmp_path)}
    place["launch"] = {"template": "mpirun -np {ranks}", "ranks": 2, "command": "pw.x"}
    maker = RelaxStaticMaker(task_id="a", settings=settings.model_dump(), workplace=place)
    flow = maker.make(silicon())
    text = json.dumps(flow, cls=MontyEncoder)
    again = json.loads(text, cls=MontyDecoder)
    assert isinstance(again, Flow) and again.job_uuids == flow.job_uuids == (
        maker.job_id("relax"),
        maker.job_id("static"),
    )
    for (old, old_parents), (new, new_parents) in zip(flow.iterflow(), again.iterflow(), strict=True):
        assert (new.uuid, new.name, new_parents) == (old.uuid, old.name, old_parents)
        assert (type(new.maker), new.maker.name) == (type(old.maker), old.maker.name) and callable(new.function)
        assert CalculationSettings(**new.maker.settings) == settings and new.maker.workplace == place
        assert list(new.function_args) == list(old.function_args)
    assert json.loads(json.dumps(again, cls=MontyEncoder)) == json.loads(text)


def test_sent_flow_gives_what_a_local_one_gives(tmp_path):
    here = calculate(tmp_path / "here")
    queue = FileQueue(tmp_path / "queue")
    there = calculate(tmp_path / "there", queue=queue)
    assert here.converged and there.converged, (queue.folder / "log").read_text()
    assert there.energy_ev == here.energy_ev and there.structure == here.structure
    assert (there.attempts, there.continuations, there.pw_starts) == (here.attempts, here.continuations, here.pw_starts)
    assert played(tmp_path / "there") == played(tmp_path / "here") == ["relax", "static"]
    assert set(queue.ended.values()) == {"COMPLETED"} and len(queue.sent) == 2


def test_who_comes_back_waits_for_the_jobs_it_sent(tmp_path):
    queue = FileQueue(tmp_path / "queue")

    def die() -> None:
        raise KeyboardInterrupt

    queue.refuse = True
    settings = calculation_settings(silicon(), protocol="fast", tier="T30", spin_elements=(), relax="cell")
    flow = RelaxStaticMaker(task_id="silicon", settings=settings.model_dump()).make(silicon())
    store = open_store(tmp_path / "jobs.json")
    with pytest.raises(KeyboardInterrupt):
        run_flow(flow, store, tmp_path, queue, check=die)
    assert len(queue.sent) == 2
    queue.ended = dict.fromkeys(queue.sent, "COMPLETED")
    run_flow(flow, store, tmp_path, queue)  # the queue refuses what it has already
    store.close()


def test_failed_calculation_is_a_result_and_its_children_do_not_run(tmp_path):
    queue = FileQueue(tmp_path / "queue")
    stopped = RelaxStaticMaker(task_id="silicon").job_id("static")
    queue.ended[stopped] = "STOPPED"  # jobflow-remote heeds stop_children
    result = calculate(tmp_path / "there", relax="bad_key", queue=queue)
    assert not result.converged and "no_such_key" in result.reason
    assert played(tmp_path / "there") == ["relax"]


def test_job_that_could_not_run_there_is_an_error_in_words(tmp_path):
    queue = FileQueue(tmp_path / "queue")
    queue.ended[RelaxStaticMaker(task_id="silicon").job_id("relax")] = "REMOTE_ERROR"
    with pytest.raises(SluiceError, match=r"is REMOTE_ERROR; `jf job info` tells why"):
        calculate(tmp_path / "there", queue=queue)


def test_task_begun_here_is_not_continued_there(tmp_path):
    folder = tmp_path / "task"
    half = calculate(folder, relax="relaxed")
    assert half.converged
    store = open_store(folder / "task" / "jobs.json")
    store.remove_docs({"uuid": RelaxStaticMaker(task_id="silicon").job_id("static")})
    store.close()
    with pytest.raises(SluiceError, match="were run without it"):
        calculate(folder, queue=FileQueue(tmp_path / "queue"))


def test_missing_jobflow_remote_says_what_to_install(monkeypatch):
    assert open_queue(check_config({}).validate_) is None
    monkeypatch.setitem(sys.modules, "jobflow_remote", None)
    settings = check_config({"validate": {"remote_project": "group"}}).validate_
    with pytest.raises(MissingProgramError, match="pip install 'jobflow-remote>=1'"):
        open_queue(settings)
