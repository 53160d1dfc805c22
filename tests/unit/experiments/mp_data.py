"""Small data sets in the layouts of mp_structures, cgcnn_lists and tsdnn_labels: rock salts with made-up energies.

In two out of three silver takes the place of a quarter of the metal.
"""

from __future__ import annotations

import gzip
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Element

from sluice.crystals import Crystals
from sluice.experiments.mp_structures import FILES, TABLE

METALS = ("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba", "Mn", "Fe")
ANIONS = ("F", "Cl", "Br", "O", "S", "Se")
POINTS = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SITES = np.concatenate([POINTS, POINTS + 0.5]) % 1.0
UNLABELLED = 12  # materials at the end that no label list names
PREDICTIONS = {"time_split": ",", "element_holdout": "\t"}  # test table → separator of the authors' file
WITHOUT_STRUCTURE = {"material_id": "mp-900", "label": 1}


def materials() -> pd.DataFrame:
    """Sixty rock salts; the energy falls with the difference of the electronegativities."""
    rows = []
    for k, (metal, anion) in enumerate(product(METALS, ANIONS)):
        gap = Element(anion).X - Element(metal).X
        with_silver = k % 3 > 0
        rows.append(
            {
                "material_id": f"mp-{k + 1}",
                "formula": f"Ag{metal}3{anion}4" if with_silver else f"{metal}{anion}",
                "n_atoms": 8,
                "n_elements": 3 if with_silver else 2,
                "a": 2.0 * (Element(metal).atomic_radius + Element(anion).atomic_radius) + 0.6,
                "e_form": 2.5 - 1.6 * gap,
                "e_form_mp20": np.nan,
                "band_gap": max(0.0, 3.0 * gap - 2.0),
                "cubicgan_like": 1,
                "z": [Element("Ag" if with_silver else metal).Z] + [Element(metal).Z] * 3 + [Element(anion).Z] * 4,
            }
        )
    return pd.DataFrame(rows).sample(frac=1.0, random_state=3).reset_index(drop=True)


def write_list(path: Path, rows: pd.DataFrame | pd.Series) -> None:
    """A headerless CSV, gzipped, as the authors' lists are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt") as handle:
        rows.to_csv(handle, header=False, index=False)


def write_predictions(folder: Path, split: str, tested: pd.DataFrame) -> None:
    """The authors' scores of a test table: above one half for every positive but the first, and for no other row."""
    folder.mkdir(exist_ok=True)
    score = np.where(tested["label"] == 1, 0.9, 0.2)
    score[np.flatnonzero(tested["label"] == 1)[0]] = 0.4
    with gzip.open(folder / f"{split}_test_results.csv.gz", "wt") as handle:
        predicted = pd.DataFrame({"MPID": tested["material_id"], "Score": score})
        predicted.to_csv(handle, index=False, sep=PREDICTIONS[split])


def write_structures(folder: Path, names: list[str], crystals: Crystals) -> None:
    """Crystals in the layout of mp_structures, all of them in its first file."""
    folder.mkdir(parents=True)
    cells = np.array([structure.lattice.parameters for structure in crystals.structures()])
    for file in FILES:
        chosen = slice(None) if file == FILES[0] else slice(0)
        np.savez(
            folder / file, material_id=np.array(names)[chosen], cell=cells[chosen],
            offset=crystals.atom_offsets if file == FILES[0] else np.zeros(1, np.int64),
            z=crystals.numbers, frac=crystals.frac_coords,
        )  # fmt: skip


def write_mp_data(root: Path) -> dict[str, Path]:
    """Write all three data sets; their folders by name."""
    folders = {name: root / name for name in ("mp_structures", "cgcnn_lists", "tsdnn_labels")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    table = materials()
    for file, part in zip(FILES, (table, table[:0], table[:0]), strict=True):
        cell = np.column_stack([*[part["a"]] * 3, *[np.full(len(part), 90.0)] * 3]).astype(np.float32)
        np.savez(
            folders["mp_structures"] / file,
            material_id=part["material_id"].to_numpy(dtype="U10"),
            cell=cell.reshape(-1, 6),
            offset=np.arange(len(part) + 1, dtype=np.int64) * 8,
            z=np.array([z for row in part["z"] for z in row], dtype=np.uint8),
            frac=np.tile(SITES, (len(part), 1)).astype(np.float32),
        )
    table.drop(columns=["a", "z"]).to_csv(folders["mp_structures"] / TABLE, index=False)
    for size in ("46744", "27430"):
        write_list(folders["cgcnn_lists"] / f"mp-ids-{size}.csv.gz", table["material_id"])
    datasets = folders["tsdnn_labels"] / "datasets"
    labelled = table[:-UNLABELLED]
    for name, limit in (("unseparated", 0.0), ("separated", -2.0)):
        labels = labelled[["material_id"]].assign(label=(labelled["e_form"] < limit).astype(int))
        write_list(datasets / f"{name}_fe" / "data_labeled.csv.gz", labels)
    synthesized = labelled[["material_id"]].assign(label=(labelled["band_gap"] > 2.0).astype(int))
    for folder, first in (("balanced_synth", 0), ("time_split", 4), ("element_holdout", 8)):
        where = datasets / ("" if folder == "balanced_synth" else "synth_additional_validation") / folder
        learnt = "data_labeled" if folder == "balanced_synth" else "dataset"
        write_list(where / f"{learnt}.csv.gz", synthesized[first : first + 34])
        tested = synthesized.drop(index=range(first, first + 34))
        if folder in PREDICTIONS:
            tested = pd.concat([tested, pd.DataFrame([WITHOUT_STRUCTURE])])
            write_predictions(folders["tsdnn_labels"] / "paper_results", folder, tested)
        write_list(where / "data_test.csv.gz", tested)
    dummy = table[-UNLABELLED:][["material_id"]].assign(label=0)
    write_list(datasets / "balanced_synth" / "data_unlabeled.csv.gz", dummy)
    return folders
