import copy
import os
import signal

import numpy as np
import pytest
import torch
from crystals_for_models import decorated, labels
from torch.nn.functional import binary_cross_entropy_with_logits

from sluice.errors import SluiceError
from sluice.models.cgcnn import CGCNN
from sluice.models.cgcnn_training import roc_auc
from sluice.models.checkpoints import CheckpointFolder
from sluice.models.graphs import build_graphs
from sluice.models.training import Plan, make_fabric, train
from sluice.models.tsdnn import TSDNN
from sluice.models.tsdnn_training import TsdnnLearner

SIZES = {
    "hidden_size": 8,
    "head_size": 8,
    "convolutions": 1,
    "gaussians": 11,
    "neighbours": 8,
    "cutoff": 5.0,
    "dropout": 0.3,
}


@pytest.fixture(scope="module")
def data():
    crystals = decorated((8, 9, 11, 12, 17))[0]
    energy = labels(crystals)
    return build_graphs(crystals, neighbours=8, cutoff=5.0), (energy < np.median(energy)).astype(float)


def learner(data, **changes):
    graphs, target = data
    rows = np.random.default_rng(0).permutation(len(graphs))
    values = {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.0, "batch_size": 32, "student_labels": 1.0}
    values["hyperparameters"] = SIZES | {"answer": "both"}
    values["unlabelled"] = rows[70:140]
    return TsdnnLearner(graphs, target, labelled=rows[:70], validation=rows[140:], **(values | changes))


def plan(folder, **changes):
    values = {
        "description": "test",
        "n_rows": 70,
        "epochs": 3,
        "batch_size": 32,
        "seed": 5,
        "digest": "d",
        "checkpoints": folder / "checkpoints",
        "checkpoint_minutes": 60,
        "metrics": folder / "metrics.csv",
        "device": "cpu",
        "threads": 1,
    }
    return Plan(**(values | changes))


class Interrupted(TsdnnLearner):
    def step(self, index, progress):
        self.count = getattr(self, "count", 0) + 1
        if self.count == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(index, progress)


def test_it_learns(data, tmp_path):
    made = learner(data, learning_rate=2e-2, hyperparameters=SIZES | {"answer": "both", "dropout": 0.0})
    rows = train(made, plan(tmp_path, epochs=25, batch_size=16))
    assert max(row["val_roc_auc"] for row in rows) > 0.85
    made.use_best()
    assert made.predict(made.validation).shape == (len(made.validation),)


def test_resumed_is_equal_to_the_bit(data, tmp_path):
    whole, first, second = learner(data), learner(data), learner(data)
    first.__class__ = Interrupted
    train(whole, plan(tmp_path / "whole"))
    with pytest.raises(SystemExit):
        train(first, plan(tmp_path / "parts"))
    torch.randn(5)
    train(second, plan(tmp_path / "parts"))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "parts" / "metrics.csv").read_bytes()


def test_a_checkpoint_that_does_not_say_where_the_draws_stood_starts_it_anew(data, tmp_path, capsys):
    whole, first, second = learner(data), learner(data), learner(data)
    first.__class__ = Interrupted
    train(whole, plan(tmp_path / "whole"))
    with pytest.raises(SystemExit):
        train(first, plan(tmp_path / "parts"))
    folder = CheckpointFolder(tmp_path / "parts" / "checkpoints", plan(tmp_path).digest)
    state = folder.load()
    del state["learner"]["draws"]  # as earlier versions wrote it
    folder.save(state["position"][2], state)
    capsys.readouterr()
    train(second, plan(tmp_path / "parts"))
    said = capsys.readouterr().out
    assert "test: the checkpoint of an earlier version does not say which crystals are to be drawn" in said
    assert "the training starts anew" in said and "resumed" not in said
    assert "draws" in folder.load()["learner"]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, second.network.state_dict()[name]), name
    assert (tmp_path / "whole" / "metrics.csv").read_bytes() == (tmp_path / "parts" / "metrics.csv").read_bytes()


def test_the_students_gain_and_its_baseline(data):
    """Correct form: labels that lowered the student's loss confirm the teacher; the average is kept over steps."""
    correct, quirk = learner(data), learner(data, gain="new_minus_old", moving_average="redrawn")
    assert correct.sign == 1.0 and quirk.sign == -1.0
    assert correct._gain(1.0) == pytest.approx(0.99)
    assert correct._gain(1.0) == pytest.approx(1 - (0.99 * 0.01 + 0.01))
    torch.manual_seed(0)
    quirk.set_up(make_fabric("cpu", "32-true"))
    baseline = np.array([1.0 - quirk._gain(1.0) for _ in range(500)])  # 0.99 of U(-√3, √3), 0.01 of the change
    assert baseline.min() < -1.6 and baseline.max() > 1.6
    assert np.abs(baseline - 0.01).max() <= 0.99 * 3**0.5
    assert abs(baseline.mean()) < 0.15


