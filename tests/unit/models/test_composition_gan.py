"""WGAN and MatGAN: printed sizes, the critic's formula, training and resume, draws and their census."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sluice.chemistry.composition_keys import composition_keys
from sluice.chemistry.compositions import Compositions
from sluice.chemistry.encodings import OneHotCounts
from sluice.config_composition_gan import CompositionGanSettings
from sluice.errors import SluiceError
from sluice.models import composition_sampling
from sluice.models.composition_gan_training import (
    CompositionGanLearner,
    SparseMatrices,
    hold_out,
    make_gan,
    train_composition_gan,
)
from sluice.models.composition_sampling import (
    EMPTY,
    ONE_ELEMENT,
    TOO_MANY,
    TWO_COUNTS,
    CompositionSampler,
    decode_matrices,
    sampled_matrices,
    take_census,
)
from sluice.models.favourites import UNLIKELY
from sluice.models.matgan import Matgan
from sluice.models.training import Plan, train
from sluice.models.wgan import Wgan

ELEMENTS = ("Li", "O", "Na", "Mg", "S", "Cl", "Ti", "Fe", "Sr", "Ba")
SMALL = {"elements": ELEMENTS, "max_count": 4}  # instead of 85 and eight


def oxides():
    metals = [symbol for symbol in ELEMENTS if symbol not in ("O", "S", "Cl")]
    return Compositions.from_formulas(
        [
            f"{m}{a}{x}{b}"
            for m, x in itertools.product(metals, ("O", "S", "Cl"))
            for a, b in ((1, 1), (2, 1), (1, 2), (2, 3))
        ]
    )


def settings(**values):
    return CompositionGanSettings(
        **{"noise_size": 8, "embedding_size": 6, "critic_widths": (5,), "batch_size": 16, "steps": 10} | values
    )


def sizes(network):
    shapes = [network.generator.start]
    x = torch.zeros(1, *network.generator.start)
    for layer in network.generator.layers:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    return shapes


def test_printed_sizes():
    assert sizes(Wgan()) == [(256, 5, 4), (128, 11, 8), (64, 22, 8), (32, 43, 8), (1, 85, 8)]
    matgan = Matgan()
    assert [shape[1:] for shape in sizes(matgan)] == [(6, 4), *[(11, 8)] * 2, *[(22, 8)] * 2, *[(43, 8)] * 2, (85, 8)]
    assert matgan.generator.dense.out_features == 6144
    assert len(matgan.critic.layers) == len(matgan.generator.layers) == 7
    assert matgan.critic.output.in_features == 6 * 4 * 256


def test_critic_sums_counts_times_vectors():
    network, compositions = Wgan(embedding_size=7).eval(), Compositions.from_formulas(["SrTiO3", "Fe2O3"])
    matrices = torch.from_numpy(network.encoding.encode(compositions))
    sums = torch.from_numpy(network.element_encoding("counts").encode(compositions))
    assert torch.allclose(network.critic(matrices), network.critic.head(sums).squeeze(1), atol=1e-5)


def test_elements_outside_the_matrices_have_no_vector():
    found = Wgan(embedding_size=3).element_encoding().problems(Compositions.from_formulas(["SrTiO3", "KrF2"]))
    assert found[0] == ""
    assert "Kr" in found[1]


def test_sparse_matrices_are_those_of_the_encoding():
    compositions, encoding = oxides(), OneHotCounts()
    rows = np.array([5, 0, 5, len(compositions) - 1])
    found = SparseMatrices.of(compositions, encoding).dense(rows)
    np.testing.assert_array_equal(found, encoding.encode(compositions[rows]))


def test_compositions_outside_the_matrices_are_refused():
    with pytest.raises(SluiceError, match=r"number 2: .*12"):
        SparseMatrices.of(Compositions.from_formulas(["FeO", "Fe12O"]), OneHotCounts())


def fit(folder, chosen, learner=None):
    compositions = oxides()
    training, validation = hold_out(len(compositions), 0.25, 1)
    made = learner or CompositionGanLearner(
        compositions, chosen, training=training, validation=validation, epochs=3, **SMALL
    )
    plan = Plan(
        description="test", n_rows=len(training), epochs=3, batch_size=16, seed=1, digest="d", threads=1, device="cpu",
        checkpoints=folder / "checkpoints", checkpoint_minutes=1e-9, metrics=folder / "metrics.csv",
    )  # fmt: skip
    return made, train(made, plan)


RECIPES = [
    {"critic_steps": 2},
    {"constraint": "penalty", "average": 0.9},
    {"model": "matgan", "constraint": "penalty", "optimizer": "adam", "critic_steps": 1, "keep": "last"},
    {"model": "matgan", "constraint": "penalty", "penalty_every": 3, "width": 0.5, "keep": "last"},
]


@pytest.mark.parametrize("values", RECIPES, ids=["clipping", "penalty", "matgan", "cheaper matgan"])
def test_interrupted_training_ends_with_the_same_bits(tmp_path, values):
    whole, rows = fit(tmp_path / "whole", settings(**values))
    training, validation = hold_out(len(oxides()), 0.25, 1)
    killed = CompositionGanLearner(
        oxides(), settings(**values), training=training, validation=validation, epochs=3, **SMALL
    )
    taken, step = [], killed.step

    def fail(index, progress):
        taken.append(0)
        if len(taken) == 7:
            raise RuntimeError("killed")
        return step(index, progress)

    killed.step = fail
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "part", settings(**values), killed)
    again, rows_again = fit(tmp_path / "part", settings(**values))
    assert rows_again == rows
    assert again.steps_done == whole.steps_done
    for name, value in whole.weights().items():
        assert torch.equal(value, again.weights()[name]), name
    for name, value in whole.state()["critic"].items():
        assert torch.equal(value, again.state()["critic"][name]), name


def test_clipping_bounds_the_critic(tmp_path):
    learner, rows = fit(tmp_path, settings(clip=0.02))
    assert max(float(weight.detach().abs().max()) for weight in learner.critic.parameters()) <= 0.02 + 1e-7
    assert "gradient_penalty" not in rows[0]


def test_a_penalty_taken_seldom_weighs_as_much(tmp_path):
    (_, always), (_, seldom) = (
        fit(tmp_path / str(n), settings(constraint="penalty", penalty_every=n, critic_rate=1e-12)) for n in (1, 2)
    )
    # An untrained critic's slopes hardly differ between batches.
    assert seldom[0]["gradient_penalty"] == pytest.approx(always[0]["gradient_penalty"], rel=0.35)


@pytest.mark.parametrize(("width", "first", "last"), [(1.0, 256, 32), (0.25, 64, 8), (0.001, 1, 1)])
def test_width_is_a_share_of_the_published_channels(width, first, last):
    network = Matgan(width=width)
    assert network.generator.start == (first, 6, 4)
    assert network.generator.layers[-1].in_channels == last
    assert network.critic.layers[0].out_channels == last
    assert network.generator(torch.zeros(2, 128)).shape == (2, 85, 8)
    assert network.critic(torch.zeros(2, 85, 8)).shape == (2,)


def test_kept_is_the_smallest_loss_behind_the_warm_up(tmp_path):
    learner, rows = fit(tmp_path, settings(warm_up=0.5))
    assert learner.first_kept == 2
    assert learner.best_loss == rows[2]["val_critic_loss"]


def test_training_refuses_too_few(tmp_path):
    with pytest.raises(SluiceError, match="too few"):
        train_composition_gan(
            oxides()[:1], settings(), seed=1, checkpoints=tmp_path, metrics=tmp_path / "m.csv", device="cpu"
        )


@pytest.mark.parametrize("values", [{"validation_share": 0.0}, {"validation_share": 0.95}, {"clip": 0}, {"model": "x"}])
def test_bad_settings_are_refused(values):
    with pytest.raises(ValidationError):
        settings(**values)


def test_draws_that_are_no_composition_are_counted_by_reason():
    encoding = OneHotCounts()
    values = np.concatenate([encoding.encode(Compositions.from_formulas(["Fe2O2", "SrTiO3"])), np.zeros((4, 85, 8))])
    values[3, 5, :2] = 1  # two counts
    values[3, 6, 0] = 1
    values[4, 5, 3] = 0.7  # one element
    values[5, :9, 0] = 1  # nine elements
    found = decode_matrices(values.astype(np.float32), encoding.numbers)
    assert found.compositions.formulas() == ["OFe", "O3TiSr"]
    assert found.reason.tolist() == [0, 0, 1, 2, 3, 4]
    assert found.rejected == {EMPTY: 1, TWO_COUNTS: 1, ONE_ELEMENT: 1, TOO_MANY: 1, UNLIKELY: 0}


def test_sampled_matrices_have_the_probabilities_as_their_mean():
    probabilities = np.zeros((1, 3, 4), np.float32)
    probabilities[0, 0] = [0.1, 0.2, 0.3, 0.0]
    probabilities[0, 1] = [0.9, 0.9, 0.0, 0.2]  # more than one: scaled to 0.45, 0.45, 0, 0.1
    chance = np.random.default_rng(2).random((20_000, 3), dtype=np.float32)
    found = sampled_matrices(np.repeat(probabilities, 20_000, axis=0), chance)
    assert found.sum(axis=2).max() == 1
    expected = [[0.1, 0.2, 0.3, 0.0], [0.45, 0.45, 0.0, 0.1], [0, 0, 0, 0]]
    np.testing.assert_allclose(found.mean(axis=0), expected, atol=0.015)
    certain = OneHotCounts().encode(Compositions.from_formulas(["SrTiO3", "Fe2O3"]))
    np.testing.assert_array_equal(sampled_matrices(certain, np.random.default_rng(0).random((2, 85))), certain)


class Fixed:
    """A sampler whose draws are known."""

    def __init__(self, formulas):
        self.formulas = formulas

    def draw(self, n, seed, first=0):
        for start in range(0, n, 3):
            part = Compositions.from_formulas(self.formulas[start : start + 3])
            yield composition_sampling.Draw(part, np.zeros(len(part), np.int64))


def test_census_counts_by_hand(tmp_path):
    formulas = ["NaCl", "Na2Cl2", "LiF2", "MgO", "KBr", "KBr"]
    known, held_out = (composition_keys(Compositions.from_formulas(f)) for f in (["NaCl", "MgO"], ["K2Br2", "CaO"]))
    census = take_census(
        Fixed(formulas), 6, 0, known=known, held_out=held_out, table="smact14", scratch=tmp_path / "scratch"
    )
    assert census.recovered == 0.5
    assert (census.drawn, census.decoded, census.distinct) == (6, 6, 4)
    assert (census.novel, census.distinct_novel) == (3, 2)  # LiF2, KBr, KBr
    assert (census.neutral, census.distinct_neutral) == (5, 3)  # all but LiF2
    assert (census.ordered, census.valid_novel, census.distinct_valid_novel) == (5, 2, 1)
    assert census.shares()["unique"] == pytest.approx(4 / 6)
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("decoding", ["threshold", "sampled"])
def test_draws_depend_on_seed_and_batch_only(decoding, monkeypatch):
    monkeypatch.setattr(composition_sampling, "BATCH", 16)
    network, _ = make_gan(CompositionGanSettings(noise_size=4))
    sampler = CompositionSampler(network, threshold=0.52, decoding=decoding, device="cpu")
    whole = list(sampler.draw(40, 7))
    assert [len(d.reason) for d in whole] == [16, 16, 8]
    assert [len(d.compositions) for d in whole] == [int((d.reason == 0).sum()) for d in whole]
    (second,) = sampler.draw(16, 7, first=1)
    np.testing.assert_array_equal(second.reason, whole[1].reason)
    assert second.compositions.formulas() == whole[1].compositions.formulas()


def test_the_critics_favourites_go_on(monkeypatch):
    monkeypatch.setattr(composition_sampling, "BATCH", 64)
    network, _ = make_gan(CompositionGanSettings(model="matgan", width=0.1, noise_size=4), ["Li", "O", "F", "Na"], 3)
    with torch.no_grad():
        network.generator.layers[-1].bias -= 1.0
    (drawn,) = CompositionSampler(network, decoding="sampled", device="cpu").draw(64, 7)
    (found,) = CompositionSampler(network, decoding="sampled", critic_share=0.1, device="cpu").draw(64, 7)
    possible = np.flatnonzero(drawn.reason == 0)
    assert len(possible) > 7 == len(found.compositions)
    matrices = torch.from_numpy(SparseMatrices.of(drawn.compositions, network.encoding).dense(np.arange(len(possible))))
    with torch.no_grad():
        best = np.sort(network.critic(matrices).argsort(descending=True, stable=True)[:7].numpy())
    np.testing.assert_array_equal(np.flatnonzero(found.reason == 0), possible[best])
    assert found.compositions.formulas() == drawn.compositions[best].formulas()
    assert found.rejected[UNLIKELY] == len(possible) - 7 and drawn.rejected[UNLIKELY] == 0
    assert sum(found.rejected.values()) + 7 == 64


def test_no_composition_no_favourites():
    network, _ = make_gan(CompositionGanSettings(model="matgan", width=0.1, noise_size=4), ["Li", "O"], 2)
    (found,) = CompositionSampler(network, threshold=0.999, critic_share=0.5, device="cpu").draw(20, 7)
    assert len(found.compositions) == 0 and found.rejected[EMPTY] == 20
