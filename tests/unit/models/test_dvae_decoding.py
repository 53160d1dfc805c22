"""A disentangled VAE with two target properties, from training to decoded and scored alloys."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sluice.chemistry.alloy_features import PUBLISHED, AlloyElements, alloy_features
from sluice.cli import app
from sluice.models.cgcnn import CGCNN
from sluice.models.dvae import DisentangledVAE
from sluice.models.dvae_decoding import decode_alloys, formula_of, network_of, whole_percent
from sluice.models.dvae_training import AlloyTable, DvaeLearner, save_dvae
from sluice.models.modelfile import Model, ModelError, load_model
from sluice.models.training import Plan, train

ELEMENTS = AlloyElements.from_tables(
    {
        "Fe": {"k": 170.0, "vm": 7.0, "tm": 1800.0, "vac": 8, "ar": 140.0, "chi": 1.8},
        "Ni": {"k": 180.0, "vm": 6.6, "tm": 1700.0, "vac": 10, "ar": 130.0, "chi": 1.9},
        "Al": {"k": 76.0, "vm": 10.0, "tm": 933.0, "vac": 3, "ar": 125.0, "chi": 1.6},
    },
    {"Fe,Ni": -2.0, "Al,Fe": -11.0, "Al,Ni": -22.0},
)
TARGETS = ("soft", "magnetic")


def made_up(n=300, seed=0):
    """Alloys of four kinds: soft ones hold much aluminium, the rest of magnetic ones is mostly iron, else nickel."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (n, 2)).astype(float)
    aluminium, iron = 0.1 + 0.5 * targets[:, 0], 0.2 + 0.6 * targets[:, 1]
    centres = np.stack([(1 - aluminium) * iron, (1 - aluminium) * (1 - iron), aluminium], 1)
    fractions = np.array([rng.dirichlet(40 * centre) for centre in centres])
    everything = np.zeros((n, 3))
    everything[:, [ELEMENTS.symbols.index(symbol) for symbol in ("Fe", "Ni", "Al")]] = fractions
    return fractions, alloy_features(everything, ELEMENTS), targets


