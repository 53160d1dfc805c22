"""Elemental references from a snapshot of Materials Project's entries, in place of calculations of one's own.

A snapshot is a JSON file, maybe gzipped: element → pymatgen's ``ComputedEntry`` as a dictionary, with the TITEL of its
POTCAR and the kind of run among the parameters. It is the user's, named in the configuration; energies are taken as
they were computed, without corrections, and only beside POTCARs of the same TITEL.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sluice.errors import SluiceError
from sluice.validate.vasp.sets import GGA


class SnapshotError(SluiceError):
    """A snapshot that cannot be used; names the file and what is wrong."""


@dataclass(frozen=True)
class SnapshotReference:
    """An element's entry.

    Attributes:
        element: symbol.
        entry_id: Materials Project's, e.g. ``mp-111-GGA``.
        energy_ev_per_atom: uncorrected total energy, eV/atom.
        run_type: as the entry says, ``GGA``.
        titel: of its POTCAR.
    """

    element: str
    entry_id: str
    energy_ev_per_atom: float
    run_type: str
    titel: str


def snapshot_digest(path: Path) -> str:
    """SHA-256 of the file.

    Raises:
        SnapshotError: if it cannot be read.
    """
    return _content(path)[0]


def _content(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        stamp = path.stat()
    except OSError as error:
        raise SnapshotError(f"validate.vasp.references: {path}: {error.strerror or error}") from error
    return _read(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, _mtime: int, _size: int) -> tuple[str, dict[str, Any]]:
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        values = json.loads(text)
    except (OSError, EOFError, ValueError) as error:
        raise SnapshotError(f"validate.vasp.references: {path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise SnapshotError(f"validate.vasp.references: {path} is no object of element → entry")
    return hashlib.sha256(raw).hexdigest(), values


def snapshot_reference(path: Path, element: str) -> SnapshotReference:
    """The reference of an element.

    Raises:
        SnapshotError: if the file has none that can be used; says why.
    """
    entries = _content(path)[1]
    if element not in entries:
        raise SnapshotError(f"validate.vasp.references: {path} has no entry of {element}; leave it out to compute all")
    try:
        entry = entries[element]
        parameters, amounts = entry["parameters"], entry["composition"]
        titel, run_type = parameters["potcar_spec"][0]["titel"], parameters["run_type"]
        energy = float(entry["energy"]) / float(amounts[element])
        pure = list(amounts) == [element]
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise SnapshotError(
            f"validate.vasp.references: {path}: {element} is not a ComputedEntry that names its POTCAR (potcar_spec)"
            f" and run_type ({type(error).__name__}: {error}); without them nobody can tell what to compare it with"
        ) from error
    if not pure or not math.isfinite(energy):
        raise SnapshotError(f"validate.vasp.references: {path}: the entry of {element} is not that of an element")
    if run_type != GGA:
        raise SnapshotError(f"validate.vasp.references: {path}: {element} is {run_type}, not {GGA}")
    return SnapshotReference(element, str(entry.get("entry_id", "")), energy, run_type, str(titel))
