"""What the executor does about SLURM's faults, on a real SLURM. Every start of a job is counted."""

import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from slurm_cluster import wait_until

PMIX = "/usr/lib/x86_64-linux-gnu/pmix2/lib/libpmix.so"


def outputs(campaign, *names):
    return [(campaign.root / f"{name}.txt").exists() for name in names]


def test_quiet_run(campaign):
    campaign.write(["a", "b"], "nap", "--seconds 1")
    driver = campaign.start()
    assert driver.wait(90) == 0, driver.text()
    assert len(campaign.starts("a")) == len(campaign.starts("b")) == 1
    assert {job.identity.label for job in campaign.jobs().values()} == {"work_a", "work_b"}
    assert not list((campaign.root / ".snakemake" / "slurm_logs").rglob("*.log")), "logs of good jobs are removed"


def test_polling_backs_off_no_further_than_its_cap(campaign):
    campaign.write(["a"], "nap", "--seconds 25")
    (campaign.root / "bin").mkdir()
    program = campaign.root / "bin" / "squeue"
    program.write_text(f'#!/bin/sh\ndate +%s.%N >> {campaign.root}/polls\nexec {shutil.which("squeue")} "$@"\n')
    program.chmod(0o755)
    driver = campaign.start("--sluice-poll-seconds", "1", "--sluice-max-poll-seconds", "4")
    assert driver.wait(120) == 0, driver.text()
    polls = [float(line) for line in (campaign.root / "polls").read_text().split()]
    pauses = [after - before for before, after in pairwise(polls)]
    assert pauses[1] < 3 and max(pauses) > 3.5, "it backs off"
    assert max(pauses) < 7, "but not beyond the cap"


@pytest.mark.smoke
def test_controller_killed_while_jobs_run(campaign, slurm):
    campaign.write(["a", "b"], "nap", "--seconds 5")
    driver = campaign.start()
    campaign.wait_running(2)
    slurm.kill_controller()
    driver.wait_for("SLURM does not answer", 30)
    time.sleep(8)  # longer than the jobs need, several polls long
    assert driver.process.poll() is None
    slurm.start_controller()
    assert driver.wait(90) == 0, driver.text()
    assert "SLURM answers again" in driver.text()
    assert len(campaign.starts()) == 2, "no job ran twice"


def test_controller_killed_at_launch(campaign, slurm):
    campaign.write(["a", "b", "c"], "nap", "--seconds 2")
    driver = campaign.start(retries=2)
    driver.wait_for("is SLURM job", 60)
    slurm.kill_controller()  # some jobs are being submitted, some launched, some saved and some not
    time.sleep(4)
    slurm.start_controller()
    assert driver.wait(240) == 0, driver.text()
    assert outputs(campaign, "a", "b", "c") == [True] * 3
    assert "Error in rule" not in driver.text(), "what SLURM lost is no failure of a step"
    assert len(campaign.starts()) <= 6, "submitted again once at most"


def test_controller_away_at_submission(campaign, slurm):
    campaign.write(["a"], "nap", "--seconds 1")
    slurm.kill_controller()
    driver = campaign.start()
    driver.wait_for("SLURM does not answer", 60)
    time.sleep(3)
    slurm.start_controller()
    assert driver.wait(90) == 0, driver.text()
    assert len(campaign.starts()) == 1


def test_vanished_job_is_submitted_again(campaign, slurm):
    campaign.write(["a"], "nap", "--seconds 8")
    driver = campaign.start()
    campaign.wait_running()
    slurm.kill_controller()
    slurm.start_controller(forget_jobs=True)
    assert driver.wait(120) == 0, driver.text()
    assert "was lost: SLURM does not know it any more" in driver.text()
    assert len(campaign.starts()) == 2


def test_finished_job_that_slurm_forgot_is_adopted(campaign, slurm):
    campaign.write(["a"], "nap", "--seconds 4")
    driver = campaign.start()
    campaign.wait_running()
    slurm.kill_controller()
    wait_until(lambda: outputs(campaign, "a") == [True], 30, "job finished while SLURM was away")
    slurm.start_controller(forget_jobs=True)
    assert driver.wait(90) == 0, driver.text()
    assert "has forgotten job" in driver.text()
    assert len(campaign.starts()) == 1


def test_held_job_is_an_error_in_words(campaign):
    campaign.write(["a"], "nap", "--seconds 1", 'mem_mb=400, runtime=3, slurm_extra="--hold"')
    driver = campaign.start()
    assert driver.wait(90) == 1, driver.text()
    assert "it is held (`scontrol release` lets it go)" in driver.text()
    assert not campaign.living(), "the held job is cancelled"
    assert not campaign.starts()


