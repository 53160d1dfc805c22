"""Read crystals from files of the user's: a folder of CIFs, an extxyz file or a Sluice store.

Nothing in a file can end the reading of the others: what cannot be used comes back with a reason.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from itertools import chain, count
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Element, Structure
from pymatgen.io.cif import CifParser
from pymatgen.optimization.neighbors import find_points_in_spheres

from sluice.crystals import Crystals
from sluice.errors import BadDataError
from sluice.provenance import CIF_SUFFIXES, crystal_files
from sluice.store import Store
from sluice.store_format import ID_DTYPE

UNPARSABLE = "cannot be parsed"
NOT_FINITE = "not a number"
OVERLAP = "overlapping atoms"
DISORDERED = "partial occupancy"
UNKNOWN_ELEMENT = "unknown element"
DUPLICATE_ID = "duplicate id"
NO_CELL = "no periodic cell"
LONG_ID = "id too long"

# What pymatgen's parser says of faults that have a name here (occupancies of one place are added up).
PARSER_WORDS = {"exceeded tolerance": OVERLAP, "NaN": NOT_FINITE}
ATOMS = re.compile(r"^\s*_atom_site_(label|type_symbol|fract_x|cartn_x)\b", re.IGNORECASE | re.MULTILINE)
MAX_ID = np.dtype(ID_DTYPE).itemsize
MIN_VOLUME = 0.1  # Å³ per atom; flatter cells are no crystals
XYZ_SUFFIXES = (".xyz", ".extxyz")
STORE_SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class Reading:
    """One crystal of the user's, or why it cannot be used.

    Attributes:
        name: its id: the file's name without suffix, or what the file says.
        crystal: exactly one crystal; None if it cannot be used.
        values: numbers that came with it, by name.
        reason: "" or a category; ``detail`` the particulars.
    """

    name: str
    crystal: Crystals | None = None
    values: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    detail: str = ""


def read_crystals(path: Path, *, min_distance: float) -> Iterator[Reading]:
    """Read everything at ``path``, checked, in a fixed order; ids are unique among the usable ones.

    Args:
        path: folder (searched with its subfolders), CIF, extxyz or store.
        min_distance: closer atoms overlap, Å.

    Raises:
        BadDataError: if it is none of these.
    """
    seen: set[str] = set()
    for reading in _read(path):
        checked = _check(reading, seen, min_distance)
        if not checked.reason:
            seen.add(checked.name)
        yield checked


def _read(path: Path) -> Iterator[Reading]:
    suffix = path.suffix.lower()
    if path.is_dir():
        files = crystal_files(path)
        stems = {file.stem for file in files}
        for file in files:
            yield from _read_cif(file, stems)
    elif suffix in CIF_SUFFIXES:
        yield from _read_cif(path, set())
    elif suffix in XYZ_SUFFIXES:
        yield from _read_extxyz(path)
    elif suffix in STORE_SUFFIXES:
        yield from _read_store(path)
    else:
        allowed = ", ".join((*CIF_SUFFIXES, *XYZ_SUFFIXES, *STORE_SUFFIXES))
        raise BadDataError(f"{path}: neither a folder of CIF files nor a file ending in {allowed}")


def _read_cif(file: Path, stems: set[str]) -> Iterator[Reading]:
    """Every block of a CIF that has atoms, so that a bad one costs only itself; further ones of a file are numbered.

    Args:
        file: the CIF.
        stems: names of files, which no further block of another file gets.
    """
    try:
        blocks = _blocks(file.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        yield Reading(file.stem, reason=UNPARSABLE, detail=_short(error))
        return
    numbered = (name for k in count(2) if (name := f"{file.stem}_{k}") not in stems)
    for name, block in zip(chain([file.stem], numbered), blocks, strict=False):
        try:
            structure = _parse_block(block)
        except Exception as error:  # the parser raises whatever the text makes it stumble over
            detail = _short(error)
            reason = next((reason for words, reason in PARSER_WORDS.items() if words in detail), UNPARSABLE)
            where = f"block {block.split()[0]}: " if len(blocks) > 1 else ""
            yield Reading(name, reason=reason, detail=where + detail)
        else:
            yield _from_structure(name, structure)


def _blocks(text: str) -> list[str]:
    """Data blocks with atoms, split where pymatgen splits; all of a text that has none, to be told what is wrong."""
    found = [f"data_{block}" for block in re.split(r"^\s*data_", text, flags=re.MULTILINE)[1:]]
    return [block for block in found if ATOMS.search(block) and "powder_pattern" not in block.split()[0]] or [text]


def _parse_block(text: str) -> Structure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with a structure is looked at below
        parser = CifParser(StringIO(text), check_cif=False)
        return parser.parse_structures(primitive=False, on_error="raise")[0]


def _from_structure(name: str, structure: Structure) -> Reading:
    if not structure.is_ordered:
        sites = [s for s in structure if not s.is_ordered]
        return Reading(name, reason=DISORDERED, detail=f"{len(sites)} sites, e.g. {sites[0].species_string}")
    unknown = sorted({site.specie.symbol for site in structure if not Element.is_valid_symbol(site.specie.symbol)})
    if unknown:
        return Reading(name, reason=UNKNOWN_ELEMENT, detail=", ".join(unknown))
    return Reading(name, Crystals.from_structures([structure]))


def _read_extxyz(file: Path) -> Iterator[Reading]:
    """Frames one by one, so that a bad one costs only itself as long as its atom count is right."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    start, index = 0, 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        name = f"{file.stem}-{index}"
        try:
            count = int(lines[start])
        except ValueError:
            detail = f"line {start + 1}: expected a number of atoms; the rest of the file is left out"
            yield Reading(name, reason=UNPARSABLE, detail=detail)
            return
        yield _read_frame(name, lines[start : start + count + 2], start + 1)
        start, index = start + max(count, 0) + 2, index + 1


