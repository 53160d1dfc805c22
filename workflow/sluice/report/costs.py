"""What the campaign cost, read from the attempts of its jobs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from sluice.attempts import Attempt, read_attempts, read_events


@dataclass
class StepCost:
    """All attempts of all jobs of one step.

    Attributes:
        attempts: how many; ``states`` counts them by their end (done, failed, continued, killed, running, unknown).
        cpu_seconds: of the attempts whose end was recorded; a killed process leaves no account of its time.
        job_seconds: wall time summed over attempts, for killed ones up to their last sign of life.
        max_rss_mb: largest resident memory of a process in MB.
    """

    step: str
    attempts: int = 0
    states: Counter[str] = field(default_factory=Counter)
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    job_seconds: float = 0.0
    max_rss_mb: float = 0.0


@dataclass
class Costs:
    """Costs by step in order of first start; ``wall_seconds`` is the time in which at least one job ran."""

    steps: dict[str, StepCost]
    wall_seconds: float
    hosts: list[str]

    @property
    def cpu_seconds(self) -> float:
        """CPU seconds of all steps."""
        return sum(cost.cpu_seconds for cost in self.steps.values())

    @property
    def gpu_seconds(self) -> float:
        """GPU seconds of all steps."""
        return sum(cost.gpu_seconds for cost in self.steps.values())

    @property
    def states(self) -> Counter[str]:
        """Attempts by their end over all steps."""
        return sum((cost.states for cost in self.steps.values()), Counter())


def _last_signs(path: Path) -> dict[str, float]:
    """Time of the last event of each attempt."""
    return {str(event.get("attempt", "")): float(event["time"]) for event in read_events(path) if "time" in event}


def _union_seconds(intervals: list[tuple[float, float]]) -> float:
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def read_costs(path: Path, *, own_step: str = "build_report") -> Costs:
    """Sum the attempts file.

    Args:
        path: the attempts file; a missing one costs nothing.
        own_step: the step that is asking: its own running attempt is left out.
    """
    signs = _last_signs(path)
    steps: dict[str, StepCost] = {}
    intervals, hosts = [], set()
    for attempt in read_attempts(path):
        state = attempt.state
        if attempt.step == own_step and state == "running":
            continue
        end = _end(attempt, signs)
        intervals.append((attempt.started, end))
        hosts.add(attempt.host)
        cost = steps.setdefault(attempt.step, StepCost(attempt.step))
        cost.attempts += 1
        cost.states[state] += 1
        cost.cpu_seconds += attempt.cpu_seconds
        cost.gpu_seconds += attempt.gpu_seconds
        cost.job_seconds += end - attempt.started
        cost.max_rss_mb = max(cost.max_rss_mb, attempt.max_rss_mb)
    return Costs(steps, _union_seconds(intervals), sorted(hosts))


def _end(attempt: Attempt, signs: dict[str, float]) -> float:
    return attempt.ended if attempt.ended is not None else max(attempt.started, signs.get(attempt.attempt, 0.0))