@pytest.mark.smoke
def test_job_that_can_never_start_is_an_error_in_words(campaign, slurm):
    failed = slurm.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", "false").stdout.strip()
    states = ("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={failed}")
    wait_until(lambda: slurm.run(*states).stdout.strip() == "FAILED", 30, f"job {failed} fails")
    extra = f"--dependency=afterok:{failed}"
    campaign.write(["a"], "nap", "--seconds 1", f'mem_mb=400, runtime=3, slurm_extra="{extra}"')
    driver = campaign.start()
    assert driver.wait(90) == 1, driver.text()
    assert "it depends on a job that failed" in driver.text()
    assert not campaign.living()


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ('mem_mb=400, runtime=3, slurm_partition="nowhere"', "invalid partition"),
        ('mem_mb=400, runtime=3, slurm_partition="gpu", gpu=3', "Requested node configuration is not available"),
    ],
)
def test_refused_submission_is_retried_with_slurms_words(campaign, resources, words):
    campaign.write(["a"], "nap", "--seconds 1", resources)
    driver = campaign.start(retries=1)
    assert driver.wait(60) == 1, driver.text()
    assert driver.text().count(words) == 2
    assert "Traceback" not in driver.text()


def test_job_on_a_gpu_node_sees_its_gpu(campaign):
    flags = "--command 'printenv CUDA_VISIBLE_DEVICES SLURM_JOB_GPUS SLURMD_NODENAME'"
    campaign.write(["a"], "launch", flags, 'mem_mb=400, runtime=3, slurm_partition="gpu", gpu=1')
    driver = campaign.start()
    assert driver.wait(60) == 0, driver.text()
    assert (campaign.root / "a.txt").read_text().split() == ["0", "0", "n1"]


@pytest.mark.smoke
def test_killed_driver_attaches_again(campaign):
    campaign.write(["a", "b"], "hold", "")
    driver = campaign.start()
    campaign.wait_running(2)
    before = {job.job_id for job in campaign.living()}
    driver.kill()
    assert {job.job_id for job in campaign.living()} == before, "jobs outlive their driver"
    campaign.unlock()
    second = campaign.start()
    wait_until(lambda: second.text().count("taking it over") == 2, 60, "both jobs are taken over")
    (campaign.root / "go").touch()
    assert second.wait(90) == 0, second.text()
    assert set(campaign.starts()) == before
    assert len(campaign.starts()) == 2, "nothing was submitted again"


def test_hung_up_driver_attaches_to_pending_job(campaign, slurm):
    for node in ("n1", "n2", "n3"):
        slurm.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    campaign.write(["a"], "nap", "--seconds 1")
    driver = campaign.start()
    driver.wait_for("is SLURM job", 60)
    driver.process.send_signal(signal.SIGHUP)
    driver.wait(10)
    campaign.unlock()
    second = campaign.start()
    second.wait_for("taking it over", 60)
    second.wait_for("all nodes it could run on are down, drained or reserved", 30)
    for node in ("n1", "n2", "n3"):
        slurm.run("scontrol", "update", f"nodename={node}", "state=resume")
    assert second.wait(90) == 0, second.text()
    assert len(campaign.starts()) == 1


def test_running_job_with_other_settings_is_replaced(campaign):
    campaign.write(["a"], "nap", "--seconds 60")
    driver = campaign.start()
    campaign.wait_running()
    old = campaign.living()[0].job_id
    driver.kill()
    campaign.unlock()
    campaign.write(["a"], "nap", "--seconds 1")
    second = campaign.start()
    assert second.wait(90) == 0, second.text()
    assert "does outdated work" in second.text()
    assert campaign.jobs()[old].state == "CANCELLED"
    assert len(campaign.starts()) == 2


@pytest.mark.smoke
def test_one_interrupt_cancels_promptly(campaign):
    campaign.write(["a", "b", "c"], "nap", "--seconds 120")
    driver = campaign.start("--sluice-poll-seconds", "30", "--sluice-max-poll-seconds", "30")
    campaign.wait_running(3)
    began = time.monotonic()
    driver.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    driver.process.send_signal(signal.SIGINT)  # an impatient second one leaves nothing behind
    assert driver.wait(20) == 1
    assert time.monotonic() - began < 20
    wait_until(lambda: not campaign.living(), 15, "no job left")


