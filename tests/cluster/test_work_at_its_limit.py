"""Real steps near their time limit: pw.x and training save their state, go on in another job, and end the same."""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from slurm_cluster import wait_until

from sluice.attempts import ATTEMPTS_FILE, read_attempts
from sluice.config import GeneratorSettings, ValidateSettings
from sluice.store_writer import StoreWriter
from sluice.task_library import TaskLibrary
from sluice.validate.plan_tasks import Planner
from sluice.validate.run_batch import Task
from sluice.validate.task_stores import TASK_COLUMNS, write_tasks

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "models"))
from crystals_for_models import write_dataset

PMIX = "/usr/lib/x86_64-linux-gnu/pmix2/lib/libpmix.so"
LAUNCHERS = {"quiet": "mpirun -np {ranks}", "limited": "mpirun -np {ranks}"}
LAUNCHERS["warned"] = "srun --mpi=pmix -n {ranks}" if Path(PMIX).exists() else "mpirun -np {ranks}"
TOLERANCE_EV_PER_ATOM = 1e-3
# spglib's own deprecation, met while tasks are planned.
pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
needs_pwx = pytest.mark.skipif(shutil.which("pw.x") is None, reason="apt-get install quantum-espresso")
CALCULATIONS = """\
LAUNCHERS = {launchers!r}
SETTINGS = {settings!r}

def settings(wildcards):
    return SETTINGS.replace("LAUNCHER", LAUNCHERS[wildcards.name])

rule all:
    localrule: True
    input: {outputs!r}

rule compute_references:
    output: "{{name}}/results.h5"
    log: "logs/{{name}}.log"
    resources: mem_mb=1200, runtime={minutes}
    params: settings=settings
    shell:
        "{python} -m sluice.validate.compute_references --tasks tasks.h5 --settings {{params.settings:q}} "
        "--batch 0 --library {{wildcards.name}}/dft --results {{output}} --log {{log}}"
"""
TRAINING = """\
rule all:
    localrule: True
    input: "generator.ckpt"

rule train_generator:
    output: model="generator.ckpt", metrics="metrics.csv"
    log: "logs/train_generator.log"
    resources: mem_mb=1500, runtime=2, slurm_partition={partition!r}
    params: settings=lambda wildcards: {settings!r}
    shell:
        "{python} -m sluice.train.train_generator --training-set set.h5 --settings {{params.settings:q}} "
        "--checkpoints checkpoints --seed 1 --precision 32-true --threads 1 --device {device} --devices 1 --round 1 "
        "--decision --earlier --model {{output.model}} --metrics {{output.metrics}} --log {{log}}"
"""


def write_calculations(campaign, task_of, *names: str, minutes: int) -> Task:
    """A plan of one task, and a rule that computes it in a library of its own for each name."""
    settings = ValidateSettings(protocol="fast", launch="LAUNCHER {ranks}", max_hours=1.0)
    task = task_of(Planner(settings))
    with StoreWriter(campaign.root / "tasks.h5", "tasks", columns=TASK_COLUMNS, campaign="c", round_number=1) as writer:
        write_tasks(writer, [task])
    text = CALCULATIONS.format(
        launchers={name: LAUNCHERS[name] for name in names},
        settings=settings.model_dump_json().replace("LAUNCHER {ranks}", "LAUNCHER"),
        outputs=[f"{name}/results.h5" for name in names],
        minutes=minutes,
        python=sys.executable,
    )
    (campaign.root / "Snakefile").write_text(text)
    return task


def records(campaign, task: Task, *names: str) -> list[dict]:
    found = [TaskLibrary(campaign.root / name / "dft").result(task.task_id) for name in names]
    assert all(record is not None and record["converged"] for record in found)
    return found


def iterations(output: Path) -> int:
    return output.read_text(errors="replace").count("iteration #") if output.exists() else 0


