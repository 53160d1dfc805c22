"""The configuration: typed, frozen, nothing unknown allowed; its documentation is generated from here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

# All sections can be had from here.
from sluice.config_base import SUPPORTED_ELEMENTS, Count, Fraction, Positive, Section, check_elements  # noqa: F401
from sluice.config_composition_campaign import CompositionsSettings
from sluice.config_generator import GanSizes, GenerateSettings, GeneratorSettings  # noqa: F401
from sluice.config_screen import (  # noqa: F401
    MODEL_OUTPUT,
    RANKABLE,
    ChargeSettings,
    DuplicateSettings,
    Filter,
    GeometrySettings,
    Objective,
    RelaxSettings,
    ScoreSettings,
    ScreenSettings,
    ShortlistSettings,
    SymmetrySettings,
)
from sluice.config_tsdnn import TsdnnSettings
from sluice.config_vasp import MP_GGA_FLOW, VASP_COMMAND, VaspSettings  # noqa: F401

RESERVED_NAMES = ("dft", "experiments")


def usable_cores() -> int:
    """CPU cores that processes started here may use; in a SLURM job those of its node, for other jobs get others."""
    if "SLURM_JOB_ID" in os.environ:
        return os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


class Chemistry(Section):
    """What the campaign may be made of."""

    elements: tuple[str, ...] = Field(
        ("Li", "Na", "Mg", "Al", "Ca", "Rb", "Cs", "O", "F", "S", "Cl"),
        min_length=3,
        description="Element symbols; the hardest of them sets the cutoff tier of every calculation.",
    )
    space_groups: tuple[Literal[216, 221, 225], ...] = Field(
        (216, 221, 225), min_length=1, description="International numbers of the cubic space groups to work in."
    )

    _elements = field_validator("elements")(check_elements)


# The cubic prototypes that can be decorated, by how many elements they hold, with their space groups; sites and sources
# in sluice/curate/prototypes.py.
PROTOTYPE_SPACE_GROUPS = {
    3: {
        "half-heusler": 216,
        "heusler": 225,
        "perovskite": 221,
        "K2PtCl6": 225,
        "MgZrF6": 225,
        "Mg3NF3": 221,
        "Ca6LiGe": 225,
    },
    4: {"quaternary-heusler": 216, "elpasolite": 225},
}


class BuildSettings(Section):
    """A database the project builds itself."""

    share: float = Field(
        0.5,
        gt=0.0,
        le=1.0,
        description="Share of the possible formulas that become the database; the rest is left to be discovered.",
    )
    max_crystals: int = Field(3000, ge=30, description="Most crystals in the database.")
    prototypes: tuple[str, ...] = Field(
        (),
        description="Names of prototypes to decorate; empty: all of three elements. With train.generator.base_sites: 4"
        f" some of {', '.join(PROTOTYPE_SPACE_GROUPS[4])}.",
    )
    strains: tuple[float, ...] = Field(
        (-0.06, -0.03, 0.0, 0.03, 0.06),
        min_length=4,
        description="Linear strains of the equation of state around the guessed lattice constant.",
    )

    @field_validator("prototypes")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for groups in PROTOTYPE_SPACE_GROUPS.values() for name in groups]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; allowed: {', '.join(known)}")
        return names

    @field_validator("strains")
    @classmethod
    def _spread(cls, strains: tuple[float, ...]) -> tuple[float, ...]:
        ordered = sorted(strains)
        apart = all(b - a >= 0.005 for a, b in pairwise(ordered))
        if not (apart and ordered[0] >= -0.3 and ordered[-1] <= 0.3):
            raise ValueError("strains must lie between -0.3 and 0.3, at least 0.005 apart, e.g. -0.03, 0, 0.03, 0.06")
        return strains


class FilesSettings(Section):
    """Crystals of the user's own."""

    path: Path | None = Field(
        None, description="Folder of CIF files, an extxyz file or a Sluice store; relative to the configuration file."
    )
    properties: Path | None = Field(
        None,
        description="CSV with a column `id` (file name without .cif) and the energy column; without it CHGNet labels.",
    )
    energy_column: str = Field(
        "formation_energy_ev_per_atom", description="Column of the CSV with formation energies in eV/atom."
    )


