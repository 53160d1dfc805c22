"""Models of compositions: they learn, resume to the bit, save, score a CSV, and say what they cannot do."""

import csv
import signal

import numpy as np
import pytest
import torch

from sluice.chemistry.composition_table import CompositionTable, random_split
from sluice.chemistry.compositions import Compositions
from sluice.chemistry.encodings import ElementEmbedding
from sluice.config_composition import CompositionDataSettings, CompositionModelSettings
from sluice.errors import BadDataError, SluiceError
from sluice.models.composition import CompositionModel
from sluice.models.composition_training import CompositionLearner, save_composition_model, train_members
from sluice.models.elemnet import DEPTH, WIDTHS, elemnet_widths
from sluice.models.modelfile import ModelError, load_model
from sluice.models.roost import Roost, element_graphs
from sluice.models.scoring import score_input
from sluice.train.train_composition_model import train_composition_model

METALS, ANIONS = ("Li", "Na", "K", "Mg", "Ca", "Al", "Fe"), ("O", "F", "S", "Cl")


def table(n=160, seed=0):
    rng = np.random.default_rng(seed)
    formulas = {
        f"{rng.choice(METALS)}{rng.integers(1, 5)}{rng.choice(ANIONS)}{rng.integers(1, 5)}" for _ in range(3 * n)
    }
    compositions = Compositions.from_formulas(rng.permutation(sorted(formulas))[:n].tolist())
    # A number that the fractions decide: the mean atomic number.
    target = np.bincount(compositions.rows, compositions.numbers * compositions.fractions)
    return CompositionTable(compositions, target, random_split(len(compositions), (0.2, 0.2), 1))


def small(model="head", **settings):
    base = {
        "model": model,
        "epochs": 4,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "depth": 3,
        "paper_dropout": 0.0,
        "widths": (32,),
        "size": 16,
        "messages": 2,
        "heads": 2,
        "hidden": 16,
        "trunk": (32,),
    }
    return CompositionModelSettings(**base | settings)


def train(data, settings, folder, **options):
    return train_members(
        data, settings, seed=3, checkpoints=folder / "ck", metrics=folder / "m.csv", device="cpu", **options
    )


def test_two_processes_learn_what_one_learns(tmp_path):
    """Roost, whose trunk is normalized over the rows of a batch; batches of 16 and a last one that is shorter."""
    data, losses = table(), {}
    for devices in ("1", "2"):
        _, rows = train(data, small("roost", epochs=3), tmp_path / devices, devices=devices)
        losses[devices] = [row["train_loss"] for row in rows]
    assert losses["2"] == pytest.approx(losses["1"], rel=1e-4)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("elemnet", {}),
        ("roost", {}),
        ("roost", {"uncertainty": True}),
        ("head", {"encoding": "magpie", "residual": True}),
        ("head", {"encoding": "onehot"}),
    ],
)
def test_it_learns_and_the_file_gives_the_same(model, options, tmp_path, capsys):
    data = table()
    trained, rows = train(data, small(model, epochs=25, **options), tmp_path)
    test = data.rows("test")
    found = trained.predict(data.compositions[test])
    spread = np.abs(data.target[test] - data.target[data.rows("train")].mean()).mean()
    assert np.abs(found.value - data.target[test]).mean() < 0.6 * spread
    assert rows[-1]["val_mae"] < rows[0]["val_mae"]
    pace = (tmp_path / "ck" / "member_0" / "throughput.csv").read_text().splitlines()
    assert pace[0] == "epoch,seconds,rows_per_second" and len(pace) == 26
    assert "rows/s" in capsys.readouterr().out
    assert (found.uncertainty > 0).all() == bool(options.get("uncertainty"))
    save_composition_model(tmp_path / "model.ckpt", trained, {"output": "mean atomic number"})
    again = load_model(tmp_path / "model.ckpt").network.predict(data.compositions[test])
    assert np.array_equal(again.value, found.value) and np.array_equal(again.uncertainty, found.uncertainty)


