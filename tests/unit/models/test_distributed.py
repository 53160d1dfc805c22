"""Two processes on a CPU do what one does: the same losses and weights to float's last digits, resumed as well."""

import csv
import os
import signal
import time

import numpy as np
import pytest
import torch
from crystals_for_models import decorated, labels
from test_dvae import learner as dvae_learner
from test_training import SIZES, plan

from sluice.config import TrainSettings
from sluice.config_generator import GeneratorSettings
from sluice.dag import training_cores, training_gpus
from sluice.errors import SluiceError
from sluice.models.cgcnn import CGCNN
from sluice.models.cgcnn_training import GraphLearner
from sluice.models.cubicgan import SPACE_GROUPS
from sluice.models.cubicgan_training import GanLearner
from sluice.models.distributed import count_devices
from sluice.models.gatgnn import GATGNN
from sluice.models.graphs import build_graphs
from sluice.models.orbits import decompose
from sluice.models.pu_bags import draw_bags
from sluice.models.pu_training import BAGS_AT_ONCE, BagLearner
from sluice.models.training import train
from sluice.models.tsdnn_training import TsdnnLearner
from sluice.step import Continue

TOLERANCE = 2e-6  # relative, of float32 sums in another order
# Biases in front of a normalization have no gradient but rounding, which Adam blows up to whole steps. Training does
# not see them; evaluation does, through the running means.
EVALUATION_TOLERANCE = 0.02
GATGNN_SIZES = {"hidden_size": 8, "heads": 2, "layers": 1, "gaussians": 11, "neighbours": 8, "cutoff": 5.0}


@pytest.fixture(scope="module")
def data():
    crystals = decorated((8, 9, 11, 12, 17))[0]
    return build_graphs(crystals, neighbours=8, cutoff=5.0), labels(crystals)


def learner(data, network=CGCNN, kind=GraphLearner):
    """With weights that differ and 105 rows in batches of 26: shares of different sizes and weights."""
    graphs, energy = data
    rows = np.random.default_rng(0).permutation(len(graphs))
    return kind(
        graphs,
        energy,
        1.0 + np.arange(len(graphs)) % 3,
        training=rows[30:135],
        validation=rows[:30],
        task="regression",
        hyperparameters=SIZES if network is CGCNN else GATGNN_SIZES,
        learning_rate=5e-3,
        weight_decay=1e-5,
        batch_size=25,
        network_type=network,
    )


def rows_of(folder):
    with (folder / "metrics.csv").open() as handle:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(handle)]


@pytest.mark.parametrize("network", [CGCNN, pytest.param(GATGNN, marks=pytest.mark.long)])
def test_two_processes_learn_what_one_learns(data, tmp_path, network):
    one, two = learner(data, network), learner(data, network)
    train(one, plan(tmp_path / "one", 105, batch_size=26))
    train(two, plan(tmp_path / "two", 105, batch_size=26, devices="2"))
    for mine, theirs in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=TOLERANCE)
        assert mine == pytest.approx(theirs, rel=EVALUATION_TOLERANCE)


def tsdnn_learner(data, kind=TsdnnLearner, **changes):
    """With shares of different sizes: batches of 25 labelled rows, the last of one row, and 25 unlabelled ones."""
    graphs, energy = data
    rows = np.random.default_rng(0).permutation(len(graphs))
    values = {
        "optimizer": "adamw",
        "learning_rate": 5e-3,
        "weight_decay": 1e-5,
        "batch_size": 25,
        "student_labels": 0.7,
        "moving_average": "redrawn",  # a gain so large that its part of the teacher's loss is seen
    }
    return kind(
        graphs,
        energy < np.median(energy),
        labelled=rows[:101],
        unlabelled=rows[60:],
        validation=rows[101:],
        hyperparameters=SIZES,
        **(values | changes),
    )


