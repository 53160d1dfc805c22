"""A task's life in words, in every state it can be in."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from sluice.driver.task_life import task_life
from sluice.task_library import TaskLibrary
from sluice.validate.run_batch import failure_record

NAME = "NaCl-0123456789abcdef0123"


def history(*events):
    return {"relax": [{"time": 1.0, **event} for event in events]}


def publish(library, record) -> None:
    shelf = TaskLibrary(library)
    with shelf.try_claim(NAME) as claim:
        shelf.work_directory(NAME).mkdir(parents=True)
        (shelf.work_directory(NAME) / "pw.out").write_text("text")
        assert shelf.publish(claim, record)


def test_finished_task_tells_its_energy_its_corrections_and_its_files(tmp_path):
    record = failure_record("", "") | {"converged": True, "energy_ev_per_atom": -3.25, "space_group": 225}
    record |= {"attempts": 2, "continuations": 1, "cpu_seconds": 12.0, "wall_seconds": 13.0, "setup": "espresso 6.7"}
    record["history"] = history(
        {"event": "start", "number": 1},
        {"event": "end", "exit_code": 2, "wall_seconds": 7.0},
        {"event": "correction", "kind": "failure", "handler": "ScfHandler", "problem": "scf not converged",
         "changes": {"electrons": {"mixing_beta": 0.2}}},
        {"event": "end", "interrupted": True, "wall_seconds": 3.0},
    )  # fmt: skip
    publish(tmp_path, record)
    life = task_life(tmp_path, NAME)
    assert life.summary == (
        "converged, -3.250000 eV/atom, space group 225; 2 attempts, 1 continuations; 12 CPU-s, 13 s; espresso 6.7"
    )
    assert [line.split("relax: ")[1] for line in life.events] == [
        "start 1 of the program",
        "ended with exit code 2 after 7 s",
        'failure: scf not converged; ScfHandler changed {"electrons": {"mixing_beta": 0.2}}',
        "interrupted after 3 s",
    ]
    assert all(path.is_file() for path in life.files.values()) and len(life.files) == 2


def test_failed_task_tells_its_reason(tmp_path):
    record = failure_record("scf not converged", "relax: scf not converged")
    record["history"] = history({"event": "gave_up", "handler": "ScfHandler", "problem": "scf not converged"})
    publish(tmp_path, record)
    life = task_life(tmp_path, NAME)
    assert life.summary.startswith("failed: scf not converged (relax: scf not converged); 0 attempts")
    assert life.events[0].endswith("gave up: scf not converged; ScfHandler knows nothing more")


def test_task_without_result_says_who_has_it(tmp_path):
    assert task_life(tmp_path, NAME).summary == "not started yet"
    shelf = TaskLibrary(tmp_path)
    with shelf.try_claim(NAME):
        work = shelf.work_directory(NAME) / "relax"
        work.mkdir(parents=True)
        lines = json.dumps({"event": "start", "number": 1, "time": time.time()}) + '\n{"event": "en'
        (work / "attempts.jsonl").write_text(lines)
        life = task_life(tmp_path, NAME)
        assert life.summary.startswith("is being computed by ")
        assert len(life.events) == 1 and life.files == {"working files": work.parent}
    assert task_life(tmp_path, NAME).summary == "interrupted; goes on from where it was"


def test_task_of_a_dead_process(tmp_path):
    code = "import os, sys; from pathlib import Path; from sluice.task_library import TaskLibrary\n"
    code += "TaskLibrary(Path(sys.argv[1])).try_claim(sys.argv[2]).__enter__(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path), NAME], check=False)
    assert task_life(tmp_path, NAME).summary.startswith("was left behind by ")


def test_damaged_result_is_named(tmp_path):
    publish(tmp_path, failure_record("x", "y"))
    (tmp_path / NAME / "result.json").write_text("{")
    assert "cannot be read" in task_life(tmp_path, NAME).summary
