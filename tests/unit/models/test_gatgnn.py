import numpy as np
import pytest
import torch
from crystals_for_models import decorated, labels
from torch.nn.functional import softplus

from sluice.models.cgcnn_training import GraphLearner
from sluice.models.gatgnn import GATGNN, AugmentedAttention, attention
from sluice.models.graphs import build_graphs
from sluice.models.modelfile import load_model, save_model
from sluice.models.scoring import score_crystals
from sluice.models.training import Plan, train

SIZES = {"hidden_size": 12, "heads": 3, "layers": 2, "gaussians": 11, "neighbours": 12, "cutoff": 6.0}


def test_attention_is_a_softmax_over_all_that_rows_stand_for():
    logits, counts, group = torch.randn(5, 2), torch.tensor([1.0, 3, 1, 2, 1]), torch.tensor([0, 0, 1, 1, 1])
    share = attention(logits, counts, group, 3)
    for g in range(2):
        repeated = logits[group == g].repeat_interleave(counts[group == g].long(), 0).softmax(0)
        owner = torch.arange(5)[group == g].repeat_interleave(counts[group == g].long())
        expected = torch.zeros(5, 2).index_add(0, owner, repeated)[group == g]
        torch.testing.assert_close(share[group == g], expected)


def test_a_layer_is_the_published_one_atom_by_atom():
    """Louis et al. 2020: both ends with the bond through W, one score of both for each head, softmax, mean of heads."""
    torch.manual_seed(1)
    graphs = build_graphs(decorated()[0][::70], neighbours=12, cutoff=6.0, merge=False)
    batch = graphs.batch(np.arange(len(graphs)))
    assert (batch.edge_counts == 1).all() and (batch.node_counts == 1).all()
    layer, size, heads = AugmentedAttention(6, 3), 6, 3
    with torch.no_grad():
        layer.bias.normal_()
    atoms, bonds = torch.randn(len(batch.numbers), size), torch.randn(len(batch.centres), size)
    weight = torch.cat([layer.from_atom.weight, layer.from_bond.weight], dim=1).T  # (2 H, K H)
    near, far = (
        softplus(torch.cat([atoms[end], bonds], dim=1) @ weight).view(-1, heads, size)
        for end in (batch.centres, batch.neighbours)
    )
    logits = softplus((torch.cat([near, far], dim=2) * layer.scores).sum(2))
    logits = softplus(torch.nn.BatchNorm1d(heads)(logits))
    for atom in range(len(atoms)):
        mine = batch.centres == atom
        share = logits[mine].softmax(0)  # (12, K)
        expected = (share[:, :, None] * far[mine]).sum(0).mean(0) + layer.bias
        torch.testing.assert_close(layer(atoms, bonds, batch)[atom], expected, atol=1e-5, rtol=1e-4)


def test_atoms_are_pooled_by_what_they_are_beside_the_composition():
    """Louis et al. 2020: a softmax over a crystal's atoms of a score of (atom ⊕ shares of the elements)."""
    torch.manual_seed(2)
    crystals = decorated()[0][::60]
    batch = build_graphs(crystals, neighbours=12, cutoff=6.0, merge=False).batch(np.arange(len(crystals)))
    network = GATGNN(**SIZES).eval()
    with torch.no_grad():
        network.attend.weight *= 30  # as drawn, every atom counts nearly alike
    made = torch.randn(len(batch.numbers), SIZES["hidden_size"])  # in place of the layers' atoms, which differ little
    network.norms[-1].register_forward_hook(lambda *_: made)
    found = network(batch)
    for k in range(len(crystals)):
        atoms = softplus(made[batch.crystals == k])
        numbers = torch.from_numpy(crystals[k : k + 1].numbers.astype(np.int64))
        shares = torch.bincount(numbers, minlength=104) / len(numbers)
        seen = torch.cat([atoms, shares.expand(len(atoms), -1)], dim=1)
        score = network.attend_score(softplus(network.attend(seen)))
        pooled = (score.softmax(0) * atoms).sum(0, keepdim=True)
        for layer in network.hidden:
            pooled = softplus(layer(pooled))
        torch.testing.assert_close(found[k], network.head(pooled)[0, 0], atol=1e-5, rtol=1e-4)


