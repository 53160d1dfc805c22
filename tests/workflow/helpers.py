"""Run the real Snakemake and the real command on small campaigns."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
# A database of a few crystals, made within seconds; nothing after labelling is asked for.
SMALL = {
    "campaign": "small",
    "chemistry": {"elements": ["Li", "Na", "F"], "space_groups": [225]},
    "curate": {"build": {"max_crystals": 30}, "batches": 2},
    "train": {"device": "cpu"},
}


def write_config(folder: Path, **values: object) -> Path:
    """A configuration whose results lie in ``folder``."""
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump({"results": str(folder / "results")} | values))
    return path


def sluice(*words: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "sluice.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def snakemake(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run plain Snakemake to its end."""
    command = [sys.executable, "-m", "snakemake", "--configfile", str(config), *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def job_counts(config: Path, *words: str) -> dict[str, int]:
    """Jobs of each rule that a run would do."""
    done = snakemake(config, "--dry-run", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    text = done.stdout + done.stderr
    if "Job stats:" not in text:
        assert "Nothing to be done" in text, text
        return {}
    table = text.split("Job stats:")[1].split("total")[0]
    found = re.findall(r"^(\w+)\s+(\d+)\s*$", table, flags=re.MULTILINE)
    return {name: int(n) for name, n in found}


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False
