"""The driver as a SLURM job: what it asks for, and when it is refused. SLURM's commands are stand-ins here."""

from __future__ import annotations

import json
import os
import shlex
import signal
import stat
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sluice.config_file import check_config
from sluice.driver.lease import Lease
from sluice.driver.submit import DriverJob, _requeue, run_driver, submit_driver
from sluice.errors import LeaseError, MissingProgramError, SluiceError
from sluice.time_limit import forget_warnings


@pytest.fixture
def config(tmp_path):
    return check_config({"campaign": "small", "results": str(tmp_path / "results")})


@pytest.fixture
def job(tmp_path, config):
    return DriverJob(str(tmp_path / "c.yaml"), str(config.workdir), str(profile(tmp_path)), minutes=90)


def profile(folder: Path, **values: object) -> Path:
    path = folder / "profile"
    path.mkdir(exist_ok=True)
    resources = {"slurm_partition": "long", "slurm_account": "physics"}
    (path / "config.yaml").write_text(yaml.safe_dump({"executor": "sluice", "default-resources": resources} | values))
    return path


def program(folder: Path, monkeypatch, name: str, text: str) -> None:
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / name).write_text(f"#!/bin/sh\n{text}\n")
    (tools / name).chmod((tools / name).stat().st_mode | stat.S_IXUSR)
    if str(tools) not in os.environ["PATH"]:
        monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)


def test_what_the_job_asks_of_slurm(tmp_path, job):
    words = job.sbatch()
    assert {"--time=90", "--signal=B:USR1@120", "--partition=long", "--account=physics", "--requeue"} <= set(words)
    assert job.name == f"{job.campaign_name}-driver"
    profile(tmp_path, **{"sluice-no-account": True})
    assert not any(word.startswith("--account") for word in job.sbatch())
    assert "--dependency=afterany:7" in job.sbatch(after="7")


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 15), (4, 60), (8, 120), (1000, 120)])
def test_the_warning_comes_a_quarter_of_the_limit_before_it_at_most(job, minutes, seconds):
    values = asdict(job) | {"minutes": minutes}
    assert DriverJob(**values).warning_seconds == seconds


def test_the_script_carries_the_whole_job(job):
    words = shlex.split(job.script().splitlines()[1])
    assert words[0] == "exec" and words[2:4] == ["-m", "sluice.driver.submit"]
    values = json.loads(words[4])
    assert DriverJob(**values | {"until": tuple(values["until"]), "further": tuple(values["further"])}) == job


def test_submitting(tmp_path, monkeypatch, config, job):
    program(tmp_path, monkeypatch, "squeue", "exit 0")
    program(
        tmp_path, monkeypatch, "sbatch", f'cat > {tmp_path}/script; echo "$@" > {tmp_path}/words; echo "12;cluster"'
    )
    assert submit_driver(config, job) == "12"
    assert (tmp_path / "script").read_text() == job.script()
    assert f"--job-name={job.name}" in (tmp_path / "words").read_text()


def test_a_campaign_with_a_driver_is_refused(tmp_path, monkeypatch, config, job):
    program(tmp_path, monkeypatch, "sbatch", "echo 12")
    program(tmp_path, monkeypatch, "squeue", "echo 11")
    with pytest.raises(LeaseError, match="in the queue already, as SLURM job 11"):
        submit_driver(config, job)
    with Lease(config.workdir), pytest.raises(LeaseError, match=f"process {os.getpid()}"):
        submit_driver(config, job)


def test_slurms_refusal_is_passed_on(tmp_path, monkeypatch, config, job):
    program(tmp_path, monkeypatch, "squeue", "exit 0")
    program(tmp_path, monkeypatch, "sbatch", "echo 'invalid partition specified: long' >&2; exit 1")
    with pytest.raises(SluiceError, match="invalid partition specified: long"):
        submit_driver(config, job)


def test_without_slurm_or_with_a_profile_of_one_machine_it_makes_no_sense(tmp_path, monkeypatch, config, job):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgramError, match="sbatch not found"):
        submit_driver(config, job)
    profile(tmp_path, executor="local")
    with pytest.raises(SluiceError, match="on one machine"):
        submit_driver(config, job)


def test_the_end_of_the_campaign_is_the_end_of_the_job(job, monkeypatch):
    """Its configuration does not exist: `sluice run` says so, and its exit code is the job's."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_driver(job) == 2
    finally:
        forget_warnings()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("successor", [False, True])
def test_where_requeueing_is_not_allowed_the_successor_resumes(tmp_path, monkeypatch, job, successor):
    """An edit of the configuration counts from the next `sluice submit` on, not in the middle."""
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    program(tmp_path, monkeypatch, "scontrol", "echo 'Requested operation is presently disabled' >&2; exit 1")
    program(tmp_path, monkeypatch, "sbatch", f"cat > {tmp_path}/script; echo 6")
    assert _requeue(job) == 0
    text = (tmp_path / "script").read_text()
    given = json.loads(shlex.split(text.partition("exec ")[2])[-1])
    assert given["successor"] is True
    asked = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda words, **_: asked.append(words) or SimpleNamespace(poll=lambda: 0, returncode=0)
    )
    (Path(job.workdir)).mkdir(parents=True, exist_ok=True)
    (Path(job.workdir) / "config.yaml").write_text("")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_driver(replace(job, successor=successor)) == 0
    finally:
        forget_warnings()
        signal.signal(signal.SIGTERM, before)
    assert asked[0][3:5] == (["resume", job.workdir] if successor else ["run", job.config])


def test_it_asks_again_while_slurm_is_away(tmp_path, monkeypatch, job):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setattr("sluice.driver.submit.REQUEUE_WAIT_S", 0.01)
    count = f"echo x >> {tmp_path}/asked; [ $(wc -l < {tmp_path}/asked) -ge 3 ] ||"
    program(tmp_path, monkeypatch, "scontrol", "echo 'Unable to contact slurm controller' >&2; exit 1")
    program(tmp_path, monkeypatch, "sbatch", f"cat > /dev/null; {count} exit 1; echo 6")
    assert _requeue(job) == 0
    assert (tmp_path / "asked").read_text().count("x") == 3


def test_a_requeued_driver_takes_its_own_lease_over(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    with Lease(tmp_path):
        path = tmp_path / "lease.json"
        elsewhere = json.loads(path.read_text()) | {"host": "another-node", "token": "t"}
    path.write_text(json.dumps(elsewhere))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with Lease(tmp_path) as lease:
        assert lease.previous is not None and lease.previous.host == "another-node"
