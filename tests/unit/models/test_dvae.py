"""The disentangled VAE: its bound, its members' independence, its resume."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sluice.models.dvae import DisentangledVAE
from sluice.models.dvae_training import AlloyTable, DvaeLearner
from sluice.models.training import Plan, train

ELEMENTS, FEATURES = ["Fe", "Ni", "Al"], ["a", "b"]


def network(members=2, **settings):
    made = DisentangledVAE(ELEMENTS, FEATURES, members=members, hidden=(8, 8), **settings)
    made.initialize(range(members), None)
    return made.eval()


def alloys(n=60, seed=0):
    """Alloys whose class is the sign of the first feature, which follows the composition."""
    rng = np.random.default_rng(seed)
    fractions = rng.dirichlet(np.ones(3), n)
    features = np.stack([fractions[:, 0] - fractions[:, 1], rng.normal(size=n)], 1) * [3.0, 100.0]
    return fractions, features, (features[:, :1] > 0).astype(float)


def table(members=2):
    fractions, features, targets = alloys()
    return AlloyTable(
        fractions,
        features,
        targets,
        labelled=np.tile(np.arange(30), (members, 1)),
        unlabelled=np.tile(np.arange(30, 45), (members, 1)),
        validation=np.arange(45, 60),
    )


def learner(members=2, **settings):
    values = {"learning_rate": 5e-3, "plateau_epochs": 50, "aux": 10.0, "init_std": None, "evaluate_every": 1}
    values |= settings
    made = {"elements": ELEMENTS, "features": FEATURES, "hidden": [8, 8]} | values.pop("network", {})
    return DvaeLearner(table(members), made, list(range(members)), **values)


def plan(folder, epochs=3, **settings):
    values = {
        "description": "test",
        "n_rows": 45,
        "epochs": epochs,
        "batch_size": 8,
        "seed": 1,
        "digest": "d",
        "checkpoints": folder / "checkpoints",
        "checkpoint_minutes": 1e-9,
        "metrics": folder / "metrics.csv",
        "device": "cpu",
        "threads": 1,
    }
    return Plan(**(values | settings))


def test_members_are_what_they_would_be_alone():
    together = network(members=3)
    alone = network(members=1)
    alone.load_state_dict(together.only(2))
    e = torch.randn(5, 2)
    assert torch.allclose(together.probabilities(e)[2], alone.probabilities(e)[0], atol=1e-6)
    z, y = torch.randn(4, 2), torch.ones(4, 1)
    assert torch.allclose(together.propose(z, y, 2), alone.propose(z, y, 0), atol=1e-6)


def test_fractions_decoded_sum_to_one():
    decoded = network().propose(torch.randn(7, 2), torch.zeros(7, 1), 0)
    assert torch.allclose(decoded.sum(-1), torch.ones(7), atol=1e-6) and (decoded >= 0).all()


def test_bound_is_that_of_torchs_distributions():
    """Multinomial likelihood, priors and divergence against torch.distributions, same draw of z."""
    model = network(prior_target=(0.3,), prior_scale=1.7)
    x = torch.tensor(alloys(6)[0], dtype=torch.float32)[None].expand(2, -1, -1)
    y = torch.randint(0, 2, (2, 6, 1), generator=torch.Generator().manual_seed(3)).float()
    weights = model.weights()
    torch.manual_seed(5)
    bound = model.elbo(x, y, weights)
    torch.manual_seed(5)
    mean, log_std = model.encode(x, y)
    z = mean + log_std.exp() * torch.randn_like(mean)
    posterior = torch.distributions.Normal(mean, log_std.exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.7)
    expected = (100 * x * model.decode(z, y)).sum(-1)
    expected = expected + torch.distributions.Bernoulli(torch.tensor(0.3)).log_prob(y).sum(-1)
    expected = expected - torch.distributions.kl_divergence(posterior, prior).sum(-1)
    assert torch.allclose(bound, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("share", [0.3, 1 - 1e-7])
def test_unlabelled_rows_count_as_the_mean_over_their_labels(share):
    """Mean of both labels' bounds, weighted by the label head, plus the entropy of its answer; same draws of z."""
    model = network(members=1)
    with torch.no_grad():
        weight, bias = model.weights()["label"][-1]
        weight.zero_()
        bias.fill_(math.log(share / (1 - share)))  # q(y = 1 | e) of every row
    x = torch.tensor(alloys(4)[0], dtype=torch.float32)[None]
    e, y = torch.randn(1, 4, 2), torch.cat([torch.zeros(1, 4, 1), torch.ones(1, 4, 1)], dim=1)
    torch.manual_seed(0)
    bound = model.elbo(x.repeat(1, 2, 1), y, model.weights())
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    expected = (1 - share) * bound[:, :4] + share * bound[:, 4:] + entropy
    torch.manual_seed(0)
    found = model.objective((x[:, :0], e[:, :0], y[:, :0]), (x, e), aux=1.0)["loss"]
    assert found.item() == pytest.approx(-expected.mean().item(), rel=1e-5)


