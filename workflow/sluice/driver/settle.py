"""Settle what an interrupted run left behind, before Snakemake starts again.

Snakemake marks every output of a job that has started and takes the mark away when the job is registered as done. A
mark that is still there after a crash means that the job died, that it still waits or runs in SLURM, or that the driver
died after the job had finished. The last kind is finished work and is adopted: its files are complete (stores by their
digests, other files because the job's last words in the attempts file say that it had written everything) and newer
than the mark. Jobs that SLURM still has are left alone; the executor attaches to them. All else is deleted and done
again. ``--rerun-incomplete`` would do all of it again and forget jobs that SLURM still runs.

A job that ended in SLURM while no driver lived took its mark away itself, but only a driver puts its settings on
record; without that, later edits would go unnoticed. So its files are adopted, too, or made again if settings changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sluice.attempts import ATTEMPTS_FILE, Attempt, read_attempts
from sluice.driver.clock import pull_back_future_times
from sluice.driver.processes import end_orphaned_steps, refuse_foreign_snakemakes, slurm_job_lives
from sluice.driver.rules import Job, Rule, job_of
from sluice.driver.slurm_jobs import SlurmJobs, outputs_digest
from sluice.errors import SluiceError
from sluice.store import is_valid_store


@dataclass(frozen=True)
class Marker:
    """Snakemake's mark of an output whose job has started: path as in the rule, when, SLURM job id if there is one."""

    file: Path
    output: str
    started: float
    external_job: str | None


@dataclass
class Settled:
    """What was found: outputs adopted as finished, outputs cleared to be made again, jobs that still run elsewhere."""

    adopted: list[str] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    ended_processes: int = 0
    unlocked: bool = False
    pulled_back: int = 0

    def describe(self) -> str:
        """One line for the terminal, empty if there was nothing to settle."""
        parts = []
        if self.ended_processes:
            parts.append(f"ended {self.ended_processes} left-over processes")
        if self.unlocked:
            parts.append("removed a stale lock")
        if self.pulled_back:
            parts.append(f"{self.pulled_back} files lay ahead of the clock, now they do not")
        for outputs, what in ((self.adopted, "finished, adopted"), (self.cleared, "cut short, to be done again")):
            if outputs:
                parts.append(f"{len(outputs)} {what} ({_first(outputs)})")
        if self.running:
            parts.append(f"{len(self.running)} being made in SLURM, left alone ({_first(self.running)})")
        return "; ".join(parts)


def _first(outputs: list[str]) -> str:
    return f"{', '.join(outputs[:3])}{' …' if len(outputs) > 3 else ''}"


def read_markers(workdir: Path) -> list[Marker]:
    """All marks in ``.snakemake/incomplete``; long paths are split over directories that start with @."""
    folder = workdir / ".snakemake" / "incomplete"
    markers = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if not path.is_file() or path.name == "migration_underway":
            continue
        encoded = "".join(part.removeprefix("@") for part in path.relative_to(folder).parts)
        try:
            output = urlsafe_b64decode(encoded).decode()
        except ValueError:
            continue
        try:
            external = json.loads(path.read_text(encoding="utf-8")).get("external_jobid")
        except (ValueError, AttributeError):
            external = None  # cut off while it was written
        markers.append(Marker(path, output, path.stat().st_mtime, external))
    return markers


def settle(
    workdir: Path,
    rules: dict[str, Rule],
    *,
    dead_driver: str | None,
    same_config: bool,
    snakemake: Callable[..., subprocess.CompletedProcess[str]],
    slurm_jobs: SlurmJobs | None = None,
) -> Settled:
    """Put a campaign in order after an interruption; the caller holds its lease.

    Args:
        workdir: the campaign's working directory.
        rules: as ``read_rules`` gives them.
        dead_driver: ``host:pid:start`` of the driver whose lease was taken over.
        same_config: whether the configuration is that of the interrupted run; if not, nothing is adopted, since a
            finished file may have been made with other settings.
        snakemake: runs Snakemake on this campaign with the words given.
        slurm_jobs: the campaign's jobs in SLURM, if it ran there.

    Raises:
        LeaseError: if a plain Snakemake is at work in the campaign.
        SluiceError: if something is being made by SLURM, but SLURM does not answer.
    """
    refuse_foreign_snakemakes(workdir, dead_driver)
    found = Settled(ended_processes=end_orphaned_steps(workdir, dead_driver))
    found.pulled_back = pull_back_future_times(workdir)
    locks = workdir / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        if snakemake("--unlock").returncode != 0:
            shutil.rmtree(locks)  # what --unlock does; it fails where the DAG cannot be built
        found.unlocked = True
    markers = read_markers(workdir)
    attempts = {attempt.job: attempt for attempt in read_attempts(workdir / ATTEMPTS_FILE)}
    slurm = _SlurmWork(slurm_jobs, attempts)
    by_output = {marker.output: marker for marker in markers}
    adopted_jobs: dict[str, Job] = {}
    for marker in markers:
        job = job_of(rules, marker.output)
        directories = job is not None and rules[job.rule].makes_directory
        if job is not None and same_config and not directories and _is_finished(workdir, job, by_output, attempts):
            adopted_jobs[job.name] = job
            found.adopted.append(marker.output)
            marker.file.unlink(missing_ok=True)
        elif slurm.makes(marker, job):
            found.running.append(marker.output)
        else:
            _remove(workdir, marker.output)
            found.cleared.append(marker.output)
            marker.file.unlink(missing_ok=True)
    for job in unrecorded_jobs(workdir, rules, attempts.values()):
        if same_config:
            adopted_jobs[job.name] = job
            found.adopted += job.outputs
        else:
            found.cleared += job.outputs
            for output in job.outputs:
                _remove(workdir, output)
    if adopted_jobs:
        register(list(adopted_jobs.values()), snakemake)
    return found


