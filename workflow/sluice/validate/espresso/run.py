"""One pw.x job under custodian: launched so that it dies with us, every attempt written down."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from custodian import Custodian
from custodian.custodian import CustodianError, Job
from pymatgen.core import Element, Structure

from sluice.errors import MissingProgramError, SluiceError
from sluice.step import Continue, add_foreign_cpu_seconds, children_cpu_seconds
from sluice.task_claims import check_claim
from sluice.time_limit import seconds_left, warned
from sluice.validate.espresso.history import History
from sluice.validate.espresso.inputs import ERROR_FILE, INPUT_FILE, OUTPUT_FILE, PREFIX, EspressoInputs
from sluice.validate.espresso.outputs import read_output

EXIT_FILE = f"{PREFIX}.EXIT"  # pw.x looks for it where it runs, and stops as at max_seconds
LOCK_FILE = "lock"
CPU_FILE = "cpu_seconds"  # of the attempt that is running
# ASSUME: atoms closer than this share of the sum of their covalent radii are a mistake, not a structure.
MIN_DISTANCE_RATIO = 0.5
Changes = dict[str, dict[str, Any]]  # namelist → key → new value, None to remove
PR_SET_PDEATHSIG = 1
_scf_iterations = 0  # done by this process, in all jobs: what a continuation is judged by


class GeometryError(SluiceError):
    """A structure that no calculation should be started on."""


@dataclass(frozen=True)
class Launch:
    """How pw.x is started.

    Attributes:
        template: the launching command with ``{ranks}``, e.g. ``mpirun -np {ranks}``; empty for none.
        ranks: number of MPI ranks.
        command: program, by name or path; words before it (a container's) are kept, a path with spaces needs quotes.
    """

    template: str = "mpirun -np {ranks}"
    ranks: int = 1
    command: str = "pw.x"

    def words(self, flags: tuple[str, ...] = ()) -> list[str]:
        """The whole command line; where ``setpriv`` exists, launcher and ranks are told to die with their parent."""
        launcher = shlex.split(self.template.format(ranks=self.ranks))
        setpriv = shutil.which("setpriv")
        tie = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        own = tie if launcher and Path(launcher[0]).name != "srun" else []  # srun's ranks are slurmstepd's to end
        return [*tie, *launcher, *own, *shlex.split(self.command), *flags, "-in", INPUT_FILE]

    def check(self) -> None:
        """See that the programs exist.

        Raises:
            MissingProgramError: says what to install.
        """
        launcher = shlex.split(self.template.format(ranks=self.ranks))[:1]
        for program in [*launcher, *shlex.split(self.command)[:1]]:
            if shutil.which(program) is None:
                raise MissingProgramError(
                    f"{program!r} not found; install Quantum ESPRESSO (on Debian and Ubuntu:"
                    " `apt-get install quantum-espresso`) or name the program in validate.command and validate.launch"
                )


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory for one calculation; the lock ends with the process, however that ends.

    On a file system without locks nothing is held; there the task's claim alone keeps others away.

    Raises:
        SluiceError: if another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 64, 0).decode(errors="replace") or "another process"
            raise SluiceError(f"{directory}: in use by {holder}; two pw.x in one directory spoil each other") from None
        except OSError:
            pass  # no locks here
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.uname().nodename}:{os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def check_geometry(structure: Structure) -> None:
    """Refuse structures whose atoms overlap; pw.x would calculate them without complaint.

    Raises:
        GeometryError: names the closest pair.
    """
    from ase.data import covalent_radii

    numbers = [site.specie.Z for site in structure]
    reach = 2 * MIN_DISTANCE_RATIO * max(covalent_radii[z] for z in numbers)
    centers, points, _, distances = structure.get_neighbor_list(float(reach))
    for i, j, distance in zip(centers, points, distances, strict=True):
        limit = MIN_DISTANCE_RATIO * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
        if distance < limit:
            pair = f"{Element.from_Z(numbers[i]).symbol}-{Element.from_Z(numbers[j]).symbol}"
            raise GeometryError(f"{pair} distance is {distance:.2f} Å, less than {limit:.2f} Å: atoms overlap")


def _die_with_parent() -> None:
    """Runs in the child between fork and exec, where there is no setpriv: the kernel kills it when we end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def environment() -> dict[str, str]:
    """The environment of pw.x: one thread a rank, and no binding of every calculation to the same first core."""
    fixed = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_hwloc_base_binding_policy": "none",
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    }
    return {**os.environ, **fixed}


