"""File times that lie ahead, after the clock was set back: Snakemake takes no output that is older than its input."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

TOLERANCE_NS = 2_000_000_000  # clocks of a cluster's nodes may be so far apart
STEP_NS = 1_000_000  # between two files, so that what was older stays older


def pull_back_future_times(workdir: Path) -> int:
    """Let everything below a campaign's directory that lies ahead of the file system's clock end now, in its order.

    Stores are told apart by their digests, so their times say nothing but which came first.

    Args:
        workdir: the campaign's directory; the caller holds its lease.

    Returns:
        How many files and directories there were.
    """
    now = _now(workdir)
    ahead: list[tuple[int, Path]] = []
    for folder, _, files in os.walk(workdir):
        for path in (Path(folder), *(Path(folder) / name for name in files)):
            try:
                changed = path.lstat().st_mtime_ns
            except FileNotFoundError:
                continue
            if changed > now + TOLERANCE_NS and not path.is_symlink():
                ahead.append((changed, path))
    ahead.sort()
    for place, (_, path) in enumerate(ahead):
        moment = now - (len(ahead) - place) * STEP_NS
        os.utime(path, ns=(moment, moment))
    return len(ahead)


def _now(workdir: Path) -> int:
    """The time by the clock that stamps the files."""
    probe = workdir / f".clock.{uuid.uuid4().hex[:8]}.probe"
    probe.write_text("")
    try:
        return probe.stat().st_mtime_ns
    finally:
        probe.unlink(missing_ok=True)
