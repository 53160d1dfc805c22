"""Watching: what the queue says about the jobs of a driver, and how each that has ended is settled."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_slurm import Executor as SlurmExecutor
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from sluice.attempts import ATTEMPTS_FILE, append_event, job_name, read_history

from . import slurm_queue
from .continuation import Continuation, judge
from .identity import JobIdentity, campaign_name
from .slurm_queue import Fate, QueuedJob

QUERY_TIMEOUT_S = 60.0
MISSED_POLLS = 2  # a job must be missing this often in a row to have vanished


@dataclass
class Watched:
    """A job that SLURM has, as the executor remembers it between two looks."""

    info: SubmittedJobInfo
    identity: JobIdentity
    submitted: float
    missed: int = 0
    missing_since: float | None = None
    stuck_since: float | None = None


def outputs_newer(job: Any, moment: float) -> bool:
    """Whether all outputs of a job exist and were written after a moment (seconds since the epoch)."""
    members = list(job) if job.is_group() else [job]
    try:
        return all(Path(str(f)).stat().st_mtime >= moment - 1 for member in members for f in member.output)
    except OSError:
        return False


class Watcher(SlurmExecutor):
    """The half of the executor that looks at the queue; the other half submits and cancels."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        # the parent starts its polling thread before it is ready itself, so all that the thread needs comes first
        self.settings = workflow.executor_settings
        self.workdir = Path.cwd()
        self.campaign = campaign_name(self.workdir, self.settings.jobname_prefix)
        self._aborted = threading.Event()
        # by the job's outputs: SLURM may give an id twice, if it lost its state in between
        self._watched: dict[str, Watched] = {}
        self._watch_lock = threading.Lock()
        self._lost: dict[str, int] = {}
        self._told: set[str] = set()
        self._named = self._named_before()
        self._away_since: float | None = None
        super().__init__(workflow, logger)

    def _named_before(self) -> set[str]:
        """Jobs of which earlier drivers recorded something that still holds."""
        try:
            return set(read_history(self.workdir / ATTEMPTS_FILE)[1])
        except Exception as error:  # a damaged file is no reason to end
            logging.getLogger(__name__).warning(f"{ATTEMPTS_FILE}: {error!r}")
            return set()

    def _record(self, job: Any, kind: str, words: str, *, info: SubmittedJobInfo | None = None) -> None:
        """Put what SLURM says of a job on record for ``sluice status``; never raises, since polling must go on."""
        try:
            for member in list(job) if job.is_group() else [job]:
                name = job_name(Path(str(member.log[0]))) if member.log else member.rule.name
                if kind == "waits" and name not in self._named:
                    continue
                (self._named.discard if kind == "waits" else self._named.add)(name)
                event = {"event": "slurm", "kind": kind, "job": name, "step": member.rule.name}
                event |= {"words": " ".join(words.split())}
                if info is not None:
                    event |= {"slurm_job": str(info.external_jobid), "log": str(info.aux["slurm_logfile"])}
                append_event(self.workdir / ATTEMPTS_FILE, event)
        except Exception as error:
            self.logger.warning(f"Could not record that a job {words}: {error!r}")

    @abstractmethod
    def _resubmit(self, watched: Watched) -> None:
        """Submit the same attempt of a job anew; a job that cannot be submitted fails."""

    async def sleep(self) -> None:
        """Wait for the next look at the queue, but not when the run is to end."""
        until = time.monotonic() + self.next_seconds_between_status_checks
        while self.wait and time.monotonic() < until:
            await asyncio.sleep(0.2)

    async def _query(self) -> dict[str, QueuedJob] | None:
        """The queue, None if SLURM does not answer or the run ends meanwhile."""
        process = await asyncio.create_subprocess_exec(
            *slurm_queue.squeue_command(),
            env=slurm_queue.squeue_environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
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
        before = float(self.next_seconds_between_status_checks)  # type: ignore[has-type]
        wait = self.settings.poll_seconds if ended else 1.5 * before
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
        watched: Watched = info.aux["watched"]
        queued = queue.get(str(info.external_jobid))
        given_again = queued is not None and queued.identity is not None and queued.identity != watched.identity
        if queued is None or given_again:
            watched.missed += 1
            return watched.missed >= MISSED_POLLS and self._settle_vanished(watched, ask=not given_again)
        watched.missed, watched.missing_since = 0, None
        if queued.fate is Fate.WAITS:
            if watched.stuck_since is not None:
                self._record(watched.info.job, "waits", "may start again", info=watched.info)
            watched.stuck_since = None
            self._tell_of_repair(watched, queued)
            return False
        if queued.fate is Fate.STUCK:
            return self._settle_stuck(watched, queued)
        if queued.fate is Fate.DONE:
            self._succeed(watched)
        else:
            self._settle_ended(watched, queued.state, queued.fate, queued.nodes)
        return True

    def _tell_of_repair(self, watched: Watched, queued: QueuedJob) -> None:
        """Say once what jobs wait for that does not come by itself."""
        words = slurm_queue.repair_reason(queued.reason) if queued.state == "PENDING" else None
        if words is not None and words not in self._told:
            self._told.add(words)
            self.logger.warning(
                f"SLURM job {queued.job_id} ({watched.identity.label}) waits, maybe others too: {words}."
            )

    def _settle_stuck(self, watched: Watched, queued: QueuedJob) -> bool:
        words = slurm_queue.stuck_reason(queued.reason) or f"SLURM's state is {queued.state}"
        now = time.monotonic()
        if watched.stuck_since is None:
            watched.stuck_since = now
            self.logger.warning(f"SLURM job {queued.job_id} ({watched.identity.label}) does not start: {words}.")
            self._record(watched.info.job, "stuck", f"does not start: {words}", info=watched.info)
        if now - watched.stuck_since < self.settings.hold_seconds:
            return False
        slurm_queue.cancel(self.campaign, [queued.job_id])
        if "launch failed" in queued.reason.lower().replace("_", " "):
            self._submit_lost(watched, words)
        else:
            self._fail(
                watched,
                f"did not start within {self.settings.hold_seconds:.0f} s: {words} (SLURM's reason: {queued.reason})",
            )
        return True

    def _settle_vanished(self, watched: Watched, *, ask: bool) -> bool:
        """A job that neither runs nor is remembered by the queue: ask the accounting, then its own traces."""
        job_id = str(watched.info.external_jobid)
        accounted = slurm_queue.ask_accounting(job_id) if ask else None
        if accounted is not None:
            fate = slurm_queue.fate_of(accounted[0])
            if fate is Fate.DONE:
                self._succeed(watched)
            elif fate is not Fate.WAITS:
                self._settle_ended(watched, accounted[0], fate, "")
            if fate is not Fate.WAITS:
                return True
            # accounting keeps such rows for ever ("runaway jobs") if slurmctld has lost its state
            now = time.monotonic()
            if watched.missing_since is None:
                watched.missing_since = now
                self.logger.warning(
                    f"SLURM job {job_id} ({watched.identity.label}) is gone from the queue, but {accounted[0]} in the"
                    f" accounting; it counts as lost in {self.settings.hold_seconds:.0f} s."
                )
            if now - watched.missing_since < self.settings.hold_seconds:
                return False
        word = self._last_word(watched)
        if outputs_newer(watched.info.job, watched.submitted) and (word is None or word.finished):
            self.logger.info(f"SLURM has forgotten job {job_id} ({watched.identity.label}), but its outputs are there.")
            self._succeed(watched)
        elif word is not None:
            self._settle_ended(watched, "gone from the queue", Fate.FAILED, "")
        else:
            self._submit_lost(watched, "SLURM does not know it any more and its outputs are not there")
        return True

    def _settle_ended(self, watched: Watched, state: str, fate: Fate, nodes: str) -> None:
        """A job that ended without success: continue it, submit it again, or report the failure."""
        word = self._last_word(watched)
        if word is not None and word.finished and outputs_newer(watched.info.job, watched.submitted):
            # a restarted slurmctld may call a job cancelled that ended well while it was away
            self.logger.info(f"{watched.identity.label} had finished, although SLURM says {state}.")
            self._succeed(watched)
        elif word is not None and word.wanted and word.granted:
            self.logger.info(f"{watched.identity.label} saved its state and goes on: {word.words}.")
            self._submit_again(watched)
        elif word is not None and word.wanted:
            self._fail(watched, f"wants to be continued, but {word.words}")
        elif fate is Fate.LOST:
            self._submit_lost(watched, f"{state}{f' on {nodes}' if nodes else ''}")
        else:
            told = word.words if word is not None and word.words else self._last_line_of_slurm(watched)
            self._fail(watched, f"ended with {state}{f': {told}' if told else ''}")

    def _last_word(self, watched: Watched) -> Continuation | None:
        job_id = str(watched.info.external_jobid)
        job = watched.info.job
        logs = [str(log) for member in (list(job) if job.is_group() else [job]) for log in member.log]
        return judge(self.workdir / ATTEMPTS_FILE, job_id, watched.submitted, self.settings.max_continuations, logs)

    def _last_line_of_slurm(self, watched: Watched) -> str:
        """What slurmstepd wrote last into the job's log (memory or time limit exceeded …)."""
        try:
            with Path(watched.info.aux["slurm_logfile"]).open("rb") as handle:
                handle.seek(max(0, os.fstat(handle.fileno()).st_size - 20_000))
                lines = handle.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        said = [match[1] for line in lines if (match := re.match(r"slurmstepd[^:]*: error: [ *]*(.*?)[ *]*$", line))]
        return said[-1] if said else ""

    # ---------------------------------------------------------------- ends of a job

    def _forget(self, watched: Watched) -> None:
        with self._watch_lock:
            if self._watched.get(watched.identity.outputs) is watched:
                del self._watched[watched.identity.outputs]

    def _succeed(self, watched: Watched) -> None:
        self._forget(watched)
        self.report_job_success(watched.info)
        log = watched.info.aux["slurm_logfile"]
        if not self.settings.keep_successful_logs:
            log.unlink(missing_ok=True)

    def _fail(self, watched: Watched, words: str, kind: str = "failed") -> None:
        self._forget(watched)
        self._record(watched.info.job, kind, words, info=watched.info)
        message = f"SLURM job {watched.info.external_jobid} ({watched.identity.label}) {words}. "
        self.report_job_error(watched.info, msg=message, aux_logs=[str(watched.info.aux["slurm_logfile"])])

    def _submit_lost(self, watched: Watched, words: str) -> None:
        """Submit a job again that did not fail by itself; after ``max_lost`` times that is a failure."""
        lost = self._lost.get(watched.identity.outputs, 0) + 1
        self._lost[watched.identity.outputs] = lost
        if lost > self.settings.max_lost:
            self._fail(watched, f"was lost {lost} times: {words}")
            return
        self._record(watched.info.job, "lost", f"was lost: {words}", info=watched.info)
        self.logger.warning(
            f"SLURM job {watched.info.external_jobid} ({watched.identity.label}) was lost: {words}. "
            f"Submitting it again ({lost} of at most {self.settings.max_lost})."
        )
        self._submit_again(watched)

    def _submit_again(self, watched: Watched) -> None:
        """Submit the same attempt anew, after the old SLURM job has certainly ended."""
        self._forget(watched)
        self._job_submission_executor.submit(self._resubmit, watched)
