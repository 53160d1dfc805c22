"""How good scores are against known values: classification, discovery and regression metrics, calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from sluice.errors import BadDataError

BINS = 10
SHOWN = 5  # ids that a message names


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one list of scores; NaN where one is not defined.

    Attributes:
        n: rows with both score and label.
        positives: of them, how many belong to the positive class.
        precision: share of true positives among those called positive.
        recall: share of the positives that were called so.
        f1: harmonic mean of both.
        daf: discovery acceleration factor, precision over the share of positives (Riebesell et al., Nat. Mach. Intell.
            7, 836, 2025).
        roc_auc: area under the ROC curve.
        mae: mean absolute error of a regression, in the label's unit.
        bins: calibration: mean score, mean label (mean value where there is an error to state, else the share of
            positives) and count of each bin.
    """

    n: int
    positives: int
    precision: float
    recall: float
    f1: float
    daf: float
    roc_auc: float
    mae: float
    bins: pd.DataFrame

    @property
    def one_quantity(self) -> bool:
        """Whether scores and labels are of one quantity, so that there is an error to state."""
        return not math.isnan(self.mae)

    def describe(self) -> list[tuple[str, str]]:
        """Names and values for printing."""
        rows = [("rows", f"{self.n}"), ("positive", f"{self.positives}")]
        for name in ("f1", "daf", "roc_auc", "mae", "precision", "recall"):
            value = getattr(self, name)
            label = {"f1": "F1", "daf": "DAF", "roc_auc": "ROC AUC", "mae": "MAE"}.get(name, name)
            rows.append((label, "-" if math.isnan(value) else f"{value:.4f}"))
        return rows


def evaluate(
    scores: NDArray[np.float64],
    values: NDArray[np.float64],
    *,
    regression: bool,
    below: float | None,
    score_below: float | None = None,
) -> Evaluation:
    """Hold scores against labels; rows where either is NaN are left out.

    Args:
        scores: (n,) probabilities of the positive class, or predicted values.
        values: (n,) labels: values of the quantity, or classes 0 and 1.
        regression: whether the scores are values, better where lower.
        below: values up to it are positive, itself included: the crystals on a hull lie at 0 exactly; None: the labels
            are classes.
        score_below: predicted values of a regression up to it count as called, where its quantity is not the labels'
            (formation energies against hull distances): then there is no error to state. Without: ``below``.

    Raises:
        BadDataError: if no row has both, or labels are no classes where classes are needed.
    """
    known = np.isfinite(scores) & np.isfinite(values)
    scores, values = scores[known], values[known]
    if len(scores) == 0:
        raise BadDataError("no row has both a score and a label: compare the ids of both files")
    if below is None and not np.isin(values, (0, 1)).all():
        raise BadDataError("the labels are not all 0 or 1: name the limit below which a value is positive (--below)")
    positive = values > 0.5 if below is None else values <= below
    one_scale = regression and below is not None and score_below is None
    limit = score_below if score_below is not None else 0.0 if below is None else below
    called = scores <= limit if regression else scores > 0.5
    hits, n_positive = int((called & positive).sum()), int(positive.sum())
    precision = hits / int(called.sum()) if called.any() else math.nan
    recall = hits / n_positive if n_positive else math.nan
    both = 0 < n_positive < len(positive)
    return Evaluation(
        n=len(scores),
        positives=n_positive,
        precision=precision,
        recall=recall,
        f1=2 * hits / (int(called.sum()) + n_positive) if called.any() or n_positive else math.nan,
        daf=precision / (n_positive / len(positive)) if n_positive else math.nan,
        roc_auc=float(roc_auc_score(positive, -scores if regression else scores)) if both else math.nan,
        mae=float(np.abs(scores - values).mean()) if one_scale else math.nan,
        bins=calibration(scores, values if one_scale else positive.astype(float)),
    )


def calibration(scores: NDArray[np.float64], truth: NDArray[np.float64]) -> pd.DataFrame:
    """Mean score, mean truth and count in bins of equal count, by rising score."""
    order = np.argsort(scores, kind="stable")
    parts = [part for part in np.array_split(order, min(BINS, len(order))) if len(part)]
    return pd.DataFrame(
        {
            "score": [float(scores[part].mean()) for part in parts],
            "label": [float(truth[part].mean()) for part in parts],
            "count": [len(part) for part in parts],
        }
    )


def read_labels(path: Path, id_column: str, label_column: str) -> pd.Series:
    """Numbers by id; empty cells are NaN.

    Raises:
        BadDataError: if a column is missing, a label is no number, or an id occurs twice.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise BadDataError(f"{path}: not a readable CSV: {error}") from error
    for name in (id_column, label_column):
        if name not in table:
            raise BadDataError(f"{path}: no column {name!r}; there are {', '.join(table.columns)}")
    text = table[label_column].str.strip()
    labels = pd.to_numeric(text, errors="coerce")
    wrong = table[~np.isfinite(labels) & (text != "") & (text.str.lower() != "nan")]
    if len(wrong):
        named = ", ".join(f"{i}: {v!r}" for i, v in zip(wrong[id_column][:SHOWN], wrong[label_column], strict=False))
        raise BadDataError(f"{path}: {len(wrong)} labels in {label_column!r} are no finite numbers, e.g. {named}")
    twice = table[id_column][table[id_column].duplicated()]
    if len(twice):
        raise BadDataError(f"{path}: ids occur more than once, e.g. {', '.join(twice[:SHOWN])}")
    return pd.Series(labels.to_numpy(float), index=table[id_column])
