"""Where Flows run: in this process, or sent to jobflow-remote by groups that operate it (``validate.remote_project``).

The same Flow with the same job ids goes either way. jobflow-remote keeps a queue in a database of its own; its worker
runs the jobs, and what they return is copied into the task's file-backed store, so that everything after it is alike.
Who comes back after an interruption finds its jobs by their ids and waits for them instead of sending them again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from jobflow import Flow, JobStore, run_locally

from sluice.config import ValidateSettings
from sluice.errors import MissingProgramError, SluiceError

POLL_SECONDS = 5.0
ENDED_WELL = ("COMPLETED", "STOPPED")  # a job that failed in our sense is completed and stops those after it
ENDED_BADLY = ("FAILED", "REMOTE_ERROR", "USER_STOPPED", "PAUSED")


class Queue(Protocol):
    """What is asked of jobflow-remote."""

    def states(self, job_ids: Iterable[str]) -> Mapping[str, str]:
        """Job id → state, in jobflow-remote's words, of those that were sent."""

    def send(self, flow: Flow) -> None:
        """Put a flow into the queue."""

    def document(self, job_id: str) -> dict[str, Any] | None:
        """What a job returned, as a row of a JobStore."""


class JobflowRemote:
    """The queue of an installed jobflow-remote.

    Args:
        project: its project.
        worker: who runs the jobs; None for the project's first.

    Raises:
        MissingProgramError: if jobflow-remote is not installed or its project is not set up.
    """

    def __init__(self, project: str, worker: str | None = None) -> None:
        try:
            from jobflow_remote.config.base import ConfigError
            from jobflow_remote.jobs.jobcontroller import JobController
        except ImportError as error:
            raise MissingProgramError(
                "validate.remote_project is set, but jobflow-remote is not installed: pip install 'jobflow-remote>=1'"
            ) from error
        self.project, self.worker = project, worker
        try:
            self._controller = JobController.from_project_name(project)
        except (ConfigError, OSError) as error:
            raise MissingProgramError(
                f"validate.remote_project: {project} of jobflow-remote cannot be used ({error}); "
                "`jf project check --errors` tells more"
            ) from error

    def states(self, job_ids: Iterable[str]) -> Mapping[str, str]:
        """Job id → state of those that were sent."""
        wanted = [(job_id, 1) for job_id in job_ids]
        return {info.uuid: info.state.value for info in self._controller.get_jobs_info(job_ids=wanted)}

    def send(self, flow: Flow) -> None:
        """Put a flow into the queue."""
        from jobflow_remote import submit_flow

        submit_flow(flow, worker=self.worker, project=self.project, allow_external_references=True)

    def document(self, job_id: str) -> dict[str, Any] | None:
        """What a job returned."""
        store = self._controller.jobstore
        row: dict[str, Any] | None = store.query_one({"uuid": job_id}, load=True)
        return row


def open_queue(settings: ValidateSettings) -> Queue | None:
    """The queue that is configured; None to run in this process."""
    if settings.remote_project is None:
        return None
    return JobflowRemote(settings.remote_project, settings.remote_worker)


def run_flow(
    flow: Flow, store: JobStore, root: Path, queue: Queue | None = None, *, check: Callable[[], None] = lambda: None
) -> None:
    """Run a flow to its end; its documents are in the store afterwards.

    Args:
        flow: with job ids that are the same for the same work.
        store: the task's own, open.
        root: directory to run in, where it runs here.
        queue: where to send it; None runs it in this process.
        check: called while waiting; raises to give up.

    Raises:
        SluiceError: if jobflow-remote could not run a job.
    """
    if queue is None:
        with warnings.catch_warnings():
            # jobflow's own use of monty's cd; nothing a user could do about.
            warnings.filterwarnings("ignore", message="cd is deprecated", category=FutureWarning)
            run_locally(
                flow, store=store, root_dir=str(root), log=False, allow_external_references=True,
                raise_immediately=True,
            )  # fmt: skip
        return
    job_ids = list(flow.job_uuids)
    if not queue.states(job_ids):
        _bring_along(flow, store, queue)
        queue.send(flow)
    while True:
        states = queue.states(job_ids)
        if bad := {job_id: state for job_id, state in states.items() if state in ENDED_BADLY}:
            words = ", ".join(f"{job_id} is {state}" for job_id, state in bad.items())
            raise SluiceError(
                f"jobflow-remote: {words}; `jf job info` tells why, `jf job rerun` tries again, then resume"
            )
        if states and all(state in ENDED_WELL for state in states.values()):
            break
        check()
        time.sleep(POLL_SECONDS)
    for job_id in job_ids:
        row = queue.document(job_id)
        if row is not None:
            store.update([{key: value for key, value in row.items() if key != "_id"}], key=["uuid", "index"])


def _bring_along(flow: Flow, store: JobStore, queue: Queue) -> None:
    """See that what the flow refers to can be found from there.

    Raises:
        SluiceError: if an earlier job of the task was run here, so that its output is not in the queue's store.
    """
    own = set(flow.job_uuids)
    outside = {uuid for job, parents in flow.iterflow() for uuid in job.input_uuids} - own
    if missing := [uuid for uuid in sorted(outside) if queue.document(uuid) is None and store.count({"uuid": uuid})]:
        raise SluiceError(
            f"jobflow-remote: jobs {', '.join(missing)} of this task were run without it; finish the task without "
            "validate.remote_project, or delete its working directory to begin it anew"
        )
