"""The plan: which tasks, dealt how, and that it is the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core import Structure
from validate_stand_ins import rock_salt, use_table, write_store

from sluice.config import Chemistry, ValidateSettings
from sluice.store import Store
from sluice.task_library import TaskLibrary
from sluice.validate.plan_tasks import deal, estimate_space, plan_tasks
from sluice.validate.run_batch import Task
from sluice.validate.task_stores import read_tasks

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib
CHEMISTRY = Chemistry(elements=("Na", "K", "Cl", "O"))
CRYSTALS = [rock_salt("Na", "Cl", 5.64), rock_salt("K", "Cl", 6.3), rock_salt("Na", "K", 7.0)]


def plan(tmp_path: Path, name: str = "tasks", crystals: list[Structure] | None = None, batches: int = 2) -> list[Task]:
    crystals = CRYSTALS if crystals is None else crystals
    shortlist = write_store(tmp_path / "shortlist.h5", "shortlist", [f"c{i}" for i in range(len(crystals))], crystals)
    tasks = tmp_path / f"{name}.h5"
    plan_tasks(
        shortlist=shortlist,
        settings=ValidateSettings(batches=batches),
        chemistry=CHEMISTRY,
        library=tmp_path / "dft",
        tasks=tasks,
    )
    return read_tasks(tasks)


def test_every_compound_and_every_element_in_one_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    tasks = plan(tmp_path)
    assert sorted(t.candidate_id for t in tasks) == ["c0", "c1", "c2", "ref-Cl", "ref-K", "ref-Na"]
    assert {t.candidate_id: t.element for t in tasks if t.kind == "reference"} == {
        "ref-Cl": "Cl",
        "ref-K": "K",
        "ref-Na": "Na",
    }
    assert {t.tier for t in tasks} == {"T60"}  # oxygen's or potassium's, though no oxide is on the list
    assert len({t.task_id for t in tasks}) == 6
    with Store(tmp_path / "tasks.h5", "tasks") as store:
        assert store.counts == {"in": 3, "made": 3, "merged": 0, "out": 6, "rejected": 0, "failed": 0}
        assert (store.attributes["campaign"], store.attributes["round"]) == ("halides", 2)


def test_what_is_computed_is_the_primitive_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    assert {len(task.structure) for task in plan(tmp_path) if task.kind == "compound"} == {2}


def test_the_plan_is_the_same_whatever_the_library_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_table(monkeypatch)
    first = plan(tmp_path, "first")
    library = TaskLibrary(tmp_path / "dft")
    claim = library.try_claim(first[0].task_id)
    assert claim is not None
    with claim:
        library.publish(claim, {"converged": True})
    plan(tmp_path, "second")
    with Store(tmp_path / "first.h5") as one, Store(tmp_path / "second.h5") as two:
        assert one.content_sha256 == two.content_sha256


def test_an_empty_shortlist_makes_an_empty_plan_without_any_program(tmp_path: Path) -> None:
    assert plan(tmp_path, crystals=[]) == []


def test_a_crystal_that_cannot_be_planned_is_a_failure_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_table(monkeypatch)
    tasks = plan(tmp_path, crystals=[CRYSTALS[0], rock_salt("Ce", "O", 5.0)])  # no reference of Ce
    assert [t.candidate_id for t in tasks if t.kind == "compound"] == ["c0"]
    with Store(tmp_path / "tasks.h5", "tasks") as store:
        assert (store.failures().candidate_id, store.failures().reason) == (["c1"], ["cannot be planned"])


def test_the_longest_go_first_to_the_least_loaded_batch() -> None:
    seconds = {"a": 50.0, "b": 40.0, "c": 30.0, "d": 20.0, "e": 10.0}
    tasks = [Task(k, k, "compound", "", 0, "T45", seconds[k], CRYSTALS[0]) for k in "ecadb"]
    dealt = deal(tasks, 2)
    # a 50 | b 40 | c to the second (70) | d to the first (70) | e to the first, which is named before its equal
    assert [(t.task_id, t.batch) for t in dealt] == [("a", 0), ("d", 0), ("e", 0), ("b", 1), ("c", 1)]


def test_more_batches_than_tasks_leave_batches_empty() -> None:
    assert [t.batch for t in deal([Task("a", "a", "compound", "", 0, "T45", 1.0, CRYSTALS[0])], 4)] == [0]


def test_space_grows_with_tasks_and_working_space_with_batches() -> None:
    tasks = deal([Task(k, k, "compound", "", 0, "T45", 1.0, CRYSTALS[0]) for k in "abcdef"], 3)
    space = estimate_space(tasks)
    assert space.kept_mb == pytest.approx(2 * estimate_space(tasks[:3]).kept_mb)
    assert space.files == 30
    assert space.working_mb == 3 * estimate_space(deal(tasks, 1)).working_mb
