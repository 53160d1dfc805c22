"""The user's own crystals: checked, joined with their energies, bad ones counted and listed."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sluice.chemistry.read_crystals import DUPLICATE_ID, NOT_FINITE, Reading, read_crystals
from sluice.chemistry.symmetry import SpaceGroupFinder
from sluice.config import CurateSettings, FilesSettings
from sluice.crystals import Crystals
from sluice.errors import BadDataError
from sluice.schemas import ENERGY
from sluice.step import track
from sluice.store import StoreWriter

SHOWN = 20  # bad rows that an error message lists
# ASSUME: a crystal of the user's has the space group that spglib finds within this tolerance, as in screening.
SYMPREC = 0.1  # Å
NO_ENERGY = "no energy given"
ENERGY_COLUMN = "formation_energy_ev_per_atom"


def write_user_crystals(settings: CurateSettings, campaign: str, crystals: Path, revision: int) -> None:
    """Read, check and write the user's crystals; where they have energies, the column ``formation_energy_ev_per_atom``.

    Crystals off the quarter grid or in other space groups are kept: the screener learns from them, too. Their
    prototype is "" and their space group the one that spglib finds.

    Raises:
        BadDataError: if there is nothing to read, or more than ``max_bad_fraction`` of it is bad.
    """
    files = settings.files
    assert files.path is not None  # checked with the configuration
    good, bad = read_user_crystals(files, settings.min_distance)
    report = crystals.with_name("bad_rows.csv")
    _judge(files.path, good, bad, settings.max_bad_fraction, report)
    energies = np.array([reading.values.get(ENERGY_COLUMN, np.nan) for reading in good], dtype=np.float64)
    found = Crystals.concatenate([reading.crystal for reading in good if reading.crystal is not None])
    inputs = [path for path in (files.path, files.properties) if path is not None]
    with StoreWriter(
        crystals,
        "crystals",
        columns={ENERGY_COLUMN: ENERGY},
        settings=settings,
        inputs=inputs,
        campaign=campaign,
        revision=revision,
    ) as writer:
        columns: dict[str, Any] = {
            "prototype": [""] * len(good),
            "space_group": SpaceGroupFinder(SYMPREC)(found),
            ENERGY_COLUMN: energies,
        }
        writer.append([reading.name for reading in good], columns, crystals=found)
        writer.drop([r.name for r in bad], [r.reason for r in bad], detail=[r.detail for r in bad])
        writer.count(came_in=len(good) + len(bad))
    report.unlink(missing_ok=True)


def read_user_crystals(files: FilesSettings, min_distance: float) -> tuple[list[Reading], list[Reading]]:
    """The usable crystals, with their energy under the name of our column, and the others with reasons."""
    assert files.path is not None
    energies: dict[str, float] = {}
    faults: dict[str, Reading] = {}
    if files.properties is not None:
        energies, faults = read_energies(files.properties, files.energy_column)
    good: list[Reading] = []
    bad: list[Reading] = []
    for reading in track(read_crystals(files.path, min_distance=min_distance), "reading", unit="crystals"):
        if reading.reason:
            bad.append(reading)
        elif files.properties is None:
            good.append(_with_energy(reading, reading.values.get(files.energy_column, math.nan)))
        elif reading.name in energies:
            good.append(_with_energy(reading, energies[reading.name]))
        else:
            missing = Reading(reading.name, reason=NO_ENERGY, detail=f"no row in {files.properties.name}")
            bad.append(faults.get(reading.name, missing))
    return good, bad


def _with_energy(reading: Reading, energy: float) -> Reading:
    return replace(reading, values={ENERGY_COLUMN: energy})


def read_energies(path: Path, column: str) -> tuple[dict[str, float], dict[str, Reading]]:
    """Formation energies in eV/atom by id, and by id what is wrong with other rows.

    Raises:
        BadDataError: if the file is no CSV with a column ``id`` and the energy column.
    """
    energies: dict[str, float] = {}
    bad: dict[str, Reading] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            rows = csv.DictReader(handle)
            missing = [name for name in ("id", column) if name not in (rows.fieldnames or [])]
            if missing:
                raise BadDataError(
                    f"{path}: no column {', '.join(missing)}; it has {', '.join(rows.fieldnames or ['nothing'])}"
                )
            for row in rows:
                name, text = str(row["id"] or "").strip().removesuffix(".cif"), str(row[column] or "").strip()
                where, value = f"line {rows.line_num} of {path.name}", _number(text)
                if name in energies or name in bad:
                    bad[name] = Reading(name, reason=DUPLICATE_ID, detail=where)
                elif math.isfinite(value):
                    energies[name] = value
                else:
                    bad[name] = Reading(name, reason=NOT_FINITE, detail=f"{column} is {text!r} in {where}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadDataError(f"{path}: cannot be read as CSV: {error}") from error
    return {name: value for name, value in energies.items() if name not in bad}, bad


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _judge(source: Path, good: list[Reading], bad: list[Reading], tolerated: float, report: Path) -> None:
    """Stop if too much is bad, with the first rows in the message and all of them in a file."""
    total = len(good) + len(bad)
    if total == 0:
        raise BadDataError(f"{source}: no crystals in it (looked for .cif files, or frames, or rows)")
    if len(bad) <= tolerated * total:
        return
    report.parent.mkdir(parents=True, exist_ok=True)
    with report.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["id", "reason", "detail"])
        writer.writerows([r.name, r.reason, r.detail] for r in bad)
    shown = "\n".join(f"  {r.name}: {r.reason} ({r.detail})" for r in bad[:SHOWN])
    more = f"\n  … and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    raise BadDataError(
        f"{source}: {len(bad)} of {total} rows are bad, more than curate.max_bad_fraction = {tolerated:g} allows:\n"
        f"{shown}{more}\nThe full list is in {report}. Mend or remove them, or raise the limit."
    )
