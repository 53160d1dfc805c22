"""Rank candidates before relaxation by TSDNN (Gleaves et al. 2023) and hold the order against the authors' DFT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from sluice.config_base import Count, Section
from sluice.experiments import tsdnn_candidates_compare, tsdnn_candidates_runs
from sluice.experiments.experiment import Comparison, Experiment, ExperimentConfig, Job, Part
from sluice.experiments.tsdnn_settings import GraphSettings, TsdnnTraining

# CPU seconds on one thread: a labelled row in a step of TSDNN, of a lone CGCNN, a graph. The first was solved from a
# measured run of one repeat, 0.31 CPU-hours.
TSDNN_ROW, CGCNN_ROW, GRAPH = 1.22e-3, 2.5e-4, 1.2e-3
# Training rows of the two label sets, candidates that a fold's network learns from, and graphs.
UNSEPARATED, SEPARATED, CANDIDATES, GRAPHS = 3200, 7000, 400, 2 * 20_000


class CandidateSettings(Section):
    """Settings of the experiment."""

    graphs: GraphSettings = GraphSettings()
    training: TsdnnTraining = TsdnnTraining()
    max_labelled: Count = Field(20_000, description="Most labelled materials of each set.")
    unlabelled: Count = Field(6000, description="Most unlabelled materials.")
    folds: Count = Field(5, description="Folds in which the candidates' own DFT labels are learnt from.")
    candidate_weight: float = Field(5.0, gt=0, description="Weight of a candidate's DFT label beside a material's.")
    strain: float = Field(
        0.15, ge=0, description="Largest linear strain of the strained validation; training has none."
    )


class CandidateConfig(ExperimentConfig):
    """The experiment's configuration."""

    settings: CandidateSettings = CandidateSettings()


class TsdnnCandidates(Experiment):
    """TSDNN on each label set, at given and at touching size; a CGCNN that also learns from other candidates."""

    config_type = CandidateConfig

    def parts(self, config: CandidateConfig) -> list[Part]:
        """One part for each classifier."""
        variants = [*tsdnn_candidates_runs.CLASSIFIERS, tsdnn_candidates_runs.ADAPTED]
        return [Part(variant, repeats=config.repeats) for variant in variants]

    def cpu_hours(self, config: CandidateConfig) -> float:
        """Rows times the measured cost of one."""
        s = config.settings
        unseparated, separated = min(UNSEPARATED, s.max_labelled), min(SEPARATED, s.max_labelled)
        epoch = (2 * unseparated + separated) * TSDNN_ROW
        epoch += (s.folds + 1) * (unseparated + CANDIDATES) * CGCNN_ROW
        return (epoch * s.training.epochs * config.repeats + GRAPHS * GRAPH) / 3600

    def relevant(self, config: CandidateConfig, variant: str) -> dict[str, Any]:
        """Only the adapted classifier depends on the folds."""
        values = super().relevant(config, variant)
        if variant != tsdnn_candidates_runs.ADAPTED:
            values["settings"] = {k: v for k, v in values["settings"].items() if k not in ("folds", "candidate_weight")}
        return values

    def prepare(self, config: CandidateConfig, folder: Path) -> None:
        """Graphs of labelled and unlabelled materials and of the candidates; no composition is in two roles."""
        tsdnn_candidates_runs.prepare(config, folder)

    def run(self, config: CandidateConfig, job: Job) -> None:
        """Train one classifier and score the candidates."""
        if job.variant == tsdnn_candidates_runs.ADAPTED:
            tsdnn_candidates_runs.run_adapted(config, job)
        else:
            tsdnn_candidates_runs.run_classifier(config, job)

    def compare(self, config: CandidateConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
        """The table, the ROC curves and what the labels themselves are worth."""
        return tsdnn_candidates_compare.compare(config, prepared, runs)


EXPERIMENT = TsdnnCandidates()
