"""The emulator of VASP as tests use it: told what to do, asked what it did."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EMULATORS = Path(__file__).parents[3] / "emulators" / "vasp"
sys.path.insert(0, str(EMULATORS))


@dataclass
class Emulator:
    """What a test says to the emulator and hears from it.

    Attributes:
        folder: where ``VASP_EMULATOR`` points.
        program: the executable.
    """

    folder: Path
    program: Path = EMULATORS / "vasp_std"

    def fail(self, *faults: dict[str, Any]) -> None:
        """Let the runs that follow fail."""
        (self.folder / "faults.json").write_text(json.dumps(faults))

    def slow_down(self, seconds: float) -> None:
        """Let an electronic step take so long."""
        (self.folder / "seconds").write_text(str(seconds))

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Every start of VASP, with directory and INCAR."""
        path = self.folder / "runs.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def jobs(self) -> list[str]:
        """The jobs of the starts, as their folders' names end."""
        return [Path(run["directory"]).name[2:].removeprefix("mp_gga_") for run in self.runs]
