"""Reading a user's CSV of formulas: which column holds them, and which rows cannot be trusted."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from typing import NamedTuple

from sluice.chemistry.compositions import FormulaError, parse_formula
from sluice.errors import BadDataError

# Names of columns, in this order: whole ones, then words in longer ones (``Alloy Composition``), then ``name``.
FORMULA_COLUMNS = ("formula", "composition", "alloy", "alloys", "pretty_formula")
FORMULA_WORDS = ("formula", "composition", "alloy", "alloys", "compound", "material")
ID_COLUMNS = ("id", "material_id", "candidate_id", "candidate", "alloy_id", "sample_id")
PROBED = 200  # rows that tell which columns hold formulas


class FormulaRow(NamedTuple):
    """One row of the file.

    Attributes:
        id: what its column of ids says, else the formula.
        formula: as written.
        problem: why the row cannot be used though its formula may be readable; "" if nothing is wrong.
    """

    id: str
    formula: str
    problem: str = ""


def read_formula_table(path: Path) -> list[FormulaRow]:
    """Ids and formulas of a CSV: one column of formulas, and one of ids if there is any; each row, in order.

    The formula column is named formula, composition, alloy or the like, or is the only one that holds formulas; without
    a column of ids, the formula is the id. A single column may come without a header. Lines before the header that
    begin with ``#`` and blank lines are no rows; semicolons or tabs may stand for commas.

    Raises:
        BadDataError: if no column of formulas can be told, or the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            lines = list(dropwhile(lambda line: not line.strip() or line.startswith("#"), handle))
        delimiter = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadDataError(f"{path}: not a readable CSV: {error}") from error
    if not rows:
        raise BadDataError(f"{path}: holds no formulas")
    header, body = [_plain(cell) for cell in rows[0]], rows[1:]
    if len(header) == 1 and header[0] not in (*FORMULA_COLUMNS, "name") and _is_formula(rows[0][0]):
        body = rows
    if not body:
        raise BadDataError(f"{path}: holds no formulas")
    column = _formula_column(header, body)
    if column is None:
        raise BadDataError(f"{path}: which column holds formulas? name it `formula` (there are: {', '.join(rows[0])})")
    ids = next((header.index(name) for name in ID_COLUMNS if name in header), column)
    return [_row(row, len(header), column, ids) for row in body]


def _plain(cell: str) -> str:
    """``Alloy Composition (at.%)`` as ``alloy_composition_at``."""
    return re.sub(r"[^a-z0-9]+", "_", cell.lower()).strip("_")


def _formula_column(header: Sequence[str], body: Sequence[Sequence[str]]) -> int | None:
    """Where the formulas are; None if that cannot be told."""
    if len(header) == 1:
        return 0
    for name in FORMULA_COLUMNS:
        if name in header:
            return header.index(name)
    holding = [k for k in range(len(header)) if _holds_formulas([row[k] for row in body[:PROBED] if k < len(row)])]
    for word in FORMULA_WORDS:
        named = [k for k in holding if word in header[k].split("_")]
        if len(named) == 1:
            return named[0]
    if "name" in header:
        return header.index("name")
    return holding[0] if len(holding) == 1 else None


def _holds_formulas(cells: Sequence[str]) -> bool:
    """Whether at least half of the cells that are not empty are formulas."""
    filled = [cell for cell in cells if cell]
    return bool(filled) and 2 * sum(_is_formula(cell) for cell in filled) >= len(filled)


def _is_formula(text: str) -> bool:
    try:
        parse_formula(text)
    except FormulaError:
        return False
    return True


def _row(row: Sequence[str], columns: int, column: int, ids: int) -> FormulaRow:
    cells = [*row, *[""] * (columns - len(row))]
    if any(cells[columns:]):  # of AlCo0,5CrFeNi the first cell alone would be read as aluminium
        written = ",".join(cells) if columns == 1 else cells[column]
        problem = f"{len(cells)} cells in {columns} column{'s' * (columns > 1)}: write decimal points, quote commas"
        return FormulaRow(written if columns == 1 else cells[ids], written, problem)
    return FormulaRow(cells[ids], cells[column])
