"""Settle what an interrupted run left behind, before Snakemake starts again.

Snakemake marks every output of a job that has started and takes the mark away when the job is registered as done. A
mark that is still there after a crash means either that the job died, or that the driver died after the job had
finished. The second kind is finished work and is adopted: its files are complete (stores by their digests, other files
because the job's last words in the attempts file say that it had written everything) and newer than the mark. All else
is deleted and done again. ``--rerun-incomplete`` would do all of it again and forget jobs that SLURM still runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.driver.processes import end_orphaned_steps, refuse_foreign_snakemakes, slurm_job_lives
from sluice.driver.rules import Job, Rule, job_of
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

    def describe(self) -> str:
        """One line for the terminal, empty if there was nothing to settle."""
        parts = []
        if self.ended_processes:
            parts.append(f"ended {self.ended_processes} left-over processes")
        if self.unlocked:
            parts.append("removed a stale lock")
        for outputs, what in ((self.adopted, "finished, adopted"), (self.cleared, "cut short, to be done again")):
            if outputs:
                parts.append(f"{len(outputs)} {what} ({', '.join(outputs[:3])}{' …' if len(outputs) > 3 else ''})")
        if self.running:
            parts.append(f"{len(self.running)} still running in SLURM")
        return "; ".join(parts)


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
) -> Settled:
    """Put a campaign in order after an interruption; the caller holds its lease.

    Args:
        workdir: the campaign's working directory.
        rules: as ``read_rules`` gives them.
        dead_driver: ``host:pid:start`` of the driver whose lease was taken over.
        same_config: whether the configuration is that of the interrupted run; if not, nothing is adopted, since a
            finished file may have been made with other settings.
        snakemake: runs Snakemake on this campaign with the words given.

    Raises:
        LeaseError: if a plain Snakemake is at work in the campaign.
    """
    refuse_foreign_snakemakes(workdir)
    found = Settled(ended_processes=end_orphaned_steps(workdir, dead_driver))
    locks = workdir / ".snakemake" / "locks"
    if locks.is_dir() and any(locks.iterdir()):
        if snakemake("--unlock").returncode != 0:
            shutil.rmtree(locks)  # what --unlock does; it fails where the DAG cannot be built
        found.unlocked = True
    markers = read_markers(workdir)
    done = _jobs_done(workdir)
    by_output = {marker.output: marker for marker in markers}
    adopted_jobs: dict[str, Job] = {}
    for marker in markers:
        job = job_of(rules, marker.output)
        directories = job is not None and rules[job.rule].makes_directory
        if job is not None and same_config and not directories and _is_finished(workdir, job, by_output, done):
            adopted_jobs[job.name] = job
            found.adopted.append(marker.output)
            marker.file.unlink()
        elif marker.external_job is not None and _runs_in_slurm(marker):
            found.running.append(marker.output)
        else:
            _remove(workdir, marker.output)
            found.cleared.append(marker.output)
            marker.file.unlink()
    if adopted_jobs:
        _register(list(adopted_jobs.values()), snakemake)
    return found


def _jobs_done(workdir: Path) -> dict[str, float]:
    """When each job last ended well."""
    attempts = read_attempts(workdir / ATTEMPTS_FILE)
    return {a.job: a.ended for a in attempts if a.outcome == "done" and a.ended is not None}


def _is_finished(workdir: Path, job: Job, markers: dict[str, Marker], done: dict[str, float]) -> bool:
    """Whether a job wrote all of its outputs after it was marked as started."""
    started = max(markers[output].started for output in job.outputs if output in markers)
    for output in job.outputs:
        path = workdir / output
        if not path.is_file() or path.stat().st_mtime < started:
            return False
        if path.suffix == ".h5":
            if not is_valid_store(path):
                return False
        elif done.get(job.name, 0.0) < started:
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


def _runs_in_slurm(marker: Marker) -> bool:
    lives = slurm_job_lives(str(marker.external_job))
    if lives is None:
        raise SluiceError(
            f"{marker.output} is being made by SLURM job {marker.external_job}, but SLURM does not answer (squeue). "
            "Resume where squeue works, or remove the campaign's .snakemake/incomplete if that job is gone for good."
        )
    return lives


def _register(jobs: list[Job], snakemake: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Let Snakemake write down how adopted files were made, so that later edits of settings are noticed.

    Only rules of adopted jobs are considered, so nothing above them is touched. If it fails, the files stay adopted.
    """
    outputs = sorted({output for job in jobs for output in job.outputs})
    names = sorted({job.rule for job in jobs})
    snakemake("--touch", "--force", *outputs, "--allowed-rules", *names)
