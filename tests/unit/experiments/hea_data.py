"""A small data set in the layout of hea_dvae: real element properties, made-up classes."""

from __future__ import annotations

import gzip
import json
from itertools import combinations

import numpy as np
import pandas as pd

from sluice.chemistry.alloy_features import PUBLISHED_COLUMNS, AlloyElements, alloy_features

# Bulk modulus GPa, molar volume cm³/mol, melting K, valence electrons, radius pm, Pauling electronegativity.
PROPERTIES = {
    "Al": (76.0, 10.0, 933.5, 3, 125.0, 1.61),
    "Co": (179.0, 6.7, 1768.0, 9, 135.0, 1.88),
    "Cr": (160.0, 7.2, 2180.0, 6, 140.0, 1.66),
    "Fe": (169.0, 7.1, 1811.0, 8, 140.0, 1.83),
    "Ni": (179.0, 6.6, 1728.0, 10, 135.0, 1.91),
    "Gd": (37.0, 19.9, 1586.0, 10, 180.0, 1.2),
}
PAIRS = {"Al,Co": -19.0, "Al,Cr": -10.0, "Al,Fe": -11.0, "Al,Ni": -22.0, "Co,Cr": -4.0, "Co,Fe": -1.0, "Co,Ni": 0.0,
         "Cr,Fe": -1.0, "Cr,Ni": -7.0, "Fe,Ni": -2.0}  # fmt: skip
KEYS = ("k", "vm", "tm", "vac", "ar", "chi")
COMPONENTS = ["Al", "Co", "Cr", "Fe", "Ni"]
SIZES = {"labelled": 60, "unlabelled": 20, "validation": 15, "test": 25}


def tables():
    """Properties by symbol and pair enthalpies, as the authors' JSON files hold them."""
    return {s: dict(zip(KEYS, values, strict=True)) for s, values in PROPERTIES.items()}, dict(PAIRS)


def write_hea_data(folder, seed=0):
    """Write the data set; classes are the sign of the mixing enthalpy's distance from its median."""
    folder.mkdir(parents=True, exist_ok=True)
    properties, pairs = tables()
    (folder / "look_up_dict.json").write_text(json.dumps(properties))
    (folder / "mixing_enthalpy_dict.json").write_text(json.dumps(pairs))
    elements = AlloyElements.from_tables(properties, pairs)
    rng = np.random.default_rng(seed)
    names, rows = [], []
    subsets = [c for size in (2, 3, 4, 5) for c in combinations(COMPONENTS, size)]
    while len(names) < sum(SIZES.values()):
        chosen = subsets[rng.integers(len(subsets))]
        amounts = rng.integers(1, 5, len(chosen))
        name = "".join(f"{s}{a}" for s, a in zip(chosen, amounts, strict=True))
        if name not in names:
            names.append(name)
            rows.append(dict(zip(chosen, amounts / amounts.sum(), strict=True)))
    features = alloy_features(elements.fractions(rows), elements)
    table = pd.DataFrame({"Alloys": names, "Class": (features[:, 7] > np.median(features[:, 7])).astype(int)})
    for symbol in COMPONENTS:
        table[symbol] = [row.get(symbol, 0.0) for row in rows]
    for column, values in zip(PUBLISHED_COLUMNS, features.T, strict=True):
        table[column] = values
    table["split"] = np.repeat(list(SIZES), list(SIZES.values()))
    write(folder / "splits.csv.gz", table)
    write(folder / "HEA_feature_engineered.csv.gz", table[["Alloys", *PUBLISHED_COLUMNS, "Class"]])
    return table


def write(path, table):
    with gzip.open(path, "wt") as handle:
        table.to_csv(handle, index=False)