def has_density(inputs: EspressoInputs) -> bool:
    """Whether an earlier run left a density to start from."""
    save = Path(inputs.namelists["control"]["outdir"]) / f"{PREFIX}.save"
    return any((save / name).is_file() for name in ("charge-density.dat", "charge-density.hdf5"))


def last_geometry(directory: Path, inputs: EspressoInputs) -> Structure | None:
    """The last geometry printed by the last run or by those that it continued; None if there is none."""
    found = read_output(directory / OUTPUT_FILE, inputs.structure).structure
    for number in range(History(directory).starts - 1, 0, -1):
        earlier = read_output(directory / f"{OUTPUT_FILE}.{number}", inputs.structure)
        if found is not None or not earlier.out_of_time:
            break
        found = earlier.structure
    return found


def record_interruption(directory: Path, ranks: int) -> bool:
    """Give an attempt that was started and never ended its end, with the cost that its output tells.

    Returns:
        Whether there was such an attempt.
    """
    history = History(directory)
    if not history.interrupted():
        return False
    path, start = directory / OUTPUT_FILE, history.events()[-1]["time"]
    lasted = max(0.0, path.stat().st_mtime - start) if path.exists() else 0.0
    spent = _read_cpu(directory / CPU_FILE) or read_output(path).cpu_seconds * ranks
    history.add("end", exit_code=None, wall_seconds=round(lasted, 2), cpu_seconds=spent, interrupted=True)
    return True


def _wait(process: subprocess.Popen[bytes], here: Path) -> float:
    """Wait for the end; CPU seconds of the whole tree. When the job's time limit is near, pw.x is told to stop.

    Ranks of a launcher that aborts or is killed never reach our own account, so they are looked at while they run.

    Raises:
        Continue: if it is told to stop and does not do so in time.
    """
    before, seen, rest, path = children_cpu_seconds(), 0.0, 0.05, here / CPU_FILE
    path.unlink(missing_ok=True)
    while True:
        try:
            process.wait(timeout=rest)
            break
        except subprocess.TimeoutExpired:
            rest = min(2.0, 1.5 * rest)
            if warned():
                (here / EXIT_FILE).touch()
                if seconds_left() < 0:
                    found = read_output(here / OUTPUT_FILE)
                    raise Continue(
                        f"{here.name}: pw.x did not stop in time and goes on from its last geometry",
                        advanced=_scf_iterations > 0 or bool(found.energies_ev),
                    ) from None
            with contextlib.suppress(psutil.Error):
                tree = psutil.Process(process.pid)
                times = [p.cpu_times() for p in (tree, *tree.children(recursive=True))]
                seen = max(seen, sum(t.user + t.system for t in times))
                path.write_text(f"{seen:.2f}", encoding="utf-8")
    path.unlink(missing_ok=True)
    return max(seen, children_cpu_seconds() - before)


def _read_cpu(path: Path) -> float:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0


def go_on_later(directory: Path) -> None:
    """Write the input with which pw.x goes on where it stopped itself, as after any time limit, without a cap."""
    from sluice.validate.espresso.handlers import WalltimeHandler

    WalltimeHandler(max_continuations=sys.maxsize).correct(str(directory))


