"""Settings of the generative adversarial networks of compositions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sluice.config_base import Count, Fraction, Positive, Section


class CompositionGanSettings(Section):
    """WGAN or MatGAN; the defaults are those of the WGAN's paper where it states them."""

    model: Literal["wgan", "matgan"] = Field(
        "wgan", description="WGAN (Hu et al., Symmetry 2020) or MatGAN (Dan et al., npj Comput. Mater. 2020)."
    )
    noise_size: Count = Field(128, description="Length of the generator's noise.")
    width: Fraction = Field(1.0, gt=0.0, description="Share of the published channels of (de)convolutions.")
    # ASSUME: d, the widths behind C, the clip value and the critic steps for one of the generator are not stated.
    embedding_size: Count = Field(128, description="Length d of the WGAN critic's vectors of the elements.")
    critic_widths: tuple[Count, ...] = Field((128,), description="Hidden layers of the WGAN critic behind C.")
    critic_norm: bool = Field(True, description="Batch normalization in MatGAN's critic, as published.")
    constraint: Literal["clipping", "penalty"] = Field(
        "clipping", description="What keeps the critic's slope in bounds: clipped weights, or a gradient penalty."
    )
    clip: Positive = Field(0.01, description="Largest absolute weight with clipping.")
    gradient_penalty: Positive = Field(10.0, description="Weight λ of the gradient penalty.")
    penalty_every: Count = Field(
        1, description="Critic steps for one with the penalty, which then weighs as many times as much."
    )
    optimizer: Literal["rmsprop", "adam"] = Field("rmsprop", description="RMSProp, or Adam with β = (0.5, 0.9).")
    generator_rate: Positive = Field(1e-2, description="The generator's learning rate.")
    critic_rate: Positive = Field(1e-2, description="The critic's learning rate.")
    critic_steps: Count = Field(5, description="Steps of the critic for one of the generator.")
    batch_size: Count = Field(256, description="Compositions in a step.")
    steps: Count = Field(100_000, description="Steps of the critic in all; rounded up to whole passes.")
    validation_share: Fraction = Field(0.1, description="Share of the compositions held out.")
    keep: Literal["best", "last"] = Field(
        "best", description="Weights kept: those of the smallest critic loss on held-out compositions, or the last."
    )
    warm_up: Fraction = Field(
        0.1, description="Share of the training in which no weights are kept: an untrained critic's loss is zero."
    )
    average: float = Field(
        0.0, ge=0.0, lt=1.0, description="Decay of a running average of the generator that is drawn from; 0: none."
    )
    checkpoint_minutes: Positive = Field(1.0, description="Minutes between checkpoints.")

    @model_validator(mode="after")
    def _check(self) -> CompositionGanSettings:
        if self.validation_share >= 0.9:
            raise ValueError("validation_share must stay below 0.9")
        if self.keep == "best" and self.validation_share == 0.0:
            raise ValueError("keep: `best` needs held-out compositions; raise validation_share or take `last`")
        return self
