"""Stored outputs of real pw.x runs (silicon and aluminium, tiny cutoffs), and a program that plays them back."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

DATA = Path(__file__).with_name("data")
# Third parties' own deprecations.
WARNINGS = (
    "ignore:Set OLD_ERROR_HANDLING:DeprecationWarning",  # spglib
    "ignore:cd is deprecated:FutureWarning",  # jobflow uses monty's
)
PLAYER = """#!{python}
import shutil, sys
from pathlib import Path
here, data = Path.cwd(), Path({data!r})
played = Path({counter!r})
n = int(played.read_text()) if played.exists() else 0
played.write_text(str(n + 1))
names = {names!r}
name = names[min(n, len(names) - 1)]
sys.stdout.write((data / name / "pw.out").read_text())
errors = data / name / "pw.err"
sys.stderr.write(errors.read_text() if errors.exists() else "")
codes = {{"done": 0, "relaxed": 0, "scf_not_converged": 2, "out_of_time": 2, "steps_used_up": 3}}
sys.exit(codes.get(name, 1))
"""


def silicon(shift: float = 0.0) -> Structure:
    """Diamond silicon's primitive cell, one atom shifted by a fraction."""
    frac = np.array([[0.0, 0.0, 0.0], [0.25 + shift, 0.25 + shift / 2, 0.25]])
    return Structure(Lattice.from_parameters(3.84, 3.84, 3.84, 60, 60, 60), ["Si", "Si"], frac)


def copy_case(name: str, target: Path) -> Path:
    """A directory as a job left it."""
    shutil.copytree(DATA / name, target)
    return target


def make_player(folder: Path, *names: str) -> Path:
    """A program that prints the stored outputs one after the other, the last one again and again."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "pw-player"
    text = PLAYER.format(python=sys.executable, data=str(DATA), counter=str(folder / "played"), names=names)
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    return program
