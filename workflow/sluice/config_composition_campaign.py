"""The section `compositions`: a campaign whose candidates are formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sluice.config_base import Count, Fraction, Positive, Section
from sluice.config_composition import CompositionDataSettings, CompositionModelSettings
from sluice.config_composition_gan import CompositionGanSettings


class FormulaTableSettings(Section):
    """A table of formulas of your own to learn from, instead of the formulas of the database."""

    path: Path | None = Field(
        None,
        description="CSV of formulas and formation energies, relative to the configuration file; null: the lowest"
        " energy of each formula in the database that curate builds or reads.",
    )
    formula_column: str = Field("formula", description="Its column with formulas.")
    energy_column: str = Field(
        "formation_energy_ev_per_atom", description="Its column with formation energies in eV/atom."
    )
    duplicates: Literal["mean", "lowest", "highest"] = Field(
        "lowest", description="What becomes of several rows of one composition."
    )

    def reading(self, shares: tuple[float, float], max_bad_fraction: float) -> CompositionDataSettings:
        """How the table is read; shares of validation and test, and the bad rows tolerated, are those of ``curate``."""
        return CompositionDataSettings(
            formula_column=self.formula_column,
            target_column=self.energy_column,
            unit="eV/atom",
            duplicates=self.duplicates,
            validation_share=shares[0],
            test_share=shares[1],
            max_bad_fraction=max_bad_fraction,
        )


class CompositionGeneratorSettings(CompositionGanSettings):
    """MatGAN (Dan et al., npj Comput. Mater. 2020) or WGAN (Hu et al., Symmetry 2020), for a table of thousands."""

    model: Literal["wgan", "matgan"] = Field(
        "matgan",
        description="MatGAN (Dan et al., npj Comput. Mater. 2020), or WGAN (Hu et al., Symmetry 2020), whose vectors of"
        " the elements the scorer can take.",
    )
    width: Fraction = Field(0.25, gt=0.0, description="Share of the published channels of (de)convolutions.")
    noise_size: Count = Field(64, description="Length of the generator's noise.")
    embedding_size: Count = Field(64, description="Length of the WGAN critic's vectors of the elements.")
    critic_norm: bool = Field(False, description="Batch normalization in MatGAN's critic, as published.")
    constraint: Literal["clipping", "penalty"] = Field(
        "penalty", description="What keeps the critic's slope in bounds: clipped weights, or a gradient penalty."
    )
    optimizer: Literal["rmsprop", "adam"] = Field("adam", description="RMSProp, or Adam with β = (0.5, 0.9).")
    generator_rate: Positive = Field(1e-3, description="The generator's learning rate.")
    critic_rate: Positive = Field(1e-3, description="The critic's learning rate.")
    critic_steps: Count = Field(2, description="Steps of the critic for one of the generator.")
    average: float = Field(
        0.99, ge=0.0, lt=1.0, description="Decay of a running average of the generator that is drawn from; 0: none."
    )
    batch_size: Count = Field(64, description="Compositions in a step.")
    steps: Count = Field(6000, description="Steps of the critic in all; rounded up to whole passes.")
    keep: Literal["best", "last"] = Field(
        "last", description="Weights kept: those of the smallest critic loss on held-out compositions, or the last."
    )


class CompositionScorerSettings(CompositionModelSettings):
    """Roost (Goodall and Lee, Nat. Commun. 2020), ElemNet (Jha et al., Sci. Rep. 2018) or a head on an encoding."""

    model: Literal["elemnet", "roost", "head"] = Field(
        "roost", description="ElemNet, Roost, or a fully connected head on an encoding."
    )
    task: Literal["regression"] = Field("regression", description="Formation energies are numbers.")
    depth: int = Field(8, ge=2, le=49, description="Layers of ElemNet, the output counted.")
    paper_dropout: float = Field(0.0, ge=0.0, le=1.0, description="Share of ElemNet's dropout; 0: none.")
    residual: bool = Field(True, description="Normalize ElemNet's and the head's layers and add their inputs.")
    size: int = Field(32, ge=2, description="Length of Roost's element vectors.")
    hidden: Count = Field(64, description="Hidden width of Roost's gates and messages.")
    trunk: tuple[Count, ...] = Field((128, 64), min_length=1, description="Hidden layers behind Roost's pooling.")
    members: Count = Field(3, description="Networks of an ensemble, each from a seed of its own.")
    uncertainty: bool = Field(True, description="Let the networks predict their own spread, too (Laplace).")
    epochs: Count = Field(60, description="Passes over the training compositions.")
    batch_size: Count = Field(64, description="Compositions in a step.")
    learning_rate: Positive = Field(2e-3, description="AdamW's peak step.")

    @property
    def knows_spread(self) -> bool:
        """Whether it says how uncertain it is."""
        return self.uncertainty or self.members > 1


class FormulaShortlistSettings(Section):
    """Which formulas are the best: those of the lowest mean - exploration × standard deviation, eV/atom."""

    size: Count = Field(50, description="Most formulas on the shortlist.")
    exploration: float = Field(
        1.0,
        description="Standard deviations taken off the predicted mean: above 0 what is uncertain is worth a try, below"
        " 0 what is certain comes first, 0 ranks by the mean alone.",
    )
    max_formation_energy: float | None = Field(
        0.0, description="Formulas predicted above this formation energy are left out, eV/atom; null: none."
    )
    max_deviation: Positive | None = Field(
        None, description="Formulas whose predicted standard deviation is above this are left out, eV/atom; null: none."
    )
    max_per_system: Count = Field(3, description="Most formulas of one set of elements.")


class CompositionsSettings(Section):
    """Campaigns of compositions (`candidates: compositions`): what they learn from, their models, their shortlist."""

    data: FormulaTableSettings = FormulaTableSettings()
    decoding: Literal["threshold", "sampled"] = Field(
        "sampled",
        description="How a drawn matrix is read: entries of at least 0.5, as published, or counts drawn with them as"
        " probabilities, which keeps the mean that the WGAN's critic judges.",
    )
    generator: CompositionGeneratorSettings = CompositionGeneratorSettings()
    scorer: CompositionScorerSettings = CompositionScorerSettings()
    shortlist: FormulaShortlistSettings = FormulaShortlistSettings()

    @model_validator(mode="after")
    def _check(self) -> CompositionsSettings:
        if self.scorer.needs_wgan and self.generator.model != "wgan":
            raise ValueError(
                f"scorer.encoding = 'embedding' needs the vectors that a WGAN learns, and generator.model ="
                f" {self.generator.model!r} has none; set generator.model: wgan, or take the encoding fractions, onehot"
                " or magpie"
            )
        if self.shortlist.exploration != 0 and not self.scorer.knows_spread:
            raise ValueError(
                f"shortlist.exploration = {self.shortlist.exploration:g} needs a standard deviation, which the scorer"
                " does not give with members = 1 and uncertainty = false; raise members, set uncertainty: true or take"
                " exploration: 0"
            )
        return self
