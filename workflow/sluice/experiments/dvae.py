"""Disentangled VAE of alloys (Zeng, Khan, Post 2024, arXiv 2409.06740): accuracy, data efficiency, inverse design."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from sluice.config_base import Count, Fraction, Positive, Section
from sluice.experiments import dvae_compare, dvae_runs
from sluice.experiments.dvae_data import prepare_alloys
from sluice.experiments.experiment import Comparison, Experiment, ExperimentConfig, Job, Part

BATCHES_OF_AN_EPOCH = 37  # 1 160 training rows in batches of 32
# CPU seconds of a step of 32 rows, measured on one thread of a busy machine: a constant and a share for each member.
STEP_SECONDS, MEMBER_SECONDS = 2.2e-3, 0.48e-3
MLP_SECONDS = 4.0  # one scikit-learn network


class Recipe(Section):
    """How one set of members is trained."""

    features: Literal["published", "extended"] = Field("published", description="Features of the label head.")
    hidden: tuple[Count, ...] = Field((100, 100), min_length=1, description="Widths of the hidden layers.")
    latent_size: Count = Field(2, description="Length of the latent vector.")
    prior_single_phase: Fraction = Field(0.5, description="Prior probability of a single phase.")
    prior_scale: Positive = Field(1.0, description="Standard deviation of the latent prior.")
    aux: Positive = Field(10.0, description="Weight of the label likelihood beside the evidence bound.")
    learning_rate: Positive = Field(1e-4, description="Adam's step at the start.")
    schedule: Literal["plateau", "cosine"] = Field("plateau", description="How the step falls.")
    plateau_epochs: Count = Field(200, description="Epochs without a better bound that halve the step.")
    batch_size: Count = Field(32, description="Alloys in a step, labelled and unlabelled.")
    epochs: Count = Field(20_000, description="Passes over the training alloys.")
    init_std: float | None = Field(0.001, gt=0, description="Spread of the initial hidden weights; null: He's.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Share of the label head's hidden units left out.")
    weight_decay: float = Field(0.0, ge=0.0, description="Decoupled weight decay of the label head.")
    bins: int = Field(0, ge=0, description="Intervals that the label head sees each feature in; 0: the value alone.")
    validation_steps: bool = Field(False, description="The authors' quirk: the validation pass takes optimizer steps.")
    keep: Literal["best", "last"] = Field("best", description="Weights kept: best validation epoch or the last.")
    evaluate_every: Count = Field(10, description="Epochs between measurements on the validation alloys.")


class DvaeSettings(Section):
    """Settings of the experiment."""

    paper: Recipe = Field(Recipe(), description="The paper's recipe.")
    model: Recipe = Field(Recipe(), description="The recipe of model.ckpt, chosen on labelled alloys only.")
    quirk_seeds: Count = Field(1, description="Members trained by the paper's recipe with its quirk.")
    label_shares: tuple[Fraction, ...] = Field((0.05, 0.1, 0.2, 0.4, 0.7, 1.0), description="Shares of labels kept.")
    efficiency_seeds: Count = Field(5, description="Members and baselines for each share of labels.")
    efficiency_epochs: Count = Field(300, description="Epochs for each share of labels, by the recipe of model.ckpt.")
    proposals: Count = Field(100, description="New single-phase alloys to propose.")
    least_probability: Fraction = Field(0.8, description="Least single-phase probability of a proposal.")
    least_distance: Fraction = Field(
        0.02, description="Least difference of some element's fraction from known alloys and other proposals."
    )
    # ASSUME: proposals are alloys of several principal elements, which have 5 to 35 at.% each (Yeh et al. 2004,
    # 10.1002/adem.200300567) and are at least four, as the field counts today; the data set itself has many binaries.
    min_elements: int = Field(4, ge=2, description="Least number of principal elements of a proposal.")
    max_elements: int = Field(10, ge=2, description="Most elements of a proposal; no known alloy has more than 10.")
    min_share: Fraction = Field(0.05, description="Least fraction of a principal element.")
    max_share: Fraction = Field(0.35, description="Largest fraction of an element of a proposal.")

    @model_validator(mode="after")
    def _check(self) -> DvaeSettings:
        few, many, low, high = self.min_elements, self.max_elements, self.min_share, self.max_share
        if few > many or low > high or few * low > 1 or many * high < 1:
            raise ValueError(
                f"no alloy of at most {many} elements has {few} of at least {low:g} and none above {high:g}: change"
                " `min_elements`, `max_elements`, `min_share` or `max_share`"
            )
        return self


class DvaeConfig(ExperimentConfig):
    """The experiment's configuration."""

    precision: Literal["32-true"] = Field("32-true", description="The members' own Adam works in single precision.")
    settings: DvaeSettings = DvaeSettings()


class Dvae(Experiment):
    """All seeds of a recipe are members of one stacked network, trained in one job."""

    config_type = DvaeConfig

    def parts(self, config: DvaeConfig) -> list[Part]:
        """Our recipe, the paper's, the paper's with its quirk, and one job for each share of labels."""
        shares = len(config.settings.label_shares)
        return [Part("model"), Part("paper"), Part("quirk"), Part("labels", repeats=shares)]

    def cpu_hours(self, config: DvaeConfig) -> float:
        """Steps times the measured cost of one."""
        s = config.settings

        def hours(epochs: int, members: int, recipe: Recipe) -> float:
            scale = recipe.batch_size / 32  # the work in a step grows with its rows
            steps = epochs * BATCHES_OF_AN_EPOCH / scale
            return steps * (STEP_SECONDS + MEMBER_SECONDS * members * scale) / 3600

        shares = len(s.label_shares)
        return (
            hours(s.model.epochs, config.repeats, s.model)
            + hours(s.paper.epochs, config.repeats, s.paper)
            + hours(s.paper.epochs, s.quirk_seeds, s.paper)
            + shares * hours(s.efficiency_epochs, s.efficiency_seeds, s.model)
            + shares * s.efficiency_seeds * MLP_SECONDS / 3600
        )

    def relevant(self, config: DvaeConfig, variant: str) -> dict[str, Any]:
        """Each job depends on its own recipe and number of seeds."""
        values = super().relevant(config, variant)
        s = values["settings"]
        keep = {
            "model": ("model",),
            "paper": ("paper",),
            "quirk": ("paper", "quirk_seeds"),
            "labels": ("model", "label_shares", "efficiency_seeds", "efficiency_epochs"),
        }.get(variant, ())
        values["settings"] = {name: s[name] for name in keep}
        return values | ({"repeats": config.repeats} if variant in ("model", "paper") else {})

    def prepare(self, config: DvaeConfig, folder: Path) -> None:
        """Read the alloys and their split, compute the features."""
        prepare_alloys(config.data_folders["hea_dvae"], folder)

    def run(self, config: DvaeConfig, job: Job) -> None:
        """Train and measure the members of one recipe."""
        s = config.settings
        if job.variant == "labels":
            dvae_runs.run_label_share(
                config, s.model.model_copy(update={"epochs": s.efficiency_epochs}), s.label_shares[job.repeat],
                s.efficiency_seeds, job,
            )  # fmt: skip
            return
        recipe, members = (s.model, config.repeats) if job.variant == "model" else (s.paper, config.repeats)
        if job.variant == "quirk":
            recipe, members = recipe.model_copy(update={"validation_steps": True}), s.quirk_seeds
        dvae_runs.run_recipe(config, recipe, members, job)

    def compare(self, config: DvaeConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
        """The table beside the paper's, the figures and the proposals."""
        return dvae_compare.compare(config, prepared, runs)


EXPERIMENT = Dvae()
