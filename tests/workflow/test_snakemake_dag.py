"""The DAG as Snakemake sees it: configurations plan, mistakes stop everything, edits rerun what depends on them."""

from __future__ import annotations

import os
import re
import time

import h5py
import numpy as np
import pytest
import yaml
from helpers import REPOSITORY, SMALL, job_counts, sluice, snakemake, write_config

from sluice.config_file import load_config
from sluice.driver.rules import campaign_rules
from sluice.driver.status import expected_jobs

CONFIGS = sorted([*(REPOSITORY / "config").glob("*.yaml"), *(REPOSITORY / "config" / "campaigns").glob("*.yaml")])
SCREENING = {"check_geometry", "check_symmetry", "check_charge", "remove_duplicates", "score_candidates"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_configuration_plans_all_its_jobs(path, tmp_path):
    config = write_config(tmp_path, **(yaml.safe_load(path.read_text()) | {"results": str(tmp_path / "results")}))
    counts = job_counts(config)
    assert counts.pop("all") == 1
    checked = load_config(config)
    assert counts == expected_jobs(checked, campaign_rules(checked))


def test_scorer_of_formulas_is_given_the_wgan_whose_vectors_it_takes(tmp_path):
    scorer = {"model": "head", "encoding": "embedding"}
    config = write_config(
        tmp_path, **SMALL, candidates="compositions", compositions={"generator": {"model": "wgan"}, "scorer": scorer}
    )
    shown = snakemake(config, "--dry-run", "--printshellcmds")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (command,) = re.findall(r"python -m sluice.train.train_composition_scorer .*", shown.stdout + shown.stderr)
    assert "--generator round_1/train/composition_generator.ckpt --settings" in command


def test_only_the_scorer_of_formulas_trains_on_several_devices(tmp_path):
    train = {"train": {"device": "cuda", "devices": 2, "threads": 1}}
    config = write_config(tmp_path, **SMALL | train, candidates="compositions")
    shown = snakemake(config, "--dry-run", "--printshellcmds")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    jobs = {job.split(":")[0]: job for job in re.split(r"^rule ", shown.stdout + shown.stderr, flags=re.MULTILINE)}
    scorer, generator = jobs["train_composition_scorer"], jobs["train_composition_generator"]
    assert "--devices 2 " in scorer and "gpu=2" in scorer
    assert "--devices" not in generator and "gpu=1" in generator


def test_snakemake_lint_is_clean(tmp_path):
    done = snakemake(write_config(tmp_path), "--lint")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("start", [sluice, snakemake], ids=["sluice run", "snakemake"])
def test_mistakes_stop_everything_before_any_job(start, tmp_path):
    config = tmp_path / "bad.yaml"
    config.write_text(
        f"results: {tmp_path}/results\nrounds: 0\nscreen:\n  shortlist:\n    dft_cpu_seconds: -1\n"
        "chemistry:\n  elements: [Li, Xx, F]\nvalidate:\n  pseudos: /nowhere\ntypo: 1\n"
    )
    done = start("run", str(config)) if start is sluice else start(config, "--cores", "1")
    assert done.returncode != 0
    text = done.stdout + done.stderr
    for words in (
        "line 2: rounds = 0",
        "line 5: screen.shortlist.dft_cpu_seconds = -1",
        "Xx",
        "line 10: typo: unknown key",
    ):
        assert words in text, text
    assert not (tmp_path / "results").exists()


def test_dry_run_of_the_command_starts_nothing(tmp_path):
    config = write_config(tmp_path, **SMALL)
    done = sluice("run", str(config), "--dry-run")
    assert done.returncode == 0 and "label_crystals" in done.stdout + done.stderr
    assert not (tmp_path / "results" / "small" / "lease.json").exists()
    assert not (tmp_path / "results" / "small" / "curate").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A campaign of two rounds that Snakemake takes for finished: every output is there, empty."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder, **SMALL, rounds=2, screen={"relax": {"batches": 2}})
    finish(config, folder / "results" / "small")
    return config


def finish(config, workdir):
    """Make every output, empty."""
    listed = snakemake(config, "--dry-run", "--summary")
    assert listed.returncode == 0, listed.stderr
    lines = [line.split("\t") for line in listed.stdout.splitlines() if "\t" in line]
    for name, *_ in lines[1:]:
        path = workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name == "report/cifs" else path.touch()
    touched = snakemake(config, "--touch", "--forceall", "--cores", "1")
    assert touched.returncode == 0, touched.stdout + touched.stderr
    assert job_counts(config) == {}


def edited(config, **sections):
    values = yaml.safe_load(config.read_text())
    for name, section in sections.items():
        values[name] = values.get(name, {}) | section if isinstance(section, dict) else section
    path = config.with_name("edited.yaml")
    path.write_text(yaml.safe_dump(values))
    return path


def test_written_differently_is_not_another_configuration(finished):
    config = finished.with_name("same.yaml")
    config.write_text(
        "# a comment\n" + yaml.safe_dump(yaml.safe_load(finished.read_text()), sort_keys=True) + "seed: 2026\n"
    )
    assert job_counts(config) == {}


def test_edit_of_screening_leaves_curate_and_training_of_round_1(finished):
    counts = job_counts(edited(finished, screen={"geometry": {"min_density": 0.4}}))
    assert set(counts) >= SCREENING
    assert not {"collect_crystals", "label_crystals", "split_crystals"} & set(counts)
    assert counts.get("train_generator", 0) <= 1, "only round 2 learns from what screening found"
    assert counts["check_geometry"] == 2 * 4


def test_edit_of_stop_reruns_decisions_only_and_what_follows(finished):
    counts = job_counts(edited(finished, stop={"confirmed": 5}))
    assert counts["decide_round"] == 2
    assert counts.get("check_geometry", 0) <= 4, "round 1 must stand"
    assert "collect_crystals" not in counts and counts.get("compute_compounds", 0) <= 2


def test_edit_of_chemistry_reruns_everything(finished):
    counts = job_counts(edited(finished, chemistry={"elements": ["Li", "K", "F"], "space_groups": [225]}))
    assert counts["collect_crystals"] == 1 and counts["train_generator"] == 2


def test_name_and_description_of_results_do_not_matter_elsewhere(finished):
    """Retraining is not asked for by an edit of the DFT protocol."""
    counts = job_counts(edited(finished, validate={"protocol": "balanced"}))
    assert "collect_crystals" not in counts and "label_crystals" not in counts
    assert counts["compute_compounds"] == 4 and counts.get("train_generator", 0) <= 1


def test_directory_that_cannot_be_written_is_a_message(tmp_path):
    done = sluice("run", str(write_config(tmp_path, results="/proc/x")), "--until", "collect_crystals")
    assert done.returncode == 2 and "/proc/x/halides cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_jobs_ask_for_what_their_work_needs(finished):
    """One crystal of 40 atoms among 20 000 to be relaxed, in two batches."""
    selected = finished.parent / "results" / "small" / "round_1" / "screen" / "selected.h5"
    times = (selected.stat().st_atime, selected.stat().st_mtime)
    try:
        with h5py.File(selected, "w") as store:
            store["crystals/atom_offsets"] = np.cumsum([0, 40, *[4] * 19_990])
        os.utime(selected, times)
        shown = snakemake(finished, "--dry-run", "--forcerun", "relax_candidates")
    finally:
        selected.write_bytes(b"")
        os.utime(selected, times)
    found = re.findall(r"rule relax_candidates:.*?resources: (.*?)\n", shown.stdout + shown.stderr, re.DOTALL)
    values = [dict(part.split("=") for part in line.split(", ")) for line in found]
    assert sorted(int(value["mem_mb"]) for value in values) == [3000] * 2 + [3000 + 160 + 800] * 2
    assert sorted(int(value["runtime"]) for value in values) == [240] * 2 + [240 + 800] * 2


def test_edit_of_the_users_files_reruns_curate(tmp_path):
    folder, table, model = tmp_path / "cifs", tmp_path / "energies.csv", tmp_path / "own.ckpt"
    folder.mkdir()
    inputs = [folder / "a b.cif", table, model]
    for path in (*inputs, folder / "{a}.cif"):
        path.write_text("")
    objective = {"quantity": "output", "model": str(model), "direction": "maximize"}
    curate = SMALL["curate"] | {"source": "files", "files": {"path": str(folder), "properties": str(table)}}
    config = write_config(tmp_path, **(SMALL | {"curate": curate}), screen={"objectives": [objective]})
    finish(config, tmp_path / "results" / "small")
    for path in inputs:
        path.write_text("edited")
        os.utime(path, (time.time() + 60,) * 2)
        rerun = job_counts(config)
        assert ("collect_crystals" in rerun) == (path != model) and "rank_candidates" in rerun, path
        path.write_text("")
        os.utime(path, (0, 0))
        assert job_counts(config) == {}
    (folder / "b.cif").write_text("")
    assert "collect_crystals" in job_counts(config), "a file was added"
