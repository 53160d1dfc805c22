"""One driver a campaign: ``lease.json`` names the holder, a dead holder's lease is taken over.

On the holder's own host its process tells whether it lives (pid and start time). From another host its heartbeat does:
the file's age by the file system's clock, and, before a lease is taken over, a look whether the heartbeat still moves,
so that hosts whose clocks disagree do not rob each other.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import psutil

from sluice.attempts import is_running, process_start
from sluice.driver.processes import slurm_job_lives
from sluice.errors import LeaseError

LEASE_FILE = "lease.json"
HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 120.0  # a heartbeat this old is looked at twice, then its lease is taken over


@dataclass(frozen=True)
class Holder:
    """Who holds a campaign: host, process and its start (ticks since boot), SLURM job, number of heartbeats."""

    host: str
    pid: int
    start: float
    slurm_job: str | None
    heartbeat: int
    heartbeat_time: float
    token: str

    @property
    def driver(self) -> str:
        """``host:pid:start``, as steps get it in the environment."""
        return f"{self.host}:{self.pid}:{self.start}"

    def describe(self) -> str:
        """The holder in words."""
        job = f", SLURM job {self.slurm_job}" if self.slurm_job else ""
        text = f"process {self.pid} on {self.host}{job}"
        if self.host != socket.gethostname():
            return text
        started = psutil.boot_time() + self.start / os.sysconf("SC_CLK_TCK")
        return f"{text}, started {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(started))}"


def read_lease(workdir: Path) -> Holder | None:
    """The holder that the lease names, alive or not; None without a (readable) lease."""
    try:
        return Holder(**json.loads((workdir / LEASE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def is_alive(
    holder: Holder, workdir: Path, *, stale_seconds: float = STALE_SECONDS, watch_seconds: float = 2 * HEARTBEAT_SECONDS
) -> bool:
    """Whether the holder still drives the campaign; from another host this may take ``watch_seconds``."""
    here = is_running(holder.host, holder.pid, holder.start)
    if here is not None:
        return here
    if holder.slurm_job and holder.slurm_job == os.environ.get("SLURM_JOB_ID") and _restarted():
        return False  # this very job, before it went back into the queue
    if holder.slurm_job and slurm_job_lives(holder.slurm_job) is False:
        return False
    if _age(workdir) < stale_seconds:
        return True
    deadline = time.monotonic() + watch_seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.5, watch_seconds / 4))
        now = read_lease(workdir)
        if now is None or (now.token, now.heartbeat) != (holder.token, holder.heartbeat):
            return now is not None
    return False


def _restarted() -> bool:
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def _age(workdir: Path) -> float:
    """Seconds since the last heartbeat by the clock of the file system, which all hosts share."""
    probe = workdir / f".{LEASE_FILE}.{uuid.uuid4().hex[:8]}.probe"
    probe.write_text("")
    try:
        return probe.stat().st_mtime - (workdir / LEASE_FILE).stat().st_mtime
    except OSError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


class Lease:
    """The lease of a campaign as a context manager, with a thread that renews it.

    Args:
        workdir: the campaign's working directory; made if missing.
        on_loss: called once if another driver has taken the lease (after a long suspension, say).

    Raises:
        LeaseError: on entering, if a living driver holds it (names the holder), or the directory cannot be written.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        on_loss: Callable[[], None] | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self.workdir, self.path = workdir, workdir / LEASE_FILE
        self.previous: Holder | None = None
        self._on_loss, self._interval, self._stale = on_loss, heartbeat_seconds, stale_seconds
        self._beats = 0
        self._token = uuid.uuid4().hex
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._start = process_start(self._pid) or time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    @property
    def holder(self) -> Holder:
        """This driver."""
        slurm_job = os.environ.get("SLURM_JOB_ID")
        now = round(time.time(), 1)
        return Holder(self._host, self._pid, self._start, slurm_job, self._beats, now, self._token)

    def __enter__(self) -> Lease:
        try:
            self._take()
        except OSError as error:
            raise LeaseError(
                f"{self.workdir} cannot be written: {error.strerror or error}; set results to a directory of yours"
            ) from error
        self._thread.start()
        return self

    def _take(self) -> None:
        self.workdir.mkdir(parents=True, exist_ok=True)
        # Watched outside the guard: a living holder needs the guard for every heartbeat.
        seen = read_lease(self.workdir)
        if seen is not None and is_alive(
            seen, self.workdir, stale_seconds=self._stale, watch_seconds=2 * self._interval
        ):
            raise self._refusal(seen)
        with self._guard() as alone:
            now = read_lease(self.workdir)
            if now is not None and (seen is None or (now.token, now.heartbeat) != (seen.token, seen.heartbeat)):
                raise self._refusal(now)  # it beat, or somebody else was faster
            self.previous = now
            self.path.unlink(missing_ok=True)
            self._create()
        if not alone:
            time.sleep(1.0)  # without locks another driver may have removed this lease as the dead one's: look again
            if not self._is_mine():
                raise LeaseError(f"{self.workdir}: this campaign has just been taken by another driver.")

    def _refusal(self, holder: Holder) -> LeaseError:
        return LeaseError(
            f"{self.workdir}: this campaign is being run by {holder.describe()}. "
            "Wait for it (`sluice status` shows how far it is) or stop it, then try again."
        )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        with self._guard():
            if self._is_mine():
                self.path.unlink(missing_ok=True)

    @contextmanager
    def _guard(self) -> Iterator[bool]:
        """One process at a time looks at the lease and takes it; False where the file system has no locks."""
        with (self.workdir / f".{LEASE_FILE}.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                alone = True
            except OSError:
                alone = False
            yield alone

    def _write_temporary(self) -> Path:
        temporary = self.workdir / f".{LEASE_FILE}.{self._token}.tmp"
        with temporary.open("w", encoding="utf-8") as handle:
            json.dump(asdict(self.holder), handle)
            handle.flush()
            os.fsync(handle.fileno())
        return temporary

    def _create(self) -> None:
        temporary = self._write_temporary()
        try:
            os.link(temporary, self.path)  # unlike rename, fails if another driver was faster
        except FileExistsError as error:
            winner = read_lease(self.workdir)
            name = winner.describe() if winner else "another driver"
            raise LeaseError(f"{self.workdir}: this campaign has just been taken by {name}.") from error
        finally:
            temporary.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        now = read_lease(self.workdir)
        return now is not None and now.token == self._token

    def _renew(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                with self._guard():
                    now = read_lease(self.workdir)
                    mine = now is None or now.token == self._token  # a lease someone deleted is written again
                    if mine:
                        self._beats += 1
                        self._write_temporary().replace(self.path)
            except OSError:
                continue  # a full disk or a file system that is away for a moment; the next beat may get through
            if not mine:
                if self._on_loss is not None and not self._stop.is_set():
                    self._on_loss()
                return
