"""The executor: takes over, submits and cancels the SLURM jobs of one campaign."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import get_job_wildcards, set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_slurm_extra
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from sluice.time_limit import WARNING_VARIABLE

from . import slurm_queue
from .identity import JobIdentity, identify
from .slurm_queue import Fate, QueuedJob
from .submission import AbortedError, submit
from .watching import Watched, Watcher, outputs_newer

WRAPPER = Path(__file__).with_name("warn.py")


def _keep_site_configuration() -> None:
    """Forget the job that this driver may itself be, but not where SLURM's configuration is (the stock plugin does)."""
    for name in list(os.environ):
        if name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS"):
            del os.environ[name]


class Executor(Watcher):
    """Submits each job as one SLURM job that runs Snakemake for that job directly in the batch script."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        _keep_site_configuration()
        self.started = psutil.Process().create_time()
        self._left: dict[str, QueuedJob] | None = None  # what earlier drivers left in the queue
        self._left_lock = threading.Lock()
        self._used: set[str] = set()  # SLURM jobs that this driver has taken over or submitted
        super().__init__(workflow, logger)

    def __post_init__(self, test_mode: bool = False) -> None:
        """Name the campaign's jobs."""
        super().__post_init__(test_mode)
        self.next_seconds_between_status_checks = self.settings.poll_seconds
        self.run_uuid = self.campaign
        self.logger.info(f"SLURM jobs of this campaign are named {self.campaign}")

    def additional_general_args(self) -> str:
        """Nothing: the stock plugin's second nested Snakemake (jobstep) is not needed in a batch script."""
        return ""

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
            self._record(job, "refused", f"SLURM did not take the job: {reason}")
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
        left = self._left_by_others()
        with self._left_lock:
            mine = [q for q in left.values() if q.identity is not None and q.identity.outputs == identity.outputs]
            for queued in mine:
                del left[queued.job_id]
        for queued in sorted(mine, key=lambda q: -int(q.job_id)):
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
                    slurm_queue.cancel(self.campaign, [queued.job_id])
                waits_for.append(queued.job_id)
            elif queued.fate is Fate.DONE and current and not attached and self._finished_meanwhile(job, queued):
                self._watch(job, identity, queued.job_id, queued.submitted or self.started)
                attached = True
        return None if attached else waits_for

    def _finished_meanwhile(self, job: Any, queued: QueuedJob) -> bool:
        """Whether a job ended after this driver had looked which files are missing."""
        return queued.ended is not None and queued.ended >= self.started - 1 and outputs_newer(job, self.started)

    def _submit(self, job: Any, identity: JobIdentity, waits_for: list[str] | None = None) -> None:
        command, log = self._sbatch_command(job, identity, waits_for or [])
        script = (
            f"#!/bin/sh\nexport {WARNING_VARIABLE}={self._warning_seconds(job)}\n"
            f"exec {shlex.join([sys.executable, str(WRAPPER), 'sh', '-c', self.format_job_exec(job)])}\n"
        )
        since, before = time.time(), set(self._used)
        job_id = submit(
            command,
            script,
            aborted=self._aborted,
            already_there=lambda: self._find_submitted(identity, since, before | set(waits_for or [])),
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
            "account": "" if self.settings.no_account else self._account(job),
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

    def _account(self, job: Any) -> str:
        """The account option; whether the account is valid, sbatch says, which needs no accounting database for it."""
        if named := str(job.resources.get("slurm_account") or "").replace(",", " ").split():
            return f"-A {shlex.quote(named[0])}"
        return str(next(self.get_account_arg(job)))

    def _log_file(self, job: Any, job_id: str, kind: str = "rule") -> Path:
        return self.slurm_logdir / f"{kind}_{job.name}" / get_job_wildcards(job) / f"{job_id}.log"

    def _warning_seconds(self, job: Any) -> int:
        minutes = job.resources.get("runtime")
        if not isinstance(minutes, (int, float)):
            return self.settings.warning_seconds
        return max(1, min(self.settings.warning_seconds, int(minutes * 60 / 4)))

    def _find_submitted(self, identity: JobIdentity, since: float, before: set[str]) -> str | None:
        """A job that sbatch submitted without telling: one that was not there ``before``, whatever SLURM's clock says.

        A number given out again, by a SLURM that had lost its state, is told by its time.
        """
        queue = slurm_queue.read_queue(self.campaign) or {}
        for queued in queue.values():
            new = queued.job_id not in before or (queued.submitted or 0) >= since - 1
            if queued.identity == identity and queued.lives and queued.state != "COMPLETING" and new:
                return queued.job_id
        return None

    def _watch(self, job: Any, identity: JobIdentity, job_id: str, submitted: float) -> None:
        log = self._log_file(job, job_id, "group" if job.is_group() else "rule")
        info = SubmittedJobInfo(job, external_jobid=job_id, aux={"slurm_logfile": log})
        watched = Watched(info, identity, submitted)
        self._used.add(job_id)
        info.aux["watched"] = watched
        with self._watch_lock:
            self._watched[identity.outputs] = watched
        self._record(job, "waits", "is in the queue", info=info)
        self.report_job_submission(info)

    def _resubmit(self, watched: Watched) -> None:
        try:
            self._submit(watched.info.job, watched.identity)
        except AbortedError:
            return
        except Exception as error:
            self._fail(watched, f"could not be submitted again: {error}", "refused")

    def cancel(self) -> None:
        """End at once: submit nothing more, scancel everything, look at the queue no more."""
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave jobs behind
        except ValueError:
            self.logger.debug("not in the main thread: a second interrupt is not held off")
        self._aborted.set()
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        with self._watch_lock:
            running = [w.info for w in self._watched.values()]
        self.cancel_jobs(running)
        self.shutdown()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel SLURM jobs; what SLURM says against it is a warning."""
        ids = [str(info.external_jobid) for info in active_jobs if info.external_jobid is not None]
        if ids:
            self.logger.info(f"Cancelling {len(ids)} SLURM jobs.")
            if complaint := slurm_queue.cancel(self.campaign, ids):
                self.logger.warning(f"scancel: {complaint}")
