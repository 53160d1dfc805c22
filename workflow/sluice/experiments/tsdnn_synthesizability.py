"""TSDNN's synthesizability classifier (Gleaves et al. 2023) against bagged PU learning (Jang et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from sluice.config_base import Count, Positive, Section
from sluice.experiments import tsdnn_synthesizability_compare, tsdnn_synthesizability_runs
from sluice.experiments.experiment import Comparison, Experiment, ExperimentConfig, Job, Part
from sluice.experiments.tsdnn_settings import GraphSettings, TsdnnTraining
from sluice.experiments.tsdnn_synthesizability_mining import FIRST_PASS, MINES

# CPU seconds on one thread, measured with cells of at most 20 atoms, scaled to 40: a labelled row in a step of TSDNN, a
# row of one bag, a graph.
TSDNN_ROW, BAG_ROW, GRAPH = 5.2e-3, 1.0e-3, 1.2e-3


class SynthesizabilitySettings(Section):
    """Settings of the experiment."""

    graphs: GraphSettings = GraphSettings()
    training: TsdnnTraining = TsdnnTraining()
    max_rows: Count = Field(200_000, description="Most rows of each table.")
    validation_share: float = Field(0.1, gt=0, lt=0.5, description="Share of the labelled rows that choose the epoch.")
    mining_bags: Count = Field(10, ge=2, description="Bags of the first pass, which mines negatives; even is best.")
    mining_epochs: Count = Field(5, description="Passes of the first pass over its rows.")
    bags: Count = Field(100, description="Bags of the PU baseline.")
    bag_epochs: Count = Field(50, description="Passes of the PU baseline over its rows.")
    bag_batch_size: Count = Field(256, description="Rows in a step of the PU baseline.")
    bag_learning_rate: Positive = Field(1e-3, description="Adam's peak step of the PU baseline.")
    bag_hidden_size: Count = Field(90, description="Length of an atom's feature vector in the PU baseline.")
    bag_head_size: Count = Field(180, description="Width of its layer after pooling.")
    held_out_positives: float = Field(
        0.2, gt=0, lt=1, description="Share of the positives that no bag learns from; they measure its recall."
    )


class SynthesizabilityConfig(ExperimentConfig):
    """The experiment's configuration."""

    settings: SynthesizabilitySettings = SynthesizabilitySettings()


class TsdnnSynthesizability(Experiment):
    """TSDNN on the balanced table, by time and by element; the bagged baseline on the same balanced table.

    The balanced table is learnt once more without its labelled crystals of two elements: its test positives have two.

    The tables by time and by element have no negatives: a first pass, bagged too, mines them.
    """

    config_type = SynthesizabilityConfig

    def parts(self, config: SynthesizabilityConfig) -> list[Part]:
        """The first passes, TSDNN for each way to split, and the baseline."""
        needs = {name: (job,) for name, job in FIRST_PASS.items()}
        names = (*MINES, *tsdnn_synthesizability_runs.SPLITS, "bags")
        return [Part(name, repeats=config.repeats, needs=needs.get(name, ())) for name in names]

    def cpu_hours(self, config: SynthesizabilityConfig) -> float:
        """Rows times the measured cost of one."""
        s = config.settings
        share = min(1.0, s.graphs.max_atoms / 40)  # smaller cells: fewer rows, and cheaper ones
        balanced, *mined = (min(n, s.max_rows) * share for n in (77_000, 75_000, 133_000))
        labelled = 1.9 * balanced  # once more without its crystals of two elements
        labelled += sum(min(n, s.max_rows) * share for n in (68_000, 95_000))  # twice the positives
        tsdnn = labelled * s.training.epochs * TSDNN_ROW * share
        bags = balanced * s.bag_epochs * s.bags + sum(mined) * s.mining_epochs * s.mining_bags
        return ((tsdnn + bags * BAG_ROW * share) * config.repeats + 145_000 * GRAPH) / 3600

    def relevant(self, config: SynthesizabilityConfig, variant: str) -> dict[str, Any]:
        """Bags do not depend on how long TSDNN learns, nor TSDNN on the baseline, nor either on another split's."""
        values = super().relevant(config, variant)
        settings = values["settings"]
        if variant == "prepare":
            values["settings"] = {name: settings[name] for name in ("graphs", "max_rows")}
            return values
        if variant in MINES:
            unread: tuple[str, ...] = ("bags", "bag_epochs", "validation_share")
        elif variant == "bags":
            unread = ("mining_",)
        else:
            unread = ("bag",) if variant in FIRST_PASS else ("bag", "mining_")
        values["settings"] = {k: v for k, v in settings.items() if not k.startswith(unread)}
        if variant == "bags" or variant in MINES:
            del values["settings"]["training"]["epochs"]
        return values

    def prepare(self, config: SynthesizabilityConfig, folder: Path) -> None:
        """Graphs of every material in a table."""
        tsdnn_synthesizability_runs.prepare(config, folder)

    def run(self, config: SynthesizabilityConfig, job: Job) -> None:
        """Train one model and measure it, or mine a table's negatives."""
        if job.variant in MINES:
            tsdnn_synthesizability_runs.run_mining(config, job)
        elif job.variant == "bags":
            tsdnn_synthesizability_runs.run_bags(config, job)
        else:
            tsdnn_synthesizability_runs.run_tsdnn(config, job)

    def compare(self, config: SynthesizabilityConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
        """Recall, share called positive, precision, parameters."""
        return tsdnn_synthesizability_compare.compare(config, prepared, runs)


EXPERIMENT = TsdnnSynthesizability()
