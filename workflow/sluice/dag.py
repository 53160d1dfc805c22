"""What the rules need to know while the DAG is made: earlier rounds' files, settings as JSON, resources."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from sluice.config import Config, CurateSettings, ScreenerSettings, ScreenSettings, TrainSettings
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


def drawing_generator(settings: ScreenerSettings) -> Callable[[Wildcards], list[str]]:
    """The round's generator, where it draws unlabelled crystals for the screener; else nothing to wait for."""
    draws = settings.model == "tsdnn" and settings.tsdnn.generated > 0

    def generator(wildcards: Wildcards) -> list[str]:
        return [f"round_{wildcards.round}/train/generator.ckpt"] if draws else []

    return generator


def vectors_of_the_generator(config: Config) -> Callable[[Wildcards], list[str]]:
    """The round's WGAN, where the scorer of formulas takes the elements' vectors that it learned; else nothing."""
    learned = config.compositions.scorer.needs_wgan

    def generator(wildcards: Wildcards) -> list[str]:
        return [f"round_{wildcards.round}/train/composition_generator.ckpt"] if learned else []

    return generator


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


def training_gpus(settings: TrainSettings) -> int:
    """GPUs that one training asks for; with `devices: auto` one, or as many as the profile says (`gpu`)."""
    if settings.device == "cpu":
        return 0
    return 1 if settings.devices == "auto" else settings.devices


def training_cores(settings: TrainSettings) -> int:
    """Cores of one training: its threads, in each of its processes."""
    return settings.threads * (1 if settings.devices == "auto" else settings.devices)


@lru_cache(maxsize=65_536)
def _atoms(path: str, changed_ns: int) -> tuple[int, int]:
    """Atoms in a store and in its largest crystal; none where it cannot be read, which the step will say."""
    import h5py  # only where a job is about to start

    try:
        with h5py.File(path, "r", locking=False) as store:
            offsets = store["crystals/atom_offsets"][:]
    except (OSError, KeyError):
        return 0, 0
    return (int(offsets[-1]), int((offsets[1:] - offsets[:-1]).max())) if len(offsets) > 1 else (0, 0)


def count_atoms(inputs: Iterable[str]) -> tuple[int, int]:
    """How much work a job's inputs are: atoms in all of its stores, and atoms of the largest crystal.

    Stores that are not there yet count as empty: Snakemake asks once more before it starts the job.
    """
    total, largest = 0, 0
    for path in map(Path, map(str, inputs)):
        if path.suffix == ".h5" and path.exists():
            atoms, most = _atoms(str(path.absolute()), path.stat().st_mtime_ns)
            total, largest = total + atoms, max(largest, most)
    return total, largest


def _growing(base: float, per_thousand_atoms: float, per_cell_atom: float) -> Callable[..., int]:
    def grow(wildcards: Any, input: Iterable[str], attempt: int) -> int:
        atoms, largest = count_atoms(input) if per_thousand_atoms or per_cell_atom else (0, 0)
        work = per_thousand_atoms * atoms / 1000 + per_cell_atom * largest
        return math.ceil((base + work) * 2 ** (attempt - 1))

    return grow


def memory_mb(base: float, *, per_thousand_atoms: float = 0.0, per_cell_atom: float = 0.0) -> Callable[..., int]:
    """Memory in MB that grows with a job's work and doubles with every attempt.

    Args:
        base: MB without any work; what is known from the configuration is added here.
        per_thousand_atoms: MB for every 1000 atoms in the job's input stores.
        per_cell_atom: MB for every atom of the largest crystal in them.
    """
    return _growing(base, per_thousand_atoms, per_cell_atom)


def runtime_minutes(base: float, *, per_thousand_atoms: float = 0.0) -> Callable[..., int]:
    """Run time in minutes that grows with a job's work and doubles with every attempt; arguments as above."""
    return _growing(base, per_thousand_atoms, 0.0)


def prefer_this_python() -> None:
    """Put the programs of this Python first on the path, for the commands of rules."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def container_image() -> str | None:
    """The Apptainer image of ``SLUICE_CONTAINER`` that jobs run in with ``--software-deployment-method apptainer``."""
    return os.environ.get("SLUICE_CONTAINER") or None
