"""Launching, locks, geometry and custody, with stored outputs in pw.x's place."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from espresso_stand_ins import DATA, WARNINGS, copy_case, make_player, silicon
from pymatgen.core import Lattice, Structure

from sluice.errors import MissingProgramError, SluiceError
from sluice.step import Continue
from sluice.task_claims import ClaimLostError, ClaimTaker
from sluice.time_limit import WARNING_VARIABLE, forget_warnings, heed_warnings
from sluice.validate.espresso.calculator import code_version
from sluice.validate.espresso.inputs import EspressoInputs
from sluice.validate.espresso.run import (
    EspressoJob,
    GeometryError,
    History,
    Launch,
    check_geometry,
    environment,
    locked,
    run_espresso,
)

pytestmark = [pytest.mark.filterwarnings(w) for w in WARNINGS]
TINY = {"max_attempts": 4, "max_continuations": 5}


@pytest.fixture
def prepared(tmp_path):
    """A directory with an input and nothing run; its pseudopotentials are stand-ins."""
    directory = copy_case("done", tmp_path / "job")
    for name in ("pw.out", "attempts.jsonl"):
        (directory / name).unlink()
    inputs = EspressoInputs.read(directory)
    inputs.namelists["control"]["outdir"] = str(tmp_path / "out")
    inputs.write(directory)
    return directory


def test_a_missing_program_says_what_to_install():
    with pytest.raises(MissingProgramError, match=r"apt-get install quantum-espresso"):
        Launch("", 1, "no-such-pw.x").check()
    with pytest.raises(MissingProgramError, match=r"no-such-launcher"):
        Launch("no-such-launcher {ranks}", 2, "pw.x").check()


def test_the_command_line():
    words = Launch("mpirun -np {ranks}", 3, "/opt/pw.x").words(("-nk", "2"))
    assert words[-5:] == ["/opt/pw.x", "-nk", "2", "-in", "pw.in"]
    assert words[words.index("mpirun") : words.index("mpirun") + 3] == ["mpirun", "-np", "3"]


def test_calculations_beside_each_other_are_not_bound_to_one_core():
    assert environment()["OMPI_MCA_hwloc_base_binding_policy"] == "none"
    assert environment()["OMP_NUM_THREADS"] == "1"


def test_a_directory_is_used_by_one_at_a_time(tmp_path):
    with locked(tmp_path), pytest.raises(SluiceError, match="in use"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_file_system_without_locks_is_not_called_in_use(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text()


def test_pw_is_not_started_again_where_another_process_took_the_task_over(prepared, tmp_path):
    claim = ClaimTaker().try_claim(tmp_path)
    thief = tmp_path / "pw-robbed"
    thief.write_text(f"#!/bin/sh\nmkdir {tmp_path}/claim.0002\nexit 9\n")  # taken over while it runs; then killed
    thief.chmod(0o755)
    with claim, pytest.raises(ClaimLostError):
        run_espresso(prepared, launch=Launch("", 1, str(thief)), **TINY)
    history = History(prepared)
    assert (history.starts, history.failures) == (1, 0)
    assert history.interrupted()


def test_overlapping_atoms_never_reach_pw(tmp_path):
    close = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.1, 0, 0]])
    with pytest.raises(GeometryError, match=r"Na-Cl distance is 0\.40"):
        check_geometry(close)
    check_geometry(silicon())
    # Bonds of molecules are short and fine.
    check_geometry(Structure(Lattice.cubic(8.0), ["H", "H"], [[0, 0, 0], [0.0925, 0, 0]]))
    # An atom too close to its own image.
    with pytest.raises(GeometryError, match="Cs-Cs"):
        check_geometry(Structure(Lattice.cubic(2.0), ["Cs"], [[0, 0, 0]]))


def test_success_at_the_first_attempt(prepared, tmp_path):
    player = make_player(tmp_path / "bin", "done")
    assert run_espresso(prepared, launch=Launch("", 1, str(player)), **TINY) is None
    history = History(prepared)
    assert (history.starts, history.failures, history.continuations) == (1, 0, 0)
    assert history.exit_code() == 0


def test_time_of_ranks_that_are_no_children_is_counted(prepared, tmp_path, monkeypatch):
    printed = (DATA / "done" / "pw.out").read_text().replace("0.20s CPU", "1m40.00s CPU")
    (tmp_path / "printed").write_text(printed)
    player = tmp_path / "pw-elsewhere"
    player.write_text(f"#!/bin/sh\nexec cat {tmp_path}/printed\n")
    player.chmod(0o755)
    counted = []
    monkeypatch.setattr("sluice.validate.espresso.run.add_foreign_cpu_seconds", counted.append)
    assert run_espresso(prepared, launch=Launch("", 2, str(player)), **TINY) is None
    assert History(prepared).total("cpu_seconds") == pytest.approx(200)
    assert 190 < sum(counted) <= 200


def test_a_failed_scf_is_mended_and_every_attempt_recorded(prepared, tmp_path):
    player = make_player(tmp_path / "bin", "scf_not_converged", "scf_not_converged", "done")
    assert run_espresso(prepared, launch=Launch("", 1, str(player)), **TINY) is None
    history = History(prepared)
    assert (history.starts, history.failures) == (3, 2)
    corrections = [e for e in history.events() if e["event"] == "correction"]
    assert [c["handler"] for c in corrections] == ["ScfHandler", "ScfHandler"]
    assert corrections[1]["changes"]["electrons"]["mixing_mode"] == "local-TF"
    assert (prepared / "pw.out.1").exists()
    assert (prepared / "pw.out.2").exists()
    assert EspressoInputs.read(prepared).namelists["electrons"]["mixing_mode"] == "local-TF"


def test_a_hopeless_one_ends_with_its_reason(prepared, tmp_path):
    player = make_player(tmp_path / "bin", "scf_not_converged")
    reason = run_espresso(prepared, launch=Launch("", 1, str(player)), max_attempts=3, max_continuations=5)
    assert reason is not None
    assert "scf not converged" in reason
    assert History(prepared).starts == 3


def test_continuations_are_counted_apart(prepared, tmp_path):
    player = make_player(tmp_path / "bin", *["out_of_time"] * 4, "done")
    reason = run_espresso(prepared, launch=Launch("", 1, str(player)), max_attempts=1, max_continuations=5)
    assert reason is None
    history = History(prepared)
    assert (history.starts, history.failures, history.continuations) == (5, 0, 4)


def test_an_interrupted_attempt_goes_on_from_the_last_geometry(prepared, tmp_path):
    """As a SIGKILL leaves it: started, never ended, output cut off."""
    inputs = EspressoInputs.read(prepared)
    inputs.namelists["control"]["calculation"] = "vc-relax"
    inputs.write(prepared)
    stored = copy_case("killed_midway", tmp_path / "stored")
    (prepared / "pw.out").write_text((stored / "pw.out").read_text())
    History(prepared).add("start", number=1)
    player = make_player(tmp_path / "bin", "relaxed")
    assert run_espresso(prepared, launch=Launch("", 1, str(player)), **TINY) is None
    history = History(prepared)
    assert (history.starts, history.failures, history.continuations) == (2, 0, 1)
    after = EspressoInputs.read(prepared)
    assert after.structure != inputs.structure
    assert after.namelists["control"]["restart_mode"] == "from_scratch"


CHILD = """
import sys
from pathlib import Path
from sluice.validate.espresso.run import EspressoJob, Launch
EspressoJob(Launch({template!r}, 1, {command!r})).run({directory!r})
"""


@pytest.mark.parametrize("template", ["", "mpirun -np {ranks}"])
def test_pw_dies_when_we_are_killed(prepared, tmp_path, template):
    """SIGKILL of the Python process ends launcher and ranks."""
    if template:
        import shutil

        if shutil.which("mpirun") is None or shutil.which("setpriv") is None:
            pytest.skip("needs mpirun and setpriv")
    sleeper = tmp_path / "pw-sleeper"
    pid_file = tmp_path / "rank.pid"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {pid_file}.new\nmv {pid_file}.new {pid_file}\nexec sleep 300\n")
    sleeper.chmod(0o755)
    code = CHILD.format(template=template, command=str(sleeper), directory=str(prepared))
    parent = subprocess.Popen([sys.executable, "-c", code])
    _wait_for(pid_file.exists, 120)
    rank = int(pid_file.read_text())
    assert psutil.pid_exists(rank)
    parent.kill()
    parent.wait()
    _wait_for(lambda: not _alive(rank), 20)
    assert not _alive(rank)
    assert History(prepared).interrupted()


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def test_the_cost_of_ranks_that_were_killed_is_known(prepared, tmp_path):
    """A launcher that ends its ranks by SIGKILL and never waits for them keeps their cost from us."""
    burner = tmp_path / "pw-burner"
    burner.write_text(
        f"#!{sys.executable}\n"
        "import os, signal, time\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    while True: pass\n"
        "while time.clock_gettime(time.CLOCK_MONOTONIC) and sum(os.times()[:2]) < 60:\n"
        "    time.sleep(0.1)\n"
        "    used = float(open(f'/proc/{pid}/stat').read().split()[13]) / os.sysconf('SC_CLK_TCK')\n"
        "    if used > 1.5: break\n"
        "time.sleep(2.5)\n"
        "os.kill(pid, signal.SIGKILL)\n"
        "os._exit(1)\n"
    )
    burner.chmod(0o755)
    EspressoJob(Launch("", 1, str(burner))).run(str(prepared))
    assert History(prepared).total("cpu_seconds") > 1.0


def test_history_passes_over_a_line_that_was_cut_off(tmp_path):
    history = History(tmp_path)
    history.add("start", number=1)
    with Path(tmp_path / "attempts.jsonl").open("a") as handle:
        handle.write('{"event": "en')
    assert history.interrupted()
    assert history.starts == 1


OBEDIENT = """#!/bin/sh
# Sends the warning that SLURM would, then runs until it is told to stop; writes what pw.x does.
test -e sluice.EXIT && exit 255
kill -USR1 {parent}
n=0
while [ ! -e sluice.EXIT ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n + 1)); done
mkdir -p {out}/sluice.save && touch {out}/sluice.save/charge-density.dat
cat {stored}/pw.out
exit 2
"""
STUBBORN = "#!/bin/sh\ncat {stored}/pw.out\nkill -USR1 {parent}\nexec sleep 300\n"


@pytest.fixture
def warned_program(tmp_path):
    """Makes programs in pw.x's place that get this process warned of its time limit."""
    heed_warnings()

    def make(text: str, stored: str) -> Launch:
        program = tmp_path / "pw-warned"
        folder = Path(__file__).with_name("data") / stored
        program.write_text(text.format(parent=os.getpid(), stored=folder, out=tmp_path / "out"))
        program.chmod(0o755)
        return Launch("", 1, str(program))

    yield make
    forget_warnings()


