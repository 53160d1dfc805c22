"""Kill a campaign at random until it has been killed so often, resume it each time, compare it with an undisturbed one.

    python tests/chaos/chaos.py FOLDER [--kills 200] [--seed 1] [--rounds 1] [--page docs/experiments/chaos.md]

Victims, moments and targets are drawn from the seed. A campaign that is through is compared and the next one begins,
until the number of kills is reached. FOLDER/tally.json holds all that happened; the test itself may be stopped and
goes on with the same command. Ends with 1 if anything differs beyond what DESIGN's Resume allows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from campaigns import (
    REPOSITORY,
    compare_tasks,
    differences,
    finished_tasks,
    pw_starts,
    repeated_steps,
    repeated_tasks,
    start,
    summary_differences,
    workdir,
    write_config,
)
from page import write_page
from victims import VICTIMS, Kill, kill, kill_half_written, survivors

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.driver.launch import stop
from sluice.driver.lease import is_alive, read_lease
from sluice.driver.processes import end_processes, started_by

KILLS_PER_CAMPAIGN = 50  # at most; then it is left alone to its end
MEAN_DELAY = 2.0  # seconds after the moment that is drawn
JOB_START = 2.0  # seconds that a job takes to start
EARLY_SHARE = 0.15  # of the kills come while a driver starts up and settles
CRASHES_PER_JOB = 2  # how often pw.x may be killed in one job; validate.max_attempts absorbs that many
HANGS_AFTER = 1800.0  # seconds without an end
FAILURES_IN_A_ROW = 4  # runs that end by themselves without being killed


class Tally:
    """What happened so far, in a file that survives this process."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.values: dict[str, Any] = {"seed": seed, "undisturbed": None, "campaigns": [], "seconds": 0.0}
        if path.exists():
            self.values = json.loads(path.read_text())
            if self.values["seed"] != seed:
                sys.exit(f"{path} was begun with seed {self.values['seed']}")
        self._since = time.monotonic()

    @property
    def kills(self) -> int:
        """Kills in all campaigns."""
        return sum(len(campaign["kills"]) for campaign in self.values["campaigns"])

    def save(self) -> None:
        """Write the file whole."""
        now = time.monotonic()
        self.values["seconds"] += now - self._since
        self._since = now
        temporary = self.path.with_suffix(".new")
        temporary.write_text(json.dumps(self.values, indent=1))
        temporary.replace(self.path)


def say(text: str) -> None:
    """Print with the time of day."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def run_undisturbed(config: Path, tally: Tally) -> None:
    """The run that everything is compared with."""
    if tally.values["undisturbed"] is None:
        began = time.monotonic()
        command = "resume" if (workdir(config) / "config.yaml").exists() else "run"
        if (code := start(command, config).wait()) != 0:
            sys.exit(f"the undisturbed run ended with {code}: see {config.parent / 'driver-output.txt'}")
        tally.values["undisturbed"] = {"seconds": time.monotonic() - began, "pw_starts": pw_starts(config)}
        tally.save()
    say(f"undisturbed: {tally.values['undisturbed']}")


def job_seconds(undisturbed: Path) -> dict[str, float]:
    """Seconds that each job took undisturbed, its start included."""
    attempts = read_attempts(workdir(undisturbed) / ATTEMPTS_FILE)
    return {a.job: a.ended - a.started + JOB_START for a in attempts if a.ended is not None}


def progress(config: Path, seconds: dict[str, float]) -> float:
    """Which share of the undisturbed run's work is done, running jobs in part."""
    done: dict[str, float] = {}
    for attempt in read_attempts(workdir(config) / ATTEMPTS_FILE):
        most = seconds.get(attempt.job, 0.0)
        spent = most if attempt.outcome == "done" else time.time() - attempt.started
        if attempt.state in ("done", "running"):
            done[attempt.job] = max(done.get(attempt.job, 0.0), min(most, spent))
    return sum(done.values()) / sum(seconds.values())


