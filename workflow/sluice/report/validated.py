"""The crystals that went through DFT or failed there: rows for the page, ``validated.csv`` and CIF files."""

from __future__ import annotations

import csv
import io
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Element, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.symmetry.groups import sg_symbol_from_int_number
from spglib import SpglibError

from sluice.errors import SluiceError
from sluice.store import Chunk, Store

CSV_COLUMNS = (
    "id", "parent_id", "round", "formula", "space_group", "space_group_symbol", "confirmed", "converged", "novel",
    "formation_energy_ev_per_atom", "formation_energy_corrected_ev_per_atom", "mlip_formation_energy_ev_per_atom",
    "energy_ev_per_atom", "magnetization_mu_b_per_cell", "volume_a3_per_atom", "density_g_per_cm3", "n_atoms",
    "rank", "code", "protocol", "setup", "task_id", "cpu_seconds", "wall_seconds", "attempts", "continuations", "cif",
    "reason",
)  # fmt: skip
CIF_TOLERANCE = 0.01  # Å; the tolerance at which the DFT stage reports space groups
_ENERGIES = (
    "formation_energy_ev_per_atom",
    "formation_energy_corrected_ev_per_atom",
    "mlip_formation_energy_ev_per_atom",
    "energy_ev_per_atom",
    "magnetization_mu_b_per_cell",
)

Row = dict[str, Any]  # keys of CSV_COLUMNS, missing values None


@dataclass(frozen=True)
class ValidatedCrystal:
    """One crystal after DFT; ``row`` has the keys of ``CSV_COLUMNS``, missing numbers None."""

    row: Row
    structure: Structure


def number(value: Any) -> float | None:
    """A plain float; None for NaN and infinities, which JSON does not have."""
    return float(value) if np.isfinite(value) else None


def space_group_symbol(international_number: int) -> str:
    """Hermann-Mauguin symbol, e.g. ``Pm-3m``; empty for 0 (none found)."""
    return sg_symbol_from_int_number(international_number) if 1 <= international_number <= 230 else ""


def file_name(candidate_id: str, taken: set[str]) -> str:
    """A file name for an id: no separators, no leading dot, unique; the name is added to ``taken``."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", candidate_id).lstrip(".")[:100] or "crystal"
    name, k = f"{stem}.cif", 1
    while name.lower() in taken:
        k += 1
        name = f"{stem}_{k}.cif"
    taken.add(name.lower())
    return name


def _row(chunk: Chunk, i: int, structure: Structure, round_number: int) -> Row:
    value = {name: values[i] for name, values in chunk.columns.items()}
    group = int(value["space_group"])
    return {
        "id": chunk.candidate_id[i].decode(),
        "parent_id": chunk.parent_id[i].decode(),
        "round": round_number,
        "formula": structure.composition.reduced_formula,
        "space_group": group,
        "space_group_symbol": space_group_symbol(group),
        "confirmed": bool(value["confirmed"]),
        "converged": bool(value["converged"]),
        "novel": bool(value["novel"]),
        **{name: number(value[name]) for name in _ENERGIES},
        "volume_a3_per_atom": number(structure.volume / len(structure)),
        "density_g_per_cm3": number(structure.density),
        "n_atoms": len(structure),
        "rank": int(value["parent_rank"]),
        "code": value["code"].decode(),
        "protocol": value["protocol"].decode(),
        "setup": value["setup"].decode() if "setup" in value else "",
        "task_id": value["task_id"].decode(),
        "cpu_seconds": number(value["cpu_seconds"]),
        "wall_seconds": number(value["wall_seconds"]),
        "attempts": int(value["attempts"]),
        "continuations": int(value["continuations"]),
        "reason": "",
    }


def read_references(paths: list[Path]) -> list[dict[str, Any]]:
    """The elemental references, one line for each element and setup, in order of atomic number."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in paths:
        with Store(path, "results") as store:
            if len(store) == 0 or not {"element", "setup"} <= set(store.columns):
                continue
            values = {name: store.column(name) for name in store.columns}
            n_atoms = store.crystals().n_atoms
        for i, element in enumerate(value.decode() for value in values["element"]):
            setup = values["setup"][i].decode()
            found[element, setup] = {
                "element": element,
                "setup": setup,
                "n_atoms": int(n_atoms[i]),
                "converged": bool(values["converged"][i]),
                "space_group": _group_label(int(values["space_group"][i])),
                **{name: number(values[name][i]) for name in (*_ENERGIES[3:], "cpu_seconds")},
            }
    return [found[key] for key in sorted(found, key=lambda key: (Element(key[0]).Z, key[1]))]