@pytest.mark.smoke
@pytest.mark.dft
@pytest.mark.timeout(1200)
@needs_pwx
def test_calculation_that_is_warned_goes_on_with_the_same_energy(campaign, slurm):
    task = write_calculations(campaign, lambda planner: planner.reference("Ca", "T45"), "quiet", "warned", minutes=60)
    driver = campaign.start()
    output = TaskLibrary(campaign.root / "warned" / "dft").work_directory(task.task_id) / "relax" / "pw.out"
    wait_until(lambda: iterations(output) >= 4 or driver.process.poll() is not None, 300, "pw.x is at work")
    job = next(number for number, job in campaign.jobs().items() if job.identity.label.endswith("warned"))
    # what SLURM does by itself with --signal=B:USR1@n before the limit
    slurm.run("scancel", "--batch", "--signal=USR1", job, check=True)
    assert driver.wait(250) == 0, driver.text()
    assert driver.text().count("saved its state and goes on") == 1
    assert "Error in rule" not in driver.text()
    quiet, warned = records(campaign, task, "quiet", "warned")
    assert (warned["attempts"], warned["continuations"]) == (1, 1), "continuing is no failure"
    assert warned["pw_starts"] == quiet["pw_starts"] + 1
    assert abs(warned["energy_ev_per_atom"] - quiet["energy_ev_per_atom"]) < TOLERANCE_EV_PER_ATOM
    corrections = [e for events in warned["history"].values() for e in events if e["event"] == "correction"]
    assert [c["changes"]["control"]["restart_mode"] for c in corrections] == ["restart"]
    outcomes = [a.outcome for a in read_attempts(campaign.root / ATTEMPTS_FILE) if a.job.endswith("warned")]
    assert outcomes == ["continued", "done"]


@pytest.mark.slow
@pytest.mark.dft
@pytest.mark.timeout(1500)
@needs_pwx
def test_calculation_longer_than_its_limit_goes_on_with_the_same_energy(campaign):
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    perovskite = Structure(Lattice.cubic(4.5), ["Na", "Ca", "F", "F", "F"], sites)

    def plan(planner: Planner) -> Task:
        made = planner.compound("NaCaF3", perovskite, "T45")
        return Task(**{**made.__dict__, "kind": "reference"})

    task = write_calculations(campaign, plan, "limited", minutes=1)
    driver = campaign.start()
    assert driver.wait(300) == 0, driver.text()
    (limited,) = records(campaign, task, "limited")
    continued = driver.text().count("saved its state and goes on")
    assert continued >= 1 and "Error in rule" not in driver.text()
    assert limited["attempts"] == 1 and limited["continuations"] >= 1
    outcomes = [a.outcome for a in read_attempts(campaign.root / ATTEMPTS_FILE)]
    assert outcomes == ["continued"] * continued + ["done"]
    write_calculations(campaign, plan, "quiet", minutes=30)
    driver = campaign.start()
    assert driver.wait(220) == 0, driver.text()
    (quiet,) = records(campaign, task, "quiet")
    assert abs(limited["energy_ev_per_atom"] - quiet["energy_ev_per_atom"]) < TOLERANCE_EV_PER_ATOM


def write_training(campaign, *, epochs: int, device: str = "cpu", partition: str = "cpu") -> None:
    from sluice.train.collect_training_set import collect_training_set

    dataset = write_dataset(campaign.root / "dataset.h5")
    collect_training_set(dataset=dataset, validated=[], shortlists=[], round=1, training_set=campaign.root / "set.h5")
    settings = GeneratorSettings(epochs=epochs, batch_size=64, noise_size=16, critic_steps=2)
    (campaign.root / "Snakefile").write_text(
        TRAINING.format(settings=settings.model_dump_json(), device=device, partition=partition, python=sys.executable)
    )


@pytest.mark.slow
@pytest.mark.timeout(2100)
def test_training_longer_than_its_limit_goes_on(campaign):
    write_training(campaign, epochs=1000)  # some 110 CPU seconds
    driver = campaign.start()
    wait_until((campaign.root / "logs" / "train_generator.log").exists, 200, "training starts")
    assert driver.wait(500) == 0, driver.text()
    continued = driver.text().count("saved its state and goes on")
    assert continued >= 1 and "Error in rule" not in driver.text()
    outcomes = [a.outcome for a in read_attempts(campaign.root / ATTEMPTS_FILE)]
    assert outcomes == ["continued"] * continued + ["done"]
    # The log is the last job's.
    assert (campaign.root / "logs" / "train_generator.log").read_text().count("resumed after step") == 1
    with (campaign.root / "metrics.csv").open() as handle:
        assert [int(row["epoch"]) for row in csv.DictReader(handle)] == list(range(1, 1001))


@pytest.mark.smoke
def test_gpu_step_on_a_node_without_gpu_says_so(campaign):
    write_training(campaign, epochs=2, device="cuda")
    driver = campaign.start()
    assert driver.wait(120) == 1, driver.text()
    assert "device is `cuda`, but torch finds no GPU on" in driver.text()
    assert "a partition with GPUs" in driver.text()
