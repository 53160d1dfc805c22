"""Settings that the experiments with crystal graphs share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from sluice.config_base import Count, Positive, Section


class GraphSettings(Section):
    """Crystal graphs."""

    neighbours: Count = Field(12, description="Nearest neighbours of an atom.")
    cutoff: Positive = Field(16.0, description="Radius of the neighbour search, Å.")
    max_atoms: Count = Field(120, description="Larger cells are left out.")


class TsdnnTraining(Section):
    """TSDNN's networks and how they learn."""

    hidden_size: Count = Field(90, description="Length of an atom's feature vector.")
    head_size: Count = Field(180, description="Width of the layer after pooling.")
    convolutions: Count = Field(3, description="Number of graph convolutions.")
    gaussians: Count = Field(81, description="Gaussians that a distance is expanded in.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Share of the head's features dropped in training.")
    answer: Literal["student", "teacher", "both"] = Field("both", description="Who answers; the paper's: student.")
    epochs: Count = Field(50, description="Passes over the labelled crystals.")
    batch_size: Count = Field(256, description="Labelled, and unlabelled, crystals in a step.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="The paper's: sgd with momentum 0.9.")
    learning_rate: Positive = Field(2e-3, description="Step, with adamw its peak; the paper's with sgd: 1e-3.")
    weight_decay: float = Field(1e-5, ge=0, description="Weight decay.")
    gain: Literal["old_minus_new", "new_minus_old"] = Field(
        "old_minus_new", description="Sign of the student's gain; the published code's: new_minus_old."
    )
    moving_average: Literal["kept", "redrawn"] = Field(
        "kept", description="Baseline of the gain; the published code draws it anew at random in each step."
    )
    student_labels: float = Field(1.0, ge=0, description="Weight of labels in the student's loss; the paper's: 0.")

    def sizes(self) -> dict[str, Any]:
        """Arguments of one CGCNN."""
        return self.model_dump(include={"hidden_size", "head_size", "convolutions", "gaussians", "dropout"})

    def learner(self) -> dict[str, Any]:
        """Arguments of ``TsdnnLearner``."""
        names = {"optimizer", "learning_rate", "weight_decay", "batch_size", "gain", "moving_average", "student_labels"}
        return self.model_dump(include=names)
