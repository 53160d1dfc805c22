"""CubicGAN's layers, descriptors, training and draws, on decorated prototypes."""

import csv

import numpy as np
import pytest
import torch
from crystals_for_models import decorated
from pydantic import ValidationError
from torch import nn

from sluice.config import GeneratorSettings
from sluice.config_generator import PAPER_SIZES, GanSizes
from sluice.errors import SluiceError
from sluice.models.cubicgan import SPACE_GROUPS, CubicGAN, PairConv, PairExpand
from sluice.models.cubicgan_descriptors import DESCRIPTORS, descriptor_table, fit_descriptors
from sluice.models.cubicgan_sampling import Sampler
from sluice.models.cubicgan_training import GanLearner, sort_sites
from sluice.models.favourites import UNLIKELY
from sluice.models.modelfile import load_model, save_model
from sluice.models.orbits import build_crystals, canonical_points, decompose, grid_index, space_group
from sluice.models.training import Plan, make_fabric, train

SMALL = {"epochs": 2, "batch_size": 32, "noise_size": 8, "critic_steps": 2}
ELEMENTS = np.array([3, 8, 9, 11, 12, 17])
QUATERNARY_ELEMENTS = ((3, 11, 19), (13, 21, 31), (37, 55), (9, 17))  # of each site


def quaternaries():
    """Elpasolites and quaternary Heuslers of four elements, each kind of element on a site of its own."""
    rng = np.random.default_rng(1)
    kinds = {225: [(0, 0, 0), (2, 2, 2), (1, 1, 1), (1, 0, 0)], 216: [(0, 0, 0), (2, 2, 2), (1, 1, 1), (3, 3, 3)]}
    numbers = np.repeat([225, 216], 60)
    points = np.array([grid_index(np.array(kinds[number])) for number in numbers])
    elements = np.array([[rng.choice(group) for group in QUATERNARY_ELEMENTS] for _ in numbers])
    return build_crystals(numbers, points, elements, rng.uniform(7, 9, len(numbers))), numbers


def learner(sites=3, **settings):
    crystals = decorated()[0] if sites == 3 else quaternaries()[0]
    data = decompose(crystals, SPACE_GROUPS, sites)
    assert len(data.index) == len(crystals)
    rows = np.random.default_rng(0).permutation(len(data.index))
    chosen = GeneratorSettings(base_sites=sites, **(SMALL | settings))
    return GanLearner(data, chosen, training=rows[20:], validation=rows[:20])


def trained(folder, made, precision="32-true"):
    train(
        made,
        Plan(
            description="test", n_rows=len(made.training), epochs=made.settings.epochs, batch_size=32, seed=1,
            digest="d", checkpoints=folder / "checkpoints", checkpoint_minutes=60, metrics=folder / "metrics.csv",
            device="cpu", precision=precision, threads=1,
        ),
    )  # fmt: skip
    groups = np.bincount(made.groups[made.training], minlength=3).tolist()
    facts = {"space_group_counts": groups, "random_elements": made.settings.random_elements}
    save_model(
        folder / "m.ckpt", kind="cubicgan", task="generation", hyperparameters=made.hyperparameters,
        state=made.weights(), facts=facts,
    )  # fmt: skip
    return load_model(folder / "m.ckpt")


def test_the_authors_23_descriptors_are_scaled_by_the_elements_given():
    assert len(DESCRIPTORS) == 23
    table = fit_descriptors(ELEMENTS)
    assert table.shape == (104, 23)
    inside = table[ELEMENTS]
    assert inside.min() == 0 and inside.max() == 1
    number = list(DESCRIPTORS).index("atomic number")
    np.testing.assert_allclose(table[[3, 17, 55], number], [0, 1, 52 / 14], rtol=1e-6)
    halogen = list(DESCRIPTORS).index("halogen")
    assert table[[9, 17, 53, 11], halogen].tolist() == [1, 1, 1, 0]
    assert np.isnan(descriptor_table()[2]).any()  # helium has no electronegativity …
    assert np.isfinite(table).all()  # … and takes the mean


def test_layers_of_pairs_are_torchs_convolutions():
    torch.manual_seed(0)
    x = torch.randn(5, 3, 7)  # (B, L, C)
    narrow, conv = PairConv(7, 4), nn.Conv1d(7, 4, 2)
    weight = narrow.linear.weight.detach()  # (4, 2 · 7): first neighbour, then second
    conv.weight.data = torch.stack([weight[:, :7], weight[:, 7:]], dim=2)
    conv.bias.data = narrow.linear.bias.detach()
    torch.testing.assert_close(narrow(x), conv(x.transpose(1, 2)).transpose(1, 2))
    wide, transposed = PairExpand(7, 4), nn.ConvTranspose1d(7, 4, 2)
    weight = wide.linear.weight.detach()  # (2 · 4, 7)
    transposed.weight.data = torch.stack([weight[:4].T, weight[4:].T], dim=2)
    transposed.bias.data = wide.bias.detach()
    torch.testing.assert_close(wide(x), transposed(x.transpose(1, 2)).transpose(1, 2))