def test_merged_graphs_give_the_same_answers_and_gradients():
    crystals = decorated()[0][::60]
    found = []
    for merge in (False, True):
        torch.manual_seed(0)
        network = GATGNN(**SIZES)
        out = network(build_graphs(crystals, neighbours=12, cutoff=6.0, merge=merge).batch(np.arange(len(crystals))))
        (out * torch.arange(len(out))).sum().backward()
        found.append((out.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-5, rtol=1e-4)
    assert torch.cosine_similarity(found[0][1], found[1][1], dim=0) > 1 - 1e-6


def test_it_learns_a_regression_and_scores_from_its_file(tmp_path):
    crystals = decorated((8, 9, 11, 12, 17))[0]
    energy = labels(crystals)
    rows = np.random.default_rng(0).permutation(len(crystals))
    sizes = SIZES | {"shift": float(energy.mean()), "spread": float(energy.std())}
    made = GraphLearner(
        build_graphs(crystals, neighbours=12, cutoff=6.0),
        energy,
        np.ones(len(crystals)),
        training=rows[40:],
        validation=rows[:40],
        task="regression",
        hyperparameters=sizes,
        learning_rate=1e-2,
        weight_decay=0.0,
        batch_size=64,
        network_type=GATGNN,
        loss="mae",
    )
    train(
        made,
        Plan(
            description="test", n_rows=len(rows) - 40, epochs=15, batch_size=32, seed=1, digest="d",
            checkpoints=tmp_path / "c", checkpoint_minutes=60, metrics=tmp_path / "m.csv", device="cpu", threads=1,
        ),
    )  # fmt: skip
    made.use_best()
    error = np.abs(made.predict(rows[:40]) - energy[rows[:40]]).mean()
    assert error < 0.6 * np.abs(energy[rows[:40]] - energy.mean()).mean()
    state = made.network.state_dict()
    save_model(tmp_path / "m.ckpt", kind="gatgnn", task="regression", hyperparameters=sizes, state=state, facts={})
    scores = score_crystals(load_model(tmp_path / "m.ckpt"), crystals[rows[:40]], "cpu")
    np.testing.assert_allclose(scores, made.predict(rows[:40]), atol=1e-5)


@pytest.mark.parametrize("kind", ["bf16-mixed"])
def test_half_precision_stays_near(kind, tmp_path):
    crystals = decorated((8, 9, 11, 12, 17))[0]
    energy, found = labels(crystals), []
    for precision in ("32-true", kind):
        made = GraphLearner(
            build_graphs(crystals, neighbours=12, cutoff=6.0), energy, np.ones(len(crystals)),
            training=np.arange(100), validation=np.arange(100, 140), task="regression", hyperparameters=SIZES,
            learning_rate=1e-3, weight_decay=0.0, batch_size=64, network_type=GATGNN,
        )  # fmt: skip
        rows = train(
            made,
            Plan(
                description="test", n_rows=100, epochs=2, batch_size=50, seed=1, digest="d", precision=precision,
                checkpoints=tmp_path / precision, checkpoint_minutes=60, metrics=tmp_path / f"{precision}.csv",
                device="cpu", threads=1,
            ),
        )  # fmt: skip
        found.append(rows[-1]["train_loss"])
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_attention_in_a_group_does_not_depend_on_how_large_the_others_are():
    logits = torch.tensor([[0.0], [1.0], [3000.0], [3001.0]], requires_grad=True)
    share = attention(logits, torch.ones(4), torch.tensor([0, 0, 1, 1]), 2)
    torch.testing.assert_close(share[:2], share[2:])
    torch.testing.assert_close(share[:2, 0], torch.softmax(torch.tensor([0.0, 1.0]), 0))
    share[0].backward()
    assert logits.grad[0] > 0