def table(**changes):
    fractions, features, targets = made_up()
    values = {
        "fractions": fractions,
        "features": features,
        "targets": targets,
        "labelled": np.tile(np.arange(200), (2, 1)),
        "unlabelled": np.tile(np.arange(200, 250), (2, 1)),
        "validation": np.arange(250, 300),
        "target_names": TARGETS,
    }
    return AlloyTable(**(values | changes))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The file of two members trained on two targets."""
    folder = tmp_path_factory.mktemp("two_targets")
    sizes = {"elements": ["Fe", "Ni", "Al"], "features": list(PUBLISHED), "hidden": [16, 16]}
    learner = DvaeLearner(
        table(), sizes, [0, 1], learning_rate=5e-3, plateau_epochs=50, aux=10.0, init_std=None, keep="last"
    )
    train(
        learner,
        Plan(
            description="two targets",
            n_rows=250,
            epochs=30,
            batch_size=25,
            seed=1,
            digest="d",
            checkpoints=folder / "checkpoints",
            checkpoint_minutes=10.0,
            metrics=folder / "metrics.csv",
            device="cpu",
            threads=1,
        ),
    )
    learner.finish()
    save_dvae(folder / "model.ckpt", learner, ELEMENTS, [])
    return folder / "model.ckpt"


@pytest.mark.parametrize(("soft", "magnetic"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_decoded_alloys_have_the_wanted_pair_of_properties(model, soft, magnetic):
    network = network_of(load_model(model))
    assert network.targets == TARGETS and torch.equal(network.prior_target, torch.tensor([0.5, 0.5]))
    z = np.random.default_rng(1).normal(scale=network.prior_scale, size=(200, 2))
    for member in range(2):
        percent = decode_alloys(network, {"magnetic": magnetic, "soft": soft}, z, member)
        assert percent.shape == (200, 3) and (percent.sum(1) == 100).all()
        iron, nickel, aluminium = percent.T
        assert ((aluminium > 33) == bool(soft)).mean() > 0.7 and ((iron > nickel) == bool(magnetic)).mean() > 0.7
    assert (decode_alloys(network, {"soft": soft, "magnetic": magnetic}, z[7], 1) == percent[7]).all()


def test_each_target_is_scored_in_a_column_of_its_own(model, tmp_path):
    fractions, features, targets = made_up(40, seed=5)
    names = [formula_of(row, ("Fe", "Ni", "Al")) for row in whole_percent(fractions)]
    (tmp_path / "in.csv").write_text("formula\n" + "\n".join([*names, "Xx"]) + "\n")
    (tmp_path / "known.csv").write_text(
        "id,magnetic,density\n" + "".join(f"{n},{t:g},1\n" for n, t in zip(names, targets[:, 1], strict=True))
    )

    def score(column):
        labels = ["--labels", str(tmp_path / "known.csv"), "--label-column", column, "--classes"]
        return CliRunner().invoke(
            app, ["score", str(model), str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), *labels]
        )

    result = score("magnetic")
    assert result.exit_code == 0, result.output
    with (tmp_path / "out.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["id", "formula", "score_soft", "score_magnetic", "reason"]
    assert rows[-1]["score_soft"] == rows[-1]["score_magnetic"] == "" and "Xx" in rows[-1]["reason"]
    scores = np.array([[float(row[f"score_{name}"]) for name in TARGETS] for row in rows[:-1]])
    assert ((scores > 0.5) == (targets > 0.5)).mean(0).min() > 0.85
    expected = network_of(load_model(model)).probabilities(torch.tensor(features, dtype=torch.float32)).mean(0)
    assert np.abs(scores - expected.detach().numpy()).mean() < 0.03  # of formulas in whole per cent
    auc = (scores[targets[:, 1] == 1, 1][:, None] > scores[targets[:, 1] == 0, 1]).mean()
    assert f"{auc:.4f}" in result.output  # of the second target
    other = score("density")
    assert other.exit_code != 0 and "the model's targets are soft, magnetic" in " ".join(other.output.split())


@pytest.mark.parametrize(
    ("labels", "position", "member", "message"),
    [
        ({"soft": 1}, [0, 0], 0, "targets are soft, magnetic"),
        ({"soft": 1, "magnetic": 0, "hard": 1}, [0, 0], 0, "labels for hard, magnetic, soft"),
        ({"soft": 2, "magnetic": 0}, [0, 0], 0, "between 0 and 1"),
        ({"soft": np.nan, "magnetic": 0}, [0, 0], 0, "between 0 and 1"),
        ({"soft": 1, "magnetic": 0}, [0, 0, 0], 0, "must be 2 finite numbers"),
        ({"soft": 1, "magnetic": 0}, [0, np.inf], 0, "must be 2 finite numbers"),
        ({"soft": 1, "magnetic": 0}, [0, 0], 2, "members 0 to 1"),
    ],
)
def test_what_cannot_be_decoded_is_refused(labels, position, member, message):
    network = DisentangledVAE(["Fe", "Ni"], ["a"], targets=TARGETS, prior_target=(0.5, 0.5), members=2, hidden=(3,))
    with pytest.raises(ValueError, match=message):
        decode_alloys(network, labels, position, member)


def test_other_models_decode_nothing(tmp_path):
    network = CGCNN(hidden_size=4, head_size=4, convolutions=1, gaussians=5, neighbours=6, cutoff=5.0)
    with pytest.raises(ModelError, match="a cgcnn model cannot decode alloys"):
        network_of(Model("cgcnn", network, "regression", {}, tmp_path / "x.ckpt", ""))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_names": ("soft",)}, "targets of shape"),
        ({"target_names": ("soft", "soft")}, "each name once"),
        ({"targets": np.full((300, 2), np.nan)}, "class 0 or 1 of at least one target"),
    ],
)
def test_targets_need_names_and_classes(changes, message):
    with pytest.raises(ValueError, match=message):
        table(**changes)


def test_whole_per_cent_sum_to_100():
    amounts = np.random.default_rng(0).dirichlet(np.full(30, 0.3), 2000)
    amounts[amounts < 0.01] = 0
    whole = whole_percent(7 * amounts)
    assert (whole.sum(1) == 100).all() and (whole[amounts == 0] == 0).all()
    assert np.abs(whole - 100 * amounts / amounts.sum(1, keepdims=True)).max() < 1
    thirds = whole_percent(np.array([[1.0, 1.0, 1.0, 0.0], [0.335, 0.335, 0.33, 0.0]]))
    assert thirds.tolist() == [[34, 33, 33, 0], [34, 33, 33, 0]]