def test_the_papers_widths_are_a_preset_that_can_be_changed():
    assert GanSizes(preset="paper").model_dump(exclude={"preset"}) == PAPER_SIZES
    assert GanSizes(preset="paper", site=32).site == 32
    assert GanSizes.model_validate(GanSizes(preset="paper").model_dump(mode="json")) == GanSizes(preset="paper")
    with pytest.raises(ValidationError, match="preset"):
        GanSizes(preset="huge")


@pytest.mark.parametrize(("sites", "flat"), [(3, 4096), (4, 8192)])
def test_the_papers_networks(sites, flat):
    network = CubicGAN(sites=sites, noise_size=128, sizes={"preset": "paper"}, length_range=(3, 9))
    assert network.critic.dense[0].in_features == flat
    assert network.generator.dense.out_features == sites * 128
    with torch.no_grad():
        coordinates, lengths = network(
            torch.randn(2, 128), torch.tensor([0, 2]), torch.ones(2, sites, dtype=torch.int64)
        )
        opinion = network.judge(coordinates, lengths, torch.tensor([0, 2]), torch.ones(2, sites, dtype=torch.int64))
    assert coordinates.shape == (2, sites, 3) and lengths.shape == opinion.shape == (2,)


def set_up(made):
    fabric = make_fabric("cpu", "32-true")
    fabric.seed_everything(0, verbose=False)
    made.set_up(fabric)
    return torch.from_numpy(made.training[:32])


@pytest.mark.parametrize("mixing", ["uniform", "normal"])
def test_where_the_critics_slope_is_measured(mixing, monkeypatch):
    """Between real and made crystals; the published code's normal coefficient also lies beyond both."""
    made = learner(mixing=mixing)
    rows = set_up(made)
    real, fake = made._real(rows), made._fake(rows).detach()
    monkeypatch.setattr(made, "_real", lambda _: real)
    monkeypatch.setattr(made, "_fake", lambda _: fake)
    seen = []
    made.critic.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    made._critic_step(rows, torch.ones(()))
    mixed = next(x for x in seen if len(x) == len(rows))
    gap = (real - fake).flatten(1)
    share = ((mixed - fake).flatten(1) * gap).sum(1) / gap.square().sum(1)
    torch.testing.assert_close(
        mixed, share[:, None, None] * real + (1 - share[:, None, None]) * fake, atol=1e-5, rtol=0
    )
    outside = ((share < 0) | (share > 1)).float().mean()
    assert (outside == 0) if mixing == "uniform" else (0.4 < outside < 0.95)  # 66 % of N(0, 1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_elements_of_made_crystals_are_the_real_ones_or_drawn(share):
    made = learner(random_elements=share)
    rows = set_up(made)
    real = made._features[made._elements[rows]]
    drawn = made._fake(rows)[:, :, 3:26]  # after the coordinates
    same = [torch.equal(a, b) for a, b in zip(drawn, real, strict=True)]
    assert all(same) if share == 0 else sum(same) < len(same) / 2


def test_dropout_is_where_it_is_asked_for():
    network = CubicGAN(**learner(dropout=0.5, critic_dropout=0.25).hyperparameters)
    for part, expected in ((network.generator, 0.5), (network.critic, 0.25)):
        assert {m.p for m in part.modules() if isinstance(m, nn.Dropout)} == {expected}
    assert not any(m.p for m in CubicGAN(**learner().hyperparameters).modules() if isinstance(m, nn.Dropout))


@pytest.mark.parametrize("weight", [0.0, 10.0])
def test_the_lattice_head_learns_from_real_crystals_if_it_is_to(weight):
    """Other lattice constants of the same crystals: the published generator's step does not see them."""
    after = []
    for factor in (1.0, 0.5):
        made = learner(lattice_weight=weight)
        rows = set_up(made)
        made._lengths = made._lengths * factor
        made._generator_step(rows, torch.ones(()))
        after.append(torch.cat([p.detach().flatten() for p in made.generator.parameters()]))
    assert torch.equal(*after) == (weight == 0.0)


@pytest.mark.parametrize(("inputs", "same"), [("coordinates", True), ("crystal", False)])
def test_what_the_lattice_head_sees(inputs, same):
    made = learner(lattice_inputs=inputs)
    rows = set_up(made)
    given = made._coordinates[rows], made._groups[rows], made._features[made._elements[rows]]
    other = made.generator.lattice_constant(*given[:2], torch.zeros_like(given[2]))
    assert torch.equal(made.generator.lattice_constant(*given), other) == same