def clear_leftovers(config: Path) -> None:
    """End a campaign that an earlier, stopped chaos test left running."""
    holder = read_lease(workdir(config))
    if holder is not None and is_alive(holder, workdir(config), watch_seconds=0.0):
        end_processes([psutil.Process(holder.pid)])
        end_processes(started_by(holder.driver))


class Chaos:
    """One campaign from its first kill to its comparison.

    Args:
        config: the campaign's configuration.
        entry: its part of the tally.
        tally: where to save.
        wanted: kills to reach in it, if it lasts that long.
        seconds: what its jobs take undisturbed, so that kills are spread over all of its work.
    """

    def __init__(
        self, config: Path, entry: dict[str, Any], tally: Tally, *, wanted: int, seconds: dict[str, float]
    ) -> None:
        self.config, self.entry, self.tally, self.wanted, self.seconds = config, entry, tally, wanted, seconds
        self.drivers: set[str] = set()

    def run(self) -> None:
        """Run and kill until the campaign is through."""
        in_a_row = 0
        while True:
            begun = (workdir(self.config) / "config.yaml").exists()
            driver = start("resume" if begun else "run", self.config)
            self.entry["starts"] += 1
            before = len(self.entry["kills"])
            code = self._disturb(driver)
            self._check_finished()
            killed = len(self.entry["kills"]) - before
            self.tally.save()
            if code == 0:
                break
            if code is not None:
                self.entry["failed_runs"] += 1
                in_a_row = 0 if killed else in_a_row + 1
                say(f"the run ended with {code} after {killed} kills")
                if in_a_row >= FAILURES_IN_A_ROW:
                    self.entry["problems"].append(f"{in_a_row} runs ended with {code} without being killed")
                    break

    def _disturb(self, driver: subprocess.Popen) -> int | None:
        """Kill until the driver is gone; its exit code, None if it was killed."""
        began = time.monotonic()
        while True:
            number = len(self.entry["kills"])
            rng = np.random.default_rng([self.tally.values["seed"], self.entry["number"], number])
            if number >= self.wanted:
                return self._wait(driver)
            early = rng.random() < EARLY_SHARE
            target = (number + rng.random()) / self.wanted
            while not early and driver.poll() is None and progress(self.config, self.seconds) < target:
                time.sleep(0.2)
            delay = rng.uniform(0.1, 4.0) if early else rng.exponential(MEAN_DELAY)
            victim = str(rng.choice(list(VICTIMS), p=np.array(list(VICTIMS.values())) / sum(VICTIMS.values())))
            try:
                return driver.wait(timeout=delay)
            except subprocess.TimeoutExpired:
                pass
            if (holder := read_lease(workdir(self.config))) is not None and holder.pid == driver.pid:
                self.drivers.add(holder.driver)
            done = self._kill(driver, victim, rng, began)
            if done is None:
                continue
            self.entry["kills"].append(done.as_dict())
            say(f"kill {self.tally.kills}: {done.victim} during {', '.join(done.during)} "
                f"{done.file or done.task} {done.after:.1f} s after the start")  # fmt: skip
            self.tally.save()
            if done.ends_run:
                self._wait(driver)
                time.sleep(rng.choice([0.0, 0.5, 2.0]))
                return None

    def _kill(self, driver: subprocess.Popen, victim: str, rng: np.random.Generator, began: float) -> Kill | None:
        folders = (workdir(self.config), workdir(self.config).parent / "dft")
        if victim == "store":
            whole = bool(rng.random() < 0.4)
            done = kill_half_written(driver, folders, whole_machine=whole, began=began)
            if done is not None or driver.poll() is not None:
                return done
        hit = [kill["task"] for kill in self.entry["kills"] if kill["task"]]
        spared = {task for task in hit if hit.count(task) >= CRASHES_PER_JOB}
        order = [victim, *rng.permutation([name for name in VICTIMS if name != "store"])]
        for name in order:
            if name == "store" or driver.poll() is not None:
                continue
            if (done := kill(driver.pid, str(name), rng.random(), began=began, spared=spared)) is not None:
                return done
        return None

    def _wait(self, driver: subprocess.Popen) -> int:
        try:
            return driver.wait(timeout=HANGS_AFTER)
        except subprocess.TimeoutExpired:
            self.entry["problems"].append(f"the driver hung for {HANGS_AFTER:.0f} s")
            stop(driver)
            return 1

    def _check_finished(self) -> None:
        """What is finished stays as it is, byte by byte."""
        known: dict[str, str] = self.entry["finished"]
        now = finished_tasks(self.config)
        for name, digest in known.items():
            if now.get(name) != digest:
                self.entry["problems"].append(f"task {name}: finished, and then changed")
        known |= now

    def compare(self, undisturbed: Path) -> None:
        """Compare the finished campaign with the undisturbed one."""
        entry, config = self.entry, self.config
        if entry["problems"] and not (workdir(config) / "report" / "summary.json").exists():
            return
        tasks = compare_tasks(config, undisturbed)
        entry["problems"] += differences(config, undisturbed) + summary_differences(config, undisturbed)
        entry["problems"] += tasks.problems
        entry["tasks_run_twice"] = repeated_tasks(config)
        entry["problems"] += [f"pw.x ran again in {path}" for path in entry["tasks_run_twice"]]
        entry["restarted_tasks"], entry["largest_ev_per_atom"] = tasks.restarted, tasks.largest_ev_per_atom
        entry["tasks"] = len(entry["finished"])
        entry["pw_starts"] = pw_starts(config)
        entry["repeated_steps"] = repeated_steps(config)
        time.sleep(1.5)  # steps look after their driver every second
        entry["survivors"] = sum(map(survivors, self.drivers))
        if entry["survivors"]:
            entry["problems"].append(f"{entry['survivors']} processes outlived their drivers")


