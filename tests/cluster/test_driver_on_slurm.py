"""`sluice run` on a cluster: Ctrl-C, an end from outside, work that ends while no driver lives, and `sluice submit`."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter

import pytest
import yaml
from sluice_on_slurm import SMALL, SMALL_JOBS, SluiceCampaign
from slurm_cluster import wait_until

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def small(slurm, tmp_path):
    made = SluiceCampaign(tmp_path, slurm, SMALL, "--until", "label_crystals")
    yield made
    made.kill()


@pytest.mark.smoke
def test_a_driver_that_is_ended_leaves_its_jobs_and_ctrl_c_cancels_them(small):
    driver = small.start("run")
    frozen = small.freeze("label_crystals", 2)
    assert len(frozen) == 2
    running = small.living()
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert "2 SLURM jobs of this campaign go on without a driver" in small.text()
    assert small.living() == running and len(running) == 2

    driver = small.start("resume")
    small.wait_for(lambda: small.snakemake_text().count("taking it over") == 2, 600, "both jobs are taken over")
    assert "2 being made in SLURM, left alone" in small.text() and "cut short" not in small.text()
    assert small.living() == running
    driver.send_signal(signal.SIGINT)
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)  # an impatient second one changes nothing
    assert driver.wait(100) == 128 + signal.SIGINT
    assert "no SLURM job of this campaign is left" in small.text()
    assert not small.living()
    assert {small.jobs()[number].state for number in running} == {"CANCELLED"}
    assert len(small.attempts("label_crystals")) == 2, "nothing was started twice"
    assert "Traceback" not in small.text()


def test_what_ends_without_a_driver_is_kept_and_known_with_its_settings(small):
    small.start("run")
    frozen = small.freeze("label_crystals", 2)
    small.kill()
    for process in frozen:
        process.resume()
    wait_until(lambda: not small.living(), 600, "both jobs end")
    assert small.start("resume").wait(600) == 0, small.text()
    assert "2 finished, adopted" in small.text()
    done = Counter(a.job for a in small.attempts())
    assert done == dict.fromkeys(SMALL_JOBS, 1), "nothing was done again"
    # Their settings are on record: an edit of them is noticed.
    values = yaml.safe_load(small.config.read_text())
    values["train"]["device"] = "auto"  # a parameter of theirs, and of no step before them
    small.config.write_text(yaml.safe_dump(values))
    shown = small.call("run", str(small.config), "--until", "label_crystals", "--dry-run")
    table = shown.stdout.partition("Job stats:")[2].partition("total")[0]
    assert re.findall(r"^(\w+) +(\d+)", table, re.MULTILINE) == [("label_crystals", "2")], shown.stdout + shown.stderr


@pytest.mark.slow
def test_a_driver_that_is_a_job_goes_on_after_its_own_time_limit(small, slurm):
    submitted = small.call(
        "submit", str(small.config), "--profile", str(small.profile), "--hours", "0.05", *small.options
    )
    assert submitted.returncode == 0, submitted.stderr
    number = submitted.stdout.split()[2]
    log = small.workdir / "logs" / f"submit-{number}.log"
    again = small.call("submit", str(small.config), "--profile", str(small.profile))
    assert (again.returncode == 2 and f"SLURM job {number}" in again.stderr) or "being run by" in again.stderr
    frozen = small.freeze("label_crystals", 2)
    starts = log.read_text().count(": SLURM job")
    wait_until(lambda: log.read_text().count(": SLURM job") > starts, 600, "the driver starts again")
    assert "letting go of the campaign" in log.read_text() and "back in the queue" in log.read_text()
    assert len(small.living()) == 2, "its jobs went on"
    for process in frozen:
        process.resume()
    wait_until(
        lambda: not slurm.run("squeue", "-h", "-j", number, "-o", "%T").stdout.strip(), 900, "the driver's job ends"
    )
    done = Counter(a.job for a in small.attempts())
    assert done == dict.fromkeys(SMALL_JOBS, 1), log.read_text()
    assert slurm.run("squeue", "-h", "-t", "all", "-j", number, "-o", "%T").stdout.strip() == "COMPLETED"