class _SlurmWork:
    """Which marked outputs SLURM is still making."""

    def __init__(self, jobs: SlurmJobs | None, attempts: dict[str, Attempt]) -> None:
        self._jobs, self._attempts = jobs, attempts
        self._asked = False
        self._making: dict[str, str] | None = None

    def makes(self, marker: Marker, job: Job | None) -> bool:
        """Whether a job that waits or runs makes the output.

        The job that runs writes Snakemake's mark anew, without its SLURM id. So the names of rule and outputs count
        that jobs carry in their comments, then the id in the mark, then the id of an attempt that never ended.
        """
        attempt = self._attempts.get(job.name) if job is not None else None
        open_id = attempt.slurm_job if attempt is not None and attempt.outcome is None else None
        hints = [number for number in (marker.external_job, open_id) if number]
        if self._jobs is not None and not self._asked:
            self._asked, self._making = True, self._jobs.making()
        if self._making and job is not None and outputs_digest(job.rule, job.outputs) in self._making:
            return True
        for number in hints:
            lives = slurm_job_lives(str(number))
            if lives is None:
                raise SluiceError(
                    f"{marker.output} is being made by SLURM job {number}, but SLURM does not answer (squeue). Resume "
                    "where squeue works, or remove the campaign's .snakemake/incomplete if that job is gone for good."
                )
            if lives:
                return True
        return False


def unrecorded_jobs(workdir: Path, rules: dict[str, Rule], attempts: Iterable[Attempt]) -> list[Job]:
    """Jobs that ended well in SLURM while no driver lived: whole, without a mark, and without a record of their making.

    Args:
        workdir: the campaign's working directory.
        rules: as ``read_rules`` gives them.
        attempts: the last one of each job.
    """
    found = []
    for attempt in attempts:
        if attempt.outcome != "done" or attempt.slurm_job is None or attempt.step not in rules:
            continue
        job = rules[attempt.step].job_named(attempt.job)
        if job is not None and all(
            (workdir / output).exists()
            and not _snakemake_file(workdir, "incomplete", output).exists()
            and not _snakemake_file(workdir, "metadata", output).exists()
            for output in job.outputs
        ):
            found.append(job)
    return found


def _snakemake_file(workdir: Path, kind: str, output: str) -> Path:
    """Where Snakemake keeps what it knows of an output (``_record_path`` of its persistence)."""
    folder = workdir / ".snakemake" / kind
    name = urlsafe_b64encode(output.encode()).decode()
    length = (os.pathconf(folder, "PC_NAME_MAX") if folder.is_dir() else 255) - 1
    parts = [name[i : i + length] for i in range(0, len(name), length)]
    return folder.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])


def _is_finished(workdir: Path, job: Job, markers: dict[str, Marker], attempts: dict[str, Attempt]) -> bool:
    """Whether a job wrote all of its outputs after it was marked as started."""
    last = attempts.get(job.name)
    ended_well = last.ended or 0.0 if last is not None and last.outcome == "done" else 0.0
    started = max(markers[output].started for output in job.outputs if output in markers)
    for output in job.outputs:
        path = workdir / output
        if not path.is_file() or path.stat().st_mtime < started:
            return False
        if path.suffix == ".h5":
            if not is_valid_store(path):
                return False
        elif ended_well < started:
            return False
    return True


def _remove(workdir: Path, output: str) -> None:
    path = (workdir / output).resolve()
    if not path.is_relative_to(workdir.resolve()):
        return  # no output of this workflow lies elsewhere
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def register(jobs: list[Job], snakemake: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Let Snakemake write down how adopted files were made, so that later edits of settings are noticed.

    Only rules of adopted jobs are considered, so nothing above them is touched. If it fails, the files stay adopted.
    """
    outputs = sorted({output for job in jobs for output in job.outputs})
    names = sorted({job.rule for job in jobs})
    snakemake("--touch", "--force", *outputs, "--allowed-rules", *names)