@dataclass
class EspressoJob(Job):
    """custodian's view of one pw.x run in a directory that holds its input.

    Attributes:
        launch: how pw.x is started.
    """

    launch: Launch = field(default_factory=Launch)

    def setup(self, directory: str = "./") -> None:
        """Check the geometry; after an interruption continue from the last geometry and density."""
        here = Path(directory)
        check_claim(here)
        history = History(here)
        if history.ended_last() and read_output(here / OUTPUT_FILE).out_of_time:
            go_on_later(here)  # who told it to stop died before this
        inputs = EspressoInputs.read(here)
        interrupted = record_interruption(here, self.launch.ranks)
        # A restart without the files it needs would begin again from the first geometry, and say nothing.
        moved = inputs.namelists["control"]["restart_mode"] == "restart" and not has_density(inputs)
        if interrupted or moved:
            start = {"startingpot": "file" if has_density(inputs) else "atomic", "startingwfc": None}
            changes: Changes = {"control": {"restart_mode": "from_scratch"}, "electrons": start}
            inputs = inputs.changed(changes, last_geometry(here, inputs))
            problem = "interrupted" if interrupted else "working files are elsewhere"
            history.add("correction", kind="continuation", handler="setup", problem=problem, changes=changes)
        check_geometry(inputs.structure)
        inputs.write(here)

    def run(self, directory: str = "./") -> None:
        """Run pw.x to its end and write down what it cost.

        Raises:
            ClaimLostError: if another process has the task now; custodian passes it on and corrects nothing.
            Continue: if the job's time limit is near; likewise.
        """
        global _scf_iterations
        here = Path(directory)
        check_claim(here)
        if warned():
            raise Continue(f"{here.name}: pw.x is not started so near the time limit", advanced=_scf_iterations > 0)
        (here / EXIT_FILE).unlink(missing_ok=True)  # one that is left would stop pw.x before it has begun
        history = History(here)
        inputs = EspressoInputs.read(here)
        for name in (OUTPUT_FILE, ERROR_FILE):
            if (here / name).exists():
                (here / name).replace(here / f"{name}.{history.starts}")
        Path(inputs.namelists["control"]["outdir"]).mkdir(parents=True, exist_ok=True)
        began, before = time.time(), children_cpu_seconds()
        with (here / OUTPUT_FILE).open("wb") as out, (here / ERROR_FILE).open("wb") as err:
            words = self.launch.words(inputs.flags)
            history.add("start", command=shlex.join(words), number=history.starts + 1)
            process = subprocess.Popen(
                words, cwd=here, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(),
                preexec_fn=None if words[0] == shutil.which("setpriv") else _die_with_parent,  # noqa: PLW1509
            )  # fmt: skip
            try:
                own = _wait(process, here)
            except BaseException:
                process.kill()
                process.wait()
                raise
        check_claim(here)
        output = read_output(here / OUTPUT_FILE, inputs.structure)
        # Ranks that srun started are not in our process tree; then pw.x's own figure counts.
        spent = max(own, output.cpu_seconds * self.launch.ranks)
        add_foreign_cpu_seconds(spent - (children_cpu_seconds() - before))
        history.add(
            "end",
            exit_code=process.returncode,
            wall_seconds=round(time.time() - began, 2),
            cpu_seconds=round(spent, 2),
            energies_ev=list(output.energies_ev),
            n_iterations=output.n_iterations,
        )
        _scf_iterations += output.n_iterations
        if warned() and output.out_of_time and not output.relaxed:
            go_on_later(here)
            reached = f"after {len(output.energies_ev)} geometries" if output.energies_ev else "in the first scf"
            raise Continue(f"{here.name}: pw.x stopped {reached}", advanced=_scf_iterations > 0)

    def postprocess(self, directory: str = "./") -> None:
        """Nothing is left to do."""

    def as_dict(self) -> dict[str, Any]:
        """What custodian logs."""
        return {
            "@module": type(self).__module__,
            "@class": type(self).__name__,
            "launch": shlex.join(self.launch.words()),
        }


def run_espresso(directory: Path, *, launch: Launch, max_attempts: int, max_continuations: int) -> str | None:
    """Run the input in a directory under custodian, with all handlers and the success validator.

    Args:
        directory: holds the written input.
        launch: how pw.x is started.
        max_attempts: attempts in all, each with changed inputs.
        max_continuations: continuations after time limits and interruptions, counted apart.

    Returns:
        None on success, else the reason of the failure.
    """
    from sluice.validate.espresso.handlers import SuccessValidator, all_handlers, explain

    custodian = Custodian(
        handlers=all_handlers(max_attempts, max_continuations),
        jobs=[EspressoJob(launch)],
        validators=[SuccessValidator()],
        max_errors=max_attempts + max_continuations + 1,
        directory=str(directory),
    )
    try:
        custodian.run()
    except GeometryError as error:
        return str(error)
    except CustodianError:
        return explain(directory)
    return None
