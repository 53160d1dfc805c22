"""Peak memory and time of generate → screen for growing numbers of candidates.

Usage: ``python benchmarks/memory_candidates.py results/halides [--candidates 20000 200000] [--output table.csv]``.
Takes the trained models and the database of a finished campaign; each step runs as its own process, as in a campaign,
with the campaign's number of batches (the rows of all batches of a step are summed up, of memory the largest counts).
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from sluice.attempts import read_attempts
from sluice.config import Config, GenerateSettings
from sluice.store import Store

BATCHES = 4


def run(attempts: Path, module: str, **flags: str | Path | int | list[Path]) -> None:
    """Run one step as the workflow would."""
    words = [sys.executable, "-m", f"sluice.{module}", "--attempts", str(attempts)]
    for name, value in flags.items():
        words.append("--" + name.replace("_", "-"))
        words += [str(v) for v in value] if isinstance(value, list) else [str(value)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def measure(campaign: Path, candidates: int, folder: Path) -> list[dict[str, str | int | float]]:
    """Run generate → select with so many candidates."""
    config, train, attempts = Config(), campaign / "round_1" / "train", folder / "attempts.jsonl"
    screen = config.screen
    settings = GenerateSettings(candidates=candidates, batches=BATCHES)
    charge: list[Path] = []
    for batch in range(BATCHES):
        drawn, near, found, neutral = (folder / f"{name}_{batch}.h5" for name in ("drawn", "near", "found", "neutral"))
        run(
            attempts, "generate.generate_candidates", model=train / "generator.ckpt", decision=[],
            settings=settings.model_dump_json(), chemistry=config.chemistry.model_dump_json(), seed=config.seed,
            round=1, batch=batch, device="cpu", candidates=drawn,
        )  # fmt: skip
        run(
            attempts,
            "screen.check_geometry",
            candidates=drawn,
            settings=screen.geometry.model_dump_json(),
            geometry=near,
        )
        run(
            attempts,
            "screen.check_symmetry",
            candidates=near,
            settings=screen.symmetry.model_dump_json(),
            symmetry=found,
        )
        run(attempts, "screen.check_charge", candidates=found, settings=screen.charge.model_dump_json(), charge=neutral)
        charge.append(neutral)
    unique, scored, selected = (folder / f"{name}.h5" for name in ("unique", "scored", "selected"))
    run(
        attempts, "screen.remove_duplicates", candidates=charge, known=campaign / "curate" / "dataset.h5", earlier=[],
        settings=screen.duplicates.model_dump_json(), unique=unique,
    )  # fmt: skip
    run(
        attempts,
        "screen.score_candidates",
        candidates=unique,
        model=train / "screener.ckpt",
        settings=screen.score.model_dump_json(),
        device="cpu",
        scored=scored,
    )
    run(
        attempts,
        "screen.select_candidates",
        candidates=scored,
        settings=screen.relax.model_dump_json(),
        selected=selected,
    )
    files = {
        "generate_candidates": sorted(folder.glob("drawn_*.h5")),
        "check_geometry": sorted(folder.glob("near_*.h5")),
        "check_symmetry": sorted(folder.glob("found_*.h5")),
        "check_charge": sorted(folder.glob("neutral_*.h5")),
        "remove_duplicates": [unique],
        "score_candidates": [scored],
        "select_candidates": [selected],
    }
    return [summarize(candidates, step, attempts, paths) for step, paths in files.items()]


def summarize(candidates: int, step: str, attempts: Path, paths: list[Path]) -> dict[str, str | int | float]:
    """One row of the table."""
    mine = [attempt for attempt in read_attempts(attempts) if attempt.step == step]
    rows = 0
    for path in paths:
        with Store(path, verify=False) as store:
            rows += len(store)
    return {
        "candidates": candidates,
        "step": step,
        "rows_out": rows,
        "peak_memory_mb": round(max(attempt.max_rss_mb for attempt in mine), 1),
        "cpu_seconds": round(sum(attempt.cpu_seconds for attempt in mine), 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("campaign", type=Path, help="folder of a campaign whose first round is trained")
    parser.add_argument("--candidates", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--output", type=Path, help="CSV to write")
    options = parser.parse_args()
    rows = []
    for candidates in options.candidates:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(options.campaign.resolve(), candidates, Path(folder))
        for row in rows[-7:]:
            print("  ".join(f"{value}" for value in row.values()), flush=True)
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
