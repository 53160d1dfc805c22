"""The authors' stored predictions of the time split and the element hold-out, on their rows and on those used here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from sluice.errors import BadDataError
from sluice.experiments.tsdnn_data import read_labels
from sluice.experiments.tsdnn_synthesizability_runs import GRAPHS, SPLITS, read_table
from sluice.models.cgcnn_training import roc_auc
from sluice.store import Store

if TYPE_CHECKING:
    from sluice.experiments.tsdnn_synthesizability import SynthesizabilityConfig

FILES = {"time": "time_split_test_results.csv.gz", "elements": "element_holdout_test_results.csv.gz"}


@dataclass(frozen=True)
class Called:
    """What the authors' TSDNN called positive at one half, and its ROC AUC; NaN of no rows.

    Attributes:
        tpr: share of the test positives.
        others: share of the other rows of the test table, which have no status.
        roc_auc: area under the ROC curve, the others taken for negatives; a threshold does not matter there.
    """

    tpr: float
    others: float
    roc_auc: float

    @property
    def above(self) -> float:
        """How far the recall is above what is called positive anyway."""
        return self.tpr - self.others


def authors_called(config: SynthesizabilityConfig, prepared: Path, split: str) -> tuple[Called, Called] | None:
    """On the test rows that are used here, and on all; None where the data folder has no such predictions.

    Args:
        config: the experiment's configuration.
        prepared: folder of the graphs: a row without one is not used here.
        split: ``time`` or ``elements``.

    Raises:
        BadDataError: if the file lacks the columns ``MPID`` and ``Score``.
    """
    path = config.data_folders["tsdnn_labels"] / "paper_results" / FILES[split]
    if not path.is_file():
        return None
    table = pd.read_csv(path, sep=None, engine="python")  # one of the two is separated by tabulators
    if not {"MPID", "Score"} <= set(table.columns):
        raise BadDataError(f"{path}: no columns MPID and Score; there are {', '.join(map(str, table.columns))}")
    score = table.drop_duplicates("MPID").set_index("MPID")["Score"].astype(float)
    with Store(prepared / GRAPHS, verify=False) as store:
        known = set(store.ids())
    file = SPLITS[split][1]
    used = read_table(config, file)
    return (
        _called(used[used.index.isin(known)], score),
        _called(read_labels(config.data_folders["tsdnn_labels"], file), score),
    )


def _called(labels: pd.Series, score: pd.Series) -> Called:
    both = pd.concat([labels, score], axis=1, join="inner")
    positive = both["label"] == 1
    called = both["Score"] > 0.5
    area = roc_auc(positive.to_numpy(), both["Score"].to_numpy())
    return Called(float(called[positive].mean()), float(called[~positive].mean()), area)
