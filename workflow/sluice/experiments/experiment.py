"""What an experiment is: a typed configuration, parts that run as jobs, a comparison with the paper."""

from __future__ import annotations

import importlib
import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import plotly.graph_objects as go
from pydantic import Field, model_validator

from sluice.config_base import Count, Positive, Section
from sluice.errors import ConfigError

Mode = Literal["default", "quick", "full"]
MODES: tuple[Mode, ...] = ("default", "quick", "full")
COLUMNS = ("quantity", "paper", "sluice_mean", "sluice_std", "repeats", "n_train", "n_test", "unit", "note")
# Keys of the configuration that no job depends on: editing them repeats nothing but the comparison.
FRAME_KEYS = frozenset(
    {"title", "paper", "repeats", "cpu_hours", "cuts", "quick", "goals", "applied", "mode", "memory_mb"}
)


class Goal(Section):
    """A number to reach."""

    quantity: str = Field(description="Row of the comparison, by its quantity.")
    at_least: float | None = Field(None, description="Reached from this value on upwards.")
    at_most: float | None = Field(None, description="Reached from this value on downwards.")

    @model_validator(mode="after")
    def _check(self) -> Goal:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give either `at_least` or `at_most`")
        return self

    def is_met(self, value: float) -> bool:
        """Whether the value reaches it; NaN never does."""
        return value >= self.at_least if self.at_least is not None else bool(value <= self.at_most)  # type: ignore[operator]

    def describe(self) -> str:
        """The goal in a few characters."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


class Cut(Section):
    """One way to make the experiment cheaper: a setting and the values it may fall to, in order."""

    setting: str = Field(description="Dotted key of this configuration, e.g. settings.epochs.")
    values: tuple[Any, ...] = Field(min_length=1, description="Values to fall to, one after the other.")


class AppliedCut(Section):
    """A cut that was made."""

    setting: str = Field(description="Dotted key.")
    asked: Any = Field(description="The value of the configuration.")
    used: Any = Field(description="The value that was used.")

    def describe(self) -> str:
        """The cut in a few words."""
        return f"{self.setting.removeprefix('settings.')} {self.asked} → {self.used}"


class ExperimentConfig(Section):
    """What every experiment has; each adds its own ``settings``."""

    experiment: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]*$", description="Name; results go to results/experiments/<name>."
    )
    title: str = Field(description="Heading of the report.")
    paper: str = Field(description="The paper that is compared with.")
    data: tuple[str, ...] = Field((), description="Data sets it needs, by the names of `sluice data list`.")
    seed: int = Field(2026, ge=0, description="Seed of every random choice; repeat k uses seed + k.")
    repeats: Count = Field(1, description="Repeats of a part with other seeds.")
    threads: Count = Field(1, description="CPU threads of one job.")
    memory_mb: Count = Field(3000, description="Memory of one job, MB.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto takes a GPU if there is one."
    )
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="lightning-fabric's precision.")
    cpu_hours: Positive = Field(4.0, description="Cap on the estimated CPU time, hours; cuts are made until it is met.")
    cuts: tuple[Cut, ...] = Field((), description="What to cut, in this order, until the cap is met.")
    quick: dict[str, Any] = Field({}, description="Values of `--quick`, by dotted key.")
    goals: tuple[Goal, ...] = Field((), description="Numbers to reach.")
    mode: Mode = Field("default", description="Set by the command: default, quick or full.")
    applied: tuple[AppliedCut, ...] = Field((), description="Set by the command: cuts that were made.")
    data_folders: dict[str, Path] = Field({}, description="Set by the command: where each data set lies.")


@dataclass(frozen=True)
class Part:
    """Jobs that differ in their seed only.

    Attributes:
        variant: name in paths, letters, digits and underscores.
        repeats: number of jobs, repeats 0, 1, …
        needs: variants whose finished runs these jobs read.
        threads: CPU threads of a job, None for the configuration's.
    """

    variant: str
    repeats: int = 1
    needs: tuple[str, ...] = ()
    threads: int | None = None


@dataclass(frozen=True)
class Job:
    """One job of a part.

    Attributes:
        seed: the configuration's plus ``repeat``.
        prepared: folder that ``Experiment.prepare`` wrote.
        needed: folders of the runs of each variant in ``Part.needs``, by repeat.
        folder: where to write ``metrics.json`` (through ``write_metrics``) and whatever else; appears only when done.
        checkpoints: folder that survives an interruption, for ``models.training.Plan.checkpoints``.
        threads: CPU threads to use.
    """

    variant: str
    repeat: int
    seed: int
    prepared: Path
    needed: Mapping[str, list[Path]]
    folder: Path
    checkpoints: Path
    threads: int


@dataclass(frozen=True)
class Row:
    """A row of comparison.csv; NaN or None where there is nothing to state."""

    quantity: str
    paper: float | None
    sluice_mean: float
    sluice_std: float | None = None
    repeats: int = 1
    n_train: int | None = None
    n_test: int | None = None
    unit: str = ""
    note: str = ""


@dataclass
class Comparison:
    """What an experiment found.

    Attributes:
        rows: of the table.
        figures: plotly figures by title, in order; the learning curve among them.
        model: model file for ``sluice score``, if there is one.
        analysis: paragraphs for the report and the published page (why a goal was missed, what a reader must know).
        files: further files to keep with the results, by name.
        excerpts: of ``files``, CSVs to publish beside the table: their first rows on the page under the title given.
    """

    rows: list[Row]
    figures: dict[str, go.Figure] = field(default_factory=dict)
    model: Path | None = None
    analysis: list[str] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    excerpts: dict[str, str] = field(default_factory=dict)


class Experiment(ABC):
    """One experiment; stateless: everything it needs is in its configuration and in folders."""

    config_type: ClassVar[type[ExperimentConfig]]

    @abstractmethod
    def parts(self, config: Any) -> list[Part]:
        """The jobs."""

    @abstractmethod
    def cpu_hours(self, config: Any) -> float:
        """Estimated CPU hours of the whole experiment from measured rates; decides which cuts are made."""

    @abstractmethod
    def prepare(self, config: Any, folder: Path) -> None:
        """Read the data sets (``config.data_folders``) and write what the jobs share into ``folder``."""

    @abstractmethod
    def run(self, config: Any, job: Job) -> None:
        """Do one job; train through ``models.training.train`` so that it resumes."""

    @abstractmethod
    def compare(self, config: Any, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
        """Compare with the paper; ``runs`` holds the folders of each variant's repeats, in order."""

    def relevant(self, config: Any, variant: str) -> dict[str, Any]:
        """The part of the configuration that a variant's jobs depend on; other edits do not repeat them."""
        values: dict[str, Any] = config.model_dump(mode="json", exclude=set(FRAME_KEYS))
        return values | {"title": "", "paper": ""}


def load_experiment(name: str) -> Experiment:
    """The experiment of that name: ``EXPERIMENT`` of ``sluice.experiments.<name>``, hyphens as underscores.

    Raises:
        ConfigError: if there is none.
    """
    module = f"sluice.experiments.{name.replace('-', '_')}"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) or importlib.util.find_spec(module) is None:
        raise ConfigError(f"{name}: no such experiment; `sluice experiment` lists them")
    found = getattr(importlib.import_module(module), "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        raise ConfigError(f"{name}: no such experiment; `sluice experiment` lists them")
    return found