@pytest.mark.parametrize(("gain", "sign"), [("old_minus_new", 1.0), ("new_minus_old", -1.0)])
def test_the_gain_is_how_far_the_students_labelled_loss_fell(data, gain, sign):
    """Held against losses of copies of the student before and after its step."""
    made = learner(data, gain=gain, hyperparameters=SIZES | {"answer": "both", "dropout": 0.0})
    fabric = make_fabric("cpu", "32-true")
    fabric.seed_everything(0, verbose=False)
    made.set_up(fabric)
    told, index = [], np.arange(32)
    made._gain = lambda change: told.append(change) or 0.0
    rows = made.labelled[index]

    def loss():
        student = copy.deepcopy(made.network.student).train()
        output = student(made.graphs.batch(rows)).detach()
        return float(binary_cross_entropy_with_logits(output, torch.from_numpy(made.target[rows])))

    before = loss()
    made.step(index, 0.5)
    assert abs(before - loss()) > 1e-3
    assert told == pytest.approx([sign * (before - loss())], rel=1e-3)


def test_a_gain_confirms_the_teacher_and_a_loss_corrects_it(data):
    """The teacher's step with a large gain makes it surer of its own labels, with a large loss less sure."""
    surer = {}
    for gain in (50.0, 0.0, -50.0):
        made = learner(data, hyperparameters=SIZES | {"answer": "both", "dropout": 0.0}, optimizer="sgd")
        fabric = make_fabric("cpu", "32-true")
        fabric.seed_everything(0, verbose=False)
        made.set_up(fabric)
        drawn = made.unlabelled[:32]
        made._draw, made._gain = lambda drawn=drawn: drawn, lambda _, gain=gain: gain
        batch = made.graphs.batch(drawn)
        first = copy.deepcopy(made.network.teacher).train()(batch).detach()
        pseudo = (first > 0).float()
        made.step(np.arange(32), 0.5)
        second = made.network.teacher.train()(batch).detach()
        sure = [float(binary_cross_entropy_with_logits(logits, pseudo)) for logits in (first, second)]
        surer[gain] = sure[0] - sure[1]
    assert surer[50.0] > surer[0.0] > surer[-50.0]
    assert surer[50.0] > 0 > surer[-50.0]


@pytest.mark.parametrize("student_labels", [0.0, 1.0])
def test_a_step_looks_at_no_batch_more_often_than_it_must(data, student_labels):
    made = learner(data, student_labels=student_labels)
    fabric = make_fabric("cpu", "32-true")
    fabric.seed_everything(0, verbose=False)
    made.set_up(fabric)
    seen = []
    for network in (made.network.student, made.network.teacher):
        network.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    made.step(np.arange(32), 0.5)
    # Student: labelled before, unlabelled, labelled after; teacher: unlabelled, labelled.
    assert len(seen) == 5
    assert len({id(batch) for batch in seen}) == 2
    assert all(len(batch.expanded) == 1 for batch in seen)


def test_what_chooses_the_epoch_is_what_answers(data, tmp_path):
    for answer in ("student", "teacher", "both"):
        made = learner(data, hyperparameters=SIZES | {"answer": answer})
        row = train(made, plan(tmp_path / answer, epochs=1))[0]
        own = made.predict(made.validation)
        assert row["val_roc_auc"] == pytest.approx(roc_auc(data[1][made.validation], own), abs=1e-9)
        assert row["val_accuracy"] == pytest.approx(((own > 0) == (data[1][made.validation] > 0.5)).mean())


def test_the_papers_student_sees_no_labels(data, tmp_path):
    """Other labels with the same teacher's answers: the student's first step must not change."""
    after = []
    for flip in (False, True):
        made = learner((data[0], 1 - data[1] if flip else data[1]), student_labels=0.0, optimizer="sgd")
        train(made, plan(tmp_path / str(flip), n_rows=32, epochs=1))  # one step
        after.append(made.network.student.head.weight.detach().clone())
    assert torch.equal(after[0], after[1])


def test_who_answers(data):
    graphs, _ = data
    torch.manual_seed(0)
    network = TSDNN(answer="both", **SIZES).eval()
    batch = graphs.batch(np.arange(5))
    both, student, teacher = network(batch), network.student(batch), network.teacher(batch)
    torch.testing.assert_close(torch.sigmoid(both), (torch.sigmoid(student) + torch.sigmoid(teacher)) / 2)
    count = sum(p.numel() for p in network.parameters())
    assert count == 2 * sum(p.numel() for p in CGCNN(**SIZES).parameters())


def test_crystals_that_both_are_sure_of_keep_their_order():
    """Probabilities of such logits are all 1 in single precision."""
    sure = torch.tensor([14.0, 15, 16, 17, 20, 30, 90])
    for joint in (TSDNN.joint(sure, sure), -TSDNN.joint(-sure, -sure)):
        torch.testing.assert_close(joint, sure)
    student, teacher = torch.randn(200).double() * 3, torch.randn(200).double() * 3
    mean = (torch.sigmoid(student) + torch.sigmoid(teacher)) / 2
    torch.testing.assert_close(TSDNN.joint(student, teacher), torch.logit(mean))


def test_without_unlabelled_crystals_it_says_so(data):
    with pytest.raises(SluiceError, match="unlabelled crystals, too, and there are none"):
        learner(data, unlabelled=np.zeros(0, np.int64))


def test_bf16_holds_the_accuracy(data, tmp_path):
    """Its best validation AUC in 15 epochs is within 0.05 of full precision's, which is well above chance."""
    best = {}
    for precision in ("32-true", "bf16-mixed"):
        rows = train(learner(data), plan(tmp_path / precision, epochs=15, precision=precision))
        best[precision] = max(row["val_roc_auc"] for row in rows)
    assert best["32-true"] > 0.8
    assert best["bf16-mixed"] > best["32-true"] - 0.05
