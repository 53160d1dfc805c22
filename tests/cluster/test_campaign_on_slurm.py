"""The tiny campaign through SLURM with the profile that users get, its driver killed on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from slurm_cluster import SlurmCluster, wait_until

from sluice.attempts import ATTEMPTS_FILE, read_attempts

REPOSITORY = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.dft,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("pw.x") is None, reason="pw.x is not installed: apt-get install quantum-espresso"),
]


def edited_profile(folder: Path) -> Path:
    """The profile with the lines edited that a user of this cluster would edit, and shorter pauses."""
    values = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text())
    del values["default-resources"]["slurm_account"]
    values |= {"sluice-no-account": True, "sluice-poll-seconds": 1, "sluice-max-poll-seconds": 3, "latency-wait": 5}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def start(slurm: SlurmCluster, log: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sluice.cli", *words]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=slurm.environment, stdout=output, stderr=output, start_new_session=True
        )


def test_driver_killed_twice_loses_and_doubles_nothing(slurm, tmp_path):
    values = yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text())
    values["results"] = str(tmp_path / "results")
    config, log = tmp_path / "tiny.yaml", tmp_path / "driver.log"
    config.write_text(yaml.safe_dump(values))
    workdir = tmp_path / "results" / values["campaign"]
    profile = str(edited_profile(tmp_path / "profile"))

    def attempts():
        return read_attempts(workdir / ATTEMPTS_FILE)

    process = start(slurm, log, "run", str(config), "--profile", profile)
    try:
        for step in ("train_generator", "compute_references"):
            wait_until(
                lambda step=step, process=process: (
                    process.poll() is not None or any(a.step == step and not a.ended for a in attempts())
                ),
                1200,
                f"{step} runs",
            )
            assert process.poll() is None, log.read_text()[-5000:]
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process = start(slurm, log, "resume", str(config), "--profile", profile)
        assert process.wait(2400) == 0, log.read_text()[-5000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    ended = Counter(a.job for a in attempts() if a.outcome == "done")
    assert set(ended.values()) == {1}, f"done more than once: {[job for job, n in ended.items() if n > 1]}"
    assert all(a.slurm_job for a in attempts()), "every step ran in SLURM"
    assert len({a.slurm_job for a in attempts()}) == len(attempts()), "one SLURM job for each attempt"
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    assert summary["validated"], "no crystal reached DFT"
