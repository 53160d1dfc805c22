"""Claims: who works on a task of the library, without a server and without trusting clocks.

A claim is a directory ``claim.<number>`` that ``mkdir`` makes or refuses; the highest number is the one that counts.
It holds ``holder.json`` and a ``heartbeat`` that a thread renews. Who ends properly renames the first to
``released.json``. A claim whose holder is dead or silent is taken over by making the next number: one ``mkdir`` wins,
and the former holder, should it wake up, sees a higher number than its own and stops. Numbers only ever grow.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType

import psutil

from sluice.errors import SluiceError

HEARTBEAT_SECONDS = 15.0
LEASE_SECONDS = 180.0
_PREFIX = "claim."
_entered: dict[Path, Claim] = {}  # claims whose blocks this process is in, by task directory


class ClaimLostError(SluiceError):
    """Another process has taken the task over; what we still did in its directory would spoil its work."""


@cache
def machine_identity() -> str:
    """What two processes share if they can see each other's pid: the boot and the pid namespace; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}:{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """Start of a live process in kernel ticks since boot, which no clock change moves; None if gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True)
class Holder:
    """The process behind a claim.

    Attributes:
        host: its name, for people.
        machine: boot and pid namespace; only where this is ours can the pid be looked up.
        ticks: start of the process in ticks since boot, since pids are used again.
        slurm_job: id of the SLURM job it runs in, if any.
        token: unique per claim.
    """

    host: str
    machine: str
    pid: int
    ticks: int
    slurm_job: str | None
    token: str

    @classmethod
    def this_process(cls) -> Holder:
        """Describe the running process."""
        return cls(
            socket.gethostname(),
            machine_identity(),
            os.getpid(),
            start_ticks(os.getpid()) or 0,
            os.environ.get("SLURM_JOB_ID"),
            uuid.uuid4().hex,
        )

    def is_alive(self) -> bool | None:
        """Whether the process lives; None where that cannot be told from here."""
        if not self.machine or self.machine != machine_identity():
            return None
        return start_ticks(self.pid) == self.ticks

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        return f"{self.host}, process {self.pid}{job}"


