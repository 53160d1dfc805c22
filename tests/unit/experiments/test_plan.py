"""Configurations of experiments: what is refused, what is cut, what a job depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sluice.errors import ConfigError
from sluice.experiments import run_part
from sluice.experiments.experiment import load_experiment
from sluice.experiments.folders import write_metrics
from sluice.experiments.plan import (
    Plan,
    by_variant,
    experiment_names,
    load_experiment_config,
    make_job,
    plan_experiment,
    value_of,
)

CONFIGS = Path(__file__).parents[3] / "config" / "experiments"
NAMES = experiment_names(CONFIGS)


def config_file(folder, **values):
    stored = yaml.safe_load((CONFIGS / "dvae.yaml").read_text()) | values
    path = folder / "dvae.yaml"
    path.write_text(yaml.safe_dump(stored, sort_keys=False))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_can_be_planned_in_every_mode(name):
    experiment, config = load_experiment_config(CONFIGS / f"{name}.yaml")
    for mode in ("default", "quick", "full"):
        planned = plan_experiment(experiment, config, mode)
        variants = [part.variant for part in experiment.parts(planned)]
        assert variants and len(set(variants)) == len(variants)
        assert {n for part in experiment.parts(planned) for n in part.needs} <= set(variants)
        for variant in variants:
            again = type(config).model_validate(experiment.relevant(planned, variant))
            assert again.experiment == name
        if mode == "default":
            assert experiment.cpu_hours(planned) <= config.cpu_hours
        if mode == "full":
            assert planned.applied == ()
    assert config.title and config.paper


@pytest.mark.parametrize("name", NAMES)
def test_data_sets_are_registered(name):
    from sluice.datasets.registry import find_in_registry

    _, config = load_experiment_config(CONFIGS / f"{name}.yaml")
    for data_set in config.data:
        find_in_registry(data_set)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 3}, r"line \d+: sed: unknown key; allowed here: .*seed"),
        ({"settings": {"paper": {"epochs": 0}}}, "settings.paper.epochs = 0"),
        ({"cuts": [{"setting": "settings.nothing", "values": [1]}]}, "settings.nothing = 1: no such key"),
        ({"quick": {"settings.paper.epochs": -1}}, "settings.paper.epochs = -1: .*greater than or equal to 1"),
        ({"goals": [{"quantity": "test accuracy"}]}, "either `at_least` or `at_most`"),
        ({"experiment": "Dvae!"}, "experiment = 'Dvae!'"),
    ],
)
def test_bad_configurations_are_refused_with_key_value_and_line(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        load_experiment_config(config_file(tmp_path, **values))


@pytest.mark.parametrize("name", ["nothing", "../dvae", "folders", "experiment"])
def test_names_that_are_no_experiments_are_refused(name):
    with pytest.raises(ConfigError, match="no such experiment"):
        load_experiment(name)


def test_a_name_without_configuration_lists_those_there_are(tmp_path):
    config_file(tmp_path)
    with pytest.raises(ConfigError, match="there are: dvae"):
        load_experiment_config(tmp_path / "nothing.yaml")


def test_cuts_are_made_in_their_order_until_the_cap_is_met(tmp_path):
    cuts = [
        {"setting": "settings.paper.epochs", "values": [10_000, 5000]},
        {"setting": "repeats", "values": [5, 2]},
    ]
    experiment, config = load_experiment_config(config_file(tmp_path, cuts=cuts, cpu_hours=100.0))
    assert plan_experiment(experiment, config, "default").applied == ()
    whole = experiment.cpu_hours(config)
    first = plan_experiment(experiment, config.model_copy(update={"cpu_hours": 0.9 * whole}), "default")
    assert [(c.setting, c.asked, c.used) for c in first.applied] == [("settings.paper.epochs", 20_000, 10_000)]
    half = experiment.cpu_hours(first)
    deeper = plan_experiment(experiment, config.model_copy(update={"cpu_hours": 0.4 * half}), "default")
    assert [c.setting for c in deeper.applied] == ["settings.paper.epochs", "repeats"]
    assert value_of(deeper, "settings.paper.epochs") == 5000 and deeper.repeats in (5, 2)
    with pytest.raises(ConfigError, match="CPU-hours are estimated with all cuts made"):
        plan_experiment(experiment, config.model_copy(update={"cpu_hours": 1e-6}), "default")


def test_quick_values_are_named(tmp_path):
    experiment, config = load_experiment_config(config_file(tmp_path))
    quick = plan_experiment(experiment, config, "quick")
    assert quick.mode == "quick" and experiment.cpu_hours(quick) < 0.1
    assert {cut.setting for cut in quick.applied} <= set(config.quick)


def test_jobs_depend_only_on_what_is_theirs(tmp_path):
    experiment, config = load_experiment_config(config_file(tmp_path))
    more = config.model_copy(update={"title": "x", "cpu_hours": 99.0, "goals": ()})
    other = config.model_copy(
        update={"settings": config.settings.model_copy(update={"proposals": 7, "quirk_seeds": 3})}
    )
    for variant in ("prepare", "model", "paper", "labels"):
        assert experiment.relevant(config, variant) == experiment.relevant(more, variant)
        assert experiment.relevant(config, variant) == experiment.relevant(other, variant)
    assert experiment.relevant(config, "quirk") != experiment.relevant(other, "quirk")


class Wildcards:
    variant = "labels"


def test_rules_get_runs_settings_and_threads(tmp_path):
    _experiment, config = load_experiment_config(config_file(tmp_path))
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.csv").write_text("1")
    (data / "{b}.csv").write_text("1")
    plan = Plan(config.model_copy(update={"data_folders": {"hea_dvae": data}}).model_dump(mode="json"))
    assert plan.data_files(None) == [str(data / "a.csv")]
    assert plan.all_runs(None)[:2] == ["runs/model/repeat_0", "runs/paper/repeat_0"]
    assert plan.needed_runs(Wildcards) == [] and plan.threads(Wildcards) == 1
    assert type(config).model_validate_json(plan.all_settings(None)).repeats == config.repeats


def test_runs_are_ordered_by_repeat_not_by_name():
    folders = [Path(f"runs/a/repeat_{k}") for k in (10, 2, 0)]
    assert [p.name for p in by_variant(folders)["a"]] == ["repeat_0", "repeat_2", "repeat_10"]


def test_a_job_knows_its_seed_and_what_it_needs(tmp_path):
    _, config = load_experiment_config(config_file(tmp_path))
    job = make_job(
        config,
        run=Path("runs/student/repeat_3"),
        prepared=tmp_path,
        needed=[Path("runs/teacher/repeat_0")],
        folder=tmp_path,
        checkpoints=tmp_path,
        threads=2,
    )
    assert (job.variant, job.repeat, job.seed, job.threads) == ("student", 3, config.seed + 3, 2)
    assert list(job.needed) == ["teacher"]


def test_a_raised_revision_makes_a_job_anew(tmp_path, monkeypatch):
    """What an earlier version of the jobs left is neither gone on from nor kept."""
    seen = []

    class Noting(type(load_experiment("dvae"))):
        def run(self, config, job):
            seen.append(job.checkpoints)
            job.checkpoints.mkdir(parents=True, exist_ok=True)
            (job.checkpoints / "step").touch()
            write_metrics(job.folder, {"n": len(list(job.checkpoints.iterdir()))})

    monkeypatch.setattr(run_part, "load_experiment", lambda _: Noting())
    experiment, config = load_experiment_config(CONFIGS / "dvae.yaml")
    planned = plan_experiment(experiment, config, "quick")
    variant = experiment.parts(planned)[0].variant
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "of_old").mkdir(parents=True)
    (checkpoints / "metrics.csv").touch()
    for revision in (1, 1, 2):
        monkeypatch.setattr(run_part, "REVISION", revision)
        run_part.run_part(
            experiment="dvae", settings=planned.model_dump_json(), prepared=tmp_path, needed=[], threads=1,
            checkpoints=checkpoints, run=tmp_path / "runs" / variant / "repeat_0",
        )  # fmt: skip
        assert list(checkpoints.iterdir()) == [checkpoints / f"revision_{revision}"]
    assert seen[0] == seen[1] != seen[2]
