"""Baselines of scikit-learn on an encoding: random forest and gradient boosting; fitted anew where they are needed."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from sluice.chemistry.composition_table import CompositionTable
from sluice.chemistry.encodings import Encoding

Baseline = Literal["random_forest", "gradient_boosting"]
Task = Literal["regression", "classification"]


def fit_baseline(
    table: CompositionTable,
    encoding: Encoding,
    baseline: Baseline,
    *,
    task: Task = "regression",
    trees: int = 100,
    seed: int = 0,
    threads: int = 1,
) -> NDArray[np.float64]:
    """Fit to the training rows and predict all rows: values, or probabilities of class 1.

    scikit-learn's models are not stored: its only format runs code when it is read.

    Args:
        table: rows that are all within the encoding.
        encoding: of the inputs.
        baseline: which one.
        task: what the target is.
        trees: trees of the forest, or rounds of boosting.
        seed: of the random choices.
        threads: CPU threads.
    """
    values = encoding.encode(table.compositions).reshape(len(table), int(np.prod(encoding.shape)))
    training = table.rows("train")
    model = _model(baseline, task, trees, seed, threads)
    model.fit(values[training], table.target[training])
    if task == "classification":
        return np.asarray(model.predict_proba(values)[:, 1], dtype=float)
    return np.asarray(model.predict(values), dtype=float)


def _model(baseline: Baseline, task: Task, trees: int, seed: int, threads: int) -> Any:
    if baseline == "random_forest":
        forest = RandomForestRegressor if task == "regression" else RandomForestClassifier
        return forest(trees, max_features=0.3, n_jobs=threads, random_state=seed)
    boosting = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    # No validation rows are held back inside: the number of rounds is given.
    return boosting(max_iter=trees, early_stopping=False, random_state=seed)