BAGS = BAGS_AT_ONCE + 1
LOSSES = ("student_loss", "teacher_loss", "pseudo_positive")
PAPER = {"optimizer": "sgd", "student_labels": 0.0, "moving_average": "kept"}


@pytest.mark.parametrize("changes", [{}, pytest.param(PAPER, marks=pytest.mark.long)], ids=["redrawn", "paper"])
def test_tsdnn_learns_on_two_what_it_learns_on_one(data, tmp_path, changes):
    one, two = tsdnn_learner(data, **changes), tsdnn_learner(data, **changes)
    train(one, plan(tmp_path / "one", 101))
    train(two, plan(tmp_path / "two", 101, devices="2"))
    for mine, theirs in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        for name in LOSSES:
            assert mine[name] == pytest.approx(theirs[name], rel=TOLERANCE), name
    assert two.average == pytest.approx(one.average, rel=1e-3, abs=1e-8)
    assert torch.equal(two.draws.get_state(), one.draws.get_state())


def test_bags_learn_on_two_what_they_learn_on_one(data, tmp_path):
    graphs, _ = data
    member = draw_bags(np.arange(20), np.arange(20, 70), 70, BAGS, seed=0)
    n_rows = int(member.any(axis=0).sum())
    assert n_rows % 13 > 1, "an uneven last batch"
    answers = []
    for folder, devices in (("one", "1"), ("two", "2")):
        made = BagLearner(
            graphs, np.arange(70) < 20, member,
            hyperparameters=SIZES | {"bags": BAGS}, learning_rate=5e-3, batch_size=25,
        )  # fmt: skip
        train(made, plan(tmp_path / folder, n_rows, batch_size=13, devices=devices))
        answers.append(made.predict(np.arange(70)))
    for mine, theirs in zip(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"), strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=TOLERANCE)
    np.testing.assert_allclose(answers[1], answers[0], atol=EVALUATION_TOLERANCE)


class Interrupting:
    """Sends a signal to the step's own process in the middle of the third epoch, from the second process."""

    def step(self, index, progress):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 10 and self.fabric.global_rank == 1:
            os.kill(os.getppid(), signal.SIGUSR1)
        if self.count >= 10:
            time.sleep(0.5)  # so that it arrives before the end
        return super().step(index, progress)


class InterruptedGraphs(Interrupting, GraphLearner):
    pass


class InterruptedTsdnn(Interrupting, TsdnnLearner):
    pass


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "interrupted", "rows"), [(learner, InterruptedGraphs, 105), (tsdnn_learner, InterruptedTsdnn, 101)]
)
def test_interrupted_and_resumed_on_two_is_equal_to_the_bit(data, tmp_path, make, interrupted, rows):
    how = {"batch_size": 26, "devices": "2", "checkpoint_minutes": 60}
    whole, first, second = make(data), make(data, kind=interrupted), make(data)
    for made in (whole, first, second):
        made.strain = 0.05  # random numbers, of each process its own; TSDNN's are those of its dropout
        made.hyperparameters |= {"dropout": 0.3}
    train(whole, plan(tmp_path / "whole", rows, **how))
    with pytest.raises(Continue):
        train(first, plan(tmp_path / "parts", rows, **how))
    assert not (tmp_path / "parts" / "metrics.csv").exists()
    (saved,) = (tmp_path / "parts" / "checkpoints").glob("step_*")
    # The signal takes a while from process to process; the training waits for none of them.
    assert saved.stem >= "step_000000010", "not before it was sent"
    train(second, plan(tmp_path / "parts", rows, **how))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    assert rows_of(tmp_path / "whole") == rows_of(tmp_path / "parts")


class Watching(GanLearner):
    """Writes what each process holds at the end of an epoch."""

    def end_epoch(self, epoch):
        weights = torch.cat([value.flatten() for value in self.network.state_dict().values()])
        np.save(self.folder / f"{self.fabric.global_rank}_{epoch}.npy", weights.numpy())
        drawn = self._noise(1).numpy()
        np.save(self.folder / f"noise_{self.fabric.global_rank}_{epoch}.npy", drawn)
        return super().end_epoch(epoch)


