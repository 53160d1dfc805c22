"""The configuration of screening: from candidates to a shortlist."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from sluice.config_base import Count, Fraction, Positive, Section

# Numbers that candidates carry once they are relaxed; a test compares them with what sluice.screen writes.
RANKABLE = (
    "mlip_formation_energy_ev_per_atom",
    "mlip_energy_ev_per_atom",
    "screener_score",
    "volume_change",
    "space_group",
    "relaxed_space_group",
    "requested_space_group",
    "min_distance_ratio",
    "density_g_per_cm3",
    "relaxation_steps",
    "max_force_ev_per_angstrom",
)
MODEL_OUTPUT = "output"


class GeometrySettings(Section):
    """Which geometries are possible at all."""

    min_distance_ratio: Positive = Field(0.6, description="Least distance over the sum of the covalent radii.")
    min_density: Positive = Field(0.3, description="Least density, g/cm³.")
    max_density: Positive = Field(25.0, description="Greatest density, g/cm³.")
    max_lattice: Positive = Field(20.0, description="Longest cell vector, Å.")

    @model_validator(mode="after")
    def _check(self) -> GeometrySettings:
        if self.min_density >= self.max_density:
            raise ValueError(
                f"min_density = {self.min_density:g} must be below max_density = {self.max_density:g} (g/cm³)"
            )
        return self


class SymmetrySettings(Section):
    """Symmetry found must be symmetry asked for."""

    symprec: Positive = Field(0.1, description="spglib's distance tolerance, Å.")


class ChargeSettings(Section):
    """smact's rule (Davies et al., Chem 2016): a charge-neutral assignment in which anions are more electronegative."""

    oxidation_states: Literal["icsd24", "icsd16", "smact14", "pymatgen_sp", "wiki", "default"] = Field(
        "icsd24",
        description="smact's table of oxidation states; `default`: what smact_validity takes when none is named.",
    )
    mixed_valence: bool = Field(
        False, description="Let atoms of one element (Fe, Mn, V and others of smact's list) differ in their state."
    )
    use_pauling: bool = Field(True, description="Ask for the order of electronegativities, too.")
    include_alloys: bool = Field(False, description="Let compounds of metals only pass.")


class DuplicateSettings(Section):
    """When two crystals count as the same (pymatgen's StructureMatcher)."""

    length_tolerance: Positive = Field(0.2, description="Fractional length tolerance.")
    site_tolerance: Positive = Field(0.3, description="Site tolerance, relative to (volume/atom)^(1/3).")
    angle_tolerance: Positive = Field(5.0, description="Angle tolerance, degrees.")


class Filter(Section):
    """A trained classifier that candidates have to pass before they are relaxed."""

    name: str = Field(min_length=1, max_length=40, description="Its name in reasons, e.g. synthesizability.")
    model: Path | None = Field(None, description="Checkpoint of a classifier of crystals.")
    experiment: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description="Experiment whose fitted model it is, <results>/experiments/<name>/model.ckpt; instead of `model`.",
    )
    at_least: Fraction = Field(0.5, description="Least probability that lets a candidate through.")
    optional: bool = Field(
        False, description="Go on without it, with a warning everywhere, while its model is not there."
    )

    @model_validator(mode="after")
    def _check(self) -> Filter:
        if self.model is None and self.experiment is None:
            raise ValueError("give `model` (a file) or `experiment` (its name)")
        return self

    def missing(self) -> str:
        """What to do where the model is not there; "" where it is."""
        if self.model is not None and self.model.is_file():
            return ""
        how = f"run `sluice experiment {self.experiment}` first" if self.experiment else "give an existing model file"
        what = "candidates are NOT filtered by it" if self.optional else "leave the filter out or make it `optional`"
        return f"screen.score.filters: {self.name}: {self.model} is not there; {how}, or {what}"


class ScoreSettings(Section):
    """What candidates must pass before the best by screener score are relaxed."""

    at_least: Fraction = Field(0.0, description="Least screener score that lets a candidate through.")
    filters: tuple[Filter, ...] = Field((), description="Trained classifiers, asked one after the other.")

    def refused(self) -> list[str]:
        """What to do about models that must be there and are not."""
        return [one.missing() for one in self.filters if one.missing() and not one.optional]

    def left_out(self) -> list[str]:
        """What a campaign does without, since the model of an optional filter is not there."""
        return [one.missing() for one in self.filters if one.missing() and one.optional]


class RelaxSettings(Section):
    """Relaxation of the best candidates with CHGNet."""

    candidates: Count = Field(200, description="How many of the best by screener score are relaxed.")
    max_per_formula: Count = Field(3, description="Most of them of one formula.")
    batches: Count = Field(2, description="Batches they are relaxed in.")
    max_force: Positive = Field(0.05, description="Convergence of forces and cell forces, eV/Å.")
    max_steps: Count = Field(200, description="Most steps; beyond them a candidate failed.")
    max_volume_change: Positive = Field(3.0, description="Volume ratio beyond which a crystal collapsed or exploded.")
    rescale: bool = Field(
        True, description="Start overlapping or loose cells from where the closest atoms touch (covalent radii)."
    )
    perturbation: float = Field(
        0.0, ge=0.0, description="Random displacement that starts the relaxation off its symmetric saddle points, Å."
    )


class Objective(Section):
    """One quantity to rank by: a direction or a target range."""

    quantity: str = Field(description="A column of the relaxed candidates, or `output` of the model named in `model`.")
    model: Path | None = Field(None, description="Checkpoint of a trained model whose output is the quantity.")
    direction: Literal["minimize", "maximize"] | None = Field(None, description="Which way is better.")
    target: tuple[float, float] | None = Field(None, description="Lower and upper end of the wanted range.")
    weight: Positive = Field(1.0, description="Weight beside the other objectives.")

    @field_validator("quantity")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in (*RANKABLE, MODEL_OUTPUT):
            raise ValueError(f"no such quantity; allowed are {', '.join(RANKABLE)}, or `{MODEL_OUTPUT}` with a `model`")
        return name

    @model_validator(mode="after")
    def _check(self) -> Objective:
        if (self.quantity == MODEL_OUTPUT) != (self.model is not None):
            raise ValueError(
                f"quantity = {self.quantity!r}: `{MODEL_OUTPUT}` and `model` go together; without a model allowed are "
                f"{', '.join(RANKABLE)}"
            )
        if (self.direction is None) == (self.target is None):
            raise ValueError("give either `direction` or `target`")
        if self.target is not None and self.target[0] >= self.target[1]:
            raise ValueError("`target` must be [lower, upper]")
        return self


class ShortlistSettings(Section):
    """What goes to DFT."""

    dft_cpu_seconds: Positive = Field(
        600.0, description="DFT budget of a round in estimated CPU-seconds, missing elemental references included."
    )
    max_candidates: Count = Field(50, description="Most candidates, whatever the budget.")
    max_per_formula: Count = Field(1, description="Most candidates of one formula.")


class ScreenSettings(Section):
    """From candidates to a shortlist."""

    geometry: GeometrySettings = GeometrySettings()
    symmetry: SymmetrySettings = SymmetrySettings()
    charge: ChargeSettings = ChargeSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    score: ScoreSettings = ScoreSettings()
    relax: RelaxSettings = RelaxSettings()
    objectives: tuple[Objective, ...] = Field(
        (Objective(quantity="mlip_formation_energy_ev_per_atom", direction="minimize"),),
        min_length=1,
        description="Quantities to rank by, with a direction or a target range.",
    )
    shortlist: ShortlistSettings = ShortlistSettings()
