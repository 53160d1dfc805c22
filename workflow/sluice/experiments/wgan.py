"""The experiment `wgan`: encodings of compositions learned by a WGAN's critic (Hu et al., Symmetry 2020, Table 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from sluice.config_base import Count, Fraction, Positive, Section
from sluice.config_composition_gan import CompositionGanSettings
from sluice.experiments import wgan_compare, wgan_runs
from sluice.experiments.composition_gan_data import (
    PROPERTIES,
    read_oqmd_formulas,
    read_property,
    save_compositions,
)
from sluice.experiments.composition_gan_runs import FORMULAS_FILE, count_draws, train_gan
from sluice.experiments.experiment import Comparison, Experiment, ExperimentConfig, Job, Part

# CPU seconds on one thread: a critic step with one composition and its share of a generator step, by width, and a
# training composition in one pass of one head, measured; a draw with its checks, estimated from the arithmetic.
STEP_S, DRAW_S, HEAD_S = {1.0: 1.7e-3, 0.25: 5e-4}, 5e-4, 1.2e-5
ROWS = {"mp_gap": 40_000, "supercon": 12_000, "oqmd": 200_000}  # about, for the estimate
TABLE = "default"  # of oxidation states: 57.9 % of OQMD are neutral with it, 39 % with smact's of the ICSD


class HeadSettings(Section):
    """The heads, one for each repeat, trained side by side."""

    widths: tuple[Count, ...] = Field((256, 128, 64, 32), min_length=1, description="Hidden layers.")
    # ASSUME: the shares, passes, batch, rate and loss of the heads are not stated.
    validation_share: Fraction = Field(0.1, description="Share of the compositions for validation.")
    test_share: Fraction = Field(0.1, description="Share of the compositions for the test.")
    epochs: Count = Field(100, description="Passes over the training compositions.")
    batch_size: Count = Field(256, description="Compositions in a step.")
    learning_rate: Positive = Field(2e-3, description="Adam's peak step.")
    loss: Literal["mae", "mse"] = Field("mae", description="Loss.")
    checkpoint_minutes: Positive = Field(1.0, description="Minutes between checkpoints.")


class WganSettings(Section):
    """Of this experiment."""

    max_rows: int | None = Field(None, ge=100, description="Rows of each property at most; null: all.")
    max_formulas: int | None = Field(None, ge=100, description="OQMD's formulas at most; null: all.")
    samples: Count = Field(300_000, description="Compositions drawn, about as many as the training set has.")
    tsne_rows: int = Field(3000, ge=100, description="Superconductors in the plane of t-SNE.")
    head: HeadSettings = HeadSettings()
    gan: CompositionGanSettings = CompositionGanSettings()


class WganConfig(ExperimentConfig):
    """Configuration of the experiment."""

    settings: WganSettings = WganSettings()


class WganExperiment(Experiment):
    """Train the WGAN on OQMD's formulas, then the same head on three encodings of three properties."""

    config_type = WganConfig

    def parts(self, config: WganConfig) -> list[Part]:
        """The network, nine cells (all repeats of one in one job), the census of draws, the planes of t-SNE."""
        cells = [
            Part(f"{name}_{encoding}", needs=("gan",) if encoding == "wgan" else ())
            for name in PROPERTIES
            for encoding in wgan_runs.ENCODINGS
        ]
        return [Part("gan"), *cells, Part("draws", needs=("gan",)), Part("tsne", needs=("gan",))]

    def cpu_hours(self, config: WganConfig) -> float:
        """Steps, draws and passes times their cost."""
        s = config.settings
        rows = sum(min(n, s.max_rows or n) for n in ROWS.values())
        heads = 3 * HEAD_S * rows * s.head.epochs * config.repeats
        step = STEP_S[min(STEP_S, key=lambda width: abs(width - s.gan.width))]
        return (s.gan.steps * s.gan.batch_size * step + s.samples * DRAW_S + heads + 600) / 3600

    def relevant(self, config: WganConfig, variant: str) -> dict[str, Any]:
        """Each job depends on its own settings."""
        values = super().relevant(config, variant)
        keep = {
            "prepare": ("max_rows", "max_formulas"),
            "gan": ("gan",),
            "draws": ("gan", "samples"),
            "tsne": ("tsne_rows",),
        }.get(variant, ("head",))
        values["settings"] = {name: values["settings"][name] for name in keep}
        return values | ({"repeats": config.repeats} if keep == ("head",) else {})

    def prepare(self, config: WganConfig, folder: Path) -> None:
        """Read the three properties and OQMD's formulas."""
        s = config.settings
        for name, (data, _, _) in PROPERTIES.items():
            compositions, target = read_property(name, config.data_folders[data], s.max_rows, config.seed)
            save_compositions(folder / f"{name}.npz", compositions, target)
        formulas = read_oqmd_formulas(config.data_folders["oqmd_formation"], s.max_formulas, config.seed)
        save_compositions(folder / FORMULAS_FILE, formulas)

    def run(self, config: WganConfig, job: Job) -> None:
        """One job."""
        s = config.settings
        if job.variant == "gan":
            train_gan(config, s.gan, job)
        elif job.variant == "draws":
            count_draws(config, s.gan, job, samples=s.samples, threshold=0.5, table=TABLE)
            wgan_runs.add_training_shares(job, TABLE)
        elif job.variant == "tsne":
            wgan_runs.run_tsne(job, s.tsne_rows)
        else:
            name, encoding = job.variant.rsplit("_", 1)
            wgan_runs.run_cell(config, s.head, job, name=name, encoding=encoding)

    def compare(self, config: WganConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
        """Table 4 beside ours, the shares, the figures."""
        return wgan_compare.compare(config, prepared, runs)


EXPERIMENT = WganExperiment()
