"""Stacked heads: independent of each other, resumed to the bit, equal to the ensemble they become."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sluice.chemistry.compositions import Compositions
from sluice.chemistry.encodings import ElementFractions
from sluice.models.stacked_heads import StackedHeadsLearner
from sluice.models.training import Plan, train

ENCODING = ElementFractions(("O", "Mg", "Fe", "Sr"))


def compositions():
    return Compositions.from_formulas(
        [f"{m}{a}O{b}" for m in ("Mg", "Fe", "Sr") for a in (1, 2, 3, 5) for b in (1, 4, 7)]
    )


def learner(members, splits=None):
    found = compositions()
    values = ENCODING.encode(found)
    orders = np.stack([np.random.default_rng(k).permutation(len(found)) for k in (splits or range(members))])
    return StackedHeadsLearner(
        values, 3.0 * values[:, 0] + 10, training=orders[:, :24], validation=orders[:, 24:], widths=(16, 8),
        learning_rate=0.01, loss="mae",
    )  # fmt: skip


def plan(folder, epochs=40):
    return Plan(
        description="test", n_rows=24, epochs=epochs, batch_size=8, seed=1, digest="d", threads=1, device="cpu",
        checkpoints=folder / "checkpoints", checkpoint_minutes=1e-9, metrics=folder / "metrics.csv",
    )  # fmt: skip


def test_members_learn_and_become_an_ensemble(tmp_path):
    made = learner(2)
    train(made, plan(tmp_path))
    made.use_best()
    rows = np.tile(np.arange(36), (2, 1))
    found = made.predict(rows)
    assert np.abs(found - made.target).mean() < 0.25 * made.target.std()
    prediction = made.ensemble(ENCODING, compositions()).predict(compositions())
    np.testing.assert_allclose(prediction.value, found.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(prediction.disagreement, found.std(axis=0), atol=1e-4)


def test_members_do_not_touch_each_other(tmp_path):
    pair = learner(2)
    train(pair, plan(tmp_path / "a", epochs=2))
    other = learner(2, splits=(0, 5))
    train(other, plan(tmp_path / "b", epochs=2))
    for name, value in pair.network.state_dict().items():
        torch.testing.assert_close(value[0], other.network.state_dict()[name][0], rtol=1e-6, atol=1e-7)


def test_interrupted_training_ends_with_the_same_bits(tmp_path):
    whole = learner(2)
    rows = train(whole, plan(tmp_path / "whole", epochs=3))
    killed = learner(2)
    killed.end_epoch = lambda epoch, before=killed.end_epoch: before(epoch) if epoch < 1 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        train(killed, plan(tmp_path / "part", epochs=3))
    again = learner(2)
    assert train(again, plan(tmp_path / "part", epochs=3)) == rows
    for name, value in whole.best.items():
        assert torch.equal(value, again.best[name])
