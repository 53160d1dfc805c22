"""What custodian's own handlers leave out: stopping in time to go on later, and VASP's deaths without a message."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from atomate2.vasp.run import DEFAULT_HANDLERS
from custodian.custodian import ErrorHandler
from custodian.vasp.handlers import FrozenJobErrorHandler, VaspErrorHandler
from custodian.vasp.interpreter import VaspModder
from custodian.vasp.utils import is_valid_poscar
from monty.io import zopen
from pymatgen.io.vasp.inputs import Incar

from sluice.step import Continue
from sluice.task_claims import check_claim
from sluice.time_limit import seconds_left, warned

STOPCAR = "STOPCAR"
STOP, CRASH = "out of time", "crashed"
MAX_CRASHES = 2


def stop_asked(directory: Path) -> bool:
    """Whether VASP has been told to stop in this directory."""
    return (directory / f"{STOPCAR}.asked").exists()


def aborted(directory: Path) -> bool:
    """Whether VASP stopped because it was told to; its files then look as those of a converged run do."""
    for name in ("OUTCAR", "OUTCAR.gz"):
        path = directory / name
        if path.exists():
            with zopen(path, "rt", encoding="utf-8", errors="replace") as handle:
                return any("stop encountered!  aborting job" in line for line in handle)
    return False


def ionic_steps(directory: Path) -> int:
    """Geometries that a run got through."""
    for name in ("OSZICAR", "OSZICAR.gz"):
        path = directory / name
        if path.exists():
            with zopen(path, "rt", encoding="utf-8", errors="replace") as handle:
                return str(handle.read()).count(" F= ")
    return 0


class StopHandler(ErrorHandler):
    """Tells VASP to stop where its files are whole: when the job's or the run's own time limit is near.

    custodian then ends this run without a correction and without an error; whoever started it goes on later.

    Args:
        max_seconds: wall time of one run, None for no limit.
    """

    is_monitor = True
    is_terminating = False
    raises_runtime_error = False

    def __init__(self, max_seconds: float | None = None) -> None:
        self.max_seconds = max_seconds
        self._began: float | None = None  # when VASP was first looked at

    def check(self, directory: str = "./") -> bool:
        """Whether it is time.

        Raises:
            ClaimLostError: if another process has the task now.
            Continue: if VASP was told to stop and did not.
        """
        here = Path(directory)
        check_claim(here)
        if warned() and seconds_left() < 0:
            text = f"{here.name}: VASP did not stop in time and goes on from its last geometry"
            raise Continue(text, advanced=ionic_steps(here) > 0)
        now = time.monotonic()
        self._began = self._began or now
        late = self.max_seconds is not None and now - self._began > self.max_seconds
        return warned() or late

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Write STOPCAR: at the next ionic step where that is soon enough, else at the next electronic one."""
        here = Path(directory)
        static = int(Incar.from_file(here / "INCAR").get("NSW", 0)) == 0
        word = "LABORT" if warned() or static else "LSTOP"
        (here / STOPCAR).write_text(f"{word} = .TRUE.\n", encoding="ascii")
        (here / f"{STOPCAR}.asked").write_text(word, encoding="ascii")
        return {"errors": [STOP], "actions": None}


def ended(directory: Path) -> bool:
    """Whether VASP wrote its files to their ends."""
    return _tail(directory / "vasprun.xml").rstrip().endswith("</modeling>") and "General timing" in _tail(
        directory / "OUTCAR", 8192
    )


def _tail(path: Path, size: int = 512) -> str:
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, path.stat().st_size - size))
            return handle.read().decode(errors="replace")
    except OSError:
        return ""


def last_words(directory: Path) -> str:
    """The last line that VASP or its launcher printed; what stands on standard error comes first."""
    for name in ("std_err.txt", "vasp.out"):
        lines = [line.strip(" -*|") for line in _tail(directory / name, 4096).splitlines()]
        lines = [line for line in lines if line]
        if lines:
            return lines[-1][:200]
    return ""


def _handled(directory: Path) -> bool:
    """Whether another handler ended this run and has put its files aside already (a hang, for one)."""
    output = directory / "vasp.out"
    backups = [path.stat().st_mtime_ns for path in directory.glob("error.*.tar.gz")]
    return bool(backups) and output.exists() and max(backups) >= output.stat().st_mtime_ns


class CrashHandler(ErrorHandler):
    """VASP ended before its files were whole, with no message that custodian knows: go on from the last geometry.

    Files of the dead run are not trusted (ISTART = 0).

    Args:
        max_crashes: how often it is tried again.
    """

    is_monitor = False

    def __init__(self, max_crashes: int = MAX_CRASHES) -> None:
        self.max_crashes = max_crashes
        self._crashes = 0

    def check(self, directory: str = "./") -> bool:
        """Whether that is the case."""
        here = Path(directory)
        if ended(here) or stop_asked(here) or _handled(here):
            return False
        return not ((here / "vasp.out").exists() and VaspErrorHandler().check(directory))

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """Start again from CONTCAR, or give up."""
        here = Path(directory)
        empty = not (here / "OUTCAR").exists() or (here / "OUTCAR").stat().st_size == 0
        words = last_words(here)
        problem = ("no output" if empty else CRASH) + (f": {words}" if words else "")
        self._crashes += 1
        if self._crashes > self.max_crashes:
            return {"errors": [problem], "actions": None}
        actions: list[dict[str, Any]] = [{"dict": "INCAR", "action": {"_set": {"ISTART": 0}}}]
        if is_valid_poscar("CONTCAR", directory):
            actions.append({"file": "CONTCAR", "action": {"_file_copy": {"dest": "POSCAR"}}})
        VaspModder(directory=directory).apply_actions(actions)
        return {"errors": [problem], "actions": actions}


class EarlyErrorHandler(VaspErrorHandler):
    """custodian's master handler, also where OUTCAR has no number of electrons yet, which it compares unasked."""

    def correct(self, directory: str = "./") -> dict[str, Any]:
        """As custodian does; an OUTCAR without electrons is put aside, so that it counts as missing."""
        path = Path(directory) / "OUTCAR"
        if "edddav" in self.errors and path.exists() and "number of electron " not in path.read_text(errors="replace"):
            path.rename(path.with_name("OUTCAR.early"))
        found: dict[str, Any] = super().correct(directory)
        return found


def all_handlers(*, max_seconds: float | None, hang_seconds: float) -> list[ErrorHandler]:
    """atomate2's handlers, made anew since they count what they did, with ours beside them.

    Args:
        max_seconds: wall time of one run, None for no limit.
        hang_seconds: silence after which VASP counts as hanging.
    """
    instead: dict[type, ErrorHandler] = {
        FrozenJobErrorHandler: FrozenJobErrorHandler(timeout=hang_seconds),
        VaspErrorHandler: EarlyErrorHandler(),
    }
    theirs = [instead.get(type(handler)) or type(handler)() for handler in DEFAULT_HANDLERS]
    return [*theirs, CrashHandler(), StopHandler(max_seconds)]
