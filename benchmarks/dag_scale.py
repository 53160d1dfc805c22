"""What Snakemake needs for large campaigns: time and memory of the DAG, and of a rerun that has nothing to do.

``python benchmarks/dag_scale.py FOLDER --batches 100 1000 10000`` prints a table. Nothing is computed: the DAG is shown
by a dry run; for the rerun all outputs are made as empty files and registered with ``--touch``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from sluice.config import Config
from sluice.config_file import load_config
from sluice.driver.rules import REPOSITORY, read_rules
from sluice.driver.status import expected_jobs

COLUMNS = ("batches", "jobs", "what", "wall s", "CPU s", "peak MB")


@dataclass(frozen=True)
class Measured:
    """One run of Snakemake; the memory is that of its largest process."""

    wall: float
    cpu: float
    peak_mb: float


def write_config(folder: Path, batches: int) -> Path:
    """One round with as many batches of candidates; the other stages stay as small as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "campaign": f"dag-{batches}",
        "results": str(folder / "results"),
        "rounds": 1,
        "generate": {"batches": batches, "candidates": 1000 * batches},
        "train": {"device": "cpu"},
    }
    path = folder / f"dag-{batches}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def snakemake(config: Path, *words: str) -> Measured:
    """Run Snakemake and measure it."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--configfile", str(config), "--workflow-profile", str(REPOSITORY / "profiles" / "default")]
    began = time.monotonic()
    with config.with_suffix(".log").open("w") as log:
        child = subprocess.Popen([*command, "--quiet", "all", *words], cwd=REPOSITORY, stdout=log, stderr=log)
        _, status, used = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"snakemake {' '.join(words)} failed:\n{config.with_suffix('.log').read_text()[-3000:]}")
    return Measured(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def outputs(config: Config) -> list[list[str]]:
    """Outputs of every rule in pipeline order, with all wildcards filled in."""
    rules = read_rules(REPOSITORY / "workflow" / "rules")
    jobs = expected_jobs(config, rules)
    found = []
    for name, rule in rules.items():
        count = jobs[name] if any("{batch}" in pattern for pattern in rule.outputs) else 1
        found.append([p.format(round=1, batch=batch) for batch in range(count) for p in rule.outputs])
    return found


def make_outputs(config: Config) -> None:
    """Empty files, each stage later than the one before it."""
    directories = {output for rule in read_rules(REPOSITORY / "workflow" / "rules").values() for output in rule.outputs
                   if rule.makes_directory and not Path(output).suffix}  # fmt: skip
    moment = time.time() - 10_000
    for names in outputs(config):
        moment += 10
        for name in names:
            path = config.workdir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in directories:
                path.mkdir(exist_ok=True)
            else:
                path.touch()
            os.utime(path, (moment, moment))


def main() -> None:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--without-rerun", action="store_true", help="only the DAG")
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    for batches in options.batches:
        path = write_config(options.folder.absolute(), batches)
        config = load_config(path)
        shutil.rmtree(config.workdir, ignore_errors=True)
        jobs = sum(expected_jobs(config, read_rules(REPOSITORY / "workflow" / "rules")).values())
        runs = {"DAG (dry run)": ["--dry-run"]}
        if not options.without_rerun:
            make_outputs(config)
            snakemake(path, "--touch", "--cores", "1")
            runs = {"DAG (dry run, all forced)": ["--dry-run", "--forceall"], "rerun, nothing to do": ["--cores", "1"]}
        for name, words in runs.items():
            row = snakemake(path, *words)
            print(f"| {batches} | {jobs} | {name} | {row.wall:.1f} | {row.cpu:.1f} | {row.peak_mb:.0f} |", flush=True)
        shutil.rmtree(config.workdir, ignore_errors=True)


if __name__ == "__main__":
    main()
