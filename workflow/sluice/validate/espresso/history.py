"""What happened in the directory of a pw.x job: every start, end and correction, appended and never rewritten."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

HISTORY_FILE = "attempts.jsonl"


class History:
    """What happened in a job's directory: one JSON line an event, never rewritten."""

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / HISTORY_FILE

    def events(self) -> list[dict[str, Any]]:
        """All events in order; a line cut off by a kill is passed over."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def add(self, event: str, **values: Any) -> None:
        """Append an event."""
        text = json.dumps({"event": event, "time": round(time.time(), 2), **values}, sort_keys=True, default=str) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)

    def count(self, event: str, **values: Any) -> int:
        """Number of events of a kind with these values."""
        return sum(e["event"] == event and all(e.get(k) == v for k, v in values.items()) for e in self.events())

    def exit_code(self) -> int | None:
        """Exit code of the last attempt, None if it never ended."""
        last = next((e for e in reversed(self.events()) if e["event"] in ("start", "end")), None)
        return last["exit_code"] if last is not None and last["event"] == "end" else None

    def interrupted(self) -> bool:
        """Whether the last attempt was started and never ended."""
        last = next((e for e in reversed(self.events()) if e["event"] in ("start", "end")), None)
        return last is not None and last["event"] == "start"

    def ended_last(self) -> bool:
        """Whether the end of an attempt is the last that happened: nothing has been decided about it yet."""
        events = self.events()
        return bool(events) and events[-1]["event"] == "end" and not events[-1].get("interrupted")

    @property
    def starts(self) -> int:
        """How often pw.x was started."""
        return self.count("start")

    @property
    def failures(self) -> int:
        """Corrections after failures."""
        return self.count("correction", kind="failure")

    @property
    def continuations(self) -> int:
        """Continuations after time limits and interruptions."""
        return self.count("correction", kind="continuation")

    def total(self, key: str) -> float:
        """Sum over attempts, e.g. of ``cpu_seconds``."""
        return float(sum(e.get(key, 0.0) for e in self.events()))
