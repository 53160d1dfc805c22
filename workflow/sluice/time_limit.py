"""SLURM's warning that a job's time limit is near, as a step sees it.

SLURM signals the batch script some time before the limit, and the script passes SIGUSR1 on to the process that computes
(``snakemake_executor_plugin_sluice/warn.py``). A step that can go on later calls ``heed_warnings`` and looks at
``warned`` now and then; a step that never does so is not signalled, and is cut off at the limit.
"""

from __future__ import annotations

import math
import os
import signal
import time
from types import FrameType

WARNING = signal.SIGUSR1
WARNING_VARIABLE = "SLUICE_WARNING_SECONDS"  # how long before the limit the warning comes; set by the executor
RESERVE_SHARE = 0.3  # of that time, kept for last words, for giving tasks back and for Snakemake around the step

_warned_at: float | None = None


def heed_warnings() -> None:
    """Remember the warning instead of dying of it, from now on; to be called from the main thread."""
    signal.signal(WARNING, _remember)


def forget_warnings() -> None:
    """Back to where a process starts: nothing has come, and a warning would end it."""
    global _warned_at
    _warned_at = None
    signal.signal(WARNING, signal.SIG_DFL)


def _remember(number: int, frame: FrameType | None) -> None:
    global _warned_at
    if _warned_at is None:
        _warned_at = time.monotonic()


def warned() -> bool:
    """Whether the warning has come."""
    return _warned_at is not None


def seconds_left() -> float:
    """Time until what still runs has to be killed, so that the step can end by itself; infinite without a warning."""
    if _warned_at is None:
        return math.inf
    try:
        given = float(os.environ[WARNING_VARIABLE])
    except (KeyError, ValueError):
        return math.inf  # somebody else's signal, with a limit that is not known here
    return _warned_at + (1 - RESERVE_SHARE) * given - time.monotonic()