class CurateSettings(Section):
    """The database to learn from."""

    source: Literal["build", "files"] = Field("build", description="`build` decorates prototypes, `files` reads yours.")
    build: BuildSettings = BuildSettings()
    files: FilesSettings = FilesSettings()
    batches: Count = Field(2, description="Number of batches that labelling is done in.")
    validation_share: Fraction = Field(0.1, description="Share of the formulas for validation.")
    test_share: Fraction = Field(0.1, description="Share of the formulas for the final test.")
    max_bad_fraction: Fraction = Field(0.05, description="Bad rows tolerated in the user's data before curate stops.")
    min_distance: Positive = Field(0.5, description="Closer atoms count as overlapping in data, Å.")

    @model_validator(mode="after")
    def _check(self) -> CurateSettings:
        if self.validation_share + self.test_share >= 0.9:
            raise ValueError("validation_share + test_share must stay below 0.9")
        if self.source == "files" and self.files.path is None:
            raise ValueError("source is `files`, so files.path must be given")
        return self


class ScreenerSettings(Section):
    """Classifier of stable-looking crystals: CGCNN (Xie and Grossman 2018), GATGNN (Louis et al. 2020) or TSDNN.

    TSDNN (Gleaves et al. 2023) is two CGCNNs that also learn from crystals without a label.
    """

    model: Literal["cgcnn", "gatgnn", "tsdnn"] = Field("cgcnn", description="The network.")
    scale: Literal["given", "touching"] = Field(
        "given", description="Size at which it sees crystals; touching: where the closest atoms touch."
    )
    epochs: Count = Field(25, description="Passes over the training crystals.")
    batch_size: Count = Field(128, description="Crystals in a training batch.")
    learning_rate: Positive = Field(2e-3, description="Adam's peak step.")
    weight_decay: float = Field(1e-5, ge=0.0, description="Weight decay.")
    hidden_size: Count = Field(48, description="Length of an atom's feature vector.")
    head_size: Count = Field(64, description="Width of the layer after pooling.")
    convolutions: Count = Field(3, description="Number of graph convolutions or attention layers.")
    heads: Count = Field(4, description="Heads of attention of gatgnn.")
    neighbours: Count = Field(12, le=255, description="Nearest neighbours in the graph.")
    cutoff: Positive = Field(8.0, description="Radius of the neighbour search, Å.")
    gaussians: Count = Field(41, description="Gaussians that a distance is expanded in.")
    threshold: Literal["median"] | float = Field(
        "median", description="Formation energy that divides the classes, eV/atom, or the training median."
    )
    dft_weight: Positive = Field(
        5.0,
        description="Weight of a crystal labelled by DFT in an earlier round relative to one of the database; tsdnn"
        " sees it so many times, rounded.",
    )
    tsdnn: TsdnnSettings = TsdnnSettings()
    checkpoint_minutes: Positive = Field(1.0, description="Minutes between checkpoints.")


class TrainSettings(Section):
    """The models."""

    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to train; auto takes a GPU if there is one."
    )
    devices: Literal["auto"] | Count = Field(
        1,
        description="Devices that one training shares its batches out to: GPUs, or on a CPU processes; auto: all GPUs"
        " that the job is given. The same digits come only from the same number. GANs of compositions, which are small,"
        " train on one; the scorer of compositions on all.",
    )
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="lightning-fabric's precision.")
    threads: Count = Field(1, description="CPU threads of one training; results are equal to the bit at equal threads.")
    generator: GeneratorSettings = GeneratorSettings()
    screener: ScreenerSettings = ScreenerSettings()


