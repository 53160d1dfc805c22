"""The section of the configuration about TSDNN (Gleaves et al., Digital Discovery 2, 377, 2023)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sluice.config_base import Section


class TsdnnLearning(Section):
    """How teacher and student learn, and where that departs from the paper and its code."""

    dropout: float = Field(0.5, ge=0, lt=1, description="Share of the head's features dropped in training.")
    answer: Literal["student", "teacher", "both"] = Field("both", description="Who answers; the paper's: student.")
    optimizer: Literal["sgd", "adamw"] = Field("adamw", description="The paper's: sgd with momentum 0.9.")
    gain: Literal["old_minus_new", "new_minus_old"] = Field(
        "old_minus_new", description="Sign of the student's gain; the published code's: new_minus_old."
    )
    moving_average: Literal["kept", "redrawn"] = Field(
        "kept", description="Baseline of the gain; the published code draws it anew at random in each step."
    )
    student_labels: float = Field(1.0, ge=0, description="Weight of labels in the student's loss; the paper's: 0.")

    def learning(self) -> dict[str, Any]:
        """Those of the arguments of ``TsdnnLearner`` that are set here."""
        return self.model_dump(include={"optimizer", "gain", "moving_average", "student_labels"})


class TsdnnSettings(TsdnnLearning):
    """What `model: tsdnn` adds: how its two networks learn, and from which unlabelled crystals."""

    generated: int = Field(
        2000, ge=0, description="Unlabelled crystals that the round's generator draws for it, of formulas not held out."
    )
    known: bool = Field(True, description="Take the training crystals as unlabelled ones, too.")

    @model_validator(mode="after")
    def _check(self) -> TsdnnSettings:
        if self.generated == 0 and not self.known:
            raise ValueError("TSDNN learns from unlabelled crystals: give `generated` above 0 or `known: true`")
        return self
