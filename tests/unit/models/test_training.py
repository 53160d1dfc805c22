"""The loop itself, with the smallest real model: CGCNN on decorated prototypes."""

import os
import signal

import numpy as np
import pytest
import torch
from crystals_for_models import decorated, labels

from sluice.errors import SluiceError
from sluice.models.cgcnn_training import GraphLearner
from sluice.models.graphs import build_graphs
from sluice.models.training import Plan, epoch_order, train
from sluice.step import Continue

SIZES = {"hidden_size": 8, "head_size": 8, "convolutions": 1, "gaussians": 11, "neighbours": 8, "cutoff": 5.0}


@pytest.fixture(scope="module")
def data():
    crystals = decorated((8, 9, 11, 12, 17))[0]
    return build_graphs(crystals, neighbours=8, cutoff=5.0), labels(crystals)


def learner(data, task="regression"):
    graphs, energy = data
    target = energy if task == "regression" else energy < np.median(energy)
    rows = np.random.default_rng(0).permutation(len(graphs))
    return GraphLearner(
        graphs,
        target,
        np.ones(len(graphs)),
        training=rows[30:],
        validation=rows[:30],
        task=task,
        hyperparameters=SIZES,
        learning_rate=5e-3,
        weight_decay=1e-5,
        batch_size=25,
    )


def plan(folder, n_rows, **changes):
    values = {
        "description": "test",
        "n_rows": n_rows,
        "epochs": 4,
        "batch_size": 25,
        "seed": 5,
        "digest": "d",
        "checkpoints": folder / "checkpoints",
        "checkpoint_minutes": 1e-9,
        "metrics": folder / "metrics.csv",
        "device": "cpu",
        "threads": 1,
    }
    return Plan(**(values | changes))


class Interrupted(GraphLearner):
    """Sends a signal to its own process in the middle of an epoch."""

    def step(self, index, progress):
        self.count = getattr(self, "count", 0) + 1
        if self.count == self.at:
            os.kill(os.getpid(), self.signal)
        return super().step(index, progress)


def interrupt(data, name, at):
    made = learner(data)
    made.__class__ = Interrupted
    made.at, made.signal = at, name
    return made


def weights(made):
    return {name: value.clone() for name, value in made.network.state_dict().items()}


def test_loss_falls_and_the_best_epoch_is_kept(data, tmp_path):
    made = learner(data)
    rows = train(made, plan(tmp_path, len(made.training), epochs=25))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 3
    best = min(row["val_loss"] for row in rows)
    made.use_best()
    output = made.predict(made.validation)
    assert np.mean((output - made.target[made.validation]) ** 2) == pytest.approx(best, rel=1e-5)


def test_a_training_that_diverges_says_so(data, tmp_path):
    made = learner(data)
    made.learning_rate = 1e30
    with pytest.raises(SluiceError, match=r"in epoch \d train_loss became (nan|inf): the training diverged; lower the"):
        train(made, plan(tmp_path, len(made.training)))
    assert not (tmp_path / "metrics.csv").exists()


def test_weights_that_are_no_numbers_are_not_kept(data, tmp_path):
    """A gradient that overflows in the last step of all leaves the epoch's loss finite."""

    class Overflowing(GraphLearner):
        def end_epoch(self, epoch):
            if epoch >= self.bad_from:
                with torch.no_grad():
                    self.network.head.weight.fill_(torch.nan)
            return super().end_epoch(epoch)

    for task in ("regression", "classification"):
        made = learner(data, task)
        made.__class__, made.bad_from = Overflowing, 3
        train(made, plan(tmp_path / task, len(made.training)))
        made.use_best()
        assert np.isfinite(made.predict(made.validation)).all()
        made = learner(data, task)
        made.__class__, made.bad_from = Overflowing, 0
        train(made, plan(tmp_path / f"{task}_1", len(made.training), epochs=1))
        with pytest.raises(SluiceError, match="no epoch ended with finite weights"):
            made.use_best()


def test_bf16_holds_the_accuracy(data, tmp_path):
    """The best validation error in 30 epochs is at most a tenth above full precision's."""
    errors = {}
    for precision in ("32-true", "bf16-mixed"):
        made = learner(data)
        rows = train(made, plan(tmp_path / precision, len(made.training), epochs=30, precision=precision))
        errors[precision] = min(row["val_mae"] for row in rows)
    assert errors["bf16-mixed"] < 1.1 * errors["32-true"]
    rows = made.validation[: made.batch_size]  # evaluated as a model file is: in full precision
    with torch.no_grad():
        np.testing.assert_array_equal(made.predict(rows), made.network(made.graphs.batch(rows)).double().numpy())


@pytest.mark.parametrize(("name", "error"), [(signal.SIGUSR1, Continue), (signal.SIGTERM, SystemExit)])
def test_a_signal_saves_and_the_rest_is_equal_to_the_bit(data, tmp_path, name, error):
    whole, first, second = learner(data), interrupt(data, name, 7), learner(data)
    train(whole, plan(tmp_path / "whole", len(whole.training)))
    # Only the signal saves, none of the pauses.
    with pytest.raises(error):
        train(first, plan(tmp_path / "parts", len(first.training), checkpoint_minutes=60))
    assert not (tmp_path / "parts" / "metrics.csv").exists()
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").glob("step_*")] == ["step_000000007.ckpt"]
    torch.randn(3)  # what happens in between must not matter
    train(second, plan(tmp_path / "parts", len(second.training), checkpoint_minutes=60))
    for key, value in weights(whole).items():
        assert torch.equal(value, weights(second)[key]), key
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "parts" / "metrics.csv").read_bytes()


def test_a_finished_training_is_not_done_again(data, tmp_path):
    first, second = learner(data), learner(data)
    rows = train(first, plan(tmp_path, len(first.training)))
    second.step = None  # would fail if it were called
    assert train(second, plan(tmp_path, len(second.training))) == rows
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_another_seed_gives_another_model(data, tmp_path):
    first, second = learner(data), learner(data)
    train(first, plan(tmp_path / "a", len(first.training), epochs=1))
    train(second, plan(tmp_path / "b", len(second.training), epochs=1, seed=6))
    assert not torch.equal(first.network.head.weight, second.network.head.weight)


def test_every_row_is_seen_once_in_an_epoch():
    for epoch in range(3):
        assert sorted(epoch_order(17, 1, epoch).tolist()) == list(range(17))
    assert epoch_order(17, 1, 0).tolist() != epoch_order(17, 1, 1).tolist()


def test_weights_of_rows_count(data, tmp_path):
    plain, weighted = learner(data, "classification"), learner(data, "classification")
    weighted.weight = np.where(np.arange(len(weighted.weight)) % 2, 9.0, 1.0).astype(np.float32)
    for made, name in ((plain, "a"), (weighted, "b")):
        train(made, plan(tmp_path / name, len(made.training), epochs=1))
    assert not torch.equal(plain.network.head.weight, weighted.network.head.weight)