def test_classification(tmp_path):
    data = table()
    classes = CompositionTable(data.compositions, (data.target > np.median(data.target)) * 1.0, data.split)
    trained, rows = train(classes, small(task="classification", encoding="fractions", epochs=20), tmp_path)
    value = trained.predict(classes.compositions).value
    assert value.min() >= 0 and value.max() <= 1
    assert rows[-1]["val_roc_auc"] > 0.8


@pytest.mark.parametrize("model", ["elemnet", "roost"])
def test_interrupted_equals_uninterrupted_to_the_bit(model, tmp_path, monkeypatch):
    data, settings = table(80), small(model, uncertainty=True, dropout=0.1, paper_dropout=1.0)
    whole, _ = train(data, settings, tmp_path / "a")
    steps, real = [], CompositionLearner.step

    def step(self, index, progress):
        steps.append(1)
        if len(steps) == 7:
            signal.raise_signal(signal.SIGTERM)
        return real(self, index, progress)

    monkeypatch.setattr(CompositionLearner, "step", step)
    with pytest.raises(SystemExit):
        train(data, settings, tmp_path / "b")
    resumed, _ = train(data, settings, tmp_path / "b")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert (tmp_path / "a" / "m.csv").read_bytes() == (tmp_path / "b" / "m.csv").read_bytes()


def test_members_of_an_ensemble_differ_and_are_averaged(tmp_path):
    data = table(80)
    trained, _ = train(data, small(members=3, epochs=3, encoding="fractions"), tmp_path)
    found = trained.predict(data.compositions)
    assert (found.disagreement > 0).all()
    assert len(trained.members) == 3


def test_scoring_a_csv(tmp_path):
    trained, _ = train(table(80), small("roost", members=2, epochs=2), tmp_path)
    save_composition_model(tmp_path / "model.ckpt", trained, {})
    (tmp_path / "in.csv").write_text("id,formula\na,Na2O\nb,Qq\nc,NaN\nd,Li0.5Na0.5Cl\n", encoding="utf-8")
    score_input(tmp_path / "model.ckpt", tmp_path / "in.csv", tmp_path / "out.csv", device="cpu")
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["id"] for row in rows] == ["a", "b", "c", "d"]
    assert float(rows[0]["score"]) and float(rows[0]["uncertainty"]) > 0 and rows[0]["reason"] == ""
    assert rows[1]["score"] == "" and "'Qq' is no element" in rows[1]["reason"]
    assert rows[2]["score"] == "" and rows[2]["reason"] == "the model was trained on no composition with N"
    assert float(rows[3]["score"])
    with pytest.raises(BadDataError, match="scores compositions; give a CSV"):
        score_input(tmp_path / "model.ckpt", tmp_path, tmp_path / "out.csv", device="cpu")