def _group_label(international_number: int) -> str:
    return f"{space_group_symbol(international_number)} ({international_number})" if international_number else "–"


def read_validated(paths: dict[int, Path]) -> list[ValidatedCrystal]:
    """All crystals that came through DFT, confirmed ones first, then by raw formation energy.

    Args:
        paths: store of each round.

    Raises:
        StoreError: if a store is missing or damaged.
    """
    found = []
    for round_number, path in paths.items():
        with Store(path, "validated") as store:
            for chunk in store.chunks():
                if chunk.crystals is None:
                    continue
                for i in range(len(chunk)):
                    structure = chunk.crystals.structure(i)
                    found.append(ValidatedCrystal(_row(chunk, i, structure, round_number), structure))
    found.sort(key=lambda c: (not c.row["confirmed"], _last(c.row["formation_energy_ev_per_atom"]), c.row["id"]))
    taken: set[str] = set()
    for crystal in found:
        crystal.row["cif"] = f"cifs/{file_name(crystal.row['id'], taken)}"
    return found


def read_failed(validated: dict[int, Path], shortlists: dict[int, Path], *, code: str, protocol: str) -> list[Row]:
    """The candidates whose DFT failed, by round and id: rows with a reason and without energies of DFT or a CIF.

    Args:
        validated: store of each round, whose failures these are.
        shortlists: the candidates that were sent to DFT; formula, space group and CHGNet's energy are from there.
        code: the configuration's.
        protocol: likewise.

    Raises:
        StoreError: if a store is missing or damaged.
        SluiceError: if a candidate failed that was not sent.
    """
    rows: list[Row] = []
    for round_number, path in validated.items():
        with Store(path, "validated") as store:
            gone = store.failures()
        reasons = {
            i: why for i, kind, why in zip(gone.candidate_id, gone.kind, gone.reason, strict=True) if kind == "failed"
        }
        if not reasons:
            continue
        with Store(shortlists[round_number], "shortlist") as store:
            sent, position = store.rows(), {name: i for i, name in enumerate(store.ids())}
        for name, reason in sorted(reasons.items()):
            if name not in position:
                raise SluiceError(f"{path}: {name} failed but is not in {shortlists[round_number]}: of different runs?")
            given = {"round": round_number, "reason": reason, "code": code, "protocol": protocol}
            rows.append(_failed_row(sent, position[name]) | given)
    return rows


def _failed_row(sent: Chunk, i: int) -> Row:
    assert sent.crystals is not None
    structure, group = sent.crystals.structure(i), int(sent.columns["relaxed_space_group"][i])
    return dict.fromkeys(CSV_COLUMNS) | {
        "id": sent.candidate_id[i].decode(),
        "parent_id": sent.parent_id[i].decode(),
        "formula": structure.composition.reduced_formula,
        "space_group": group,
        "space_group_symbol": space_group_symbol(group),
        "confirmed": False,
        "converged": False,
        "mlip_formation_energy_ev_per_atom": number(sent.columns["mlip_formation_energy_ev_per_atom"][i]),
        "n_atoms": len(structure),
        "rank": int(sent.columns["rank"][i]),
    }


def _last(energy: float | None) -> float:
    return float("inf") if energy is None else energy


def cif_text(structure: Structure) -> str:
    """CIF of the crystal with the symmetry that spglib finds, or P 1 where it finds none."""
    try:
        return str(CifWriter(structure, symprec=CIF_TOLERANCE))
    except (ValueError, TypeError, SpglibError):
        return str(CifWriter(structure))


def csv_text(rows: list[Row]) -> str:
    """``validated.csv``: missing values empty, flags as true/false."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
        writer.writerow([_cell(row[name]) for name in CSV_COLUMNS])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def write_cifs(folder: Path, texts: dict[str, str]) -> None:
    """Write a folder of files, replacing an older one only when all are there.

    Args:
        folder: where to.
        texts: content by file name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    for name, text in texts.items():
        (temporary / name).write_text(text, encoding="utf-8")
    temporary.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