def test_near_the_time_limit_pw_stops_by_itself_and_goes_on_where_it_stopped(prepared, tmp_path, warned_program):
    with pytest.raises(Continue, match=r"job: pw\.x stopped") as request:
        run_espresso(prepared, launch=warned_program(OBEDIENT, "out_of_time"), **TINY)
    assert request.value.advanced
    history = History(prepared)
    assert (history.starts, history.failures, history.continuations) == (1, 0, 1)
    assert EspressoInputs.read(prepared).namelists["control"]["restart_mode"] == "restart"
    with pytest.raises(Continue, match="not started so near") as request:  # whoever tries at once
        run_espresso(prepared, launch=Launch("", 1, "false"), **TINY)
    assert request.value.advanced, "this process did get further before"
    forget_warnings()
    assert (prepared / "sluice.EXIT").exists()
    seen = tmp_path / "seen"
    look = tmp_path / "pw-look"
    player = make_player(tmp_path / "bin", "done")
    look.write_text(f"#!/bin/sh\ntest -e sluice.EXIT && touch {seen}\nexec {player}\n")
    look.chmod(0o755)
    assert run_espresso(prepared, launch=Launch("", 1, str(look)), **TINY) is None
    assert not seen.exists(), "what told the last run to stop would stop the next"
    assert (history.starts, history.failures, history.continuations) == (2, 0, 1)


