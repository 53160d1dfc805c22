"""The flow of one task: with stored outputs, and with real pw.x on silicon."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from espresso_stand_ins import WARNINGS, make_player, silicon
from pymatgen.core import Lattice, Structure

from sluice.errors import MissingProgramError
from sluice.validate.espresso.flows import RelaxStaticMaker, open_store, run_calculation
from sluice.validate.espresso.pseudos import PseudoLibrary, find_pseudos
from sluice.validate.espresso.run import Launch
from sluice.validate.espresso.sets import calculation_settings, prepare_structure

pytestmark = [pytest.mark.filterwarnings(w) for w in WARNINGS]
OPTIONS = {"protocol": "fast", "tier": "T30", "spin_elements": ()}


def library() -> PseudoLibrary:
    try:
        found = find_pseudos()
        found.path("Si")
    except MissingProgramError as missing:
        pytest.skip(str(missing))
    return found


def calculate(tmp_path, *names, structure=None, relax="cell", **options):
    """Run a task with stored outputs in pw.x's place."""
    structure = structure or silicon()
    player = make_player(tmp_path / "bin", *names)
    return run_calculation(
        structure=structure,
        settings=calculation_settings(structure, **OPTIONS, relax=relax),
        task_id="silicon",
        task_dir=tmp_path / "task",
        pseudos=library(),
        launch=Launch("", 1, str(player)),
        **options,
    )


def test_job_ids_follow_from_the_task():
    assert RelaxStaticMaker(task_id="a").job_id("relax") == RelaxStaticMaker(task_id="a").job_id("relax")
    assert len({RelaxStaticMaker(task_id=t).job_id(n) for t in "ab" for n in ("relax", "static")}) == 4


def test_relax_then_static_and_a_second_call_starts_nothing(tmp_path):
    result = calculate(tmp_path, "relaxed", "done")
    assert result.converged
    assert result.pw_starts == 2
    assert result.energy_ev_per_atom == pytest.approx(result.energy_ev / 2)
    assert math.isnan(result.magnetization)
    assert set(result.history) == {"relax", "static"}
    assert not (tmp_path / "task" / "work").exists()
    assert (tmp_path / "task" / "static" / "pw.out.gz").exists()
    again = calculate(tmp_path, "bad_key")
    assert again.energy_ev == result.energy_ev
    assert again.pw_starts == 2
    assert (tmp_path / "bin" / "played").read_text() == "2"


def test_only_what_is_left_is_run(tmp_path):
    """The static calculation fails at first; the next call does not relax again."""
    failed = calculate(tmp_path, "relaxed", "bad_key")
    assert not failed.converged
    assert failed.reason is not None
    assert "static" in failed.reason
    assert "no_such_key" in failed.reason
    assert math.isnan(failed.energy_ev_per_atom)
    shutil.rmtree(tmp_path / "bin")
    mended = calculate(tmp_path, "done")
    assert mended.converged
    assert (tmp_path / "bin" / "played").read_text() == "1"
    assert (tmp_path / "task" / "static.failed1").is_dir()


def test_a_failed_relaxation_is_a_result_with_a_reason(tmp_path):
    result = calculate(tmp_path, "scf_not_converged", max_attempts=2)
    assert not result.converged
    assert result.reason is not None
    assert "scf not converged" in result.reason
    assert result.attempts == 2
    assert result.cpu_seconds > 0


def test_a_relaxation_interrupted_after_it_converged_goes_on_to_the_static(tmp_path):
    result = calculate(tmp_path, "killed_in_final_scf", "done")
    assert result.converged
    assert result.pw_starts == 2


def test_nothing_to_relax(tmp_path):
    result = calculate(tmp_path, "done", relax="none")
    assert result.converged
    assert result.pw_starts == 1
    assert math.isnan(result.relaxed_pressure_kbar)


def test_overlapping_atoms_are_a_result_without_any_start(tmp_path):
    close = Structure(Lattice.cubic(4.0), ["Si", "Si"], [[0, 0, 0], [0.1, 0, 0]])
    result = calculate(tmp_path, "done", structure=close)
    assert not result.converged
    assert "overlap" in (result.reason or "")
    assert result.pw_starts == 0


def test_missing_pw_says_what_to_install(tmp_path):
    with pytest.raises(MissingProgramError, match="quantum-espresso"):
        run_calculation(
            structure=silicon(),
            settings=calculation_settings(silicon(), **OPTIONS),
            task_id="x",
            task_dir=tmp_path,
            pseudos=PseudoLibrary(tmp_path),
            launch=Launch("", 1, "no-such-pw.x"),
        )


def test_a_store_that_a_kill_left_unreadable_is_begun_anew(tmp_path):
    path = tmp_path / "jobs.json"
    path.write_text('[{"uuid": "a", ')
    store = open_store(path)
    assert store.count() == 0
    store.close()
    assert path.with_suffix(".broken").exists()


needs_pw = pytest.mark.skipif(shutil.which("pw.x") is None, reason="pw.x is not installed")


def real(tmp_path, **options):
    structure = prepare_structure(silicon())
    return run_calculation(
        structure=structure,
        settings=calculation_settings(structure, **OPTIONS),
        task_id="silicon",
        task_dir=tmp_path / "task",
        pseudos=library(),
        launch=Launch("", 1, "pw.x"),
        **options,
    )


@needs_pw
@pytest.mark.dft
@pytest.mark.long
def test_silicon_with_real_pw_is_the_same_undisturbed_and_continued(tmp_path):
    """PBE silicon: a = 5.47 Å. Stopping pw.x by its clock again and again changes nothing."""
    result = real(tmp_path / "a")
    assert result.converged
    assert result.space_group == 227
    a = (result.structure.volume * 4) ** (1 / 3)
    assert a == pytest.approx(5.47, abs=0.03)
    assert result.attempts == 1
    assert result.cpu_seconds > 0
    longest = max(e.get("wall_seconds", 0.0) for job in result.history.values() for e in job)
    continued = real(tmp_path / "b", max_seconds=max(2.0, 0.5 * longest))
    assert continued.converged, continued.reason
    assert continued.attempts == 1
    assert continued.energy_ev_per_atom == pytest.approx(result.energy_ev_per_atom, abs=1e-3)


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_flows import real
real(Path({folder!r}))
"""


@needs_pw
@pytest.mark.dft
@pytest.mark.long
def test_killed_with_sigkill_it_goes_on(tmp_path):
    """The driver is killed in the middle of the relaxation; the next call continues it to the same energy."""
    code = CHILD.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    output = tmp_path / "task" / "relax" / "pw.out"
    end = time.monotonic() + 200
    while time.monotonic() < end and process.poll() is None:
        if output.exists() and output.read_text(errors="replace").count("!  ") >= 1:
            break
        time.sleep(0.05)
    interrupted = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = real(tmp_path)
    assert result.converged
    assert result.attempts == 1
    if interrupted:
        assert result.continuations == 1
        assert result.pw_starts == 3
        history = [json.loads(x) for x in (tmp_path / "task" / "relax" / "attempts.jsonl").read_text().splitlines()]
        assert [e["event"] for e in history] == ["start", "end", "correction", "start", "end"]