class ValidateSettings(Section):
    """First-principles formation energies."""

    code: Literal["espresso", "vasp"] = Field("espresso", description="The first-principles code.")
    protocol: Literal["fast", "balanced", "stringent"] = Field("fast", description="Accuracy; README has the table.")
    batches: Count = Field(2, description="Batches that run side by side.")
    ranks: Count = Field(1, description="MPI ranks of one calculation.")
    launch: str = Field("mpirun -np {ranks}", description="Command that launches the ranks; `{ranks}` is filled in.")
    command: str = Field("pw.x", description="Program, by name or path; with `code: vasp` the default is vasp_std.")
    pseudos: Path | None = Field(
        None, description="Directory with SSSP PBE efficiency 1.3.0; null: where `sluice pseudos install` puts it."
    )
    library: Path | None = Field(None, description="Task library shared by campaigns; null: <results>/dft.")
    scratch: Path | None = Field(None, description="Directory for working files; null: inside the task library.")
    spin_elements: tuple[str, ...] = Field(
        ("Cr", "Mn", "Fe", "Co", "Ni"), description="Elements that start spin-polarized (ferromagnetic)."
    )
    max_attempts: Count = Field(4, description="Attempts at one calculation, each with changed inputs.")
    max_continuations: Count = Field(20, description="Continuations after time limits, counted apart from attempts.")
    max_hours: Positive = Field(
        3.0, description="Wall time of one run of the code before it stops itself to be continued, h."
    )
    vasp: VaspSettings = VaspSettings()
    remote_project: str | None = Field(
        None, description="Project of jobflow-remote that the Flows are sent to; null: they run in the step itself."
    )
    remote_worker: str | None = Field(None, description="Its worker for them; null: the project's first.")

    _elements = field_validator("spin_elements")(check_elements)

    @model_validator(mode="before")
    @classmethod
    def _program(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("code") == "vasp":
            return {"command": VASP_COMMAND, **values}
        return values

    @property
    def protocol_name(self) -> str:
        """What decides the accuracy: the protocol, or the flow of VASP."""
        return self.vasp.flow if self.code == "vasp" else self.protocol

    @model_validator(mode="after")
    def _check(self) -> ValidateSettings:
        cores = usable_cores()
        # Where SLURM's commands are, ranks run on its nodes; a run on this machine is checked by itself.
        if self.launch.split()[:1] != ["srun"] and self.ranks > cores and shutil.which("sbatch") is None:
            raise ValueError(f"ranks is {self.ranks}, but {cores} cores may be used here; give at most {cores}")
        try:
            shlex.split(self.launch.format(ranks=self.ranks))
        except (KeyError, IndexError, ValueError):
            raise ValueError("launch: `{ranks}` may stand in it, no other braces, and quotes must be closed") from None
        if "{ranks}" not in self.launch and self.ranks > 1:
            raise ValueError("launch must contain {ranks}, e.g. `mpirun -np {ranks}`")
        return self


class StopSettings(Section):
    """When further rounds are not worth their cost."""

    confirmed: int | None = Field(None, ge=1, description="Stop once so many crystals are confirmed; null: never.")


def _misfit(name: str, value: Any, before: dict[str, Any]) -> str:
    """Why a part of the configuration does not go with the kind of candidates; "" if it does.

    Args:
        name: of a key of ``Config``.
        value: what it holds.
        before: the keys before it that are valid.
    """
    kind = before.get("candidates")
    if kind == "crystals" and name == "compositions" and value != CompositionsSettings():
        return "this section is for campaigns of compositions; set candidates: compositions, or leave it out"
    if kind != "compositions":
        return ""
    told = "candidates is `compositions`, which"
    if name == "rounds" and value > 1:
        return f"{told} no DFT labels yet: a second round would learn nothing new; allowed: 1"
    if name == "generate" and value.space_groups:
        return f"space_groups = {list(value.space_groups)}: {told} have no space group; allowed: []"
    if name == "screen" and value.score.filters:
        return f"score.filters: {told} classifiers of crystals cannot judge; allowed: []"
    if name == "screen" and value.objectives != ScreenSettings().objectives:
        return f"objectives: {told} are ranked by compositions.shortlist; leave the objectives out"
    if name == "stop" and value.confirmed is not None:
        return f"confirmed = {value.confirmed}: {told} no DFT confirms yet; allowed: null"
    curate = before.get("curate")
    if name == "compositions" and value.data.path is not None and curate is not None and curate.source == "files":
        return "data.path and curate.source = `files` both name data to learn from; give one of them"
    return ""


class Config(Section):
    """One campaign."""

    campaign: str = Field("halides", description="Name; results go to <results>/<campaign>.")
    candidates: Literal["crystals", "compositions"] = Field(
        "crystals",
        description="What is looked for: crystals, up to their DFT energies, or formulas, up to a scored shortlist"
        " (section `compositions`).",
    )
    seed: int = Field(2026, ge=0, description="Seed of every random choice.")
    rounds: Count = Field(1, description="Rounds of generate, screen, validate; later ones learn from earlier ones.")
    results: Path = Field(Path("results"), description="Directory of all campaigns.")
    chemistry: Chemistry = Chemistry()
    curate: CurateSettings = CurateSettings()
    train: TrainSettings = TrainSettings()
    generate: GenerateSettings = GenerateSettings()
    screen: ScreenSettings = ScreenSettings()
    validate_: ValidateSettings = Field(ValidateSettings(), alias="validate", description="First-principles step.")
    stop: StopSettings = StopSettings()
    compositions: CompositionsSettings = CompositionsSettings()

    @field_validator("campaign")
    @classmethod
    def _name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise ValueError("use letters, digits, '-', '_' and '.', starting with a letter or digit, at most 64")
        if name in RESERVED_NAMES:
            raise ValueError(f"{name!r} is reserved; choose another name")
        return name

    @field_validator("rounds", "generate", "screen", "stop", "compositions")
    @classmethod
    def _fits_candidates(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what the kind of candidates has no use for; here, since a field's problem comes with its line."""
        if problem := _misfit(str(info.field_name), value, info.data):
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.builds_database:
            self._check_prototypes()
        allowed = set(self.generate.allowed_elements or self.chemistry.elements) - set(self.generate.excluded_elements)
        outside = set(self.generate.allowed_elements) - set(self.chemistry.elements)
        if outside:
            raise ValueError(f"generate.allowed_elements: {sorted(outside)} not among chemistry.elements")
        if self.candidates == "compositions":
            if len(allowed) < 2:
                raise ValueError(f"generate: {len(allowed)} elements are left, but a composition has at least 2")
            return self
        self._check_generator(len(allowed))
        return self

    def _check_prototypes(self) -> None:
        """Some prototype can be decorated, and CubicGAN, which has a site for each element, can learn it."""
        sizes = [n for n in PROTOTYPE_SPACE_GROUPS if n <= len(self.chemistry.elements)]
        if self.candidates == "crystals":
            sizes = [self.train.generator.base_sites]
        possible = {name: group for size in sizes for name, group in PROTOTYPE_SPACE_GROUPS[size].items()}
        names = self.curate.build.prototypes or tuple(PROTOTYPE_SPACE_GROUPS[3])
        if not any(possible.get(name) in self.chemistry.space_groups for name in names):
            raise ValueError(
                f"curate.build.prototypes: none of {', '.join(names)} has {' or '.join(map(str, sizes))} elements (of"
                " crystals as many as train.generator.base_sites) and lies in chemistry.space_groups"
                f" {list(self.chemistry.space_groups)}; of so many elements are {', '.join(possible)}"
            )

    def _check_generator(self, elements: int) -> None:
        """CubicGAN and what is drawn from it, of so many elements."""
        generate, sites = self.generate, self.train.generator.base_sites
        if elements < sites:
            raise ValueError(f"generate: {elements} elements are left, but {sites} are drawn for every candidate")
        outside_groups = set(generate.space_groups) - set(self.chemistry.space_groups)
        if outside_groups:
            raise ValueError(f"generate.space_groups: {sorted(outside_groups)} not among chemistry.space_groups")
        if generate.critic_share < 1 and self.train.generator.random_elements == 0:
            raise ValueError(
                f"generate.critic_share = {generate.critic_share:g} asks the critic to choose among elements, which it"
                " never learns with train.generator.random_elements = 0; raise the latter, e.g. to 0.5"
            )

    @property
    def builds_database(self) -> bool:
        """Whether curate decorates prototypes."""
        return self.curate.source == "build" and self.curates_crystals

    @property
    def curates_crystals(self) -> bool:
        """Whether there is a database of crystals; not if formulas are read from a table."""
        return self.candidates == "crystals" or self.compositions.data.path is None

    @property
    def workdir(self) -> Path:
        """Snakemake's working directory of this campaign."""
        return self.results / self.campaign

    @property
    def library(self) -> Path:
        """The task library."""
        return self.validate_.library or self.results / "dft"
