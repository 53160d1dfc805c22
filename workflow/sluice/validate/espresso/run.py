"""One pw.x job under custodian: launched so that it dies with us, every attempt written down."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
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
from sluice.task_claims import check_claim
from sluice.validate.espresso.inputs import ERROR_FILE, INPUT_FILE, OUTPUT_FILE, PREFIX, EspressoInputs
from sluice.validate.espresso.outputs import read_output

HISTORY_FILE = "attempts.jsonl"
LOCK_FILE = "lock"
CPU_FILE = "cpu_seconds"  # of the attempt that is running
# ASSUME: atoms closer than this share of the sum of their covalent radii are a mistake, not a structure.
MIN_DISTANCE_RATIO = 0.5
Changes = dict[str, dict[str, Any]]  # namelist → key → new value, None to remove
PR_SET_PDEATHSIG = 1


class GeometryError(SluiceError):
    """A structure that no calculation should be started on."""


@dataclass(frozen=True)
class Launch:
    """How pw.x is started.

    Attributes:
        template: the launching command with ``{ranks}``, e.g. ``mpirun -np {ranks}``; empty for none.
        ranks: number of MPI ranks.
        command: program, by name or path.
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
        return [*tie, *launcher, *own, self.command, *flags, "-in", INPUT_FILE]

    def check(self) -> None:
        """See that the programs exist.

        Raises:
            MissingProgramError: says what to install.
        """
        launcher = shlex.split(self.template.format(ranks=self.ranks))[:1]
        for program in [*launcher, self.command]:
            if shutil.which(program) is None:
                raise MissingProgramError(
                    f"{program!r} not found; install Quantum ESPRESSO (on Debian and Ubuntu:"
                    " `apt-get install quantum-espresso`) or name the program in validate.command and validate.launch"
                )


class History:
    """What happened in a job's directory: one JSON line an event, never rewritten."""

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / HISTORY_FILE

    def events(self) -> list[dict[str, Any]]:
        """All events in order; a line cut off by a kill is passed over."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def add(self, event: str, **values: Any) -> None:
        """Append an event."""
        text = json.dumps({"event": event, "time": round(time.time(), 2), **values}, sort_keys=True, default=str) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)

    def count(self, event: str, **values: Any) -> int:
        """Number of events of a kind with these values."""
        return sum(e["event"] == event and all(e.get(k) == v for k, v in values.items()) for e in self.events())

    def exit_code(self) -> int | None:
        """Exit code of the last attempt, None if it never ended."""
        last = next((e for e in reversed(self.events()) if e["event"] in ("start", "end")), None)
        return last["exit_code"] if last is not None and last["event"] == "end" else None

    def interrupted(self) -> bool:
        """Whether the last attempt was started and never ended."""
        last = next((e for e in reversed(self.events()) if e["event"] in ("start", "end")), None)
        return last is not None and last["event"] == "start"

    @property
    def starts(self) -> int:
        """How often pw.x was started."""
        return self.count("start")

    @property
    def failures(self) -> int:
        """Corrections after failures."""
        return self.count("correction", kind="failure")

    @property
    def continuations(self) -> int:
        """Continuations after time limits and interruptions."""
        return self.count("correction", kind="continuation")

    def total(self, key: str) -> float:
        """Sum over attempts, e.g. of ``cpu_seconds``."""
        return float(sum(e.get(key, 0.0) for e in self.events()))


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


def _wait(process: subprocess.Popen[bytes], path: Path) -> float:
    """Wait for the end; CPU seconds of the whole tree.

    Ranks of a launcher that aborts or is killed never reach our own account, so they are looked at while they run.
    """
    before, seen, rest = resource.getrusage(resource.RUSAGE_CHILDREN), 0.0, 0.05
    path.unlink(missing_ok=True)
    while True:
        try:
            process.wait(timeout=rest)
            break
        except subprocess.TimeoutExpired:
            rest = min(2.0, 1.5 * rest)
            with contextlib.suppress(psutil.Error):
                tree = psutil.Process(process.pid)
                times = [p.cpu_times() for p in (tree, *tree.children(recursive=True))]
                seen = max(seen, sum(t.user + t.system for t in times))
                path.write_text(f"{seen:.2f}", encoding="utf-8")
    path.unlink(missing_ok=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(seen, (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime))


def _read_cpu(path: Path) -> float:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0


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
        inputs = EspressoInputs.read(here)
        history = History(here)
        if record_interruption(here, self.launch.ranks):
            output = read_output(here / OUTPUT_FILE, inputs.structure)
            start = {"startingpot": "file" if has_density(inputs) else "atomic", "startingwfc": None}
            changes: Changes = {"control": {"restart_mode": "from_scratch"}, "electrons": start}
            inputs = inputs.changed(changes, output.structure)
            history.add("correction", kind="continuation", handler="setup", problem="interrupted", changes=changes)
        check_geometry(inputs.structure)
        inputs.write(here)

    def run(self, directory: str = "./") -> None:
        """Run pw.x to its end and write down what it cost.

        Raises:
            ClaimLostError: if another process has the task now; custodian passes it on and corrects nothing.
        """
        here = Path(directory)
        check_claim(here)
        history = History(here)
        inputs = EspressoInputs.read(here)
        for name in (OUTPUT_FILE, ERROR_FILE):
            if (here / name).exists():
                (here / name).replace(here / f"{name}.{history.starts}")
        Path(inputs.namelists["control"]["outdir"]).mkdir(parents=True, exist_ok=True)
        began = time.time()
        with (here / OUTPUT_FILE).open("wb") as out, (here / ERROR_FILE).open("wb") as err:
            words = self.launch.words(inputs.flags)
            history.add("start", command=shlex.join(words), number=history.starts + 1)
            process = subprocess.Popen(
                words, cwd=here, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(),
                preexec_fn=None if words[0] == shutil.which("setpriv") else _die_with_parent,  # noqa: PLW1509
            )  # fmt: skip
            try:
                own = _wait(process, here / CPU_FILE)
            except BaseException:
                process.kill()
                process.wait()
                raise
        check_claim(here)
        output = read_output(here / OUTPUT_FILE, inputs.structure)
        history.add(
            "end",
            exit_code=process.returncode,
            wall_seconds=round(time.time() - began, 2),
            # Ranks that srun started are not in our process tree; then pw.x's own figure counts.
            cpu_seconds=round(max(own, output.cpu_seconds * self.launch.ranks), 2),
            energies_ev=list(output.energies_ev),
            n_iterations=output.n_iterations,
        )

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
