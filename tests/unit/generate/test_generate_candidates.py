import numpy as np
import pytest
import torch
from crystals_for_models import write_decision

from sluice.config import Chemistry, GenerateSettings
from sluice.errors import SluiceError
from sluice.generate import generate_candidates as module
from sluice.generate.generate_candidates import batch_size, generate_candidates
from sluice.models.cubicgan import SPACE_GROUPS, CubicGAN
from sluice.models.cubicgan_sampling import Sampler, group_weights
from sluice.models.modelfile import load_model, save_model
from sluice.store import Store

CHEMISTRY = Chemistry(elements=("Li", "Na", "Mg", "O", "F", "Cl"))
SETTINGS = GenerateSettings(candidates=1001, batches=4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An untrained generator: what is tested here holds for any weights."""
    path = tmp_path_factory.mktemp("model") / "generator.ckpt"
    torch.manual_seed(3)
    hyperparameters = {"sites": 3, "noise_size": 8, "sizes": {}, "length_range": [3.5, 9.0]}
    network = CubicGAN(**hyperparameters)
    with torch.no_grad():  # an untrained tanh stays near its middle: spread it over the grid
        for parameter in (*network.generator.dense.parameters(), *network.generator.coordinates.parameters()):
            parameter.mul_(3)
    facts = {"space_group_counts": [1, 2, 1], "elements": []}
    save_model(
        path,
        kind="cubicgan",
        task="generation",
        hyperparameters=hyperparameters,
        state=network.state_dict(),
        facts=facts,
    )
    return path


def run(path, model, *, batch=1, settings=SETTINGS, chemistry=CHEMISTRY, seed=5, round=2, decision=()):
    generate_candidates(
        model=model,
        decision=list(decision),
        settings=settings,
        chemistry=chemistry,
        seed=seed,
        round=round,
        batch=batch,
        device="cpu",
        candidates=path,
    )
    return Store(path, "candidates")


def test_nothing_vanishes(model, tmp_path):
    with run(tmp_path / "c.h5", model) as store:
        counts = store.counts
        assert counts["made"] == batch_size(SETTINGS, 1) == 250
        assert counts["in"] == 0
        assert counts["made"] == counts["out"] + counts["rejected"] + counts["failed"]
        assert counts["out"] > 10
        assert store.reasons()["two sites coincide"] == counts["rejected"] > 10
        assert len(set(store.ids()) | set(store.failures().candidate_id)) == 250
        assert all(i.startswith("r2-b1-") for i in store.ids())


def test_sizes_of_batches_add_up():
    assert [batch_size(SETTINGS, batch) for batch in range(4)] == [251, 250, 250, 250]


def test_a_batch_is_the_same_whatever_ran_before(model, tmp_path):
    with run(tmp_path / "a.h5", model) as alone:
        expected = alone.content_sha256
    run(tmp_path / "b.h5", model, batch=0)
    torch.randn(100), np.random.rand(100)
    with run(tmp_path / "c.h5", model) as after:
        assert after.content_sha256 == expected
    for changes in ({"batch": 0}, {"seed": 6}, {"round": 3}):
        with run(tmp_path / "d.h5", model, **changes) as other:
            assert other.structure_hashes() != Store(tmp_path / "a.h5").structure_hashes()


def test_chunks_do_not_show(model, tmp_path, monkeypatch):
    """A batch longer than a chunk begins like a shorter one."""
    monkeypatch.setattr(module, "CHUNK", 100)
    with (
        run(tmp_path / "a.h5", model, settings=GenerateSettings(candidates=250, batches=1), batch=0) as longer,
        run(tmp_path / "b.h5", model, settings=GenerateSettings(candidates=130, batches=1), batch=0) as shorter,
    ):
        assert longer.counts["made"] == 250
        assert longer.structure_hashes()[: len(shorter)] == shorter.structure_hashes()


def test_elements_are_honoured(model, tmp_path):
    settings = GenerateSettings(
        candidates=800, batches=1, allowed_elements=("Li", "Na", "O", "F"), excluded_elements=("O",)
    )
    with run(tmp_path / "c.h5", model, settings=settings, batch=0) as store:
        crystals = store.crystals()
    assert set(crystals.numbers.tolist()) == {3, 9, 11}
    for i in range(len(crystals)):
        assert len(set(crystals.numbers[crystals.atoms_of(i)].tolist())) == 3


@pytest.mark.parametrize(
    ("generate", "chemistry", "expected"),
    [
        ((), (216, 221, 225), {216, 221, 225}),
        ((), (221,), {221}),
        ((225,), (216, 221, 225), {225}),
        ((216, 221), (216, 221, 225), {216, 221}),
    ],
)
def test_space_groups_wanted_are_drawn_and_no_others(model, tmp_path, generate, chemistry, expected):
    """Those of ``generate`` come before the chemistry's."""
    settings = GenerateSettings(candidates=1000, batches=1, space_groups=generate)
    chosen = Chemistry(elements=CHEMISTRY.elements, space_groups=chemistry)
    with run(tmp_path / "c.h5", model, settings=settings, chemistry=chosen, batch=0) as store:
        assert set(store.column("requested_space_group").tolist()) == expected


def test_space_groups_are_drawn_by_frequency_in_training(model):
    loaded = load_model(model)
    np.testing.assert_allclose(group_weights(loaded, SPACE_GROUPS), [0.25, 0.5, 0.25])
    sampler = Sampler(loaded, elements=np.array([3, 9, 11]), space_groups=(216, 221), critic_share=1.0, device="cpu")
    drawn = sampler.draw(np.random.default_rng(0), 3000).space_groups
    assert (drawn == 216).sum() == pytest.approx(1000, abs=130)  # five standard deviations
    assert (drawn == 221).sum() == 3000 - (drawn == 216).sum()


def test_a_stopped_campaign_draws_nothing(model, tmp_path):
    with run(tmp_path / "a.h5", model, decision=[write_decision(tmp_path / "stop.h5", True)]) as store:
        assert store.counts == dict.fromkeys(("in", "made", "merged", "out", "rejected", "failed"), 0)
    with run(tmp_path / "b.h5", model, decision=[write_decision(tmp_path / "go.h5", False)]) as store:
        assert store.counts["made"] == 250


def test_a_generator_that_gives_no_numbers_is_told(model, tmp_path):
    content = torch.load(model, weights_only=True)
    for value in content["state"].values():
        value.fill_(float("nan"))
    torch.save(content, tmp_path / "broken.ckpt")
    with run(tmp_path / "c.h5", tmp_path / "broken.ckpt") as store:
        assert store.counts["failed"] == 250
        assert store.counts["out"] == 0


def test_space_groups_never_trained_on_are_refused(model, tmp_path):
    content = torch.load(model, weights_only=True)
    content["facts"]["space_group_counts"] = [0, 0, 9]
    torch.save(content, tmp_path / "other.ckpt")
    only = Chemistry(elements=CHEMISTRY.elements, space_groups=(221,))
    with pytest.raises(SluiceError, match=r"chemistry\.space_groups"):
        run(tmp_path / "c.h5", tmp_path / "other.ckpt", chemistry=only)
    assert not (tmp_path / "c.h5").exists()
