"""The executor: submits, watches, settles and cancels the SLURM jobs of one campaign."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import get_job_wildcards, set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from sluice.attempts import ATTEMPTS_FILE

from . import slurm_queue
from .continuation import judge
from .identity import JobIdentity, campaign_name, identify
from .slurm_queue import Fate, QueuedJob
from .submission import AbortedError, submit

WRAPPER = Path(__file__).with_name("warn.py")
QUERY_TIMEOUT_S = 60.0
MISSED_POLLS = 2  # a job must be missing this often in a row to have vanished


@dataclass
class Watched:
    """A job that SLURM has, as the executor remembers it between two looks."""

    info: SubmittedJobInfo
    identity: JobIdentity
    submitted: float
    missed: int = 0
    stuck_since: float | None = None


def _keep_site_configuration() -> None:
    """Forget the job that this driver may itself be, but not where SLURM's configuration is (the stock plugin does)."""
    for name in list(os.environ):
        if name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS"):
            del os.environ[name]


class Executor(SlurmExecutor):
    """Submits each job as one SLURM job that runs Snakemake for that job directly in the batch script."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        # the parent starts its polling thread before it calls __post_init__, so these come first
        _keep_site_configuration()
        self._aborted = threading.Event()
        self._watched: dict[str, Watched] = {}
        self._watch_lock = threading.Lock()
        self._left: dict[str, QueuedJob] | None = None  # what earlier drivers left in the queue
        self._left_lock = threading.Lock()
        self._lost: dict[str, int] = {}
        self._away_since: float | None = None
        super().__init__(workflow, logger)

    def __post_init__(self, test_mode: bool = False) -> None:
        """Name the campaign."""
        self.settings = self.workflow.executor_settings
        self.workdir = Path.cwd()
        self.campaign = campaign_name(self.workdir, self.settings.jobname_prefix)
        self.started = psutil.Process().create_time()
        self.next_seconds_between_status_checks = self.settings.poll_seconds
        super().__post_init__(test_mode)
        self.run_uuid = self.campaign
        self.logger.info(f"SLURM jobs of this campaign are named {self.campaign}")

    def additional_general_args(self) -> str:
        """Nothing: the stock plugin's second nested Snakemake (jobstep) is not needed in a batch script."""
        return ""

    # ---------------------------------------------------------------- submitting

    def run_job(self, job: Any) -> None:
        """Take over the job's SLURM job from an earlier driver, or submit one."""
        try:
            identity = identify(job)
            waits_for = self._take_over(job, identity)
            if waits_for is not None:
                self._submit(job, identity, waits_for)
        except AbortedError:
            return
        except Exception as error:
            # whatever went wrong, the scheduler must hear of it, or it waits for ever
            reason = " ".join(str(error).split()) or type(error).__name__
            self.report_job_error(SubmittedJobInfo(job), msg=f"SLURM did not take the job: {reason} ")

    def _left_by_others(self) -> dict[str, QueuedJob]:
        """Jobs of this campaign in the queue when this driver first submits; waits until SLURM answers."""
        with self._left_lock:
            while self._left is None:
                self._left = slurm_queue.read_queue(self.campaign)
                if self._left is None:
                    self._note_absence()
                    if self._aborted.wait(self.settings.poll_seconds):
                        raise AbortedError
            self._note_answer()
            return self._left

    def _take_over(self, job: Any, identity: JobIdentity) -> list[str] | None:
        """Attach to a SLURM job that already does this job; None then, else the jobs that must end before it starts."""
        waits_for: list[str] = []
        attached = False
        with self._watch_lock:
            known = set(self._watched)
        candidates = [
            queued
            for queued in sorted(list(self._left_by_others().values()), key=lambda q: -int(q.job_id))
            if queued.identity is not None
            and queued.identity.outputs == identity.outputs
            and queued.job_id not in known
        ]
        for queued in candidates:
            self._left_by_others().pop(queued.job_id)
            current = queued.identity is not None and queued.identity.settings == identity.settings
            if queued.lives and current and not attached and queued.state != "COMPLETING":
                self.logger.info(
                    f"Job {job.jobid} ({identity.label}) is SLURM job {queued.job_id} already "
                    f"({queued.state.lower()}), taking it over."
                )
                self._watch(job, identity, queued.job_id, queued.submitted or self.started)
                attached = True
            elif queued.lives:
                why = "does outdated work" if not current else "would do the same work twice"
                if queued.state != "COMPLETING":
                    self.logger.info(f"Cancelling SLURM job {queued.job_id} ({identity.label}): it {why}.")
                    slurm_queue.cancel([queued.job_id])
                waits_for.append(queued.job_id)
            elif queued.fate is Fate.DONE and current and not attached and self._finished_meanwhile(job, queued):
                self._watch(job, identity, queued.job_id, queued.submitted or self.started)
                attached = True
        return None if attached else waits_for

    def _finished_meanwhile(self, job: Any, queued: QueuedJob) -> bool:
        """Whether a job ended after this driver had looked which files are missing."""
        return queued.ended is not None and queued.ended >= self.started - 1 and self._outputs_newer(job, self.started)

    def _outputs_newer(self, job: Any, moment: float) -> bool:
        try:
            return all(Path(str(f)).stat().st_mtime >= moment - 1 for m in self._members(job) for f in m.output)
        except OSError:
            return False

    @staticmethod
    def _members(job: Any) -> list[Any]:
        return list(job) if job.is_group() else [job]

    def _submit(self, job: Any, identity: JobIdentity, waits_for: list[str] | None = None) -> None:
        command, log = self._sbatch_command(job, identity, waits_for or [])
        script = (
            f"#!/bin/sh\nexec {shlex.join([sys.executable, str(WRAPPER), 'sh', '-c', self.format_job_exec(job)])}\n"
        )
        since = time.time()
        job_id = submit(
            command,
            script,
            aborted=self._aborted,
            already_there=lambda: self._find_submitted(identity, since),
            tell=self.logger.warning,
        )
        self.logger.info(
            f"Job {job.jobid} ({identity.label}) is SLURM job {job_id}, log {str(log).replace('%j', job_id)}"
        )
        self._watch(job, identity, job_id, since)

    def _sbatch_command(self, job: Any, identity: JobIdentity, waits_for: list[str]) -> tuple[list[str], Path]:
        validate_slurm_extra(job)
        kind = "group" if job.is_group() else "rule"
        log = self._log_file(job, "%j", kind)
        log.parent.mkdir(parents=True, exist_ok=True)
        parameters = {
            "run_uuid": self.campaign,
            "slurm_logfile": log,
            "comment_str": identity.comment,
            "account": "" if self.settings.no_account else next(self.get_account_arg(job)),
            "partition": self.get_partition_arg(job),
            "workdir": self.workflow.workdir_init,
        }
        call = get_submit_command(job, parameters, settings=self.settings, failed_nodes=self._failed_nodes)
        command = shlex.split(call + set_gres_string(job))
        # before the others, so that slurm_extra may override them
        ours = [f"--signal=B:USR1@{self._warning_seconds(job)}"]
        if not self.settings.requeue:
            ours.append("--no-requeue")  # one party starts jobs again, and it is this one
        if waits_for:
            ours.append(f"--dependency=afterany:{':'.join(waits_for)}")
        return [command[0], *ours, *command[1:]], log

    def _log_file(self, job: Any, job_id: str, kind: str = "rule") -> Path:
        return self.slurm_logdir / f"{kind}_{job.name}" / get_job_wildcards(job) / f"{job_id}.log"

    def _warning_seconds(self, job: Any) -> int:
        minutes = job.resources.get("runtime")
        if not isinstance(minutes, (int, float)):
            return self.settings.warning_seconds
        return max(1, min(self.settings.warning_seconds, int(minutes * 60 / 4)))

    def _find_submitted(self, identity: JobIdentity, since: float) -> str | None:
        queue = slurm_queue.read_queue(self.campaign) or {}
        with self._watch_lock:
            known = set(self._watched)
        for queued in queue.values():
            if queued.identity == identity and queued.job_id not in known and (queued.submitted or 0) >= since - 1:
                return queued.job_id
        return None

    def _watch(self, job: Any, identity: JobIdentity, job_id: str, submitted: float) -> None:
        log = self._log_file(job, job_id, "group" if job.is_group() else "rule")
        info = SubmittedJobInfo(job, external_jobid=job_id, aux={"slurm_logfile": log})
        with self._watch_lock:
            self._watched[job_id] = Watched(info, identity, submitted)
        self.report_job_submission(info)

    # ---------------------------------------------------------------- watching

    async def sleep(self) -> None:
        """Wait for the next look at the queue, but not when the run is to end."""
        until = time.monotonic() + self.next_seconds_between_status_checks
        while self.wait and time.monotonic() < until:
            await asyncio.sleep(0.2)

    async def _query(self) -> dict[str, QueuedJob] | None:
        """The queue, None if SLURM does not answer or the run ends meanwhile."""
        process = await asyncio.create_subprocess_exec(
            *slurm_queue.squeue_command(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        answer = asyncio.ensure_future(process.communicate())
        until = time.monotonic() + QUERY_TIMEOUT_S
        while not answer.done() and self.wait and time.monotonic() < until:
            await asyncio.wait({answer}, timeout=0.2)
        if not answer.done():
            process.kill()
            await answer
            return None
        output, _ = answer.result()
        return (
            slurm_queue.parse_squeue(output.decode(errors="replace"), self.campaign) if not process.returncode else None
        )

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Settle the jobs that have ended; yield the others. Must not raise: the polling thread would end silently."""
        queue = None
        if active_jobs:
            try:
                async with self.status_rate_limiter:
                    queue = await self._query()
            except OSError as error:
                self.logger.debug(f"squeue: {error}")
        ended = False
        if active_jobs and queue is None:
            self._note_absence()
        elif active_jobs:
            self._note_answer()
        for info in active_jobs:
            try:
                if queue is None or not self._settle(info, queue):
                    yield info
                else:
                    ended = True
            except Exception as error:
                self.logger.warning(f"Could not settle SLURM job {info.external_jobid}, will try again: {error!r}")
                yield info
        longest = self.settings.max_poll_seconds
        wait = self.settings.poll_seconds if ended else 1.5 * self.next_seconds_between_status_checks
        self.next_seconds_between_status_checks = min(wait, longest)

    def _note_absence(self) -> None:
        if self._away_since is None and not self._aborted.is_set():
            self._away_since = time.time()
            self.logger.warning("SLURM does not answer (squeue); all jobs are kept, waiting for it.")

    def _note_answer(self) -> None:
        if self._away_since is not None:
            self.logger.warning(f"SLURM answers again after {time.time() - self._away_since:.0f} s.")
            self._away_since = None

    def _settle(self, info: SubmittedJobInfo, queue: dict[str, QueuedJob]) -> bool:
        """Deal with one job; whether it is settled, so that this SLURM job need no longer be watched."""
        job_id = str(info.external_jobid)
        watched = self._watched[job_id]
        queued = queue.get(job_id)
        if queued is None:
            watched.missed += 1
            return watched.missed >= MISSED_POLLS and self._settle_vanished(watched)
        watched.missed = 0
        if queued.fate is Fate.WAITS:
            watched.stuck_since = None
            return False
        if queued.fate is Fate.STUCK:
            return self._settle_stuck(watched, queued)
        if queued.fate is Fate.DONE:
            self._succeed(watched)
        else:
            self._settle_ended(watched, queued.state, queued.fate, queued.nodes)
        return True

    def _settle_stuck(self, watched: Watched, queued: QueuedJob) -> bool:
        words = slurm_queue.stuck_reason(queued.reason) or f"SLURM's state is {queued.state}"
        now = time.monotonic()
        if watched.stuck_since is None:
            watched.stuck_since = now
            self.logger.warning(f"SLURM job {queued.job_id} ({watched.identity.label}) does not start: {words}.")
        if now - watched.stuck_since < self.settings.hold_seconds:
            return False
        slurm_queue.cancel([queued.job_id])
        if "launch failed" in queued.reason.lower().replace("_", " "):
            self._submit_lost(watched, words)
        else:
            self._fail(
                watched,
                f"did not start within {self.settings.hold_seconds:.0f} s: {words} (SLURM's reason: {queued.reason})",
            )
        return True

    def _settle_vanished(self, watched: Watched) -> bool:
        """A job that neither runs nor is remembered by the queue: ask the accounting, then its own traces."""
        job_id = str(watched.info.external_jobid)
        accounted = slurm_queue.ask_accounting(job_id)
        if accounted is not None:
            fate = slurm_queue.fate_of(accounted[0])
            if fate is Fate.DONE:
                self._succeed(watched)
            elif fate is not Fate.WAITS:
                self._settle_ended(watched, accounted[0], fate, "")
            return fate is not Fate.WAITS
        word = self._last_word(job_id)
        if self._outputs_newer(watched.info.job, watched.submitted) and (word is None or word.finished):
            self.logger.info(f"SLURM has forgotten job {job_id} ({watched.identity.label}), but its outputs are there.")
            self._succeed(watched)
        elif word is not None:
            self._settle_ended(watched, "gone from the queue", Fate.FAILED, "")
        else:
            self._submit_lost(watched, "SLURM does not know it any more and its outputs are not there")
        return True

    def _settle_ended(self, watched: Watched, state: str, fate: Fate, nodes: str) -> None:
        """A job that ended without success: continue it, submit it again, or report the failure."""
        word = self._last_word(str(watched.info.external_jobid))
        if word is not None and word.wanted and word.granted:
            self.logger.info(f"{watched.identity.label} saved its state and goes on: {word.words}.")
            self._submit_again(watched)
        elif word is not None and word.wanted:
            self._fail(watched, f"wants to be continued, but {word.words}")
        elif fate is Fate.LOST:
            self._submit_lost(watched, f"{state}{f' on {nodes}' if nodes else ''}")
        else:
            told = word.words if word is not None and word.words else self._last_line_of_slurm(watched)
            self._fail(watched, f"ended with {state}{f': {told}' if told else ''}")

    def _last_word(self, job_id: str) -> Any:
        return judge(self.workdir / ATTEMPTS_FILE, job_id, self.settings.max_continuations)

    def _last_line_of_slurm(self, watched: Watched) -> str:
        """What slurmstepd wrote last into the job's log (memory or time limit exceeded …)."""
        try:
            with Path(watched.info.aux["slurm_logfile"]).open("rb") as handle:
                handle.seek(max(0, os.fstat(handle.fileno()).st_size - 20_000))
                lines = handle.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return next((ln.split("error: ", 1)[-1].strip(" *") for ln in reversed(lines) if "slurmstepd: error" in ln), "")

    # ---------------------------------------------------------------- ends of a job

    def _forget(self, watched: Watched) -> None:
        with self._watch_lock:
            self._watched.pop(str(watched.info.external_jobid), None)

    def _succeed(self, watched: Watched) -> None:
        self._forget(watched)
        self.report_job_success(watched.info)
        log = watched.info.aux["slurm_logfile"]
        if not self.settings.keep_successful_logs:
            log.unlink(missing_ok=True)

    def _fail(self, watched: Watched, words: str) -> None:
        self._forget(watched)
        message = f"SLURM job {watched.info.external_jobid} ({watched.identity.label}) {words}. "
        self.logger.error(message)
        self.report_job_error(watched.info, msg=message, aux_logs=[str(watched.info.aux["slurm_logfile"])])

    def _submit_lost(self, watched: Watched, words: str) -> None:
        """Submit a job again that did not fail by itself; after ``max_lost`` times that is a failure."""
        lost = self._lost.get(watched.identity.outputs, 0) + 1
        self._lost[watched.identity.outputs] = lost
        if lost > self.settings.max_lost:
            self._fail(watched, f"was lost {lost} times: {words}")
            return
        self.logger.warning(
            f"SLURM job {watched.info.external_jobid} ({watched.identity.label}) was lost: {words}. "
            f"Submitting it again ({lost} of at most {self.settings.max_lost})."
        )
        self._submit_again(watched)

    def _submit_again(self, watched: Watched) -> None:
        """Submit the same attempt anew, after the old SLURM job has certainly ended."""
        self._forget(watched)
        self._job_submission_executor.submit(self._resubmit, watched)

    def _resubmit(self, watched: Watched) -> None:
        try:
            self._submit(watched.info.job, watched.identity)
        except AbortedError:
            return
        except Exception as error:
            self._fail(watched, f"could not be submitted again: {error}")

    # ---------------------------------------------------------------- cancelling

    def cancel(self) -> None:
        """End at once: submit nothing more, scancel everything, look at the queue no more."""
        try:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave jobs behind
        except ValueError:
            before = None  # not in the main thread
        self._aborted.set()
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        with self._watch_lock:
            running = [w.info for w in self._watched.values()]
        self.cancel_jobs(running)
        self.shutdown()
        if before is not None:
            signal.signal(signal.SIGINT, before)

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel SLURM jobs; what SLURM says against it is a warning."""
        ids = [str(info.external_jobid) for info in active_jobs if info.external_jobid is not None]
        if ids:
            self.logger.info(f"Cancelling {len(ids)} SLURM jobs.")
            if complaint := slurm_queue.cancel(ids):
                self.logger.warning(f"scancel: {complaint}")
