"""By rank within the budget, references included."""

import json

import pytest
from pymatgen.core import Structure

from sluice.config import Chemistry, ShortlistSettings, ValidateSettings
from sluice.crystals import Crystals
from sluice.screen import shortlist_candidates as module
from sluice.screen.shortlist_candidates import CostEstimator, shortlist_candidates
from sluice.store import Store
from sluice.validate.espresso.planning import settings_for
from sluice.validate.espresso.references import reference_structure
from sluice.validate.espresso.sets import prepare_structure

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib
CHEMISTRY = Chemistry(elements=("K", "Na", "Mg", "Rb", "F"))
DFT = ValidateSettings()
TIER = "T60"


@pytest.fixture
def ranked(crystal, write_store):
    """Rank 1 shares its elements with none but Mg and F; 2 and 3 are one formula; 4 is a cheap one."""
    structures = [
        crystal["perovskite"]("K", "Mg", "F", 4.06),
        crystal["perovskite"]("Na", "Mg", "F", 3.95),
        crystal["half_heusler"]("Na", "Mg", "F", 5.6),
        crystal["perovskite"]("Na", "Mg", "F", 3.90),
    ]
    return write_store("ranked.h5", "ranked", structures, ["r1", "r2", "r3", "r4"], rank=[1, 2, 3, 4])


@pytest.fixture
def run(tmp_path):
    def go(path, budget, name="out.h5", library=None, **settings):
        shortlist_candidates(
            candidates=path,
            settings=ShortlistSettings(dft_cpu_seconds=budget, **settings),
            chemistry=CHEMISTRY,
            dft=DFT,
            library=library or tmp_path / "library",
            shortlist=tmp_path / name,
        )
        return tmp_path / name

    return go


def costs(store):
    return (
        store.column("estimated_cpu_seconds").tolist(),
        store.column("estimated_reference_cpu_seconds").tolist(),
    )


def test_everything_fits_into_a_large_budget(ranked, run):
    with Store(run(ranked, 1e6, max_per_formula=5), "shortlist") as store:
        assert store.ids() == ["r1", "r2", "r3", "r4"]
        own, references = costs(store)
    estimator = CostEstimator(DFT, TIER)
    assert references == pytest.approx(
        [sum(estimator.reference(e) for e in ("K", "Mg", "F")), estimator.reference("Na"), 0.0, 0.0]
    )
    assert all(seconds > 0 for seconds in own)


def test_each_reason(ranked, run, reasons_of):
    found = reasons_of(run(ranked, 1e6, max_candidates=2))
    assert {n: r[1] for n, r in found.items()} == {"r3": module.ENOUGH_CANDIDATES, "r4": module.ENOUGH_CANDIDATES}
    found = reasons_of(run(ranked, 1e6, name="formula.h5"))
    assert {n: r[1] for n, r in found.items()} == {"r4": module.ENOUGH_OF_FORMULA}
    found = reasons_of(run(ranked, 1.0, name="poor.h5"))
    assert {n: r[1] for n, r in found.items()} == dict.fromkeys(("r1", "r2", "r3", "r4"), module.BEYOND_BUDGET)


def test_the_budget_pays_for_references_and_goes_on_to_cheaper_ones(ranked, run, reasons_of):
    with Store(run(ranked, 1e6, max_per_formula=5, name="all.h5")) as store:
        own, references = costs(store)
    # Enough for the first; the second would need Na on top.
    budget = own[0] + references[0] + own[1] + references[1] / 2
    path = run(ranked, budget, max_per_formula=5)
    assert reasons_of(path)["r2"][1] == module.BEYOND_BUDGET
    with Store(path) as store:
        spent = sum(map(sum, costs(store)))
        assert spent <= budget
        assert store.ids()[0] == "r1"
    # Without money for KMgF3 the cheaper crystal of rank 3 is taken with all its references.
    only_cheap = own[2] + sum(CostEstimator(DFT, TIER).reference(e) for e in ("Na", "Mg", "F"))
    if only_cheap < own[0] + references[0]:
        with Store(run(ranked, only_cheap * 1.001, max_per_formula=5, name="cheap.h5")) as store:
            assert store.ids() == ["r3"]


def test_a_reference_in_the_library_costs_nothing(ranked, run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "known_references", lambda library, elements, dft, chemistry: {e: e == "Mg" for e in elements}
    )
    with Store(run(ranked, 1e6)) as store:
        estimator = CostEstimator(DFT, TIER)
        assert costs(store)[1][0] == pytest.approx(estimator.reference("K") + estimator.reference("F"))


def test_estimates_are_for_the_settings_that_validation_will_use():
    estimator = CostEstimator(ValidateSettings(protocol="balanced"), TIER)
    for element in ("O", "Fe", "Mg"):
        row = reference_structure(element)
        settings = settings_for(row.structure, element=element, tier=TIER, settings=estimator.dft)
        assert module.estimate_cpu_seconds(row.structure, settings) == estimator.reference(element)


def test_estimates_for_vasp_and_references_of_a_snapshot_for_nothing(crystal, tmp_path):
    chemistry = Chemistry(elements=("K", "Mg", "F"))
    perovskite = crystal["perovskite"]("K", "Mg", "F", 4.0)
    estimator = CostEstimator.for_chemistry(ValidateSettings(code="vasp"), chemistry)
    assert estimator.tier == "520 eV"
    # Spin-polarized and with denser k-points than the fast protocol of pw.x, at a like cutoff.
    assert estimator.compound(perovskite) > CostEstimator(DFT, TIER).compound(perovskite)
    assert estimator.reference("Mg") > 0
    (tmp_path / "snapshot.json").write_text("{}")
    snapshot = ValidateSettings(code="vasp", vasp={"references": tmp_path / "snapshot.json"})
    with_snapshot = CostEstimator.for_chemistry(snapshot, chemistry)
    assert with_snapshot.reference("Mg") == 0.0
    assert with_snapshot.compound(perovskite) == estimator.compound(perovskite)


def test_a_candidate_that_cannot_be_estimated_fails_alone(crystal, write_store, run, reasons_of):
    overlapping = Structure(crystal["perovskite"]("K", "Mg", "F", 4.0).lattice, ["Na", "Na"], [[0, 0, 0], [0, 0, 0]])
    good = crystal["perovskite"]("K", "Mg", "F", 4.0)
    path = write_store("ranked.h5", "ranked", [overlapping, good], ["bad", "good"], rank=[1, 2])
    out = run(path, 1e6)
    assert {n: r[:2] for n, r in reasons_of(out).items()} == {"bad": ("failed", module.NO_ESTIMATE)}
    with Store(out) as store:
        assert store.ids() == ["good"]
        assert json.loads(store.attributes["settings"])["tier"] == TIER
        assert prepare_structure(good).composition.reduced_formula == store.crystals().reduced_formulas()[0]


def test_nothing_ranked(write_store, run):
    with Store(run(write_store("none.h5", "ranked", Crystals.empty()), 100.0), "shortlist") as store:
        assert len(store) == 0
