"""Kill a campaign in the middle of training, screening and DFT, resume it, compare it with an undisturbed run.

    python tests/chaos/kill_campaign.py FOLDER [--config config/test.yaml]

Prints a table; ends with 1 if anything differs beyond what DESIGN's Resume allows. The undisturbed run is kept in
FOLDER/undisturbed and taken again when it is complete.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from campaigns import (
    REPOSITORY,
    differences,
    kill,
    pw_starts,
    repeated_steps,
    start,
    summary_differences,
    wait_for,
    workdir,
    write_config,
)

# rule to kill in, seconds into its job
KILLS = (("train_generator", 5.0), ("relax_candidates", 0.5), ("compute_references", 4.0), ("compute_compounds", 10.0))


def run_to_end(command: str, config: Path) -> float:
    """Run until done; the wall time in seconds."""
    began = time.monotonic()
    driver = start(command, config)
    if driver.wait() != 0:
        sys.exit(f"{command} {config} ended with {driver.returncode}: see {config.parent / 'driver-output.txt'}")
    return time.monotonic() - began


def main() -> None:
    """Run the undisturbed campaign, then one with every kill, for the driver alone and for its process group."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, default=REPOSITORY / "config" / "test.yaml")
    options = parser.parse_args()
    undisturbed = write_config(options.folder / "undisturbed", options.config)
    if not (workdir(undisturbed) / "report" / "summary.json").exists():
        print(f"undisturbed: {run_to_end('run', undisturbed):.0f} s, pw.x starts {pw_starts(undisturbed)}", flush=True)
    failed = False
    for group in (False, True):
        name = "process group" if group else "driver"
        config = write_config(options.folder / name.replace(" ", "-"), options.config)
        kills = 0
        for rule, delay in KILLS:
            driver = start("resume" if kills else "run", config)
            if wait_for(config, rule, driver, delay=delay):
                kill(driver, group=group)
                kills += 1
                print(f"{name}: killed in {rule}", flush=True)
        seconds = run_to_end("resume", config)
        problems = differences(config, undisturbed) + summary_differences(config, undisturbed)
        repeated = repeated_steps(config)
        print(f"{name}: {kills} kills, last resume {seconds:.0f} s, pw.x starts {pw_starts(config)} "
              f"(undisturbed {pw_starts(undisturbed)}), repeated steps {repeated or 'none'}, "
              f"differences {problems or 'none'}", flush=True)  # fmt: skip
        failed |= bool(problems or repeated)
    sys.exit(failed)


if __name__ == "__main__":
    main()