def test_training_in_bf16_learns_too(tmp_path):
    made = learner(epochs=6)
    trained(tmp_path, made, "bf16-mixed")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["lattice_loss"]) < float(rows[0]["lattice_loss"]) / 5
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in made.weights().values())


def test_quaternaries_are_learned_and_drawn(tmp_path):
    """Draws have elements at random; most of those that are crystals are elpasolites, the arrangement learnt."""
    made = learner(sites=4, epochs=300, learning_rate=2e-3, batch_size=16)
    model = trained(tmp_path, made)
    elements = np.array(sum(QUATERNARY_ELEMENTS, ()))
    sampler = Sampler(model, elements=elements, space_groups=(225,), critic_share=1.0, device="cpu")
    draws = sampler.draw(np.random.default_rng(0), 500)
    assert set(draws.space_groups.tolist()) == {225}
    good = draws.reasons == ""
    assert good.mean() > 0.25
    elpasolite = grid_index(np.array([[(0, 0, 0), (2, 2, 2), (1, 1, 1), (1, 0, 0)]]))
    found, known = (
        np.sort(canonical_points(np.full(len(points), 225), points)) for points in (draws.points[good], elpasolite)
    )
    assert (found == known).all(axis=1).mean() > 0.5
    crystals = draws.crystals(good)
    for i in range(len(crystals)):
        assert len(set(crystals.numbers[crystals.atoms_of(i)].tolist())) == 4


def test_the_critic_keeps_its_favourites(tmp_path):
    torch.manual_seed(3)
    hyperparameters = {"sites": 3, "noise_size": 8, "sizes": {}, "length_range": [3.5, 9.0]}
    network = CubicGAN(**hyperparameters)
    with torch.no_grad():  # an untrained tanh stays near its middle: spread it over the grid
        for parameter in (*network.generator.dense.parameters(), *network.generator.coordinates.parameters()):
            parameter.mul_(3)
    save_model(
        tmp_path / "m.ckpt", kind="cubicgan", task="generation", hyperparameters=hyperparameters,
        state=network.state_dict(), facts={"space_group_counts": [1, 2, 1], "random_elements": 0.5},
    )  # fmt: skip
    model = load_model(tmp_path / "m.ckpt")
    everything = {"elements": ELEMENTS, "space_groups": SPACE_GROUPS, "device": "cpu"}
    kept = Sampler(model, critic_share=0.05, **everything).draw(np.random.default_rng(0), 400)
    drawn = Sampler(model, critic_share=1.0, **everything).draw(np.random.default_rng(0), 400)
    np.testing.assert_array_equal(kept.points, drawn.points)
    chosen, possible = kept.reasons == "", drawn.reasons == ""
    assert chosen.sum() == min(20, possible.sum()) > 0
    passed_over = kept.reasons == UNLIKELY
    assert (chosen | passed_over).tolist() == possible.tolist()
    if passed_over.any():
        assert kept.critic[chosen].min() >= kept.critic[passed_over].max()


def test_impossible_draws_are_refused(tmp_path):
    model = trained(tmp_path, learner(epochs=1))
    given = {"elements": ELEMENTS, "space_groups": SPACE_GROUPS, "critic_share": 1.0, "device": "cpu"}
    for changes, message in (
        ({"critic_share": 0.5}, "critic never learned"),
        ({"elements": ELEMENTS[:2]}, "only 2 may be drawn"),
        ({"space_groups": ()}, "trained on no crystal"),
    ):
        with pytest.raises(SluiceError, match=message):
            Sampler(model, **(given | changes))


def test_descriptions_of_one_crystal_have_one_form():
    """Shifting the origin of rock salt's frame exchanges 4a and 4b, in zinc blende's all four sites go round."""
    rng = np.random.default_rng(0)
    for number in SPACE_GROUPS:
        group = space_group(number)
        for _ in range(20):
            orbits = rng.choice(len(group.representative), 3, replace=False)
            forms = group.representative[group.equivalents[:, orbits]]
            same = canonical_points(np.full(len(forms), number), forms)
            assert (same == same[0]).all()
            assert any((form == same[0]).all() for form in forms)
    heusler = np.array([[0, 42, 21], [42, 0, 21], [0, 21, 42]])
    found = canonical_points(np.full(3, 225), heusler).tolist()
    assert found[0] == found[1] != found[2]


def test_sites_are_sorted_by_electronegativity():
    elements = np.array([[9, 19, 12], [8, 3, 16]])
    assert np.take_along_axis(elements, sort_sites(elements), axis=1).tolist() == [[19, 12, 9], [3, 16, 8]]
