"""How the emulator fails when told to: VASP's messages, and the change of input that each of them goes away with.

``faults.json`` in the folder that ``VASP_EMULATOR`` names is a list of objects with ``kind``, ``job`` (a part of the
working directory's path; any), ``step`` (the ionic step at which it happens; 1) and ``times`` (how often at most; until
cured). Kinds besides those of ``MESSAGES``:

========== ====================================================================================
kill       the process is killed
hang       nothing is written any more
truncate   vasprun.xml is cut in its middle, though VASP ends as if all was well
unconverged the scf uses up NELM (cured by ALGO = Normal)
memory     the kernel's out-of-memory killer, as the launcher reports it on standard error
silent     VASP ends at once without a word
========== ====================================================================================
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Incar = dict[str, Any]


@dataclass(frozen=True)
class Message:
    """One of VASP's complaints.

    Attributes:
        text: what it prints.
        cured: whether the input is such that it does not come up.
        fatal: whether VASP stops.
    """

    text: str
    cured: Callable[[Incar], bool]
    fatal: bool = True


def _algo(incar: Incar, *letters: str) -> bool:
    return str(incar["ALGO"])[0].upper() in letters


def _never(_: Incar) -> bool:
    return False


MESSAGES = {
    "brmix": Message("BRMIX: very serious problems\n the old and the new charge density differ",
                     lambda incar: incar["IMIX"] == 1, fatal=False),
    "zbrent": Message("ZBRENT: fatal error in bracketing\n please rerun with smaller EDIFF, or copy CONTCAR\n"
                      " to POSCAR and continue", lambda incar: incar["EDIFF"] <= 1e-6),
    "edddav": Message("Error EDDDAV: Call to ZHEGV failed. Returncode =   7 1  8", lambda incar: _algo(incar, "A")),
    "too_few_bands": Message("TOO FEW BANDS", lambda incar: "NBANDS" in incar, fatal=False),
    "subspacematrix": Message("WARNING: Sub-Space-Matrix is not hermitian in DAV    1  -1.234E-05",
                              lambda incar: incar["LREAL"] is False, fatal=False),
    "rot_matrix": Message("Found some non-integer element in rotation matrix      2",
                          lambda incar: incar["ISYM"] == 0),
    "pricel": Message("internal error in subroutine PRICEL (probably precision problem, try to change SYMPREC"
                      " in INCAR ?):   1", lambda incar: incar["SYMPREC"] <= 1e-8),
    "amin": Message("One of the lattice vectors is very long (>50 A), but AMIN\n is rather large.",
                    lambda incar: incar["AMIN"] <= 0.01, fatal=False),
    "eddrmm": Message("WARNING in EDDRMM: call to ZHEGV failed, returncode =   6  3      6",
                      lambda incar: _algo(incar, "N"), fatal=False),
    "posmap": Message("POSMAP internal error: symmetry equivalent atom not found,",
                      lambda incar: incar["SYMPREC"] != 1e-5),
    "nicht_konv": Message("ERROR: SBESSELITER : nicht konvergent", lambda incar: incar["LREAL"] is False),
    "grad_not_orth": Message("EDWAV: internal error, the gradient is not orthogonal      1     1  0.11E-02",
                             lambda incar: "NBANDS" in incar),
    "zheev": Message("ERROR EDDIAG: Call to routine ZHEEV failed! 3", lambda incar: _algo(incar, "N")),
    "pssyevx": Message("ERROR in subspace rotation PSSYEVX: not enough eigenvalues found",
                       lambda incar: _algo(incar, "N")),
    "real_optlay": Message("REAL_OPTLAY: internal error (1)       0       0", lambda incar: incar["LREAL"] is False),
    "tet": Message("Tetrahedron method fails for NKPT<4. NKPT =   1", lambda incar: incar["ISMEAR"] >= 0),
    "rhosyg": Message("RHOSYG internal error: stars are not distinct, try to increase SYMPREC to e.g. 1E-4",
                      lambda incar: incar["SYMPREC"] >= 1e-4),
    "brions": Message("BRIONS problems: POTIM should be increased", lambda incar: incar["POTIM"] > 0.5),
    "zpotrf": Message("LAPACK: Routine ZPOTRF failed!        1", lambda incar: incar["ISYM"] == 0),
    "set_core_wf": Message("internal error in SET_CORE_WF: the core state was not found", _never),
    "hopeless": Message("Error EDDDAV: Call to ZHEGV failed. Returncode =   7 1  8", _never),
}  # fmt: skip


class Faults:
    """What goes wrong in this run.

    Args:
        incar: tags with defaults.
        folder: what ``VASP_EMULATOR`` names; None for a run without faults.
    """

    def __init__(self, incar: Incar, folder: Path | None) -> None:
        self.incar, self.folder = incar, folder
        path = None if folder is None else folder / "faults.json"
        told = json.loads(path.read_text()) if path is not None and path.exists() else []
        self._faults = [fault for fault in told if fault.get("job", "") in str(Path.cwd())]

    def _fires(self, fault: dict[str, Any]) -> bool:
        """Whether it may still happen; counted over all runs."""
        assert self.folder is not None
        count = self.folder / f"fired-{fault['kind']}-{fault.get('job', '').replace('/', '_')}-{fault.get('step', 1)}"
        fired = count.stat().st_size if count.exists() else 0
        if fired >= fault.get("times", 1 << 30):
            return False
        with count.open("a") as handle:
            handle.write("x")
        return True

    def _now(self, step: int, *kinds: str) -> dict[str, Any] | None:
        for fault in self._faults:
            if fault["kind"] in kinds and fault.get("step", 1) == step and self._fires(fault):
                return fault
        return None

    @property
    def unconverged(self) -> bool:
        """Whether the scf will use up all its steps."""
        return not _algo(self.incar, "N") and self._now(1, "unconverged") is not None

    @property
    def truncates(self) -> bool:
        """Whether vasprun.xml is going to be cut."""
        return self._now(1, "truncate") is not None

    @property
    def silent(self) -> bool:
        """Whether it ends before it has opened a file."""
        return self._now(1, "silent") is not None

    def strike(self, step: int) -> None:
        """Fail at an ionic step where told to; returns if VASP goes on.

        Raises:
            SystemExit: where VASP stops.
        """
        if self._now(step, "kill"):
            os.kill(os.getpid(), 9)
        if self._now(step, "memory"):
            os.write(2, b"slurmstepd: error: Detected 1 oom-kill event(s). out of memory\n")
            os.kill(os.getpid(), 9)
        if self._now(step, "hang"):
            time.sleep(3600)
        for kind, message in MESSAGES.items():
            wanted = any(f["kind"] == kind and f.get("step", 1) == step for f in self._faults)
            if wanted and not message.cured(self.incar) and self._now(step, kind):
                print(f" -----\n| {message.text}\n -----", flush=True)
                if message.fatal:
                    raise SystemExit(1)