def test_pw_that_does_not_stop_in_time_is_killed_and_goes_on_from_its_last_geometry(
    prepared, tmp_path, warned_program, monkeypatch
):
    monkeypatch.setenv(WARNING_VARIABLE, "3")
    inputs = EspressoInputs.read(prepared)
    inputs.namelists["control"]["calculation"] = "vc-relax"
    inputs.write(prepared)
    began = time.monotonic()
    with pytest.raises(Continue, match="did not stop in time") as request:
        run_espresso(prepared, launch=warned_program(STUBBORN, "killed_midway"), **TINY)
    assert request.value.advanced and time.monotonic() - began < 60
    assert History(prepared).interrupted()
    forget_warnings()
    assert run_espresso(prepared, launch=Launch("", 1, str(make_player(tmp_path / "bin", "relaxed"))), **TINY) is None
    assert History(prepared).continuations == 1
    assert EspressoInputs.read(prepared).structure != inputs.structure


def test_a_stop_whose_process_died_at_once_is_gone_on_from_too(prepared, tmp_path):
    stored = copy_case("out_of_time", tmp_path / "stored")
    (prepared / "pw.out").write_text((stored / "pw.out").read_text())
    (tmp_path / "out" / "sluice.save").mkdir(parents=True)
    (tmp_path / "out" / "sluice.save" / "charge-density.dat").touch()
    History(prepared).add("start", number=1)
    History(prepared).add("end", exit_code=2, n_iterations=4)
    EspressoJob(Launch("", 1, "false")).setup(str(prepared))
    assert EspressoInputs.read(prepared).namelists["control"]["restart_mode"] == "restart"
    assert History(prepared).continuations == 1