def test_two_targets_are_summed_over():
    model = DisentangledVAE(ELEMENTS, FEATURES, targets=("a", "b"), prior_target=(0.5, 0.2), hidden=(4,), members=2)
    model.initialize([0, 1], None)
    x, e = torch.full((2, 3, 3), 1 / 3), torch.randn(2, 3, 2)
    losses = model.objective((x, e, torch.ones(2, 3, 2)), (x, e), aux=1.0)
    assert model.labels.shape == (4, 2) and torch.isfinite(losses["loss"]).all()
    assert model.probabilities(torch.randn(5, 2)).shape == (2, 5, 2)


def two_targets(monkeypatch):
    """A model of two targets whose bound is a number for each label, and rows of one composition."""
    model = DisentangledVAE(ELEMENTS, FEATURES, targets=("a", "b"), prior_target=(0.5, 0.2), hidden=(4,), members=2)
    model.initialize([0, 1], None)
    monkeypatch.setattr(model, "elbo", lambda x, y, weights: x[..., 0] + y @ torch.tensor([1.0, 10.0]))
    return model, torch.full((2, 1, 3), 1 / 3), torch.randn(2, 1, 2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("y", [(1.0, 0.0), (math.nan, 1.0), (0.0, math.nan)])
def test_labels_that_are_missing_are_summed_over(monkeypatch, y):
    model, x, e = two_targets(monkeypatch)
    rows = (x, e, torch.tensor(y).expand(2, 1, 2))
    found = model.objective(rows, (x, e), aux=3.0, partly=True)
    log_q = torch.nn.functional.logsigmoid(torch.stack([-model.label_logits(e), model.label_logits(e)]))[:, :, 0]
    label = sum(log_q[int(value), :, k] for k, value in enumerate(y) if not math.isnan(value))
    bound = torch.zeros(2)
    for labels in ((0, 0), (0, 1), (1, 0), (1, 1)):
        if all(math.isnan(known) or known == mine for known, mine in zip(y, labels, strict=True)):
            missing = torch.zeros(2) + sum(log_q[v, :, k] for k, v in enumerate(labels) if math.isnan(y[k]))
            bound = bound + missing.exp() * (1 / 3 + labels[0] + 10 * labels[1] - missing)
    assert torch.allclose(found["elbo"], bound) and torch.allclose(found["label_log_likelihood"], label)
    unlabelled = -model.objective((x[:, :0], e[:, :0], rows[2][:, :0]), (x, e), aux=3.0)["loss"]
    assert torch.allclose(-2 * found["loss"], bound + 3 * label + unlabelled)


def test_with_all_labels_nothing_is_summed_over(monkeypatch):
    model, x, e = two_targets(monkeypatch)
    rows = (x, e, torch.tensor([0.0, 1.0]).expand(2, 1, 2))
    whole, partly = (model.objective(rows, (x, e), aux=3.0, partly=partly) for partly in (False, True))
    for name, value in whole.items():
        assert torch.allclose(partly[name], value), name


@pytest.mark.parametrize("targets", [1, 2])
def test_without_missing_labels_the_objective_is_the_plain_one(tmp_path, monkeypatch, targets):
    """To the bit: the way that sums over missing labels, which draws other numbers, is not taken."""

    def fail(*_):
        raise AssertionError

    def once(folder):
        made = learner()
        made = DvaeLearner(
            replace(
                made.table, targets=np.repeat(made.table.targets, targets, axis=1), target_names=("a", "b")[:targets]
            ),
            {"elements": ELEMENTS, "features": FEATURES, "hidden": [8, 8]},
            [0, 1],
            **{"learning_rate": 5e-3, "plateau_epochs": 50, "aux": 10.0},
        )
        train(made, plan(folder, epochs=2))
        return made.network.flat

    free = once(tmp_path / "free")
    monkeypatch.setattr(DisentangledVAE, "_over_missing", fail)
    assert torch.equal(once(tmp_path / "plain"), free)


def test_each_label_of_a_partly_labelled_alloy_is_learned_from(tmp_path):
    """Half of the labelled alloys have one of two labels, the others the other one; each target is told apart."""
    fractions, features, targets = alloys(300)
    both = np.concatenate([targets, (features[:, 1:] > 0).astype(float)], 1)
    both[:100, 0], both[100:200, 1] = np.nan, np.nan
    made = AlloyTable(
        fractions, features, both,
        labelled=np.tile(np.arange(200), (2, 1)), unlabelled=np.tile(np.arange(200, 250), (2, 1)),
        validation=np.arange(250, 300), target_names=("a", "b"),
    )  # fmt: skip
    assert made.partly_labelled and not table().partly_labelled
    trained = DvaeLearner(
        made, {"elements": ELEMENTS, "features": FEATURES, "hidden": [8, 8]}, [0, 1],
        learning_rate=1e-2, plateau_epochs=50, aux=10.0, init_std=None,
    )  # fmt: skip
    rows = train(trained, plan(tmp_path, n_rows=250, epochs=30, batch_size=50))
    assert all(np.isfinite(value) for row in rows for value in row.values())
    assert rows[-1]["train_accuracy"] > 0.9
    network, (_, features, targets) = trained.finish(), alloys(200, seed=9)
    found = network.probabilities(torch.tensor(features, dtype=torch.float32)).detach().numpy() > 0.5
    truth = np.concatenate([targets, (features[:, 1:] > 0).astype(float)], 1) > 0.5
    assert (found == truth).mean(axis=1).min() > 0.85


@pytest.mark.parametrize(
    ("row", "labels"),
    [(0, (math.nan, math.nan)), (0, (2.0, 1.0)), (50, (math.nan, 1.0))],
    ids=["no label", "no class", "validation"],
)
def test_rows_without_the_labels_that_they_need(row, labels):
    whole = table()
    targets = np.repeat(whole.targets, 2, axis=1)
    targets[row] = labels
    with pytest.raises(ValueError, match=r"labelled rows need .* of at least one target.* validation rows of every"):
        replace(whole, targets=targets, target_names=("a", "b"))


@pytest.mark.parametrize("bad", [{"targets": ()}, {"prior_target": (0.5, 0.5)}])
def test_targets_and_priors_must_match(bad):
    with pytest.raises(ValueError, match="targets"):
        DisentangledVAE(ELEMENTS, FEATURES, **bad)


def test_intervals_are_piecewise_linear_between_quantiles():
    model = network(bins=4)
    e = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [4.0, 2.0]])
    model.fit_features(e)
    assert torch.allclose(model.edges[0], torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]))
    seen = model.encode_features(torch.tensor([[1.5, 1.0]]))[0]
    assert torch.allclose(seen[2:6], torch.tensor([1.0, 0.0, -1.0, -1.0]), atol=1e-6)
    assert torch.isfinite(seen).all()  # the second feature's intervals have no width


