"""From an experiment's YAML file to what is run: mode, cuts until the cap is met, jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sluice.config_file import duplicate_keys, explain, key_lines
from sluice.errors import ConfigError
from sluice.experiments.experiment import AppliedCut, Experiment, ExperimentConfig, Job, Mode, Part, load_experiment


def experiment_names(folder: Path) -> list[str]:
    """Names of the experiments that have a configuration in ``folder``."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_experiment_config(path: Path) -> tuple[Experiment, ExperimentConfig]:
    """Read and check ``config/experiments/<name>.yaml``; the file's stem is the name.

    Raises:
        ConfigError: every problem in one message: key, value, what is allowed, line.
    """
    name = path.stem
    if not path.is_file():
        known = ", ".join(experiment_names(path.parent)) or "none"
        raise ConfigError(f"{name}: no such experiment; there are: {known} ({path.parent})")
    experiment = load_experiment(name)
    text = path.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold keys and values, not a {type(values).__name__}")
    problems = duplicate_keys(node)
    try:
        config = experiment.config_type.model_validate({"experiment": name, **values})
    except ValidationError as error:
        problems += explain(error, key_lines(node), experiment.config_type)
    if problems:
        raise ConfigError(f"{path} cannot be run:\n" + "\n".join(dict.fromkeys(problems)))
    _check_overrides(config, path)
    return experiment, config


def _check_overrides(config: ExperimentConfig, path: Path) -> None:
    """Every value that quick and cuts may set must be a legal one."""
    for key, value in [*config.quick.items(), *((c.setting, v) for c in config.cuts for v in c.values)]:
        try:
            replaced(config, key, value)
        except (ValidationError, KeyError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "no such key"
            raise ConfigError(f"{path} cannot be run:\n  quick or cuts: {key} = {value!r}: {reason}") from error


def value_of(config: ExperimentConfig, key: str) -> Any:
    """The value under a dotted key."""
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def replaced(config: ExperimentConfig, key: str, value: Any) -> ExperimentConfig:
    """The configuration with another value under a dotted key.

    Raises:
        KeyError: if there is no such key.
        ValidationError: if the value is not allowed.
    """
    values = config.model_dump(mode="json")
    inner = values
    *path, last = key.split(".")
    for part in path:
        inner = inner[part]
    if last not in inner:
        raise KeyError(key)
    inner[last] = value
    return type(config).model_validate(values)


def plan_experiment(experiment: Experiment, config: ExperimentConfig, mode: Mode) -> ExperimentConfig:
    """What is run in a mode: quick values, or cuts in their order until the estimate meets the cap, or all of it.

    Cuts depend on the configuration only, so that a run that goes on later is cut in the same way.

    Raises:
        ConfigError: if the cap is missed with all cuts made.
    """
    planned = replaced(config, "mode", mode)
    if mode == "full":
        return planned
    if mode == "quick":
        for key, value in config.quick.items():
            planned = replaced(planned, key, value)
        return _with_applied(planned, config, list(config.quick))
    for cut in config.cuts:
        for value in cut.values:
            if experiment.cpu_hours(planned) <= config.cpu_hours:
                break
            planned = replaced(planned, cut.setting, value)
    hours = experiment.cpu_hours(planned)
    if hours > config.cpu_hours:
        raise ConfigError(
            f"{config.experiment}: {hours:.2g} CPU-hours are estimated with all cuts made, "
            f"cpu_hours = {config.cpu_hours:g}; raise cpu_hours, add cuts, or run it with --full"
        )
    return _with_applied(planned, config, list(dict.fromkeys(cut.setting for cut in config.cuts)))


def _with_applied(planned: ExperimentConfig, asked: ExperimentConfig, keys: list[str]) -> ExperimentConfig:
    pairs = [(key, value_of(asked, key), value_of(planned, key)) for key in keys]
    cuts = [AppliedCut(setting=key, asked=before, used=after) for key, before, after in pairs if before != after]
    return replaced(planned, "applied", [cut.model_dump(mode="json") for cut in cuts])


class Plan:
    """What the rules ask while the DAG is made.

    Args:
        values: the configuration as the driver stored it.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.experiment = load_experiment(values["experiment"])
        self.config = self.experiment.config_type.model_validate(values)
        self.name = self.config.experiment
        self.parts: dict[str, Part] = {part.variant: part for part in self.experiment.parts(self.config)}

    def data_files(self, wildcards: Any) -> list[str]:
        """Every file of the data sets; names with braces, which Snakemake would read as wildcards, are left out."""
        files = [p for folder in self.config.data_folders.values() for p in sorted(folder.rglob("*")) if p.is_file()]
        return [str(path) for path in files if not {"{", "}"} & set(str(path))]

    def preparation(self, wildcards: Any) -> str:
        """The configuration that the preparation depends on, as JSON."""
        return json.dumps(self.experiment.relevant(self.config, "prepare"), sort_keys=True)

    def job_settings(self, wildcards: Any) -> str:
        """The configuration that a job depends on, as JSON."""
        return json.dumps(self.experiment.relevant(self.config, wildcards.variant), sort_keys=True)

    def all_settings(self, wildcards: Any) -> str:
        """The whole configuration as JSON."""
        return json.dumps(self.config.model_dump(mode="json"), sort_keys=True)

    def needed_runs(self, wildcards: Any) -> list[str]:
        """Folders of the runs that a job reads."""
        return [folder for variant in self.parts[wildcards.variant].needs for folder in self.runs_of(variant)]

    def runs_of(self, variant: str) -> list[str]:
        """Folders of the runs of a variant."""
        return [f"runs/{variant}/repeat_{repeat}" for repeat in range(self.parts[variant].repeats)]

    def all_runs(self, wildcards: Any) -> list[str]:
        """Folders of all runs."""
        return [folder for variant in self.parts for folder in self.runs_of(variant)]

    def threads(self, wildcards: Any) -> int:
        """CPU threads of a job."""
        return self.parts[wildcards.variant].threads or self.config.threads


def by_variant(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Folders ``runs/<variant>/repeat_<k>`` by variant, in the order of their repeats."""
    found: dict[str, list[Path]] = {}
    for folder in sorted(folders, key=_repeat):
        found.setdefault(folder.parent.name, []).append(folder)
    return found


def _repeat(folder: Path) -> int:
    return int(folder.name.removeprefix("repeat_"))


def make_job(
    config: ExperimentConfig,
    *,
    run: Path,
    prepared: Path,
    needed: Sequence[Path],
    folder: Path,
    checkpoints: Path,
    threads: int,
) -> Job:
    """The job whose results go to ``run`` in the end and to ``folder`` until then."""
    repeat = _repeat(run)
    return Job(
        run.parent.name, repeat, config.seed + repeat, prepared, by_variant(needed), folder, checkpoints, threads
    )


Input = Callable[[Any], list[str]]
