"""Full disks, read-only folders, clocks set back, two campaigns at once: clear messages, whole stores, resumable."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from helpers import REPOSITORY, SMALL, job_counts, sluice, wait_for, write_config

from sluice.attempts import read_attempts
from sluice.driver.lease import read_lease
from sluice.store import Store

pytestmark = pytest.mark.timeout(900)
UNTIL = ("--until", "label_crystals", "--cores", "2")
STORES = ("curate/crystals.h5", "curate/labelled/batch_0.h5", "curate/labelled/batch_1.h5")
DISK_BYTES = 8 << 20


def digests(workdir: Path) -> list[str]:
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
    return digests(folder / "results" / "small")


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own under ``results``."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "results"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Take all that is free."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as handle, contextlib.suppress(OSError):
        while True:
            handle.write(bytes(4096))
    return filler


def one_line(text: str) -> str:
    return " ".join(text.split())


def test_full_disk_before_the_start_is_a_message(disk, tmp_path):
    config = write_config(tmp_path, **SMALL)
    assert sluice("run", str(config), "--until", "collect_crystals", "--cores", "2").returncode == 0
    before = (disk / "small" / STORES[0]).read_bytes()
    filler = fill(disk)
    refused = sluice("run", str(config), *UNTIL)
    assert refused.returncode == 2
    assert "No space left on device" in one_line(refused.stderr) and str(disk / "small") in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr
    filler.unlink()
    assert (disk / "small" / STORES[0]).read_bytes() == before
    assert read_lease(disk / "small") is None


def test_disk_that_fills_up_in_the_middle(disk, tmp_path, undisturbed):
    config = write_config(tmp_path, **SMALL)
    workdir = disk / "small"
    attempts = workdir / "attempts.jsonl"
    stop = threading.Event()

    def fill_while_labelling() -> None:
        while not stop.is_set():
            if any(a.step == "label_crystals" for a in read_attempts(attempts)):
                fill(disk)
            time.sleep(0.01)

    filling = threading.Thread(target=fill_while_labelling)
    filling.start()
    try:
        failed = sluice("run", str(config), *UNTIL)
    finally:
        stop.set()
        filling.join()
    text = one_line(failed.stdout + failed.stderr)
    assert failed.returncode != 0
    assert "No space left on device" in text or "MiB free there" in text, text
    assert "Traceback" not in text
    with Store(workdir / STORES[0]):
        pass
    assert not any((workdir / name).exists() for name in STORES[1:])
    (disk / "filler").unlink()
    again = sluice("resume", str(config), *UNTIL)
    assert again.returncode == 0, again.stdout + again.stderr
    assert digests(workdir) == undisturbed
    done = Counter(a.job for a in read_attempts(attempts) if a.outcome == "done")
    assert done["collect_crystals"] == 1


def test_read_only_results(disk, tmp_path, undisturbed):
    config = write_config(tmp_path, **SMALL)
    workdir = disk / "small"
    assert sluice("run", str(config), "--until", "collect_crystals", "--cores", "2").returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        for command in ("run", "resume"):
            refused = sluice(command, str(config), *UNTIL)
            assert refused.returncode == 2
            assert "cannot be written" in one_line(refused.stderr) and str(disk) in refused.stderr
            assert "Traceback" not in refused.stderr
        seen = sluice("status", str(config), "--once")
        assert seen.returncode == 0 and "collect_crystals" in seen.stdout
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    again = sluice("resume", str(config), "--until", "collect_crystals", "--cores", "2")
    assert again.returncode == 0, again.stdout + again.stderr
    with Store(workdir / STORES[0]) as store:
        assert store.content_sha256 == undisturbed[0]


def start(config: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "sluice.cli", "run", str(config), *UNTIL]
    with config.with_name(f"{config.stem}.txt").open("w") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def labelling(workdir: Path) -> bool:
    return any(a.step == "label_crystals" for a in read_attempts(workdir / "attempts.jsonl"))


def set_clock_back(workdir: Path, seconds: float) -> None:
    """Make everything written so far look as if the clock had been set back since."""
    for path in [workdir, *workdir.rglob("*")]:
        if not path.is_symlink():
            moment = path.stat().st_mtime + seconds
            os.utime(path, (moment, moment))
    attempts = workdir / "attempts.jsonl"
    events = [json.loads(line) for line in attempts.read_text().splitlines() if line]
    attempts.write_text("".join(json.dumps(e | {"time": e["time"] + seconds}) + "\n" for e in events))
    lease = workdir / "lease.json"
    held = json.loads(lease.read_text())
    lease.write_text(json.dumps(held | {"heartbeat_time": held["heartbeat_time"] + seconds}))


@pytest.mark.long
def test_clock_set_back_by_an_hour(tmp_path, undisturbed):
    config = write_config(tmp_path, **SMALL)
    workdir = tmp_path / "results" / "small"
    driver = start(config)
    assert wait_for(lambda: labelling(workdir) or driver.poll() is not None, 300)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    set_clock_back(workdir, 3600.0)
    again = sluice("resume", str(config), *UNTIL)
    assert again.returncode == 0, again.stdout + again.stderr
    assert digests(workdir) == undisturbed
    done = Counter(a.job for a in read_attempts(workdir / "attempts.jsonl") if a.outcome == "done")
    assert done["collect_crystals"] == 1, "finished work is not done again because its time lies ahead"
    third = sluice("resume", str(config), *UNTIL)
    assert third.returncode == 0
    later = Counter(a.job for a in read_attempts(workdir / "attempts.jsonl") if a.outcome == "done")
    assert later == done, "nothing is left to do"


def locks(workdir: Path) -> list[tuple[str, str]]:
    folder = workdir / ".snakemake" / "locks"
    return sorted((p.name, p.read_text()) for p in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.long
def test_two_campaigns_at_once_do_not_touch_each_other(tmp_path, undisturbed):
    """One is killed and unlocked again while the other one runs."""
    configs, workdirs = {}, {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        configs[name] = write_config(tmp_path / name, **(SMALL | {"campaign": name}))
        values = configs[name].read_text().replace(str(tmp_path / name / "results"), str(tmp_path / "results"))
        configs[name].write_text(values)
        workdirs[name] = tmp_path / "results" / name
    drivers = {name: start(config) for name, config in configs.items()}
    working = lambda: all(locks(w) and (w / "attempts.jsonl").exists() for w in workdirs.values())  # noqa: E731
    assert wait_for(lambda: working() or any(d.poll() is not None for d in drivers.values()), 300)
    os.kill(drivers["one"].pid, signal.SIGKILL)
    drivers["one"].wait()
    slow = [psutil.Process(drivers["two"].pid), *psutil.Process(drivers["two"].pid).children(recursive=True)]
    for process in slow:
        process.suspend()  # alive and holding its locks for as long as the other one recovers
    before = locks(workdirs["two"]), read_lease(workdirs["two"])
    assert before[0] and before[1].pid == drivers["two"].pid
    again = sluice("resume", str(configs["one"]), *UNTIL)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "removed a stale lock" in one_line(again.stdout)
    assert (locks(workdirs["two"]), read_lease(workdirs["two"])) == before
    for process in slow:
        process.resume()
    assert drivers["two"].wait(timeout=300) == 0, configs["two"].with_name("campaign.txt").read_text()
    assert read_lease(workdirs["two"]) is None
    for name, workdir in workdirs.items():
        assert digests(workdir) == undisturbed
        assert job_counts(configs[name], "--until", "label_crystals") == {}
    killed = [a for a in read_attempts(workdirs["two"] / "attempts.jsonl") if a.outcome != "done"]
    assert not killed, "the second campaign lost a step to the first one's recovery"
    shutil.rmtree(tmp_path / "results")