def test_a_restart_without_its_files_begins_at_the_last_geometry(prepared, tmp_path):
    """Scratch of another node: pw.x would begin with the first geometry, and say nothing."""
    stored = copy_case("killed_midway", tmp_path / "stored")
    (prepared / "pw.out").write_text((stored / "pw.out").read_text())
    inputs = EspressoInputs.read(prepared).changed({"control": {"restart_mode": "restart", "calculation": "vc-relax"}})
    inputs.write(prepared)
    for event in ("start", "end", "correction"):
        History(prepared).add(event, number=1, exit_code=2, kind="continuation")
    EspressoJob(Launch("", 1, "false")).setup(str(prepared))
    after = EspressoInputs.read(prepared)
    assert after.namelists["control"]["restart_mode"] == "from_scratch"
    assert after.structure != inputs.structure


def test_a_command_of_several_words_is_kept(tmp_path):
    container = tmp_path / "apptainer"
    container.write_text('#!/bin/sh\nshift 2; exec "$@"\n')
    container.chmod(0o755)
    launch = Launch("", 1, f"{container} exec image.sif pw.x")
    launch.check()
    assert launch.words(("-nk", "2"))[-8:] == [str(container), "exec", "image.sif", "pw.x", "-nk", "2", "-in", "pw.in"]
    with pytest.raises(MissingProgramError, match="no-such-apptainer"):
        Launch("", 1, "no-such-apptainer exec image.sif pw.x").check()
    program = make_player(tmp_path / "bin", "done")
    assert code_version(f"{container} exec image.sif {program}")
