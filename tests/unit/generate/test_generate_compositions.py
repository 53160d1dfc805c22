"""Drawing compositions: seeded batches, every draw accounted for."""

from __future__ import annotations

import pytest
import torch
from formula_stores import ELEMENTS, outcome

from sluice.chemistry.compositions import Compositions, symbols
from sluice.config import Chemistry, GenerateSettings
from sluice.config_composition_campaign import CompositionGeneratorSettings
from sluice.errors import SluiceError
from sluice.generate.generate_compositions import NOT_ALLOWED, generate_compositions
from sluice.models import composition_sampling
from sluice.models.composition_gan_training import make_gan
from sluice.models.composition_sampling import REASONS
from sluice.models.modelfile import save_model
from sluice.store import Store


@pytest.fixture
def generator(tmp_path, monkeypatch):
    """An untrained WGAN whose last layer is so biased that about one entry in twenty-five is a one."""
    monkeypatch.setattr(composition_sampling, "BATCH", 64)
    elements = ["Li", "O", "F", "Na", "Mg", "Al", "Cl"]  # by atomic number
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network, arguments = make_gan(CompositionGeneratorSettings(model="wgan", noise_size=4), elements)
        with torch.no_grad():
            drawn = torch.logit(network.eval().generator(torch.randn(200, 4)))
            network.generator.layers[-1].bias -= torch.quantile(drawn, 0.96)
    path = tmp_path / "generator.ckpt"
    state = network.state_dict()
    facts = {"campaign": "test"}
    save_model(path, kind="wgan", task="generation", hyperparameters=arguments, state=state, facts=facts)
    return path


def draw(generator, path, *, batch=0, decoding="threshold", **settings):
    generate_compositions(
        model=generator,
        settings=GenerateSettings(**({"candidates": 300, "batches": 2} | settings)),
        chemistry=Chemistry(elements=ELEMENTS),
        decoding=decoding,
        seed=5,
        round=1,
        batch=batch,
        device="cpu",
        candidates=path,
    )
    return outcome(path)


def test_every_draw_is_a_formula_or_has_a_reason(generator, tmp_path):
    formulas, reasons = draw(generator, tmp_path / "a.h5")
    assert formulas and reasons and len(formulas) + len(reasons) == 150
    assert {reason for reason, _ in reasons.values()} <= set(REASONS)
    with Store(tmp_path / "a.h5", "composition_candidates") as store:
        assert store.counts["made"] == 150 and store.ids()[0].startswith("r1-b0-")
        assert store.attributes["round"] == 1
    counts = Compositions.from_formulas(formulas)
    assert (counts.counts() == counts.amounts).all(), "the smallest integers"
    assert {symbols()[z] for z in counts.numbers} <= set(ELEMENTS)


def test_a_batch_is_the_same_whatever_runs_beside_it(generator, tmp_path):
    first, second = draw(generator, tmp_path / "a.h5"), draw(generator, tmp_path / "b.h5", batch=1)
    assert first == draw(generator, tmp_path / "c.h5")
    assert first[0] != second[0]
    fewer, _ = draw(generator, tmp_path / "d.h5", candidates=100)
    assert fewer and first[0][: len(fewer)] == fewer, "a shorter batch begins the same"


def test_excluded_elements_are_rejected(generator, tmp_path):
    formulas, reasons = draw(generator, tmp_path / "a.h5", excluded_elements=("Cl", "F"))
    assert not any("Cl" in formula or "F" in formula for formula in formulas)
    assert (NOT_ALLOWED, "") in reasons.values()


def test_counts_can_be_sampled(generator, tmp_path):
    by_threshold, by_count = draw(generator, tmp_path / "a.h5"), draw(generator, tmp_path / "b.h5", decoding="sampled")
    assert by_threshold[0] != by_count[0] and len(by_count[0]) + len(by_count[1]) == 150
    assert not {"two counts for one element"} & {reason for reason, _ in by_count[1].values()}


def test_the_critics_favourites_go_on(generator, tmp_path):
    everything, favourites = (draw(generator, tmp_path / f"{s}.h5", critic_share=s) for s in (1.0, 0.1))
    # 64 + 64 + 22 draws, a tenth of each rounded up, less those of elements that are not to be drawn
    assert 0 < len(favourites[0]) <= 7 + 7 + 3 < len(everything[0]) and set(favourites[0]) < set(everything[0])
    assert len(favourites[0]) + len(favourites[1]) == 150
    assert ("not among the critic's favourites", "") in favourites[1].values()


def test_the_critic_chooses_among_what_may_be_drawn(generator, tmp_path):
    everything = draw(generator, tmp_path / "a.h5", excluded_elements=("Cl",))
    favourites = draw(generator, tmp_path / "b.h5", excluded_elements=("Cl",), critic_share=0.1)
    assert 7 + 7 + 3 >= len(favourites[0]) >= 7, "of the first 64 draws alone seven go on"
    assert set(favourites[0]) < set(everything[0])
    strangers = [[reason for reason, _ in found[1].values()].count(NOT_ALLOWED) for found in (everything, favourites)]
    assert strangers[0] == strangers[1] > 0


def test_an_empty_batch_is_legal(generator, tmp_path):
    assert draw(generator, tmp_path / "a.h5", candidates=1, batch=1) == ([], {})


def test_other_models_are_refused(tmp_path, generator):
    from sluice.models.composition import CompositionModel

    settings = {"model": "elemnet", "depth": 2}
    path = tmp_path / "scorer.ckpt"
    state = CompositionModel(settings=settings).state_dict()
    save_model(
        path, kind="composition", task="regression", hyperparameters={"settings": settings}, state=state, facts={}
    )
    with pytest.raises(SluiceError, match="a composition model draws no compositions"):
        draw(path, tmp_path / "a.h5")
