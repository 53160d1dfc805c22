import numpy as np
import pytest
import torch
from crystals_for_models import decorated

from sluice.models.graphs import GraphBatch, build_graphs
from sluice.models.layers import Dense, Norm, _GatedSum, bond_features, expand, gated_sum, shares


@pytest.mark.parametrize("bags", [None, 3])
def test_derivative_of_the_gated_sum(bags):
    torch.manual_seed(0)
    lead = () if bags is None else (bags,)
    z, weight, bias = (
        torch.randn(*lead, *size, dtype=torch.double, requires_grad=True) for size in ((20, 6), (6,), (6,))
    )
    counts = torch.randint(1, 4, (20,)).double()
    share, _ = shares(torch.rand(*lead, 20).double())
    centres = torch.sort(torch.randint(0, 5, (20,)))[0]
    assert torch.autograd.gradcheck(
        lambda *given: _GatedSum.apply(*given, share, counts, centres, 6)[0], (z, weight, bias)
    )


def test_rows_that_count_several_times_are_like_repeated_rows():
    torch.manual_seed(1)
    counts = torch.tensor([1, 3, 2, 5, 1])
    x = torch.randn(5, 4)
    mine, theirs = Norm(4), torch.nn.BatchNorm1d(4)
    found = mine(x, counts.float())
    expected = theirs(x.repeat_interleave(counts, dim=0))
    torch.testing.assert_close(found.repeat_interleave(counts, dim=0), expected, atol=1e-5, rtol=1e-5)
    # The first batch counts in full here, a tenth in torch.
    torch.testing.assert_close(mine.running_mean, theirs.running_mean / 0.1)
    torch.testing.assert_close(mine.running_var, (theirs.running_var - 0.9) / 0.1)
    theirs.running_mean.copy_(mine.running_mean), theirs.running_var.copy_(mine.running_var)
    mine.eval(), theirs.eval()
    torch.testing.assert_close(mine(x, counts.float()), theirs(x), atol=1e-5, rtol=1e-5)


def test_gated_sum_is_the_published_formula():
    torch.manual_seed(2)
    z, counts, centres = (
        torch.randn(7, 8),
        torch.tensor([1, 1, 2, 1, 3, 1, 1]).float(),
        torch.tensor([0, 0, 1, 1, 1, 3, 3]),
    )
    norm, theirs = Norm(8), torch.nn.BatchNorm1d(8)
    ones = torch.ones(4)
    batch = GraphBatch(
        numbers=ones.long(),
        node_counts=ones,
        crystals=ones.long(),
        centres=centres,
        neighbours=centres,
        distances=counts,
        edge_counts=counts,
        n_atoms=ones,
    )
    found = gated_sum(z, norm, counts, batch)
    repeat = counts.long()
    gate, core = theirs(z.repeat_interleave(repeat, 0)).chunk(2, dim=1)
    message = torch.sigmoid(gate) * torch.nn.functional.softplus(core)
    expected = torch.zeros(4, 4).index_add(0, centres.repeat_interleave(repeat), message)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found[2] == 0).all()
    theirs.running_mean.copy_(norm.running_mean), theirs.running_var.copy_(norm.running_var)
    norm.eval(), theirs.eval()
    gate, core = theirs(z.repeat_interleave(repeat, 0)).chunk(2, dim=1)
    message = torch.sigmoid(gate) * torch.nn.functional.softplus(core)
    expected = torch.zeros(4, 4).index_add(0, centres.repeat_interleave(repeat), message)
    torch.testing.assert_close(gated_sum(z, norm, counts, batch), expected, atol=1e-5, rtol=1e-5)


def test_bags_are_independent():
    torch.manual_seed(3)
    many = Dense(4, 2, bags=3)
    x = torch.randn(5, 4)
    for bag in range(3):
        torch.testing.assert_close(many(x)[bag], x @ many.weight[bag].T + many.bias[bag])


def test_running_statistics_are_a_mean_first_and_forget_later():
    norm, counts = Norm(1), torch.ones(4)
    seen = [torch.full((4, 1), float(k)) + torch.tensor([[0.0], [0], [0], [4]]) for k in range(40)]
    for k, batch in enumerate(seen):
        norm(batch, counts)
        if k == 4:
            torch.testing.assert_close(norm.running_mean, torch.tensor([3.0]))  # of 1 … 5
    assert 25 < norm.running_mean.item() < 39


def test_a_bag_without_rows_in_a_batch_keeps_its_statistics():
    norm = Norm(2, bags=2)
    rows = torch.randn(2, 5, 2)
    norm(rows, torch.tensor([[1.0] * 5, [1.0] * 5]))
    before = norm.running_mean.clone(), norm.running_var.clone()
    norm(rows + 1, torch.tensor([[1.0] * 5, [0.0] * 5]))
    assert torch.equal(norm.running_mean[1], before[0][1]) and torch.equal(norm.running_var[1], before[1][1])
    assert (norm.running_mean[0] > before[0][0]).all()


def test_gaussians_far_beyond_the_longest_bond_are_left_out_and_change_nothing():
    batch = build_graphs(decorated()[0][:4], neighbours=12, cutoff=16.0).batch(np.arange(4))
    centres = torch.linspace(0, 16.0, 81)
    whole, short = expand(batch.distances, centres), bond_features(batch, centres, 16.0)
    used = short.shape[1]
    assert used < 50 and torch.equal(short, whole[:, :used])
    assert whole[:, used:].max() < 1e-15
    dense = Dense(81, 7, bias=False)
    torch.testing.assert_close(dense(short), dense(whole))
    gradients = [torch.autograd.grad((dense(bonds) ** 2).sum(), dense.weight)[0] for bonds in (short, whole)]
    torch.testing.assert_close(*gradients)


def test_gaussians_are_expanded_once_for_a_batch_and_anew_at_another_size():
    batch = build_graphs(decorated()[0][:2], neighbours=12, cutoff=6.0).batch(np.arange(2))
    centres = torch.linspace(0, 6.0, 7)
    first = bond_features(batch, centres, 6.0)
    assert bond_features(batch, centres, 6.0) is first
    grown = batch.scaled(torch.tensor([1.1, 0.9]))
    torch.testing.assert_close(bond_features(grown, centres, 6.0), expand(grown.distances, centres))
    assert not torch.equal(bond_features(grown, centres, 6.0), first)
    assert bond_features(batch, torch.linspace(0, 6.0, 9), 6.0).shape[1] == 9