def _read_frame(name: str, lines: list[str], first_line: int) -> Reading:
    try:
        atoms: Any = ase.io.read(StringIO("\n".join(lines) + "\n"), format="extxyz")
    except Exception as error:  # ASE raises whatever the text makes it stumble over
        unknown = isinstance(error, KeyError)
        detail = f"frame from line {first_line}: {_short(error)}"
        return Reading(name, reason=UNKNOWN_ELEMENT if unknown else UNPARSABLE, detail=detail)
    for key in ("id", "candidate_id", "material_id"):
        if key in atoms.info:
            name = str(atoms.info[key])
            break
    if not atoms.pbc.all():
        return Reading(name, reason=NO_CELL, detail=f"frame from line {first_line}: not periodic in all directions")
    if (atoms.numbers < 1).any():
        return Reading(name, reason=UNKNOWN_ELEMENT, detail=f"frame from line {first_line}")
    if not np.isfinite(np.asarray(atoms.cell)).all() or not np.isfinite(atoms.positions).all():
        return Reading(name, reason=NOT_FINITE, detail=f"frame from line {first_line}")
    if abs(np.linalg.det(np.asarray(atoms.cell))) < MIN_VOLUME:
        return Reading(name, reason=NO_CELL, detail=f"frame from line {first_line}: the cell has no volume")
    values = {k: float(v) for k, v in atoms.info.items() if isinstance(v, int | float | np.number)}
    return Reading(name, Crystals.from_atoms([atoms]), values)


def _read_store(file: Path) -> Iterator[Reading]:
    with Store(file) as store:
        if not store.has_crystals:
            raise BadDataError(f"{file}: a store of schema {store.schema!r}, which holds no crystals")
        numeric = [name for name, column in store.columns.items() if column.dtype.startswith("f")]
        for chunk in store.chunks():
            assert chunk.crystals is not None
            for i, name in enumerate(chunk.candidate_id):
                values = {column: float(chunk.columns[column][i]) for column in numeric}
                yield Reading(name.decode(), chunk.crystals[i : i + 1], values)


def _check(reading: Reading, seen: set[str], min_distance: float) -> Reading:
    if len(reading.name.encode()) > MAX_ID:
        digest = hashlib.blake2b(reading.name.encode(), digest_size=4).hexdigest()
        name = reading.name.encode()[: MAX_ID - 12].decode(errors="ignore")
        return Reading(f"{name}...{digest}", reason=LONG_ID, detail=f"{reading.name[:100]}; at most {MAX_ID} bytes")
    if reading.crystal is None:
        return reading
    reason, detail = "", ""
    if reading.name in seen:
        reason, detail = DUPLICATE_ID, "the first one of this id is kept"
    else:
        reason, detail = find_fault(reading.crystal, min_distance)
    return Reading(reading.name, reason=reason, detail=detail) if reason else reading


def find_fault(crystal: Crystals, min_distance: float) -> tuple[str, str]:
    """What makes one crystal unusable, as reason and detail; two empty texts if nothing does.

    Args:
        crystal: exactly one crystal.
        min_distance: closer atoms overlap, Å.
    """
    lattice, frac = crystal.lattice[0], crystal.frac_coords
    if not (np.isfinite(lattice).all() and np.isfinite(frac).all()):
        return NOT_FINITE, "cell or coordinates"
    if len(frac) == 0:
        return UNPARSABLE, "no atoms"
    if crystal.volumes[0] < MIN_VOLUME * len(frac):
        return NO_CELL, f"{len(frac)} atoms in {crystal.volumes[0]:.3g} Å³"
    numbers = crystal.numbers
    if numbers.min() < 1 or numbers.max() > 118:
        return UNKNOWN_ELEMENT, f"atomic number {int(numbers.max())}"
    closest = closest_pair(lattice, frac, min_distance)
    if closest is not None:
        i, j, distance = closest
        pair = f"{Element.from_Z(int(numbers[i])).symbol}-{Element.from_Z(int(numbers[j])).symbol}"
        return OVERLAP, f"{pair} {distance:.3f} Å apart, limit {min_distance:g}"
    return "", ""


def closest_pair(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], limit: float
) -> tuple[int, int, float] | None:
    """The two closest atoms (periodic images included) and their distance in Å, if below ``limit``."""
    cart = np.ascontiguousarray(np.mod(frac_coords, 1.0) @ lattice)
    pbc = np.ones(3, np.int64)
    first, second, image, distance = find_points_in_spheres(
        cart, cart, r=float(limit), pbc=pbc, lattice=np.ascontiguousarray(lattice), tol=1e-8
    )
    itself = (first == second) & (image == 0).all(axis=1)
    if itself.all():
        return None
    best = int(np.argmin(np.where(itself, np.inf, distance)))
    return int(first[best]), int(second[best]), float(distance[best])


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
