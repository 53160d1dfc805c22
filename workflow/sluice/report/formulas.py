"""The formulas of a campaign of compositions: rows for the page and ``shortlist.csv``, what was scored and held out."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.composition_store import NOT_ENCODED, stream_compositions
from sluice.report.distributions import Distributions
from sluice.report.figures_compositions import Scored
from sluice.store import Store

ENERGY, DEVIATION = "predicted_formation_energy_ev_per_atom", "standard_deviation_ev_per_atom"
LABEL = "formation_energy_ev_per_atom"
CSV_COLUMNS = (
    "rank", "id", "round", "formula", ENERGY, DEVIATION, "acquisition_ev_per_atom", "elements", "nearest_known",
    "element_movers_distance",
)  # fmt: skip
_NUMBERS = (ENERGY, DEVIATION, "acquisition_ev_per_atom", "element_movers_distance")
DECIMALS = 6
MOST_READ = 100_000  # scored formulas that figures are drawn from

Row = dict[str, Any]  # keys of CSV_COLUMNS


def read_shortlist(paths: dict[int, Path]) -> list[Row]:
    """The shortlisted formulas by round and rank.

    Args:
        paths: store of each round.

    Raises:
        StoreError: if a store is missing or damaged.
    """
    rows: list[Row] = []
    for round_number, path in paths.items():
        with Store(path, "composition_shortlist") as store:
            columns = {name: store.column(name) for name in store.columns}
            names = store.ids()
        for i, name in enumerate(names):
            texts = {key: columns[key][i].decode() for key in ("formula", "elements", "nearest_known")}
            numbers = {key: round(float(columns[key][i]), DECIMALS) for key in _NUMBERS}
            row = {"rank": int(columns["rank"][i]), "id": name, "round": round_number, **texts, **numbers}
            rows.append({key: row[key] for key in CSV_COLUMNS})
    return rows


def csv_text(rows: Sequence[Row]) -> str:
    """``shortlist.csv``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_scored(paths: Sequence[Path]) -> Scored:
    """Scored or shortlisted formulas of stores; of more than ``MOST_READ`` an even sample.

    Raises:
        StoreError: if a store is missing or damaged.
    """
    formulas: list[str] = []
    values: dict[str, list[NDArray[np.float64]]] = {ENERGY: [np.zeros(0)], DEVIATION: [np.zeros(0)]}
    sizes = []
    for path in paths:
        with Store(path, ("composition_scored", "composition_shortlist"), verify=False) as store:
            sizes.append(len(store))
    every = max(1, -(-sum(sizes) // MOST_READ))
    for path in paths:
        with Store(path, verify=False) as store:
            for chunk in store.chunks():
                formulas += [text.decode() for text in chunk.columns["formula"][::every].tolist()]
                for name, parts in values.items():
                    parts.append(chunk.columns[name][::every])
    predicted, deviation = (np.concatenate(parts) for parts in values.values())
    return Scored(formulas, predicted, deviation, total=sum(sizes))


def read_held_out(path: Path) -> Scored:
    """The test formulas with predictions and labels.

    Raises:
        StoreError: if the store is missing or damaged.
    """
    with Store(path, "composition_predictions") as store:
        rows = store.rows()
    rows = rows.select(rows.columns["split"] == b"test")
    formulas = [text.decode() for text in rows.columns["formula"].tolist()]
    columns = rows.columns
    return Scored(formulas, columns[ENERGY], columns[DEVIATION], columns[LABEL], total=len(rows))


def read_not_encoded(path: Path) -> dict[str, int]:
    """Formulas of the table that the scorer's encoding cannot hold: how many for which reason, the most frequent first.

    Args:
        path: store of the held-out predictions.

    Raises:
        StoreError: if the store is missing or damaged.
    """
    with Store(path, "composition_predictions") as store:
        gone = store.failures()
    details = [text for reason, text in zip(gone.reason, gone.detail, strict=True) if reason == NOT_ENCODED]
    return dict(Counter(details).most_common())


def read_labels(path: Path) -> NDArray[np.float64]:
    """(n,) labels of the training formulas, eV/atom."""
    with Store(path, "compositions", verify=False) as store:
        labels: NDArray[np.float64] = store.column(LABEL)[store.column("split") == b"train"]
    return labels


def read_label_sources(path: Path) -> Counter[str]:
    """How many formulas of the table have their energy from where."""
    with Store(path, "compositions") as store:
        return Counter(store.text("label_source"))


def elements_of(paths: Sequence[Path], schema: str, *, split: str | None = None) -> Distributions:
    """How often each element occurs in the formulas of stores, of one split only if asked for."""
    found = Distributions()
    for chunk, compositions in stream_compositions(list(paths), schema):
        if split is None:
            found.add_compositions(compositions)
        else:
            found.add_compositions(compositions[np.flatnonzero(chunk.columns["split"] == split.encode())])
    return found
