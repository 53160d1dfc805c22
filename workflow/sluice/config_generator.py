"""The sections of the configuration about CubicGAN: how it learns, and what is drawn from it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sluice.config_base import Count, Positive, Section, check_elements

# Zhao et al., Adv. Sci. 8, 2100566, 2021, as in the authors' code.
PAPER_SIZES: dict[str, Any] = {
    "group_embedding": 64,
    "group": 96,
    "element": 128,
    "noise": 256,
    "site": 128,
    "coordinates": (1024, 1024, 512, 512, 128),
    "lattice": (30, 18, 6),
    "critic": (128, 512, 1024, 1024, 2048, 4096),
    "critic_dense": (1024, 512, 256, 32),
}
PRESETS: dict[str, dict[str, Any]] = {"small": {}, "paper": PAPER_SIZES}


class GanSizes(Section):
    """Widths of CubicGAN's layers: `small` (these defaults, for a laptop), `paper`, or single ones that differ."""

    preset: Literal["small", "paper"] = Field(
        "small", description="Where widths that are not given come from: those listed here, or the paper's."
    )
    group_embedding: Count = Field(16, description="Length of the space group's embedding.")
    group: Count = Field(32, description="Width of the layer after it.")
    element: Count = Field(64, description="Width of the layer that reads an element's descriptors.")
    noise: Count = Field(64, description="Width of the layer that reads the noise.")
    site: Count = Field(64, description="Width per base site of the layer that joins all of these.")
    coordinates: tuple[Count, ...] = Field(
        (64, 64, 64, 64, 64), min_length=2, description="Widths of the layers from there to the coordinates."
    )
    lattice: tuple[Count, ...] = Field((128, 64), min_length=1, description="Widths of the lattice head.")
    critic: tuple[Count, ...] = Field(
        (64, 64, 64, 64, 64, 128),
        min_length=4,
        max_length=6,
        description="Widths of the critic's convolutions: three see one site, a fourth two, the others narrow.",
    )
    critic_dense: tuple[Count, ...] = Field((128, 64, 32), min_length=1, description="Widths after those.")

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") in PRESETS:
            return {**PRESETS[values["preset"]], **values}
        return values


class GeneratorSettings(Section):
    """CubicGAN (Zhao et al., Adv. Sci. 2021): a Wasserstein GAN with gradient penalty."""

    base_sites: Literal[3, 4] = Field(
        3, description="Base sites, each of an element of its own: 3 makes ternaries as in the paper, 4 quaternaries."
    )
    epochs: Count = Field(100, description="Passes over the training crystals.")
    batch_size: Count = Field(64, description="Crystals in a training batch.")
    learning_rate: Positive = Field(1e-3, description="Adam's step for generator and critic.")
    critic_steps: Count = Field(3, description="Critic steps for one generator step.")
    gradient_penalty: float = Field(1.0, ge=0.0, description="Weight of the gradient penalty.")
    mixing: Literal["uniform", "normal"] = Field(
        "uniform",
        description="Where the penalty is taken between real and made crystals: share from U(0, 1), or, as the authors"
        " of CubicGAN did, from N(0, 1).",
    )
    random_elements: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Share of the made crystals in training whose elements are drawn at random (1 in the paper) instead"
        " of taken from a real crystal; more than 0 teaches the critic which elements belong together.",
    )
    noise_size: Count = Field(128, description="Length of the noise vector.")
    sizes: GanSizes = GanSizes()
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout in the generator (the authors': 0.5).")
    critic_dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout in the critic (the authors': 0.25).")
    coordinate_noise: float = Field(
        0.5,
        ge=0.0,
        le=0.5,
        description="Displacement of real coordinates in training, in steps of the quarter grid; rounding undoes it.",
    )
    lattice_inputs: Literal["crystal", "coordinates"] = Field(
        "crystal",
        description="What the lattice head sees: all of the crystal, or, as the authors' did, only the coordinates.",
    )
    lattice_weight: float = Field(
        1.0,
        ge=0.0,
        description="Weight of the lattice head's error on real sites; 0: the head learns from the critic only.",
    )
    max_formation_energy: float | None = Field(
        None, description="Learn only from crystals below this formation energy, eV/atom; null: from all."
    )
    dft_repeats: Count = Field(
        5, description="How often a crystal confirmed by DFT in an earlier round is shown for once of the database's."
    )
    checkpoint_minutes: Positive = Field(1.0, description="Minutes between checkpoints.")


class GenerateSettings(Section):
    """Candidates to draw."""

    candidates: Count = Field(20_000, description="Candidates in a round.")
    batches: Count = Field(4, description="Batches they are drawn in; batch k is the same whatever runs beside it.")
    allowed_elements: tuple[str, ...] = Field((), description="Elements to draw from; empty: the chemistry's.")
    excluded_elements: tuple[str, ...] = Field((), description="Elements never drawn.")
    space_groups: tuple[Literal[216, 221, 225], ...] = Field(
        (), description="Space groups to draw, by their frequency in training; empty: the chemistry's."
    )
    critic_share: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Share of the draws that goes on, the critic's favourites of every 4000 or so (all that are a"
        " candidate, where those are fewer); a CubicGAN must have been trained with random_elements above 0.",
    )

    _elements = field_validator("allowed_elements", "excluded_elements")(check_elements)