def _read_holder(directory: Path) -> Holder | None:
    try:
        return Holder(**json.loads((directory / "holder.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _read_beat(directory: Path) -> bytes:
    try:
        return (directory / "heartbeat").read_bytes()
    except OSError:
        return b""


def _newest(task_directory: Path) -> int:
    """Number of the claim that counts; 0 if there never was one."""
    try:
        names = [path.name for path in task_directory.iterdir()]
    except FileNotFoundError:
        return 0
    numbers = [name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _claim_directory(task_directory: Path, number: int) -> Path:
    return task_directory / f"{_PREFIX}{number:04d}"


def holder_of(task_directory: Path) -> Holder | None:
    """Who holds a task, dead or alive; None if nobody does."""
    number = _newest(task_directory)
    return _read_holder(_claim_directory(task_directory, number)) if number else None


class Claim:
    """A task that is ours, as a context manager: renewed by a thread inside the block, released at its end.

    Attributes:
        number: how many claims there were on this task, with this one.
        taken_over: the former holder where the claim was a dead one's.
        lost: set when somebody took the claim over (this process was stopped for longer than the lease).
    """

    def __init__(
        self,
        task_directory: Path,
        number: int,
        holder: Holder,
        *,
        heartbeat_seconds: float,
        taken_over: bool = False,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self.task_directory, self.number, self.holder = task_directory, number, holder
        self.directory = _claim_directory(task_directory, number)
        self.taken_over, self.on_lost = taken_over, on_lost
        self.lost = threading.Event()
        self._heartbeat_seconds = heartbeat_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name=f"claim-{task_directory.name}")

    def is_ours(self) -> bool:
        """Look whether the claim still counts."""
        if not self.lost.is_set() and _newest(self.task_directory) != self.number:
            self.lost.set()
        return not self.lost.is_set()

    def _renew(self) -> None:
        beat = 0
        while not self._stop.wait(self._heartbeat_seconds):
            beat += 1
            try:
                if not self.is_ours():
                    if self.on_lost is not None and not self._stop.is_set():
                        self.on_lost()
                    return
                _write_beat(self.directory, self.holder, beat)
            except OSError:
                continue  # a file system that is away for a moment; the lease is many heartbeats long

    def __enter__(self) -> Claim:
        _entered[self.task_directory.resolve()] = self
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        _entered.pop(self.task_directory.resolve(), None)
        self._thread.join(timeout=2 * self._heartbeat_seconds)
        try:
            if self.is_ours():
                (self.directory / "holder.json").rename(self.directory / "released.json")
                (self.directory / "heartbeat").unlink(missing_ok=True)
        except OSError:
            pass  # whoever comes next finds this process dead and takes over

    def forget_former(self) -> None:
        """Delete what earlier claims on this task left, so that a finished task keeps few files."""
        for number in range(1, self.number):
            former = _claim_directory(self.task_directory, number)
            for name in ("holder.json", "released.json", "heartbeat"):
                (former / name).unlink(missing_ok=True)
            try:
                former.rmdir()
            except OSError:
                continue


def check_claim(directory: Path) -> None:
    """Before something is started or written inside a task's directory: see that our claim on it still counts.

    Directories that this process holds no claim on are nobody's business here.

    Raises:
        ClaimLostError: if another process has taken the task over.
    """
    where = directory.resolve()
    for task_directory, claim in list(_entered.items()):
        if where.is_relative_to(task_directory) and not claim.is_ours():
            raise ClaimLostError(
                f"{task_directory.name}: another process has taken this task over; resume to wait for it"
            )


def _write_beat(directory: Path, holder: Holder, beat: int) -> None:
    # Same length every time and written in place: this works on a full disk as well.
    handle = os.open(directory / "heartbeat", os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{holder.token} {beat:012d}\n".encode())
    finally:
        os.close(handle)


class ClaimTaker:
    """Takes claims, and remembers for how long it has seen other holders silent.

    Silence is measured with this process's own monotonic clock between two looks at the same heartbeat, so that
    neither another machine's clock nor a change of ours can make a living holder look dead, or a dead one alive.

    Args:
        lease_seconds: silence after which a holder on another machine counts as dead.
        heartbeat_seconds: how often our own claims are renewed.
    """

    def __init__(self, *, lease_seconds: float = LEASE_SECONDS, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.lease_seconds, self.heartbeat_seconds = lease_seconds, heartbeat_seconds
        self._seen: dict[Path, tuple[bytes, float]] = {}

    def try_claim(self, task_directory: Path, *, on_lost: Callable[[], None] | None = None) -> Claim | None:
        """Claim a task; None if a living process has it or another was faster."""
        task_directory.mkdir(parents=True, exist_ok=True)
        newest = _newest(task_directory)
        current = _claim_directory(task_directory, newest)
        released = newest == 0 or (current / "released.json").exists()
        if not released and not self._is_dead(current):
            return None
        own = _claim_directory(task_directory, newest + 1)
        try:
            own.mkdir()
        except FileExistsError:
            return None
        holder = Holder.this_process()
        _write_beat(own, holder, 0)
        temporary = own / "holder.tmp"
        temporary.write_text(json.dumps(asdict(holder)))
        temporary.rename(own / "holder.json")
        claim = Claim(
            task_directory,
            newest + 1,
            holder,
            heartbeat_seconds=self.heartbeat_seconds,
            taken_over=not released,
            on_lost=on_lost,
        )
        return claim if claim.is_ours() else None

    def _is_dead(self, directory: Path) -> bool:
        holder = _read_holder(directory)
        if holder is not None and (alive := holder.is_alive()) is not None:
            return not alive
        # Elsewhere, or died before it could say who it is.
        beat, now = _read_beat(directory), time.monotonic()
        seen = self._seen.get(directory)
        if seen is None or seen[0] != beat:
            self._seen[directory] = (beat, now)
            return False
        return now - seen[1] > self.lease_seconds


def end_leftovers(directories: Iterable[Path], *, patience: float = 10.0) -> list[int]:
    """Kill processes of this machine that still work inside these directories: a dead holder's calculation.

    Returns:
        Their pids. This process and its ancestors are never among them.
    """
    roots = [str(path.resolve()) for path in directories]
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            where = process.cwd()
            if process.pid not in own and any(where == root or where.startswith(root + os.sep) for root in roots):
                process.kill()
                found.append(process)
        except psutil.Error:
            continue
    # Not waited for with waitpid: whoever started them wants to read their exit status.
    end = time.monotonic() + patience
    while any(start_ticks(process.pid) is not None for process in found) and time.monotonic() < end:
        time.sleep(0.02)
    return [process.pid for process in found]
