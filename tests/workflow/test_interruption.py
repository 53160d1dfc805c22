"""A driver killed in the middle: nothing survives it, its campaign goes on, finished steps are not repeated."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest
from helpers import REPOSITORY, SMALL, job_counts, sluice, snakemake, wait_for, write_config

from sluice.attempts import read_attempts
from sluice.driver.lease import Lease, read_lease
from sluice.driver.processes import started_by
from sluice.store import Store

pytestmark = pytest.mark.timeout(900)
UNTIL = ("--until", "label_crystals", "--cores", "2")
STORES = ("curate/crystals.h5", "curate/labelled/batch_0.h5", "curate/labelled/batch_1.h5")


def digests(workdir) -> list[str]:
    found = []
    for name in STORES:
        with Store(workdir / name) as store:
            found.append(store.content_sha256)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = sluice("run", str(write_config(folder, **SMALL)), *UNTIL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "label_crystals/batch_1: done" in done.stdout and "wall time" in done.stdout
    return digests(folder / "results" / "small")


def start(config) -> subprocess.Popen:
    command = [sys.executable, "-m", "sluice.cli", "run", str(config), *UNTIL]
    with config.with_name("driver.txt").open("w") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def end(driver: subprocess.Popen, how: str) -> int:
    if how == "group":
        os.killpg(driver.pid, signal.SIGKILL)
    else:
        driver.send_signal({"driver": signal.SIGKILL, "interrupt": signal.SIGINT}[how])
    return driver.wait(timeout=120)


def test_second_driver_is_refused_and_changes_nothing(tmp_path):
    config = write_config(tmp_path, **SMALL)
    workdir = tmp_path / "results" / "small"
    with Lease(workdir):
        for command in ("run", "resume"):
            refused = sluice(command, str(config), *UNTIL)
            assert refused.returncode == 2 and f"process {os.getpid()} on" in refused.stderr
        assert read_lease(workdir).pid == os.getpid()
        assert not (workdir / "config.yaml").exists() and not (workdir / "attempts.jsonl").exists()


@pytest.mark.parametrize(
    "how", [pytest.param("driver", marks=pytest.mark.long), pytest.param("group", marks=pytest.mark.long), "interrupt"]
)
def test_resume_goes_on(how, undisturbed, tmp_path):
    config = write_config(tmp_path, **SMALL)
    workdir = tmp_path / "results" / "small"
    path = workdir / "attempts.jsonl"
    driver = start(config)
    running = lambda: [a for a in read_attempts(path) if a.step == "label_crystals" and a.state == "running"]  # noqa: E731
    assert wait_for(lambda: running() or driver.poll() is not None, 300)
    holder = read_lease(workdir)
    assert holder.pid == driver.pid
    code = end(driver, how)
    assert code == (130 if how == "interrupt" else -signal.SIGKILL)
    assert wait_for(lambda: not started_by(holder.driver) and not running(), 20), started_by(holder.driver)
    assert (read_lease(workdir) is None) == (how == "interrupt")

    again = sluice("resume", str(config), *UNTIL)
    assert again.returncode == 0, again.stdout + again.stderr
    if how != "interrupt":
        assert "settled an interrupted run" in again.stdout
    done = Counter(a.job for a in read_attempts(path) if a.outcome == "done")
    assert done == {"collect_crystals": 1, "label_crystals/batch_0": 1, "label_crystals/batch_1": 1}
    assert digests(workdir) == undisturbed
    assert read_lease(workdir) is None
    assert job_counts(config, "--until", "label_crystals") == {}, "plain Snakemake must see a finished campaign"


@pytest.mark.long
def test_finished_but_unregistered_work_is_adopted(undisturbed, tmp_path):
    """The driver died after a job had ended and before Snakemake had taken its mark away."""
    from snakemake.persistence.file import FilePersistence

    config = write_config(tmp_path, **SMALL)
    workdir = tmp_path / "results" / "small"
    assert sluice("run", str(config), *UNTIL).returncode == 0
    persistence = FilePersistence(path=workdir / ".snakemake")
    name = STORES[1]
    persistence._mark_incomplete(name, None)
    persistence._delete_record(name)
    before = (workdir / name).stat().st_mtime - 5
    os.utime(persistence._record_path(persistence._incomplete_path, name), (before, before))
    persistence._write_locks("output", [name])
    assert snakemake(config, "--cores", "1", *UNTIL[:2]).returncode != 0, "plain Snakemake stops here"

    again = sluice("resume", str(config), *UNTIL)
    assert again.returncode == 0, again.stdout
    text = re.sub(r"\s+", " ", again.stdout)
    assert "removed a stale lock" in text and "1 finished, adopted" in text
    done = Counter(a.job for a in read_attempts(workdir / "attempts.jsonl") if a.outcome == "done")
    assert set(done.values()) == {1}
    assert digests(workdir) == undisturbed
    changed = write_config(tmp_path, **(SMALL | {"curate": SMALL["curate"] | {"min_distance": 0.4}}))
    assert job_counts(changed, "--until", "label_crystals")["label_crystals"] == 2, "its settings are on record"


def test_failing_step_names_its_reason_and_its_log(tmp_path):
    (tmp_path / "cifs").mkdir()
    for i in range(3):
        (tmp_path / "cifs" / f"{i}.cif").write_text("this is no crystal")
    values = SMALL | {"curate": {"source": "files", "files": {"path": str(tmp_path / "cifs")}}}
    done = sluice("run", str(write_config(tmp_path, **values)), *UNTIL)
    assert done.returncode == 1
    assert "The run failed." in done.stdout and "collect_crystals: " in done.stdout
    assert "logs/collect_crystals.log" in done.stdout.replace("\n", "") and "driver.log" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