def test_cubicgan_stays_one_network_and_draws_different_noise(tmp_path):
    sites = decompose(decorated((8, 9, 11, 12, 17))[0], SPACE_GROUPS, 3)
    n = len(sites.index)
    settings = GeneratorSettings(epochs=2, batch_size=51, critic_steps=2, dropout=0.1)
    made = Watching(sites, settings, training=np.arange(n - 10), validation=np.arange(n - 10, n))
    made.folder = tmp_path
    rows = train(made, plan(tmp_path, n - 10, epochs=2, batch_size=51, devices="2"))
    assert all(np.isfinite(value) for row in rows for value in row.values())
    for epoch in (0, 1):
        np.testing.assert_array_equal(np.load(tmp_path / f"0_{epoch}.npy"), np.load(tmp_path / f"1_{epoch}.npy"))
        assert not np.array_equal(
            np.load(tmp_path / f"noise_0_{epoch}.npy"), np.load(tmp_path / f"noise_1_{epoch}.npy")
        )
    assert not np.array_equal(np.load(tmp_path / "0_0.npy"), np.load(tmp_path / "0_1.npy"))


class Calm(GanLearner):
    """Without chance but for the place of the gradient penalty, which weighs nothing here.

    The critic keeps its first weights: its last bias has no gradient but rounding, which Adam blows up to whole steps.
    """

    def set_up(self, fabric):
        super().set_up(fabric)
        self.critic_optimizer.param_groups[0]["lr"] = 0.0

    def _noise(self, n):
        return torch.zeros(n, self.settings.noise_size, device=self.fabric.device)


def test_cubicgan_tells_of_two_what_it_tells_of_one(tmp_path):
    """Batches of 50 and 21 rows: shares of 11 and 10 in the last one, and a generator step in every second."""
    sites = decompose(decorated((8, 9, 11, 12, 17))[0], SPACE_GROUPS, 3)
    settings = GeneratorSettings(critic_steps=2, gradient_penalty=0.0, coordinate_noise=0.0)
    found = {}
    for devices in ("1", "2"):
        made = Calm(sites, settings, training=np.arange(71), validation=np.arange(0))
        found[devices] = train(made, plan(tmp_path / devices, 71, epochs=2, batch_size=50, devices=devices))
        found[devices].append({name: value.item() for name, value in made.last.items()})
    for mine, theirs in zip(found["2"], found["1"], strict=True):
        for name in set(theirs) - {"gradient_penalty"}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-7), name


def test_what_trains_as_one_stack_is_refused(tmp_path):
    with pytest.raises(SluiceError, match=r"train\.devices is 2, but the disentangled VAE.* set train\.devices to 1"):
        train(dvae_learner(), plan(tmp_path, 45, devices="2"))


def test_devices_are_counted(monkeypatch):
    assert (count_devices("cpu", "auto"), count_devices("cpu", "3")) == (1, 3)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert (count_devices("auto", "auto"), count_devices("cuda", "2")) == (4, 2)
    with pytest.raises(SluiceError, match=r"train\.devices is 5, but this job has 4 GPUs"):
        count_devices("auto", "5")


def test_rules_ask_for_as_many():
    four = TrainSettings(devices=4, threads=2)
    assert (training_gpus(four), training_cores(four)) == (4, 8)
    tsdnn = TrainSettings.model_validate({"devices": 2, "screener": {"model": "tsdnn"}})
    assert (training_gpus(tsdnn), training_cores(tsdnn)) == (2, 2)
    assert (training_gpus(TrainSettings(devices="auto")), training_cores(TrainSettings(devices="auto"))) == (1, 1)
    assert training_gpus(TrainSettings(devices=2, device="cpu")) == 0
