"""The data set ``mp_structures`` made of the CIF files and tables that its authors publish.

The files are 170 000 single CIFs of a repository, which is cloned by hand; the tables are data sets of their own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pymatgen.core import Element, Lattice

from sluice.chemistry.compositions import Compositions
from sluice.chemistry.read_crystals import Reading, read_crystals
from sluice.chemistry.symmetry import SpaceGroupFinder
from sluice.crystals import Crystals
from sluice.datasets.registry import require_data
from sluice.errors import BadDataError, SluiceError
from sluice.experiments.cubicgan_data import CUBIC_FILE, plain_formula
from sluice.experiments.mp_structures import FILES, TABLE
from sluice.models.cubicgan import SPACE_GROUPS
from sluice.models.orbits import GRID, SYMPREC, decompose, grid_points
from sluice.step import track

LARGEST = (20, 60, None)  # atoms of a cell in each file
MIN_DISTANCE = 0.3  # Å
MAX_BAD_SHARE = 0.01
SEVERAL = "not one structure"
SHOWN = 10
ANGSTROM_DECIMALS = 5
CSV: Any = {"index": False, "compression": {"method": "gzip", "mtime": 0}}  # the same bytes for the same table
# Table → file, column of the ids, column of the value.
TABLES = {
    "e_form": ("mp-formation.csv.gz", "task_id", "formation_energy_per_atom"),
    "band_gap": ("MP-bandgap.csv.gz", "task_id", "band_gap"),
    "spacegroup": ("mpid_formula_sp.csv.gz", "material_id", "spacegroup"),
}


def convert_mp_structures(cifs: Path, target: Path) -> int:
    """Write the data set's files; the number of structures.

    Kept are the structures whose id is in one of the label tables; what is left out is told on standard error. The
    column ``e_form_mp20`` stays empty: its table is not among the data sets that can be fetched. A tenth of the
    materials with an energy (8 890 of 84 289) have it there alone, so that `tsdnn-stability` and `tsdnn-candidates`
    know fewer energies than in this project's tables.

    Args:
        cifs: folder with ``mp-*.cif``, one structure each.
        target: folder to write into.

    Raises:
        MissingProgramError: if a label table is not here; says how to get it.
        BadDataError: if there are no such files, or too many of them cannot be used; the first ones are named.
        SluiceError: if the folder cannot be written into.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target).close()  # not after half an hour of reading
    except OSError as error:
        raise SluiceError(f"{target}: cannot be written into ({error}); give another --directory") from error
    values = {name: _values(*where) for name, where in TABLES.items()}
    wanted = set().union(*(series.index for series in values.values()), _labelled())
    files = sorted(file for file in cifs.glob("mp-*.cif") if file.stem in wanted)
    if not files:
        raise BadDataError(f"{cifs}: no files mp-*.cif of materials that a label is known of")
    readings = [_read(file) for file in track(files, "read structures", unit="files")]
    bad = [f"  {r.name}: {r.reason} ({r.detail})" for r in readings if r.crystal is None or r.reason]
    said = "\n".join([f"{cifs}: {len(bad)} of {len(readings)} cannot be used", *bad[:SHOWN]])
    if len(bad) > MAX_BAD_SHARE * len(readings):
        raise BadDataError(said)
    if bad:
        print(said, file=sys.stderr)
    if len(files) < len(wanted):
        print(f"{len(wanted) - len(files)} of {len(wanted)} materials with a label have no file there", file=sys.stderr)
    good = [r for r in readings if r.crystal is not None and not r.reason]
    crystals = Crystals.concatenate([r.crystal for r in good if r.crystal is not None])
    ids = [r.name for r in good]
    with tempfile.TemporaryDirectory(dir=target, prefix=".convert") as work:
        made = Path(work)
        _write_structures(made, ids, crystals)
        table = _table(ids, crystals, values)
        table.to_csv(made / TABLE, **CSV)
        _cubic(crystals, table).to_csv(made / CUBIC_FILE, **CSV)
        (target / TABLE).unlink(missing_ok=True)  # without it the set is not here: no new structures beside old labels
        for file in (*FILES, CUBIC_FILE, TABLE):
            (made / file).replace(target / file)
    return len(ids)


