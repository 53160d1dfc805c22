"""From the shortlist through plan and batches to formation energies; energies come from a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure
from validate_stand_ins import BINDING_EV_PER_ATOM, TableCalculator, rock_salt, use_table, write_store

from sluice.config import Chemistry, DuplicateSettings, ValidateSettings
from sluice.store import Store
from sluice.validate.collect_energies import collect_energies
from sluice.validate.compute_compounds import compute_compounds
from sluice.validate.compute_references import compute_references
from sluice.validate.energies import MixedReferencesError
from sluice.validate.plan_tasks import plan_tasks

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib
CHEMISTRY = Chemistry(elements=("Na", "K", "Mg", "Cl", "O"))
NAMES = ["r1-a", "r1-b", "r1-c", "r1-d"]
CRYSTALS = [rock_salt("Na", "Cl", 5.64), rock_salt("K", "Cl", 6.3), rock_salt("Mg", "O", 4.2), rock_salt("K", "Na", 7)]
SETTINGS = ValidateSettings(batches=2)


def validate(
    tmp_path: Path, name: str = "one", *, known: list[Structure] | None = None, settings: ValidateSettings = SETTINGS
) -> Path:
    """Run all steps of the stage."""
    folder = tmp_path / name
    shortlist = write_store(
        folder / "shortlist.h5",
        "shortlist",
        NAMES,
        CRYSTALS,
        rank=np.arange(4) + 1,
        mlip_formation_energy_ev_per_atom=np.array([-1.9, -2.0, -2.8, 0.1]),
    )
    database = write_store(folder / "dataset.h5", "dataset", [f"k{i}" for i in range(len(known or []))], known or [])
    tasks = folder / "tasks.h5"
    library = tmp_path / "dft"
    plan_tasks(shortlist=shortlist, settings=settings, chemistry=CHEMISTRY, library=library, tasks=tasks)
    references = [folder / f"references_{b}.h5" for b in range(2)]
    for batch, results in enumerate(references):
        compute_references(tasks=tasks, settings=settings, batch=batch, library=library, results=results)
    compounds = [folder / f"compounds_{b}.h5" for b in range(2)]
    for batch, results in enumerate(compounds):
        compute_compounds(
            tasks=tasks, references=references, settings=settings, batch=batch, library=library, results=results
        )
    collect_energies(
        shortlist=shortlist,
        tasks=tasks,
        references=references,
        compounds=compounds,
        known=database,
        settings=settings,
        duplicates=DuplicateSettings(),
        validated=folder / "validated.h5",
    )
    return folder / "validated.h5"


def test_formation_energies_raw_and_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    with Store(validate(tmp_path), "validated") as store:
        assert store.ids() == NAMES
        raw = store.column("formation_energy_ev_per_atom")
        assert raw == pytest.approx([BINDING_EV_PER_ATOM] * 4, abs=1e-9)
        shift = store.column("formation_energy_corrected_ev_per_atom") - raw
        assert shift == pytest.approx([-0.307, -0.307, -0.3435, 0.0], abs=1e-9)
        assert store.column("mlip_formation_energy_ev_per_atom").tolist() == [-1.9, -2.0, -2.8, 0.1]
        assert store.column("parent_rank").tolist() == [1, 2, 3, 4]
        assert store.column("confirmed").all() and store.column("novel").all()
        assert set(store.text("protocol")) == {"fast"} and set(store.text("code")) == {"espresso"}
        assert store.counts["in"] == store.counts["out"] == 4
        assert (store.attributes["campaign"], store.attributes["round"]) == ("halides", 2)


def test_parents_are_those_of_the_shortlist_in_every_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    folder = validate(tmp_path).parent
    for name in ("tasks", "references_0", "compounds_0", "compounds_1", "validated"):
        with Store(folder / f"{name}.h5") as store:
            parents = [value.decode() for value in store.rows().parent_id]
            assert len(parents) > 0
            assert parents == ["" if i.startswith("ref-") else f"{i}-drawn" for i in store.ids()], name


def test_known_crystals_are_not_confirmed_whatever_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    caesium_chloride_type = rock_salt("Mg", "O", 4.2).copy()
    caesium_chloride_type.translate_sites([0], [0.1, 0.1, 0.1])  # the same formula, another crystal
    with Store(validate(tmp_path, known=[rock_salt("Na", "Cl", 5.8), caesium_chloride_type])) as store:
        assert store.column("novel").tolist() == [False, True, True, True]
        assert store.column("confirmed").tolist() == [False, True, True, True]


def test_positive_energies_are_not_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    monkeypatch.setattr("validate_stand_ins.BINDING_EV_PER_ATOM", 0.2)
    with Store(validate(tmp_path)) as store:
        assert not store.column("confirmed").any() and store.column("novel").all()


def test_a_failed_calculation_is_a_failure_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch, fail=["r1-b"])
    with Store(validate(tmp_path)) as store:
        assert store.ids() == ["r1-a", "r1-c", "r1-d"]
        failures = store.failures()
        assert (failures.candidate_id, failures.reason) == (["r1-b"], ["scf not converged"])
        assert failures.detail == ["100 iterations"]
        assert store.counts == {"in": 4, "made": 0, "merged": 0, "out": 3, "rejected": 0, "failed": 1}


def test_compounds_of_a_failed_reference_are_not_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calculators = use_table(monkeypatch, fail=["ref-K"])
    with Store(validate(tmp_path)) as store:
        assert store.ids() == ["r1-a", "r1-c"]
        failures = store.failures()
        assert failures.candidate_id == ["r1-b", "r1-d"]
        assert failures.reason == ["reference failed"] * 2
        assert failures.detail == ["K: scf not converged"] * 2
    # 5 references and the 2 compounds without potassium
    assert sum(calculator.calls for calculator in calculators) == 7


def test_a_second_run_computes_nothing_and_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calculators = use_table(monkeypatch, fail=["r1-b"])
    first = validate(tmp_path, "first")
    done = sum(calculator.calls for calculator in calculators)
    second = validate(tmp_path, "second")
    assert done == 9 and sum(calculator.calls for calculator in calculators) == done
    for name in ("tasks", "references_0", "references_1", "compounds_0", "compounds_1", "validated"):
        with Store(first.parent / f"{name}.h5") as one, Store(second.parent / f"{name}.h5") as two:
            assert one.content_sha256 == two.content_sha256, name


def test_results_of_another_protocol_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    fast = validate(tmp_path, "fast").parent
    balanced = validate(tmp_path, "balanced", settings=SETTINGS.model_copy(update={"protocol": "balanced"})).parent
    with pytest.raises(MixedReferencesError, match=r"balanced, T60 60/480 Ry.*fast, T60 48/384 Ry"):
        collect_energies(
            shortlist=fast / "shortlist.h5",
            tasks=fast / "tasks.h5",
            references=[fast / f"references_{b}.h5" for b in range(2)],
            compounds=[balanced / f"compounds_{b}.h5" for b in range(2)],
            known=fast / "dataset.h5",
            settings=SETTINGS,
            duplicates=DuplicateSettings(),
            validated=fast / "mixed.h5",
        )
    assert not (fast / "mixed.h5").exists()


def test_a_plan_made_with_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sluice.errors import SluiceError

    use_table(monkeypatch)
    folder = validate(tmp_path).parent
    monkeypatch.setattr(TableCalculator, "version", "7.2")
    with pytest.raises(SluiceError, match=r"planned as .*7\.2"):
        compute_references(
            tasks=folder / "tasks.h5",
            settings=SETTINGS,
            batch=0,
            library=tmp_path / "another",
            results=folder / "again.h5",
        )
