"""The rates that ``sluice run --dry-run`` and ``sluice doctor`` estimate a campaign's cost with.

``python benchmarks/campaign_rates.py results/cubic`` reads the attempts of a finished campaign, trains every network
for a moment on its database, and writes ``workflow/sluice/driver/rates.csv``. One thread.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.config import Config, GeneratorSettings, ScreenerSettings
from sluice.config_file import load_config
from sluice.driver.estimate import DFT, work
from sluice.driver.rules import REPOSITORY, read_rules
from sluice.models.scoring import load_model
from sluice.report.funnel import CANDIDATE_STEPS, read_row, store_paths
from sluice.train.train_generator import train_generator
from sluice.train.train_screener import train_screener

TARGET = REPOSITORY / "workflow" / "sluice" / "driver" / "rates.csv"
UNITS = {
    "collect_crystals": "crystal",
    "label_crystals": "crystal",
    "generate_candidates": "candidate drawn",
    "check_geometry": "candidate drawn",
    "check_symmetry": "candidate drawn",
    "check_charge": "candidate drawn",
    "remove_duplicates": "candidate drawn",
    "score_candidates": "candidate drawn and model, were none a duplicate",
    "relax_candidates": "candidate relaxed",
}
EPOCHS = {"generator small": 8, "generator paper": 1, "screener cgcnn": 4, "screener gatgnn": 4, "screener tsdnn": 4}


def start_seconds(module: str) -> float:
    """CPU-seconds that a step takes before it works: its imports."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_seconds(campaign: Config) -> dict[str, list[float]]:
    """CPU-seconds of the finished jobs of each step."""
    found: dict[str, list[float]] = {}
    for attempt in read_attempts(campaign.workdir / ATTEMPTS_FILE):
        if attempt.state == "done":
            found.setdefault(attempt.step, []).append(attempt.cpu_seconds)
    return found


def unique_share(campaign: Config) -> float:
    """Share of the charge-neutral candidates that are new and distinct."""
    counts = {
        step.name: read_row(step, store_paths(step, campaign, campaign.workdir, 1)).counts
        for step in CANDIDATE_STEPS
        if step.name in {"check_charge", "remove_duplicates"}
    }
    return counts["remove_duplicates"]["out"] / counts["check_charge"]["out"]


def training_seconds(campaign: Config, name: str) -> float:
    """CPU-seconds for one crystal in one epoch of a network of the default (or the paper's) size."""
    training_set = campaign.workdir / "round_1/train/training_set.h5"
    drawn_by = campaign.workdir / "round_1/train/generator.ckpt"
    kind, variant = name.split()
    used: list[float] = []
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        for epochs in (1, 1 + EPOCHS[name]):
            began = _own_seconds()
            how: dict[str, Any] = {
                "training_set": training_set, "checkpoints": folder / f"{epochs}", "seed": 1, "precision": "32-true",
                "threads": 1, "device": "cpu", "devices": "1", "round": 1, "decision": [], "earlier": [],
                "model": folder / "model.ckpt", "metrics": folder / "metrics.csv",
            }  # fmt: skip
            if kind == "generator":
                batch = 256 if variant == "paper" else GeneratorSettings().batch_size
                sizes = {"sizes": {"preset": variant}, "epochs": epochs, "batch_size": batch}
                train_generator(settings=GeneratorSettings.model_validate(sizes), **how)
                rows = load_model(folder / "model.ckpt").facts["training_rows"]
            else:
                settings = ScreenerSettings.model_validate({"model": variant, "epochs": epochs})
                train_screener(settings=settings, generator=[drawn_by], predictions=folder / "test.h5", **how)
                rows = load_model(folder / "model.ckpt").facts["training_rows"]
            used.append(_own_seconds() - began)
    return (used[1] - used[0]) / EPOCHS[name] / rows


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(campaign: Config) -> list[tuple[str, float, float, str]]:
    """Step, start, CPU-seconds a unit, unit."""
    rules = read_rules(REPOSITORY / "workflow" / "rules")
    amounts, spent = work(campaign), cpu_seconds(campaign)
    starts: dict[str, float] = {}
    found = []
    for name, rule in rules.items():
        if name in DFT or name not in spent:
            continue
        starts[name] = start_seconds(f"sluice.{rule.stage}.{name}")
        if name.startswith("train_"):
            continue
        jobs, total = len(spent[name]), sum(spent[name])
        if name in UNITS:
            unit = max(0.0, total - jobs * starts[name]) / amounts[name]
            if name == "score_candidates":
                unit /= unique_share(campaign)
            found.append((name, starts[name], unit, UNITS[name]))
        else:
            found.append((name, total / jobs, 0.0, ""))
    for name in EPOCHS:
        step = f"train_{name.split()[0]}"
        found.append((f"train_{name}", starts[step], training_seconds(campaign, name), "crystal and epoch"))
    return found


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("campaign", type=Path, help="folder of a finished campaign")
    torch.set_num_threads(1)
    campaign = load_config(parser.parse_args().campaign / "config.yaml")
    rows = measure(campaign)
    with TARGET.open("w", encoding="utf-8") as handle:
        made = datetime.now(UTC).strftime("%Y-%m-%d")
        handle.write(f"# Written by benchmarks/campaign_rates.py from campaign {campaign.campaign}, {made},\n")
        handle.write(f"# {platform.machine()}, one thread of {os.cpu_count()} cores shared with other work.\n")
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["step", "start_cpu_seconds", "cpu_seconds_per_unit", "unit"])
        writer.writerows((name, f"{start:.2f}", f"{unit:.3g}", what) for name, start, unit, what in rows)
    print(TARGET.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
