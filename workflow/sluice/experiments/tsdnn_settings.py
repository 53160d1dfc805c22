"""Settings that the experiments with crystal graphs share."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sluice.config_base import Count, Positive, Section
from sluice.config_tsdnn import TsdnnLearning
from sluice.models.cgcnn_training import GRADIENT_NORM
from sluice.models.element_features import N_FEATURES

# What pages of graph networks say beside their papers.
ATOM_FEATURES = (
    f"Atoms start from {N_FEATURES} tabulated numbers (group, row, block and eight properties), in the papers from 92"
    " zeros and ones that stand for nine."
)


class GraphSettings(Section):
    """Crystal graphs."""

    neighbours: Count = Field(12, le=255, description="Nearest neighbours of an atom; a graph counts them in a byte.")
    cutoff: Positive = Field(16.0, description="Radius of the neighbour search, Å.")
    max_atoms: Count = Field(120, description="Larger cells are left out.")


class TsdnnTraining(TsdnnLearning):
    """TSDNN's networks and how they learn."""

    hidden_size: Count = Field(90, description="Length of an atom's feature vector.")
    head_size: Count = Field(180, description="Width of the layer after pooling.")
    convolutions: Count = Field(3, description="Number of graph convolutions.")
    gaussians: Count = Field(81, description="Gaussians that a distance is expanded in.")
    epochs: Count = Field(50, description="Passes over the labelled crystals.")
    batch_size: Count = Field(256, description="Labelled, and unlabelled, crystals in a step.")
    learning_rate: Positive = Field(2e-3, description="Step, with adamw its peak; the paper's with sgd: 1e-3.")
    weight_decay: float = Field(1e-5, ge=0, description="Weight decay.")

    def sizes(self) -> dict[str, Any]:
        """Arguments of one CGCNN."""
        return self.model_dump(include={"hidden_size", "head_size", "convolutions", "gaussians", "dropout"})

    def learner(self) -> dict[str, Any]:
        """Arguments of ``TsdnnLearner``."""
        return self.learning() | self.model_dump(include={"learning_rate", "weight_decay", "batch_size"})


def departures(training: TsdnnTraining, but_for: str = "") -> str:
    """How TSDNN learnt and answered here, beside the paper's way; ``but_for`` names rows that learnt the paper's."""
    return (
        f"{but_for}TSDNN's answer is that of {training.answer} (the paper: student), the"
        f" optimizer is {training.optimizer} with a step of {training.learning_rate:g} (sgd, 0.001), and labels count"
        f" {training.student_labels:g} in the student's own loss (0: the teacher's labels alone), and weights decay by"
        f" {training.weight_decay:g} (0). In all of TSDNN's rows gradients are clipped at a norm of"
        f" {GRADIENT_NORM:g}, an epoch is a pass over the labelled crystals, and both networks take labelled and"
        " unlabelled crystals in batches of their own; the published code does not clip, passes over the larger of both"
        " sets, and puts both in one batch."
        f" {ATOM_FEATURES} TSDNN's networks have one output each, the published ones two."
    )
