"""Figures of the models."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sluice.report.figures_models import Predictions, learning_curves, read_metrics, roc_figure


def test_metrics_are_read_or_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    assert read_metrics(path) is None
    path.write_text("", encoding="utf-8")
    assert read_metrics(path) is None
    path.write_text("epoch,val_loss,val_roc_auc\n", encoding="utf-8")
    assert read_metrics(path) is None
    path.write_text("epoch,val_loss,val_roc_auc\n1,0.5,\n2,0.4,0.9\n", encoding="utf-8")
    table = read_metrics(path)
    assert isinstance(table, pd.DataFrame)
    figure = learning_curves({1: table, 2: None})
    assert figure is not None
    assert [trace.name for trace in figure.data] == ["validation loss", "validation ROC AUC"]
    assert list(figure.data[1].x) == [2]


def test_roc_needs_both_classes():
    energy = np.array([-1.0, -2.0, -3.0, -4.0])
    perfect = Predictions(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.2, 0.7, 0.9]), energy)
    one_class = Predictions(np.ones(4), np.array([0.1, 0.2, 0.7, 0.9]), energy)
    assert perfect.auc == 1.0 and one_class.auc is None
    assert roc_figure({1: one_class}) is None
    figure = roc_figure({1: perfect, 2: one_class})
    assert figure is not None and len(figure.data) == 2