def test_learns_and_reconstructs(tmp_path):
    trained = learner(members=3)
    rows = train(trained, plan(tmp_path, epochs=60))
    model = trained.finish()
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["elbo"] > rows[0]["elbo"]
    fractions, features, targets = alloys(200, seed=9)
    right = (model.probabilities(torch.tensor(features, dtype=torch.float32)) > 0.5).numpy() == (targets > 0.5)
    assert right.mean((1, 2)).min() > 0.85
    x, y = (torch.tensor(v, dtype=torch.float32)[None].expand(3, -1, -1) for v in (fractions, targets))
    with torch.no_grad():
        again = model.decode(model.encode(x, y)[0], y).exp()
    assert (again - x).abs().mean() < 0.5 * (x.mean(1, keepdim=True) - x).abs().mean()


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "settings", [{}, {"schedule": "cosine", "keep": "last", "network": {"dropout": 0.3, "bins": 3}}]
)
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, settings):
    whole = learner(**settings)
    rows = train(whole, plan(tmp_path / "whole"))
    broken = learner(**settings)
    step, count = broken.step, []

    def until(index, progress):
        count.append(1)
        if len(count) == 9:
            raise Stop
        return step(index, progress)

    broken.step = until
    with pytest.raises(Stop):
        train(broken, plan(tmp_path / "broken"))
    again = learner(**settings)
    assert train(again, plan(tmp_path / "broken")) == rows
    assert torch.equal(whole.finish().flat, again.finish().flat)


def test_quirk_takes_a_step_on_validation_rows(tmp_path):
    plain, quirky = learner(), learner(validation_steps=True)
    train(plain, plan(tmp_path / "plain", epochs=2))
    train(quirky, plan(tmp_path / "quirky", epochs=2))
    assert quirky.steps == plain.steps + 2
    assert not torch.equal(plain.network.flat, quirky.network.flat)


def test_plateau_halves_only_the_stuck_members_step(tmp_path):
    stuck = learner(plateau_epochs=2)
    train(stuck, plan(tmp_path, epochs=1))
    before = stuck.rate.clone()
    for value in (1.0, 1.0, 1.0, 1.0):
        bound = torch.tensor([[stuck.best_bound[0, 0].item() - 1.0], [stuck.best_bound[1, 0].item() + value]])
        stuck._watch(bound)
    assert stuck.rate[0] == before[0] / 2 and stuck.rate[1] == before[1]


def test_labels_of_unlabelled_rows_are_never_read(tmp_path):
    seen = learner()
    train(seen, plan(tmp_path / "a", epochs=2))
    blind = learner()
    blind.table.targets[30:45] = math.nan
    train(blind, plan(tmp_path / "b", epochs=2))
    assert torch.equal(seen.network.flat, blind.network.flat)