def _values(file: str, ids: str, column: str) -> pd.Series:
    """One column of a table of ``mp_properties`` by id."""
    table = pd.read_csv(require_data("mp_properties") / file, keep_default_na=False, na_values=[""])
    return table.drop_duplicates(ids).set_index(ids)[column]


def _labelled() -> set[str]:
    """Ids in the tables of the authors of TSDNN."""
    folder = require_data("tsdnn_labels") / "datasets"
    found: set[str] = set()
    for path in sorted(folder.rglob("*.csv.gz")):
        found |= set(pd.read_csv(path, header=None, usecols=[0], keep_default_na=False)[0].astype(str))
    return found


def _read(file: Path) -> Reading:
    """The structure of a file; two of them are none."""
    first, *further = read_crystals(file, min_distance=MIN_DISTANCE)
    return Reading(first.name, reason=SEVERAL, detail=f"{1 + len(further)} structures") if further else first


def _write_structures(folder: Path, ids: list[str], crystals: Crystals) -> None:
    """Flat arrays in one file for each range of cell sizes."""
    names, least = np.array(ids), 0
    for file, most in zip(FILES, LARGEST, strict=True):
        rows = np.flatnonzero((crystals.n_atoms > least) & (crystals.n_atoms <= (most or np.inf)))
        part = crystals[rows]
        cells = [Lattice(vectors).parameters for vectors in part.lattice]
        np.savez_compressed(
            folder / file,
            material_id=names[rows],
            cell=np.array(cells, np.float32).reshape(-1, 6),
            offset=part.atom_offsets.astype(np.int64),
            z=part.numbers.astype(np.uint8),
            frac=part.frac_coords.astype(np.float32),
        )
        least = most or least


def _table(ids: list[str], crystals: Crystals, values: dict[str, pd.Series]) -> pd.DataFrame:
    """One row a material; the space group of ternaries that have none in the published table is spglib's."""
    n_elements = Compositions.from_crystals(crystals).sizes
    group = values["spacegroup"].reindex(ids).to_numpy(float)
    unknown = np.flatnonzero(np.isnan(group) & (n_elements == 3))
    group[unknown] = SpaceGroupFinder(SYMPREC)(crystals[unknown])
    return pd.DataFrame(
        {
            "material_id": ids,
            "formula": [plain_formula(formula) for formula in crystals.reduced_formulas()],
            "n_atoms": crystals.n_atoms,
            "n_elements": n_elements,
            "spacegroup": pd.Series(group).astype("Int64"),
            "e_form": values["e_form"].reindex(ids).to_numpy(float),
            "e_form_mp20": np.nan,
            "band_gap": values["band_gap"].reindex(ids).to_numpy(float),
            "cubicgan_like": (np.isin(group, SPACE_GROUPS) & (n_elements == 3)).astype(int),
        }
    )


def _cubic(crystals: Crystals, table: pd.DataFrame) -> pd.DataFrame:
    """Cubic ternaries whose three orbits lie on the quarter grid, as one point for each element."""
    rows = np.flatnonzero(table["cubicgan_like"])
    found = decompose(crystals[rows], SPACE_GROUPS, 3)
    chosen = table.iloc[rows[found.index]]
    columns: dict[str, NDArray | list[str]] = {
        "material_id": chosen["material_id"].to_numpy(),
        "formula": chosen["formula"].to_numpy(),
        "spacegroup": found.space_groups,
        "a": found.lengths.round(ANGSTROM_DECIMALS),
        "special": np.ones(len(found.index), int),
    }
    for k in range(3):
        columns[f"el{k + 1}"] = [Element.from_Z(int(z)).symbol for z in found.elements[:, k]]
        columns[f"xyz{k + 1}"] = [
            " ".join(f"{x:g}" for x in point) for point in grid_points()[found.points[:, k]] / GRID
        ]
    for name in ("e_form", "e_form_mp20"):
        columns[name] = chosen[name].to_numpy()
    return pd.DataFrame(columns)
