"""One driver a campaign: the living keep their lease, the dead lose it, clocks that disagree do not matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from sluice.attempts import process_start
from sluice.driver.lease import LEASE_FILE, Holder, Lease, is_alive, read_lease
from sluice.errors import LeaseError


def put(folder: Path, holder: Holder, *, age: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LEASE_FILE
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - age,) * 2)


def somebody(**changes) -> Holder:
    here = Holder(os.uname().nodename, os.getpid(), process_start(os.getpid()), None, 3, time.time(), "other")
    return replace(here, **changes)


def test_taken_and_given_back(tmp_path):
    with Lease(tmp_path / "campaign") as lease:
        holder = read_lease(tmp_path / "campaign")
        assert (holder.pid, holder.host) == (os.getpid(), os.uname().nodename)
        assert holder.driver == f"{holder.host}:{holder.pid}:{holder.start}"
        assert lease.previous is None
    assert read_lease(tmp_path / "campaign") is None


def test_the_holder_is_described_with_the_time_of_its_start():
    words = somebody().describe()
    started = time.mktime(time.strptime(words.partition("started ")[2], "%Y-%m-%d %H:%M:%S"))
    assert abs(started - psutil.Process().create_time()) < 5
    assert "started" not in somebody(host="elsewhere").describe(), "ticks of another machine say nothing here"


def test_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), Lease(tmp_path):
        raise ZeroDivisionError
    assert not (tmp_path / LEASE_FILE).exists()


def test_second_driver_is_refused_with_the_holders_name(tmp_path):
    with Lease(tmp_path):
        with pytest.raises(LeaseError, match=rf"process {os.getpid()} on {os.uname().nodename}"), Lease(tmp_path):
            pass
        assert read_lease(tmp_path) is not None, "the refused one must not take the lease away"


def test_dead_holder_on_this_host_is_succeeded_at_once(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    put(tmp_path, somebody(pid=child.pid, start=process_start(child.pid)))
    with pytest.raises(LeaseError, match=f"process {child.pid}"), Lease(tmp_path):
        pass
    child.kill()
    child.wait()
    began = time.monotonic()
    with Lease(tmp_path) as lease:
        assert lease.previous.pid == child.pid
        assert read_lease(tmp_path).pid == os.getpid()
    assert time.monotonic() - began < 5


def test_pid_given_to_another_process_is_not_the_holder(tmp_path):
    put(tmp_path, somebody(start=process_start(os.getpid()) - 1000))
    with Lease(tmp_path) as lease:
        assert lease.previous.token == "other"


def test_other_host_with_a_fresh_heartbeat_is_respected(tmp_path):
    put(tmp_path, somebody(host="elsewhere.invalid", slurm_job="77"))
    with pytest.raises(LeaseError, match=r"elsewhere\.invalid.*SLURM job 77"), Lease(tmp_path):
        pass


def test_other_host_with_an_old_heartbeat_is_succeeded(tmp_path):
    put(tmp_path, somebody(host="elsewhere.invalid"), age=1000)
    with Lease(tmp_path, heartbeat_seconds=0.2) as lease:
        assert lease.previous.host == "elsewhere.invalid"


def test_a_holder_elsewhere_can_beat_while_it_is_watched(tmp_path):
    holder = Lease(tmp_path, heartbeat_seconds=0.2)
    holder._host = "elsewhere.invalid"
    with holder:
        with (
            pytest.raises(LeaseError, match=r"elsewhere\.invalid"),
            Lease(tmp_path, heartbeat_seconds=1.0, stale_seconds=-60.0),
        ):
            pass
        assert holder._is_mine()


def test_clock_of_the_holder_does_not_matter(tmp_path):
    """A holder whose clock is a day behind or ahead lives as long as its file is renewed."""
    for skew in (-86400, 86400):
        holder = somebody(host="elsewhere.invalid", heartbeat_time=time.time() + skew, start=time.time() + skew)
        put(tmp_path, holder)
        assert is_alive(holder, tmp_path)


def test_moving_heartbeat_counts_however_old_the_file_looks(tmp_path):
    holder = somebody(host="elsewhere.invalid")
    put(tmp_path, holder, age=10_000)
    code = (
        "import json, os, sys, time; time.sleep(0.7); p = sys.argv[1]; h = json.load(open(p)); h['heartbeat'] += 1\n"
        "open(p + '.x', 'w').write(json.dumps(h)); os.utime(p + '.x', (1e9, 1e9)); os.replace(p + '.x', p)"
    )
    beat = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / LEASE_FILE)])
    assert is_alive(holder, tmp_path, watch_seconds=15.0)
    beat.wait()


def test_heartbeat_is_renewed(tmp_path):
    with Lease(tmp_path, heartbeat_seconds=0.1):
        first = read_lease(tmp_path).heartbeat
        deadline = time.monotonic() + 10
        while read_lease(tmp_path).heartbeat < first + 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert read_lease(tmp_path).heartbeat >= first + 3


def test_lost_lease_is_noticed_and_not_taken_from_the_new_holder(tmp_path):
    lost = []
    with Lease(tmp_path, heartbeat_seconds=0.1, on_loss=lambda: lost.append(True)):
        put(tmp_path, somebody())
        deadline = time.monotonic() + 10
        while not lost and time.monotonic() < deadline:
            time.sleep(0.05)
        assert lost == [True]
    assert read_lease(tmp_path).token == "other"


def test_deleted_lease_is_written_again(tmp_path):
    with Lease(tmp_path, heartbeat_seconds=0.1):
        (tmp_path / LEASE_FILE).unlink()
        deadline = time.monotonic() + 10
        while read_lease(tmp_path) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert read_lease(tmp_path).pid == os.getpid()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": "x"}'])
def test_unreadable_lease_is_replaced(tmp_path, text):
    (tmp_path / LEASE_FILE).write_text(text)
    with Lease(tmp_path) as lease:
        assert lease.previous is None
        assert read_lease(tmp_path).pid == os.getpid()


@pytest.mark.parametrize("blocked", ["/proc/x/campaign", "file"])
def test_directory_that_cannot_be_made_is_a_message(tmp_path, blocked):
    (tmp_path / "file").write_text("")
    with pytest.raises(LeaseError, match=r"cannot be written.*set results"), Lease(tmp_path / blocked):
        pass


RACER = """
import sys, time
from pathlib import Path
from sluice.driver.lease import Lease
from sluice.errors import LeaseError
folder, tally = Path(sys.argv[1]), Path(sys.argv[2])
while not (folder / "go").exists():
    time.sleep(0.001)
try:
    with Lease(folder):
        with tally.open("a") as handle:
            handle.write("in\\n")
        time.sleep(1.5)
except LeaseError:
    pass
"""


def test_of_many_who_find_a_dead_lease_one_gets_it(tmp_path):
    put(tmp_path, somebody(pid=1, start=0.0))
    words = [sys.executable, "-c", RACER, str(tmp_path), str(tmp_path / "tally")]
    racers = [subprocess.Popen(words) for _ in range(4)]
    time.sleep(2.5)
    (tmp_path / "go").write_text("")
    assert [racer.wait(timeout=60) for racer in racers] == [0] * 4
    assert (tmp_path / "tally").read_text() == "in\n"
