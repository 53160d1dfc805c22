"""What a finished job and a finished calculation say."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monty.io import zopen
from pymatgen.core import Structure
from pymatgen.io.vasp.outputs import Vasprun

from sluice.validate.vasp.handlers import CRASH, STOP

UNCONVERGED, HANGS, INCOMPLETE = "Unconverged", "Frozen job", "incomplete output"


@dataclass(frozen=True)
class VaspDocument:
    """What counts in atomate2's document of one job.

    Attributes:
        successful: whether VASP ended and converged.
        energy_ev: final energy (sigma → 0), eV per cell.
        structure: final geometry (Å).
        directory: where it ran, with the host in front.
        magnetization: total moment, μB per cell; NaN without spin.
        run_type: ``GGA``, ``GGA+U`` or ``r2SCAN``, by what VASP's output says.
        hubbards: U by element, eV.
        potcars: TITEL by element.
        version: VASP's.
        cpu_seconds: of all ranks, by OUTCAR.
    """

    successful: bool
    energy_ev: float
    structure: Structure
    directory: str
    magnetization: float
    run_type: str
    hubbards: dict[str, float]
    potcars: dict[str, str]
    version: str
    cpu_seconds: float

    @classmethod
    def from_output(cls, output: Mapping[str, Any]) -> VaspDocument:
        """Read a job's output, an emmet ``TaskDoc`` in plain values."""
        last = output["calcs_reversed"][0]
        given, found = last["input"], last["output"]
        structure = Structure.from_dict(output["output"]["structure"])
        stats = (output.get("run_stats") or {}).get("overall") or {}
        moment = (found.get("outcar") or {}).get("total_magnetization")
        hubbards = {str(e): float(u) for e, u in (given.get("hubbards") or {}).items() if u}
        titles = [spec["titel"] for spec in given.get("potcar_spec") or []]
        return cls(
            successful=str(output["state"]).lower().endswith("successful"),
            energy_ev=float(found["energy"]),
            structure=structure,
            directory=str(output["dir_name"]),
            magnetization=math.nan if moment is None else float(moment),
            run_type=_run_type(str(last.get("run_type") or ""), hubbards),
            hubbards=hubbards,
            potcars={titel.split()[1].split("_")[0]: titel for titel in titles},
            version=str(last.get("vasp_version") or ""),
            cpu_seconds=float(stats.get("total_time") or 0.0) * float(stats.get("cores") or 1),
        )


def _run_type(said: str, hubbards: Mapping[str, float]) -> str:
    base = said.removesuffix("+U").replace("PBE", "GGA")
    base = "r2SCAN" if base.lower() in ("r2scan", "r2SCAN".lower()) else base
    return f"{base}+U" if hubbards else base


def corrections(directory: Path) -> list[dict[str, Any]]:
    """What custodian's log in a job's directory says was corrected: handler, problem, changes."""
    found = []
    for run in _log(directory):
        for row in run.get("corrections", []):
            handler = row.get("handler") or {}
            found.append(
                {
                    "handler": handler.get("@class", str(handler)) if isinstance(handler, dict) else str(handler),
                    "problem": ", ".join(str(error) for error in row.get("errors", [])),
                    "changes": row.get("actions"),
                }
            )
    return found


def _log(directory: Path) -> list[dict[str, Any]]:
    for name in ("custodian.json", "custodian.json.gz"):
        try:
            with zopen(directory / name, "rt", encoding="utf-8") as handle:
                values = json.loads(handle.read())
        except (OSError, EOFError, ValueError):
            continue
        return [row for row in values if isinstance(row, dict)]
    return []


def explain(directory: Path, error: BaseException | None) -> str:
    """Why a job failed, in one line that begins with the kind of failure."""
    rows, log = corrections(directory), _log(directory)
    problem = rows[-1]["problem"] if rows else ""
    times = f" ({len(rows)} corrections tried)" if rows and rows[-1]["changes"] else ""
    if problem.startswith(UNCONVERGED) or (not problem and error is None):
        return _unconverged(directory) + times
    if problem == HANGS:
        return f"VASP hangs{times}"
    if problem.startswith((CRASH, "no output", STOP)):
        return problem
    if problem:
        return f"error in VASP: {problem}{times}"
    if log and log[-1].get("validator"):
        return f"{INCOMPLETE}: {log[-1]['validator'].get('@class', 'validator')} refused it"
    return f"{CRASH}: {error}" if error is not None else "the calculation did not finish"


def _unconverged(directory: Path) -> str:
    for name in ("vasprun.xml", "vasprun.xml.gz"):
        try:
            run = Vasprun(directory / name, parse_dos=False, parse_eigen=False, parse_potcar_file=False)
        except Exception:  # whatever a parser makes of a broken file
            continue
        return "ionic steps used up" if run.converged_electronic else "scf not converged"
    return "scf not converged"


@dataclass(frozen=True)
class CalculationResult:
    """A whole calculation.

    Attributes:
        converged: whether every job ended as it should.
        reason: why not, else "".
        energy_ev_per_atom: of the last job; NaN if not converged.
        structure: final geometry (the start's if nothing was relaxed).
        magnetization: total moment, μB per cell; NaN if unknown.
        document: of the last job; None if not converged.
        cpu_seconds: of all runs, also of earlier, interrupted processes; ``wall_seconds`` likewise.
        attempts: corrections + 1 of the job that needed most.
        continuations: continuations after time limits and interruptions, all jobs.
        history: job name → its events.
    """

    converged: bool
    reason: str
    energy_ev_per_atom: float
    structure: Structure
    magnetization: float
    document: VaspDocument | None
    cpu_seconds: float
    wall_seconds: float
    attempts: int
    continuations: int
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