def test_the_step_reads_a_csv(tmp_path):
    data = table(100)
    rows = [f"{f},{t}" for f, t in zip(data.compositions.formulas(), data.target.tolist(), strict=True)]
    # Duplicates, bad formulas and no numbers are counted.
    (tmp_path / "d.csv").write_text("formula,e\n" + "\n".join([*rows, "Na2O2,3", "Na4O4,5", "Xx,1", "NaCl,none"]))
    options = {
        "data": tmp_path / "d.csv", "settings": small(epochs=2, encoding="fractions"), "checkpoints": tmp_path / "ck",
        "seed": 1, "precision": "32-true", "threads": 1, "device": "cpu",
        "devices": "1", "model": tmp_path / "m.ckpt",
        "metrics": tmp_path / "m.csv", "predictions": tmp_path / "p.csv",
    }  # fmt: skip
    train_composition_model(data_settings=CompositionDataSettings(target_column="e", unit="1"), **options)
    held = list(csv.DictReader((tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["split"] for row in held} == {"val", "test"}
    assert load_model(tmp_path / "m.ckpt").facts["output"] == "e 1"
    with pytest.raises(SluiceError, match="needs the model file of one WGAN, 0 are given: set --generator"):
        without = {**options, "settings": small(encoding="embedding")}
        train_composition_model(data_settings=CompositionDataSettings(target_column="e"), **without)
    with pytest.raises(BadDataError, match=r"no column 'f'; there are: formula, e"):
        train_composition_model(data_settings=CompositionDataSettings(target_column="f"), **options)
    strict = CompositionDataSettings(target_column="e", max_bad_fraction=0.0)
    with pytest.raises(BadDataError, match=r"2 of \d+ rows cannot be used(.|\n)*'Xx' is no element(.|\n)*is no number"):
        train_composition_model(data_settings=strict, **options)


def test_nothing_to_learn_from(tmp_path):
    data = table(20)
    none = CompositionTable(data.compositions, data.target, np.full(len(data), b"val", dtype="S5"))
    with pytest.raises(SluiceError, match="no compositions to train on"):
        train(none, small(), tmp_path)
    with pytest.raises(SluiceError, match=r"cannot be encoded: .* 85 elements"):
        train(
            CompositionTable(Compositions.from_formulas(["KrF2"]), np.ones(1), np.array([b"train"], dtype="S5")),
            small(encoding="onehot"),
            tmp_path,
        )


def test_a_learned_embedding_as_the_encoding(tmp_path):
    vectors = ElementEmbedding(np.random.default_rng(0).normal(size=(119, 8)).astype(np.float32))
    data = table(80)
    trained, _ = train(data, small(epochs=2), tmp_path, encoding=vectors.plain())
    save_composition_model(tmp_path / "m.ckpt", trained, {})
    again = load_model(tmp_path / "m.ckpt").network
    assert np.array_equal(again.predict(data.compositions).value, trained.predict(data.compositions).value)


def test_a_learned_encoding_needs_its_vectors(tmp_path):
    settings = small(encoding="embedding")
    with pytest.raises(SluiceError, match="the vectors of the elements, which a WGAN learned, are not given"):
        CompositionModel(settings=settings.model_dump(mode="json"))
    with pytest.raises(ValueError, match="`roost`, which learns vectors of the elements itself"):
        small("roost", encoding="embedding")


def test_a_damaged_model_file_is_refused(tmp_path):
    trained = CompositionModel(settings=small().model_dump(mode="json"))
    save_composition_model(tmp_path / "m.ckpt", trained, {})
    (tmp_path / "m.ckpt").write_bytes((tmp_path / "m.ckpt").read_bytes()[:-200])
    with pytest.raises(ModelError, match="not a readable model file"):
        load_model(tmp_path / "m.ckpt")


@pytest.mark.parametrize(("model", "encoding"), [("roost", "onehot"), ("elemnet", "magpie")])
def test_files_that_name_an_encoding_which_their_model_never_saw(model, encoding):
    plain = small(model).model_dump(mode="json")
    of_before, now = CompositionModel(settings=plain | {"encoding": encoding}), CompositionModel(settings=plain)
    of_before.load_state_dict(now.state_dict())
    assert of_before.settings.encoding == "fractions"


def test_depth():
    assert elemnet_widths(DEPTH) == WIDTHS and len(WIDTHS) == 16
    for depth in (2, 3, 8, 24, 49):
        widths = elemnet_widths(depth)
        assert len(widths) == depth - 1 and list(widths) == sorted(widths, reverse=True)
    with pytest.raises(ValueError, match="2 to 49"):
        elemnet_widths(1)


def test_roost_does_not_see_the_batch_or_the_order():
    torch.manual_seed(0)
    network = Roost(size=16, messages=2, heads=2, hidden=16, trunk=(16,)).eval()
    formulas = ["Fe", "NaCl", "SrTiO3", "YBa2Cu3O7", "LiFePO4"]
    compositions = Compositions.from_formulas(formulas)
    with torch.no_grad():
        together = network(element_graphs(compositions))[:, 0]
        alone = torch.stack([network(element_graphs(compositions[[i]]))[0, 0] for i in range(5)])
        twice = network(
            element_graphs(Compositions.from_formulas(["Fe2", "Na2Cl2", "Sr2Ti2O6", "YBa2Cu3O7", "PO4LiFe"]))
        )
    assert torch.allclose(together, alone, atol=1e-5) and torch.allclose(together, twice[:, 0], atol=1e-5)
    graphs = element_graphs(compositions)
    assert graphs.first.tolist()[:5] == [0, 1, 1, 2, 2] and graphs.second.tolist()[:5] == [0, 1, 2, 1, 2]
    assert len(graphs.first) == 1 + 4 + 9 + 16 + 16
