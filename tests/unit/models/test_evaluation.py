import math

import numpy as np
import pytest

from sluice.errors import BadDataError
from sluice.models.evaluation import calibration, evaluate, read_labels

ENERGIES = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, np.nan])


def test_a_classifier_by_hand():
    scores = np.array([0.9, 0.8, 0.2, 0.6, 0.1, 0.7])  # two of three found, one wrong call
    found = evaluate(scores, ENERGIES, regression=False, below=0.0)
    assert (found.n, found.positives) == (5, 3)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.f1 == pytest.approx(2 / 3)
    assert found.daf == pytest.approx((2 / 3) / (3 / 5))
    assert found.roc_auc == pytest.approx(5 / 6)  # of six pairs one is in the wrong order
    assert math.isnan(found.mae)


def test_a_regression_by_hand():
    predicted = np.array([-1.5, -1.2, 0.1, 0.4, 2.0, 0.0])
    found = evaluate(predicted, ENERGIES, regression=True, below=0.0)
    assert found.mae == pytest.approx(np.mean([0.5, 0.2, 0.6, 0.1, 1.0]))
    assert found.precision == 1.0
    assert found.recall == pytest.approx(2 / 3)
    assert found.roc_auc == 1.0


def test_classes_as_labels():
    found = evaluate(np.array([0.9, 0.3, 0.7]), np.array([1.0, 0.0, 0.0]), regression=False, below=None)
    assert found.precision == 0.5
    with pytest.raises(BadDataError, match="--below"):
        evaluate(np.array([0.9]), np.array([-1.5]), regression=False, below=None)


def test_one_class_only_has_no_auc_and_nothing_called_no_precision():
    found = evaluate(np.array([0.1, 0.2]), np.array([-1.0, -2.0]), regression=False, below=0.0)
    assert math.isnan(found.roc_auc)
    assert math.isnan(found.precision)
    assert found.f1 == 0.0
    assert ("DAF", "-") in found.describe()


def test_calibration_of_true_probabilities_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    bins = calibration(scores, (rng.random(20_000) < scores).astype(float))
    assert bins["count"].sum() == 20_000
    np.testing.assert_allclose(bins["score"], bins["label"], atol=0.04)


def test_bad_labels_are_told(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,e\na,-1.0\nb,\nNaN,nan\n")
    labels = read_labels(path, "id", "e")
    assert labels["a"] == -1.0 and math.isnan(labels["b"]) and "NaN" in labels.index
    with pytest.raises(BadDataError, match="no column 'energy'; there are id, e"):
        read_labels(path, "id", "energy")
    path.write_text("id,e\na,-1.0\nb,high\nc,inf\n")
    with pytest.raises(BadDataError, match=r"2 labels in 'e' are no finite numbers, e.g. b: 'high', c: 'inf'"):
        read_labels(path, "id", "e")
    path.write_text("id,e\na,-1.0\na,2\n")
    with pytest.raises(BadDataError, match="more than once"):
        read_labels(path, "id", "e")
    with pytest.raises(BadDataError, match="no row has both"):
        evaluate(np.array([0.5]), np.array([np.nan]), regression=False, below=0.0)


def test_values_at_the_limit_are_positive():
    found = evaluate(np.array([0.9, 0.2, 0.6]), np.array([0.0, 0.01, 0.2]), regression=False, below=0.0)
    assert found.positives == 1 and found.recall == 1.0


def test_classes_against_a_regression_are_called_at_its_own_limit():
    predicted, classes = np.array([-3.0, -1.0, 0.5]), np.array([1.0, 0.0, 0.0])
    assert evaluate(predicted, classes, regression=True, below=None, score_below=-2.0).precision == 1.0
    assert evaluate(predicted, classes, regression=True, below=None).precision == 0.5
    assert math.isnan(evaluate(predicted, classes, regression=True, below=None, score_below=-2.0).mae)
