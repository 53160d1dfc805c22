"""The task library: what a task is, and that claims keep their promise between real processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.operations import SymmOp

from sluice.config import Chemistry, ValidateSettings
from sluice.errors import SluiceError
from sluice.task_claims import ClaimLostError, ClaimTaker, Holder, check_claim, end_leftovers, holder_of
from sluice.task_library import (
    LibraryError,
    TaskLibrary,
    canonical_structure,
    known_references,
    read_result,
    structure_from_json,
    structure_to_json,
    task_id,
)

FORK = multiprocessing.get_context("fork")


def rock_salt(a: float = 5.64) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def perovskite() -> Structure:
    sites = [[0.03, 0.25, 0.99], [0, 0, 0.5], [0.48, 0.25, 0.07], [0.29, 0.03, 0.71]]
    return Structure.from_spacegroup("Pnma", Lattice.orthorhombic(5.3, 7.6, 5.4), ["Ca", "Ti", "O", "O"], sites)


def identity(structure: Structure, **changes: object) -> str:
    asked = {
        "name": structure.composition.reduced_formula,
        "structure": structure,
        "code": "espresso",
        "code_version": "6.7",
        "settings": {"degauss_ry": 0.02},
        "tier": "T45",
        "pseudos": {"Na": "aa", "Cl": "bb"},
    }
    return task_id(**{**asked, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("original", [rock_salt(), perovskite()], ids=["rock salt", "Pnma perovskite"])
def test_the_id_does_not_depend_on_how_a_crystal_is_written_down(original: Structure) -> None:
    rng = np.random.default_rng(7)
    expected = identity(original)
    for scaling in ([[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[2, 0, 0], [0, 1, 0], [1, 0, 1]]):
        other = Structure.from_sites([original[int(i)] for i in rng.permutation(len(original))])
        other.translate_sites(range(len(other)), rng.random(3))
        other.apply_operation(SymmOp.from_axis_angle_and_translation(np.array([1.0, 2.0, 3.0]), 33.0))
        other.make_supercell(scaling)
        assert identity(other) == expected


def test_the_id_changes_with_everything_that_decides_the_energy() -> None:
    ids = {
        identity(rock_salt()),
        identity(rock_salt(5.66)),
        identity(rock_salt(), code_version="7.2"),
        identity(rock_salt(), settings={"degauss_ry": 0.01}),
        identity(rock_salt(), tier="T60"),
        identity(rock_salt(), pseudos={"Na": "aa", "Cl": "cc"}),
        identity(Structure.from_spacegroup("Pm-3m", Lattice.cubic(3.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])),
    }
    assert len(ids) == 7


def test_canonical_structure_of_rock_salt_is_the_primitive_cell() -> None:
    found = canonical_structure(rock_salt())
    assert found["lengths"] == [3.988] * 3  # 5.64 / sqrt(2)
    assert found["sites"] == [[11, 0.0, 0.0, 0.0], [17, 0.5, 0.5, 0.5]]


def test_structures_survive_json_to_the_bit() -> None:
    structure = perovskite()
    back = structure_from_json(json.loads(json.dumps(structure_to_json(structure))))
    assert np.array_equal(back.lattice.matrix, structure.lattice.matrix)
    assert np.array_equal(back.frac_coords, structure.frac_coords)


# --- Claims ---------------------------------------------------------------------------------------------------------


def hold_for_ever(path: Path, ready: Path) -> None:
    claim = TaskLibrary(path).try_claim("task")
    assert claim is not None
    with claim:
        ready.touch()
        time.sleep(600)


def wait_for(path: Path, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


def test_a_held_task_is_refused_and_a_killed_holders_task_is_taken_over(tmp_path: Path) -> None:
    library, ready = TaskLibrary(tmp_path / "dft"), tmp_path / "ready"
    process = FORK.Process(target=hold_for_ever, args=(library.path, ready))
    process.start()
    wait_for(ready)
    assert library.try_claim("task") is None
    holder = holder_of(library.directory("task"))
    assert holder is not None and holder.pid == process.pid
    os.kill(holder.pid, signal.SIGKILL)
    time.sleep(0.2)  # not reaped yet: a zombie counts as dead
    claim = library.try_claim("task")
    process.join()
    assert claim is not None and claim.taken_over and claim.number == 2
    with claim:
        assert library.try_claim("task") is None
    again = library.try_claim("task")
    assert again is not None and not again.taken_over


def try_once(path: Path, start: object, winners: Path) -> None:
    library = TaskLibrary(path)
    start.wait()  # type: ignore[attr-defined]
    claim = library.try_claim("task")
    if claim is not None:
        with claim:
            (winners / str(os.getpid())).touch()
            time.sleep(0.5)


def test_of_many_that_take_over_a_dead_claim_one_wins(tmp_path: Path) -> None:
    for attempt in range(5):
        path, winners = tmp_path / f"dft{attempt}", tmp_path / f"winners{attempt}"
        winners.mkdir()
        ready = tmp_path / f"ready{attempt}"
        dead = FORK.Process(target=hold_for_ever, args=(path, ready))
        dead.start()
        wait_for(ready)
        dead.kill()
        dead.join()
        barrier = FORK.Barrier(8)
        takers = [FORK.Process(target=try_once, args=(path, barrier, winners)) for _ in range(8)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
            assert taker.exitcode == 0
        assert len(list(winners.iterdir())) == 1


def foreign_claim(task_directory: Path, beat: int = 0) -> Path:
    """A claim of a process on another machine."""
    claim = task_directory / "claim.0001"
    claim.mkdir(parents=True, exist_ok=True)
    holder = Holder("node17", "another boot:1", 4242, 99, "123", "token")
    (claim / "holder.json").write_text(json.dumps(holder.__dict__))
    (claim / "heartbeat").write_text(f"token {beat:012d}\n")
    return claim


@pytest.mark.parametrize("clock_offset", [-86_400.0, 0.0, 86_400.0], ids=["behind", "equal", "ahead"])
def test_a_silent_holder_elsewhere_is_taken_over_whatever_its_clock_says(tmp_path: Path, clock_offset: float) -> None:
    claim = foreign_claim(tmp_path / "task")
    then = time.time() + clock_offset
    os.utime(claim / "heartbeat", (then, then))
    taker = ClaimTaker(lease_seconds=0.3, heartbeat_seconds=0.1)
    assert taker.try_claim(tmp_path / "task") is None  # seen for the first time: no judgement yet
    time.sleep(0.15)
    assert taker.try_claim(tmp_path / "task") is None
    time.sleep(0.3)
    assert taker.try_claim(tmp_path / "task") is not None


def test_a_holder_elsewhere_that_beats_keeps_its_claim(tmp_path: Path) -> None:
    taker = ClaimTaker(lease_seconds=0.3, heartbeat_seconds=0.1)
    for beat in range(8):
        foreign_claim(tmp_path / "task", beat)
        assert taker.try_claim(tmp_path / "task") is None
        time.sleep(0.1)


def test_a_claim_whose_maker_died_before_it_could_say_who_it_is_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "task" / "claim.0001").mkdir(parents=True)
    taker = ClaimTaker(lease_seconds=0.1, heartbeat_seconds=0.1)
    assert taker.try_claim(tmp_path / "task") is None
    time.sleep(0.2)
    assert taker.try_claim(tmp_path / "task") is not None


def test_who_lost_its_claim_notices_and_does_not_publish(tmp_path: Path) -> None:
    library, noticed = TaskLibrary(tmp_path, heartbeat_seconds=0.05), []
    claim = library.try_claim("task", on_lost=lambda: noticed.append(True))
    assert claim is not None
    with claim:
        (tmp_path / "task" / "claim.0002").mkdir()  # what a taker does
        end = time.monotonic() + 10
        while not noticed and time.monotonic() < end:
            time.sleep(0.02)
        assert noticed == [True] and claim.lost.is_set()
        (tmp_path / "task" / "work").mkdir()
        (tmp_path / "task" / "work" / "pw.in").write_text("the new holder's")
        assert not library.publish(claim, {"converged": True})
        assert not (tmp_path / "task" / "files.tar.xz").exists()
        with pytest.raises(ClaimLostError):
            check_claim(tmp_path / "task" / "work")
    check_claim(tmp_path / "task" / "work")
    assert library.result("task") is None


def test_what_a_dead_process_left_running_is_ended(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "work").mkdir()
    (tmp_path / "working").mkdir()
    inside = subprocess.Popen(["sleep", "600"], cwd=tmp_path / "work")
    beside = subprocess.Popen(["sleep", "600"], cwd=tmp_path / "working")
    try:
        assert end_leftovers([tmp_path / "work"]) == [inside.pid]
        assert inside.wait(timeout=10) == -signal.SIGKILL
        assert beside.poll() is None
    finally:
        beside.kill()
        beside.wait()


# --- Results --------------------------------------------------------------------------------------------------------


def test_publishing_packs_the_files_and_leaves_little_behind(tmp_path: Path) -> None:
    import tarfile

    library = TaskLibrary(tmp_path / "dft")
    first = library.try_claim("task")
    assert first is not None
    with first:
        pass
    claim = library.try_claim("task")
    assert claim is not None
    with claim:
        work, scratch = library.work_directory("task"), tmp_path / "scratch" / "task"
        (work / "relax" / "pwscf.save").mkdir(parents=True)
        (work / "relax" / "pwscf.save" / "charge-density.dat").write_bytes(b"0" * 1000)
        (work / "relax" / "pw.in").write_text("&control\n/\n")
        (work / "relax" / "pw.out").write_text("JOB DONE.\n")
        scratch.mkdir(parents=True)
        assert library.publish(claim, {"converged": True, "energy_ev_per_atom": -1.25}, scratch=scratch)
    record = library.result("task")
    assert record is not None and record["energy_ev_per_atom"] == -1.25
    assert not scratch.exists() and not library.needs_tidying("task")
    with tarfile.open(library.directory("task") / "files.tar.xz") as tar:
        assert tar.getnames() == ["relax/pw.in", "relax/pw.out"]
    assert sorted(p.name for p in library.directory("task").iterdir()) == ["claim.0002", "files.tar.xz", "result.json"]


def publish_for_ever(path: Path) -> None:
    library = TaskLibrary(path)
    for number in range(10**6):
        claim = library.try_claim("task")
        if claim is not None:
            with claim:
                library.publish(claim, {"converged": True, "number": number, "payload": list(range(20_000))})


def test_a_reader_sees_no_result_or_a_whole_one_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    seen = 0
    for delay in np.linspace(0.05, 0.6, 8):
        writer = FORK.Process(target=publish_for_ever, args=(tmp_path,))
        writer.start()
        end = time.monotonic() + delay
        while time.monotonic() < end:
            seen += read_result(tmp_path / "task" / "result.json") is not None
        writer.kill()
        writer.join()
        record = read_result(tmp_path / "task" / "result.json")
        assert record is None or record["payload"][-1] == 19_999
    assert seen > 0


@pytest.mark.parametrize("damage", ["cut", "edited"])
def test_a_damaged_result_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    library = TaskLibrary(tmp_path)
    claim = library.try_claim("task")
    assert claim is not None
    with claim:
        library.publish(claim, {"converged": True, "energy_ev_per_atom": -1.25})
    path = tmp_path / "task" / "result.json"
    text = path.read_text()
    path.write_text(text[:-20] if damage == "cut" else text.replace("-1.25", "-1.52"))
    with pytest.raises(LibraryError, match=r"result\.json"):
        library.result("task")
    library.set_aside_damaged("task")
    assert library.result("task") is None


def test_a_result_the_file_system_does_not_give_out_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "task" / "result.json").mkdir(parents=True)  # reading it is an OSError, as EIO and ESTALE are
    with pytest.raises(SluiceError, match=r"result\.json: cannot be read now") as caught:
        TaskLibrary(tmp_path).result("task")
    assert not isinstance(caught.value, LibraryError)


def publish_reference(library: TaskLibrary, element: str, **changes: object) -> None:
    record = {
        "converged": True,
        "code": "espresso",
        "protocol": "fast",
        "tier_covers": ["Na", "K", "Cl", "O"],
        "tier_needed_by": ["O"],
    }
    claim = library.try_claim(f"ref-{element}-{len(changes)}")
    assert claim is not None
    with claim:
        library.publish(claim, {**record, **changes})


def test_known_references_are_those_of_the_same_protocol_and_tier(tmp_path: Path) -> None:
    library = TaskLibrary(tmp_path)
    publish_reference(library, "Na")
    publish_reference(library, "K", converged=False)
    publish_reference(library, "Cl", protocol="balanced")
    publish_reference(library, "O", tier_needed_by=["Fe"])
    settings = ValidateSettings(protocol="fast")

    def known(*elements: str) -> dict[str, bool]:
        return known_references(tmp_path, ["Na", "K", "Cl", "O"], settings, Chemistry(elements=elements))

    assert known("Na", "Cl", "O") == {"Na": True, "K": False, "Cl": False, "O": False}
    assert known("Na", "Cl", "K")["Na"] is False  # a softer chemistry has a lower tier
    assert known("Na", "Cl", "Fe", "O")["Na"] is False  # a harder one a higher
    absent = known_references(tmp_path / "none", ["Na"], settings, Chemistry(elements=("Na", "Cl", "O")))
    assert absent == {"Na": False}
