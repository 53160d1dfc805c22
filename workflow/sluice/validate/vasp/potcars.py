"""POTCARs: where they are, whether the right ones are there, and what identifies them.

They are licensed and come from the user; none is part of this package, and none is kept with a result: a result names
each by its TITEL and SHA-256.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monty.io import zopen
from pymatgen.core import SETTINGS
from pymatgen.io.vasp.inputs import PotcarSingle

from sluice.errors import MissingProgramError

VARIABLE = "PMG_VASP_PSP_DIR"
SUFFIXES = ("", ".gz", ".bz2", ".xz", ".Z")
HOW = (
    f"set {VARIABLE} (or validate.vasp.potcars) to a directory of POTCARs as pymatgen lays them out; `pmg config -p "
    "<the potpaw directory of your VASP licence> <new directory>` makes one"
)


@dataclass(frozen=True)
class Potcar:
    """One POTCAR.

    Attributes:
        symbol: e.g. ``Na_pv``.
        path: the file.
    """

    symbol: str
    path: Path

    @cached_property
    def _text(self) -> str:
        with zopen(self.path, "rt", encoding="utf-8", errors="replace") as handle:
            return str(handle.read())

    @cached_property
    def sha256(self) -> str:
        """Of the text, however it is compressed."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    @cached_property
    def titel(self) -> str:
        """What it calls itself, e.g. ``PAW_PBE Na_pv 19Sep2006``.

        Raises:
            MissingProgramError: if it is no POTCAR.
        """
        found = re.search(r"TITEL\s*=\s*(.*)", self._text)
        if found is None:
            raise MissingProgramError(f"{self.path}: no POTCAR (it has no TITEL); {HOW}")
        return found[1].strip()


class PotcarLibrary:
    """The user's POTCARs of one functional.

    Args:
        directory: what PMG_VASP_PSP_DIR would be.
        functional: pymatgen's name, e.g. ``PBE`` or ``PBE_54``.
    """

    def __init__(self, directory: Path, functional: str) -> None:
        self.directory, self.functional = directory, functional
        self._found: dict[str, Potcar] = {}

    @property
    def folder(self) -> Path:
        """Where the functional's files are."""
        names: Mapping[str, str] = SETTINGS.get("PMG_VASP_PSP_SUB_DIRS") or {}
        return self.directory / names.get(self.functional, PotcarSingle.functional_dir[self.functional])

    def potcar(self, symbol: str) -> Potcar:
        """One of them.

        Raises:
            MissingProgramError: if it is not there; says what to do.
        """
        if symbol not in self._found:
            places = [self.folder / f"POTCAR.{symbol}", self.folder / symbol / "POTCAR"]
            paths = [place.with_name(place.name + suffix) for place in places for suffix in SUFFIXES]
            path = next((path for path in paths if path.is_file()), None)
            if path is None:
                raise MissingProgramError(
                    f"no POTCAR of {symbol} ({self.functional}): looked for {places[0]} and {places[1]}; {HOW}"
                )
            self._found[symbol] = Potcar(symbol, path)
        return self._found[symbol]

    def missing(self, symbols: Iterable[str]) -> list[str]:
        """Those of the symbols that have no POTCAR."""
        lost = []
        for symbol in symbols:
            try:
                self.potcar(symbol)
            except MissingProgramError:
                lost.append(symbol)
        return lost

    def use(self) -> None:
        """Let pymatgen take these from now on, in this process."""
        SETTINGS[VARIABLE] = str(self.directory)


def find_potcars(directory: Path | None, functional: str) -> PotcarLibrary:
    """The user's POTCARs.

    Args:
        directory: from the configuration; None: pymatgen's setting (the environment's PMG_VASP_PSP_DIR or
            ``~/.config/.pmgrc.yaml``).
        functional: pymatgen's name.

    Raises:
        MissingProgramError: if there are none; says what to do.
    """
    given = directory or SETTINGS.get(VARIABLE)
    if not given:
        raise MissingProgramError(f"VASP's POTCARs: {VARIABLE} is not set; {HOW}")
    path = Path(str(given)).expanduser()
    if not path.is_dir():
        raise MissingProgramError(f"VASP's POTCARs: {path} is no directory; {HOW}")
    return PotcarLibrary(path, functional)