def test_interrupt_while_the_controller_is_away(campaign, slurm):
    campaign.write(["a"], "nap", "--seconds 60")
    driver = campaign.start()
    campaign.wait_running()
    slurm.kill_controller()
    time.sleep(3)
    driver.process.send_signal(signal.SIGINT)
    assert driver.wait(45) == 1, driver.text()
    assert "scancel: " in driver.text(), "what could not be cancelled is said"


def test_interrupting_one_campaign_leaves_the_other(campaign, slurm, tmp_path):
    other = type(campaign)(tmp_path / "other", slurm)
    (other.root / "logs").mkdir(parents=True)
    for one in (campaign, other):
        one.write(["a"], "nap", "--seconds 10")
    first, second = campaign.start(), other.start()
    campaign.wait_running()
    other.wait_running()
    first.process.send_signal(signal.SIGINT)
    assert first.wait(20) == 1
    assert second.wait(60) == 0, second.text()
    assert len(other.starts()) == 1


@pytest.mark.smoke
def test_warned_job_continues_without_a_failure(campaign, slurm):
    campaign.write(["a"], "count", "--steps 40 --seconds 0.25")
    driver = campaign.start()
    checkpoint, seen = campaign.root / "a.checkpoint", 0
    for start in (1, 2):
        campaign.wait_running(start)
        wait_until(lambda seen=seen: checkpoint.exists() and int(checkpoint.read_text()) > seen, 30, "progress")
        # what SLURM does by itself with --signal=B:USR1@n before the limit
        slurm.run("scancel", "--batch", "--signal=USR1", campaign.starts()[-1], check=True)
        wait_until(lambda start=start: len(campaign.starts()) > start, 60, "the job is continued")
        seen = int(checkpoint.read_text())
    assert driver.wait(120) == 0, driver.text()
    assert len(campaign.starts()) == 3
    assert driver.text().count("saved its state and goes on") == 2
    assert "Error in rule" not in driver.text()
    assert (campaign.root / "a.txt").read_text() == "40"


def test_continuing_without_progress_is_an_error(campaign):
    campaign.write(["a"], "rest", "")
    driver = campaign.start()
    assert driver.wait(90) == 1, driver.text()
    assert "it made no progress since it was last continued (0 of 10 steps)" in driver.text()
    assert len(campaign.starts()) == 2


@pytest.mark.smoke
def test_node_lost_in_the_middle(campaign, slurm):
    campaign.write(["a"], "nap", "--seconds 6")
    driver = campaign.start()
    campaign.wait_running()
    node = campaign.living()[0].nodes
    slurm.kill_node(node)
    assert driver.wait(120) == 0, driver.text()
    assert f"was lost: NODE_FAIL on {node}" in driver.text()
    assert "Error in rule" not in driver.text()
    assert len(campaign.starts()) == 2


@pytest.mark.smoke
def test_out_of_memory_is_retried_with_more(campaign):
    campaign.write(["a"], "eat", "--megabytes 450", "mem_mb=lambda w, attempt: 400 * 2 ** (attempt - 1), runtime=3")
    driver = campaign.start(retries=2)
    assert driver.wait(120) == 0, driver.text()
    assert "exceeded memory limit" in driver.text() or "Exceeded job memory limit" in driver.text()
    assert len(campaign.starts()) == 2


@pytest.mark.smoke
def test_cancelled_job_is_retried(campaign, slurm):
    campaign.write(["a"], "nap", "--seconds 5")
    driver = campaign.start(retries=1)
    campaign.wait_running()
    slurm.run("scancel", campaign.starts()[0], check=True)
    assert driver.wait(90) == 0, driver.text()
    assert "CANCELLED" in driver.text()
    assert len(campaign.starts()) == 2


needs_pwx = pytest.mark.skipif(shutil.which("pw.x") is None, reason="apt-get install quantum-espresso")
needs_pmix = pytest.mark.skipif(not Path(PMIX).exists(), reason="srun --mpi=pmix needs libpmix-dev here")


@pytest.mark.smoke
@pytest.mark.dft
@needs_pwx
@pytest.mark.parametrize("launcher", ["mpirun -np 2", pytest.param("srun --mpi=pmix -n 2", marks=needs_pmix)])
def test_ranks_that_pwx_sees(campaign, launcher):
    resources = "mem_mb=800, runtime=3, tasks=2, cpus_per_task=1, nodes=1"
    campaign.write(["a"], "launch", f"--command '{launcher} pw.x -in none'", resources)
    driver = campaign.start()
    assert driver.wait(90) == 0, driver.text()
    words = " ".join((campaign.root / "a.txt").read_text().split())
    assert "Parallel version (MPI), running on 2 processors" in words
    assert "MPI processes distributed on 1 nodes" in words
