"""What the emulator reads: INCAR, POSCAR, KPOINTS and POTCAR of the current directory, as VASP does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# VASP's defaults of the tags that matter here; EDIFFG's is ten times EDIFF.
DEFAULTS: dict[str, Any] = {
    "ALGO": "Normal", "AMIN": 0.1, "EDIFF": 1e-4, "IBRION": -1, "ICHARG": 2, "IMIX": 4, "ISIF": 2, "ISMEAR": 1,
    "ISPIN": 1, "ISTART": 0, "ISYM": 2, "LCHARG": True, "LDAU": False, "LORBIT": 0, "LREAL": "F", "LWAVE": True,
    "NELM": 60, "NSW": 0, "POTIM": 0.5, "PREC": "Normal", "SIGMA": 0.2, "SYMPREC": 1e-5, "SYSTEM": "unknown system",
    "ENCUT": 400.0, "METAGGA": "--", "GGA": "--",
}  # fmt: skip


class InputError(Exception):
    """An input file that VASP would stop at; the message is what it prints."""


def _value(text: str) -> Any:
    words = text.split()
    if len(words) > 1 and all(re.fullmatch(r"[-+.\d*eEdD]+", word) for word in words):
        found = []
        for word in words:
            number, _, each = word.rpartition("*")
            found += [float(each)] * (int(number) if number else 1)
        return found
    if text.upper() in ("T", ".TRUE.", "TRUE"):
        return True
    if text.upper() in ("F", ".FALSE.", "FALSE"):
        return False
    try:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:
        return text


def read_incar(path: Path = Path("INCAR")) -> dict[str, Any]:
    """Tags and values, defaults included."""
    if not path.exists():
        raise InputError("No INCAR found, STOPPING")
    given = {}
    for line in path.read_text().splitlines():
        for part in re.split(r"[#!]", line)[0].split(";"):
            name, equal, text = part.partition("=")
            if equal:
                given[name.strip().upper()] = _value(text.strip())
    return DEFAULTS | {"EDIFFG": 10 * float(given.get("EDIFF", DEFAULTS["EDIFF"]))} | given


@dataclass
class Cell:
    """A structure: lattice (3, 3) Å, symbols by atom, fractional coordinates (n, 3)."""

    lattice: NDArray[np.float64]
    symbols: list[str]
    frac: NDArray[np.float64]

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """Runs of equal symbols and their lengths, as in POSCAR."""
        found: list[tuple[str, int]] = []
        for symbol in self.symbols:
            if found and found[-1][0] == symbol:
                found[-1] = (symbol, found[-1][1] + 1)
            else:
                found.append((symbol, 1))
        return found

    def poscar(self, title: str = "emulated") -> str:
        """The text of a POSCAR."""
        kinds = self.kinds
        rows = [" ".join(f"{x: .16f}" for x in row) for row in self.lattice]
        sites = [" ".join(f"{x: .16f}" for x in row) for row in self.frac % 1.0]
        head = [title, "1.0", *rows, " ".join(k for k, _ in kinds), " ".join(str(n) for _, n in kinds), "Direct"]
        return "\n".join([*head, *sites]) + "\n"


def read_poscar(path: Path = Path("POSCAR")) -> Cell:
    """The structure to start from."""
    if not path.exists() or not path.read_text().strip():
        raise InputError("ERROR: POSCAR is missing or empty")
    lines = path.read_text().splitlines()
    scale = float(lines[1])
    lattice = scale * np.array([[float(x) for x in line.split()[:3]] for line in lines[2:5]])
    counts = [int(n) for n in lines[6].split()]
    symbols = [s for s, n in zip(lines[5].split(), counts, strict=True) for _ in range(n)]
    at = 8 if lines[7][0] in "sS" else 7
    coordinates = np.array([[float(x) for x in line.split()[:3]] for line in lines[at + 1 : at + 1 + len(symbols)]])
    if lines[at].strip()[0] in "cCkK":
        coordinates = scale * coordinates @ np.linalg.inv(lattice)
    return Cell(lattice, symbols, coordinates)


def read_kpoints(incar: dict[str, Any], path: Path = Path("KPOINTS")) -> tuple[str, list[int]]:
    """Style (``Gamma`` or ``Monkhorst-Pack``) and divisions."""
    if not path.exists():
        if "KSPACING" not in incar:
            raise InputError("ERROR: KPOINTS is missing")
        return "Gamma", [2, 2, 2]
    lines = path.read_text().splitlines()
    style = "Gamma" if lines[2].strip().lower().startswith("g") else "Monkhorst-Pack"
    return style, [int(x) for x in lines[3].split()[:3]]


@dataclass
class Potential:
    """One element's part of POTCAR."""

    titel: str
    valence: float
    mass: float


def read_potcar(path: Path = Path("POTCAR")) -> list[Potential]:
    """Titles and valences by kind of atom."""
    if not path.exists():
        raise InputError("ERROR: POTCAR is missing")
    text = path.read_text()
    titles = [line.strip() for line in re.findall(r"TITEL\s*=\s*(.*)", text)]
    valences = [float(x) for x in re.findall(r"ZVAL\s*=\s*([\d.]+)", text)]
    masses = [float(x) for x in re.findall(r"POMASS\s*=\s*([\d.]+)", text)]
    return [Potential(t, z, m) for t, z, m in zip(titles, valences, masses, strict=True)]
