"""The tiny campaign through SLURM with the profile that users get: driver killed twice, jobs warned of their limits."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import pytest
import yaml
from sluice_on_slurm import REPOSITORY, SluiceCampaign

pytestmark = [
    pytest.mark.slow,
    pytest.mark.dft,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(shutil.which("pw.x") is None, reason="pw.x is not installed: apt-get install quantum-espresso"),
]


def test_driver_killed_twice_loses_and_doubles_nothing(slurm, tmp_path):
    values = yaml.safe_load((REPOSITORY / "config" / "test.yaml").read_text())
    tiny = SluiceCampaign(tmp_path, slurm, values)

    def warn(step: str) -> None:
        """What SLURM does by itself before the time limit."""
        slurm.run("scancel", "--batch", "--signal=USR1", tiny.running(step)[0].slurm_job, check=True)

    tiny.start("run")
    try:
        tiny.wait_for(lambda: tiny.running("train_generator"), 1200, "train_generator runs")
        tiny.kill()
        warn("train_generator")  # nobody is there to continue it
        driver = tiny.start("resume")
        tiny.wait_for(lambda: tiny.running("compute_references"), 1200, "compute_references runs")
        tiny.kill()
        driver = tiny.start("resume")
        tiny.wait_for(lambda: tiny.running("compute_compounds"), 1200, "compute_compounds runs")
        warn("compute_compounds")
        assert driver.wait(2400) == 0, tiny.text()[-5000:]
    finally:
        tiny.kill()
    attempts = tiny.attempts()
    ended = Counter(a.job for a in attempts if a.outcome == "done")
    assert set(ended.values()) == {1}, f"done more than once: {[job for job, n in ended.items() if n > 1]}"
    assert {a.outcome for a in attempts} <= {"done", "continued"}, "nothing failed and nothing was cut off"
    assert all(a.slurm_job for a in attempts), "every step ran in SLURM"
    assert len({a.slurm_job for a in attempts}) == len(attempts), "one SLURM job for each attempt"
    summary = json.loads((tiny.workdir / "report" / "summary.json").read_text())
    assert summary["validated"], "no crystal reached DFT"
