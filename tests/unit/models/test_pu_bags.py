import os
import signal

import numpy as np
import pytest
import torch
from crystals_for_models import decorated

from sluice.models import pu_training
from sluice.models.cgcnn import CGCNN
from sluice.models.graphs import build_graphs
from sluice.models.pu_bags import BaggedCGCNN, draw_bags, draw_bags_in_pairs, out_of_bag
from sluice.models.pu_training import BagLearner
from sluice.models.training import Plan, make_fabric, train
from sluice.step import Continue

SIZES = {"hidden_size": 6, "head_size": 5, "convolutions": 2, "gaussians": 11, "neighbours": 8, "cutoff": 5.0}


@pytest.fixture(scope="module")
def graphs():
    return build_graphs(decorated((8, 9, 11, 12, 17))[0], neighbours=8, cutoff=5.0)


def alone(bagged, k):
    """Network k of the bags as a CGCNN of its own."""
    one = CGCNN(**SIZES)
    state = bagged.members.state_dict()
    shared = {"features", "centres"} | {n for n in state if n.endswith(".batches")}
    one.load_state_dict({n: v if n in shared else v[k] for n, v in state.items()})
    return one


def test_bags_answer_as_each_would_alone(graphs):
    torch.manual_seed(0)
    bagged = BaggedCGCNN(bags=3, **SIZES).eval()
    batch = graphs.batch(np.arange(20))
    together = bagged.probabilities(batch)
    for k in range(3):
        torch.testing.assert_close(together[k], torch.sigmoid(alone(bagged, k).eval()(batch)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(torch.sigmoid(bagged(batch)), together.mean(0))


@pytest.mark.parametrize("apart", [True, False])
def test_a_bag_learns_from_its_own_rows_only(graphs, apart):
    """The gradient of bag k is that of a lone network on the bag's rows of the batch, computed either way."""
    torch.manual_seed(0)
    member = np.zeros((2, 12), bool)
    member[0, :8] = True
    member[1, 4:] = True
    target = np.r_[np.ones(6), np.zeros(6)]
    made = BagLearner(
        graphs[:12], target, member, hyperparameters=SIZES | {"bags": 2}, learning_rate=1e-3, batch_size=8
    )
    made.set_up(make_fabric("cpu", "32-true"))
    assert made.apart, "on a CPU"
    made.apart = apart
    before = {k: alone(made.network, k) for k in range(2)}
    made.optimizer.step = lambda *_, **__: None
    made.step(np.arange(12), 0.5)
    for k in range(2):
        rows = np.flatnonzero(member[k])
        one = before[k].train()
        logits = one(graphs.batch(rows))
        torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(target[rows]).float()).backward()
        for (name, mine), theirs in zip(made.network.members.named_parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(mine.grad[k], theirs.grad, atol=2e-6, rtol=1e-3, msg=name)


def test_bags_learn_apart_what_they_learn_together(graphs):
    """Logits, gradients and running statistics are those of one pass over all rows, the others' weights zero.

    One bag has no row of the batch.
    """
    rows = np.arange(16)
    member = np.zeros((3, 16), bool)
    member[0, :9] = True
    member[1, 5:] = True
    outcome = {}
    for way in ("apart", "together"):
        torch.manual_seed(0)
        bagged = BaggedCGCNN(bags=3, **SIZES).train()
        for _ in range(2):
            if way == "apart":
                logits = torch.cat(bagged.logits_apart([graphs.batch(rows[mine]) for mine in member]))
            else:
                inside = torch.from_numpy(member)
                logits = bagged.logits(graphs.batch(rows), inside.float())[inside]
        (logits * torch.arange(1.0, 21.0)).sum().backward()
        gradients = {f"gradient of {n}": p.grad for n, p in bagged.named_parameters()}
        outcome[way] = {"logits": logits.detach()} | gradients | bagged.state_dict()
    for name, mine in outcome["apart"].items():
        torch.testing.assert_close(mine, outcome["together"][name], atol=2e-5, rtol=1e-3, msg=name)
    assert outcome["apart"]["members.convolutions.0.norm_pairs.batches"] == 2
    assert not torch.equal(outcome["apart"]["members.convolutions.0.norm_pairs.running_mean"][0], torch.zeros(12))


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_a_step_is_the_same_however_many_bags_it_holds_at_once(graphs, at_once, monkeypatch):
    """Loss, gradients and running statistics; five bags, one without a row of the batch."""
    member = np.zeros((5, len(graphs)), bool)
    for k in range(4):
        member[k, k : k + 9] = True
    member[4, 40:50] = True
    target, outcome = np.arange(len(graphs)) % 2, []
    for size in (5, at_once):
        monkeypatch.setattr(pu_training, "BAGS_AT_ONCE", size)
        made = BagLearner(graphs, target, member, hyperparameters=SIZES | {"bags": 5}, learning_rate=1e-3, batch_size=8)
        fabric = make_fabric("cpu", "32-true")
        fabric.seed_everything(0, verbose=False)
        made.set_up(fabric)
        made.optimizer.step = lambda *_, **__: None  # Adam makes steps of what is round-off alone
        loss = made.step(np.arange(12), 0.5)["train_loss"]
        made.step(np.arange(12), 0.6)
        gradients = {f"gradient of {n}": p.grad for n, p in made.network.named_parameters()}
        outcome.append({"loss": loss} | gradients | made.network.state_dict())
    assert outcome[0]["members.convolutions.0.norm_pairs.batches"] == 2
    for name, mine in outcome[0].items():
        torch.testing.assert_close(mine, outcome[1][name], atol=1e-6, rtol=1e-4, msg=name)


def test_bags_share_out_a_batch_of_evaluation(graphs):
    """Activations of so many networks at once would be many times a single one's."""
    made = BagLearner(
        graphs, np.zeros(len(graphs)), np.ones((4, len(graphs)), bool), hyperparameters=SIZES | {"bags": 4},
        learning_rate=1e-3, batch_size=8,
    )  # fmt: skip
    made.set_up(make_fabric("cpu", "32-true"))
    seen = []
    made.network.members.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    assert made.predict(np.arange(7)).shape == (4, 7)
    assert seen == [2, 2, 2, 1]


def test_parameters_grow_with_the_bags():
    count = [sum(p.numel() for p in BaggedCGCNN(bags=b, **SIZES).parameters()) for b in (1, 4)]
    assert count[1] == 4 * count[0] == 4 * sum(p.numel() for p in CGCNN(**SIZES).parameters())


def test_bags_and_scores_of_rows_outside():
    positive, unlabelled = np.arange(4), np.arange(4, 30)
    member = draw_bags(positive, unlabelled, 30, 6, seed=1)
    assert member[:, positive].all()
    assert (member[:, unlabelled].sum(axis=1) == 4).all()
    assert len({row.tobytes() for row in member}) == 6
    np.testing.assert_array_equal(member[:3], draw_bags(positive, unlabelled, 30, 3, seed=1))
    scores = np.tile(np.arange(6.0)[:, None], (1, 30))
    found = out_of_bag(scores, member)
    assert found[0] == pytest.approx(2.5)  # every bag has seen it
    row = int(unlabelled[0])
    assert found[row] == pytest.approx(np.arange(6.0)[~member[:, row]].mean())


@pytest.mark.parametrize(("positives", "taken"), [(4, 4), (20, 13)])
def test_bags_of_a_pair_share_no_unlabelled_row(positives, taken):
    positive, unlabelled = np.arange(positives), np.arange(positives, positives + 26)
    member = draw_bags_in_pairs(positive, unlabelled, positives + 26, 5, seed=1)
    assert member[:, positive].all()
    drawn = member[:, unlabelled]
    assert (drawn.sum(axis=1) == taken).all()
    assert not (drawn[0] & drawn[1]).any() and not (drawn[2] & drawn[3]).any()
    assert len({row.tobytes() for row in member}) == 5
    assert not drawn[:2].all(axis=0).any(), "two bags suffice for every row to be outside one"


def test_training_learns_and_resumes_to_the_bit(graphs, tmp_path):
    """Stopped after four of eight epochs and begun again: the same losses, weights and running statistics."""
    positive = np.arange(0, 30)
    member = draw_bags(positive, np.arange(30, len(graphs)), len(graphs), 3, seed=0)
    target = np.isin(np.arange(len(graphs)), positive)

    def trained(folder, stop=None, precision="32-true"):
        made = BagLearner(
            graphs, target, member, hyperparameters=SIZES | {"bags": 3}, learning_rate=1e-2, batch_size=64
        )
        plan = Plan(
            precision=precision,
            description="test", n_rows=len(made.rows), epochs=8, batch_size=32, seed=1, digest="d",
            checkpoints=folder, checkpoint_minutes=60, metrics=folder / "m.csv", device="cpu", threads=1,
        )  # fmt: skip
        if stop is not None:
            made.end_epoch = stopping(made.end_epoch, stop)
        return made, train(made, plan)

    whole, rows = trained(tmp_path / "whole")
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert whole.predict(np.arange(10)).shape == (3, 10)
    half = trained(tmp_path / "bf16", precision="bf16-mixed")[1]
    assert half[-1]["train_loss"] == pytest.approx(rows[-1]["train_loss"], rel=0.05)
    with pytest.raises(Continue):
        trained(tmp_path / "halves", stop=4)
    again, resumed = trained(tmp_path / "halves")
    assert [row["train_loss"] for row in resumed] == [row["train_loss"] for row in rows]
    for name, value in again.network.state_dict().items():
        assert torch.equal(value, whole.network.state_dict()[name]), name


def stopping(end_epoch, epoch):
    """``end_epoch`` of a learner that is told in that epoch that its time limit is near."""

    def end(now):
        if now == epoch:
            os.kill(os.getpid(), signal.SIGUSR1)
        return end_epoch(now)

    return end
