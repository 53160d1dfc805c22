"""What the rules need to know while the DAG is made: earlier rounds' files, settings as JSON, resources."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from sluice.config import Config, CurateSettings, ScreenSettings
from sluice.provenance import crystal_files


class Wildcards(Protocol):
    """Snakemake's wildcards of a job; ``round`` counts from 1."""

    round: str


def settings_json(*sections: BaseModel) -> Callable[[Any], str]:
    """One section of the configuration (or several, as a list) as the JSON that a step takes.

    A function, since Snakemake would read braces in a plain parameter (``{ranks}``) as wildcards.
    """
    values = [section.model_dump(mode="json", by_alias=True) for section in sections]
    text = json.dumps(values[0] if len(values) == 1 else values, sort_keys=True)

    def settings(wildcards: Any) -> str:
        return text

    return settings


def revision(step: str) -> int:
    """A step's hand-raised ``REVISION``, read without importing it: raising it reruns the step, other edits do not.

    Args:
        step: stage and step, e.g. ``train.train_screener``.

    Raises:
        ValueError: if the step states none.
    """
    path = Path(__file__).parent / f"{step.replace('.', '/')}.py"
    found = re.search(r"^REVISION = (\d+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if found is None:
        raise ValueError(f"{path}: no line `REVISION = <number>`")
    return int(found.group(1))


def user_files(settings: CurateSettings) -> list[str]:
    """The user's own files as inputs: every CIF of a folder (or the one file) and the CSV; none if the project builds.

    Names with braces, which Snakemake would read as wildcards, are left out: an edit of those goes unnoticed.
    """
    paths: list[Path] = []
    files = settings.files
    if settings.source == "files" and files.path is not None:
        paths = crystal_files(files.path) + ([files.properties] if files.properties is not None else [])
    return [name for name in map(str, paths) if not {"{", "}"} & set(name)]


def database_of_crystals(config: Config) -> list[str]:
    """The database that a campaign of compositions takes its formulas from; none if it reads a table."""
    return ["curate/dataset.h5"] if config.curates_crystals else []


def formula_table(config: Config) -> list[str]:
    """The user's table of formulas as an input, likewise with braces left out; none if formulas come from crystals."""
    paths = [] if config.compositions.data.path is None else [str(config.compositions.data.path)]
    return [name for name in paths if not {"{", "}"} & set(name)]


def objective_models(settings: ScreenSettings) -> list[str]:
    """The user's own models whose output candidates are ranked by, likewise."""
    names = [str(objective.model) for objective in settings.objectives if objective.model is not None]
    return [name for name in names if not {"{", "}"} & set(name)]


def filter_models(settings: ScreenSettings) -> list[str]:
    """The models that candidates must pass, likewise; those that are not there yet are missed by the step itself."""
    paths = [one.model for one in settings.score.filters if one.model is not None and one.model.is_file()]
    return [name for name in map(str, paths) if not {"{", "}"} & set(name)]


def earlier_decision(wildcards: Wildcards) -> list[str]:
    """The decision of the round before; nothing in round 1."""
    before = int(wildcards.round) - 1
    return [f"round_{before}/decision.h5"] if before else []


def earlier_generator(wildcards: Wildcards) -> list[str]:
    """The generator of the round before with its metrics, to be handed on once the campaign has stopped."""
    before = int(wildcards.round) - 1
    folder = f"round_{before}/train"
    return [f"{folder}/generator.ckpt", f"{folder}/generator_metrics.csv"] if before else []


def earlier_screener(wildcards: Wildcards) -> list[str]:
    """The screener of the round before with its metrics and predictions, likewise."""
    before = int(wildcards.round) - 1
    folder = f"round_{before}/train"
    names = ("screener.ckpt", "screener_metrics.csv", "screener_test.h5")
    return [f"{folder}/{name}" for name in names] if before else []


def earlier_validated(wildcards: Wildcards) -> list[str]:
    """The DFT results of all rounds before."""
    return [f"round_{r}/validate/validated.h5" for r in range(1, int(wildcards.round))]


def earlier_shortlists(wildcards: Wildcards) -> list[str]:
    """The candidates that went to DFT in all rounds before."""
    return [f"round_{r}/screen/shortlist.h5" for r in range(1, int(wildcards.round))]


def memory_mb(base: int) -> Callable[..., int]:
    """Memory in MB that doubles with every attempt."""

    def grow(wildcards: Any, attempt: int) -> int:
        return int(base * 2 ** (attempt - 1))

    return grow


def runtime_minutes(base: int) -> Callable[..., int]:
    """Run time in minutes that doubles with every attempt."""

    def grow(wildcards: Any, attempt: int) -> int:
        return int(base * 2 ** (attempt - 1))

    return grow


def prefer_this_python() -> None:
    """Put the programs of this Python first on the path, for the commands of rules."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def container_image() -> str | None:
    """The Apptainer image of ``SLUICE_CONTAINER`` that jobs run in with ``--software-deployment-method apptainer``."""
    return os.environ.get("SLUICE_CONTAINER") or None