def next_entry(tally: Tally) -> dict[str, Any]:
    """The campaign to go on with: the one that is not through, else a new one."""
    campaigns: list[dict[str, Any]] = tally.values["campaigns"]
    if campaigns and not campaigns[-1]["through"]:
        return campaigns[-1]
    campaigns.append(
        {
            "number": len(campaigns) + 1, "kills": [], "starts": 0, "failed_runs": 0, "problems": [], "finished": {},
            "through": False,
        }
    )  # fmt: skip
    return campaigns[-1]


def main() -> None:
    """Undisturbed run, campaigns until there are enough kills, page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("campaign.yaml"))
    parser.add_argument("--rounds", type=int, help="of the campaign; else what the configuration says")
    parser.add_argument("--page", type=Path, help="write the tally as a page of Markdown")
    options = parser.parse_args()
    folder = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    tally = Tally(folder / "tally.json", options.seed)
    changes = {} if options.rounds is None else {"rounds": options.rounds}
    undisturbed = write_config(folder / "undisturbed", options.config, **changes)
    run_undisturbed(undisturbed, tally)
    while tally.kills < options.kills:
        entry = next_entry(tally)
        config = write_config(folder / f"campaign-{entry['number']}", options.config, **changes)
        clear_leftovers(config)
        wanted = min(KILLS_PER_CAMPAIGN, options.kills - tally.kills + len(entry["kills"]))
        chaos = Chaos(config, entry, tally, wanted=wanted, seconds=job_seconds(undisturbed))
        chaos.run()
        chaos.compare(undisturbed)
        entry["through"] = True
        tally.save()
        say(f"campaign {entry['number']}: {len(entry['kills'])} kills, {entry['starts']} starts, "
            f"{entry['problems'] or 'no differences'}")  # fmt: skip
    if options.page is not None:
        write_page(tally.values, options.page, REPOSITORY)
    problems = [problem for entry in tally.values["campaigns"] for problem in entry["problems"]]
    say(f"{tally.kills} kills in {len(tally.values['campaigns'])} campaigns: {problems or 'no differences'}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
