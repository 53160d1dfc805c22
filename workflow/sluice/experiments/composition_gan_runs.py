"""Jobs that the experiments `wgan` and `matgan` share: training the network, and the census of what it draws."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

from sluice.chemistry.composition_keys import composition_keys
from sluice.chemistry.compositions import Compositions
from sluice.config_composition_gan import CompositionGanSettings
from sluice.experiments.composition_gan_data import load_compositions
from sluice.experiments.experiment import ExperimentConfig, Job
from sluice.experiments.folders import write_history, write_metrics
from sluice.models.composition_gan_training import hold_out, train_composition_gan
from sluice.models.composition_sampling import CompositionSampler, take_census
from sluice.models.modelfile import load_model, save_model
from sluice.models.wgan import CompositionGan

FORMULAS_FILE = "formulas.npz"


def train_gan(config: ExperimentConfig, settings: CompositionGanSettings, job: Job) -> None:
    """Train on the prepared formulas and keep the network."""
    compositions, _ = load_compositions(job.prepared / FORMULAS_FILE)
    network, arguments, rows = train_composition_gan(
        compositions,
        settings,
        seed=job.seed,
        checkpoints=job.checkpoints,
        metrics=job.folder / "training.csv",
        device=config.device,
        precision=config.precision,
        threads=job.threads,
    )
    save_model(
        job.folder / "model.ckpt",
        kind=settings.model,
        task="generation",
        hyperparameters=arguments,
        state=network.state_dict(),
        facts={"training_rows": len(compositions), "seed": job.seed, "campaign": f"experiment {config.experiment}"},
    )
    write_history(job.folder, rows)
    # NaN where nothing is held out.
    losses = [float(row.get("val_critic_loss", math.nan)) for row in rows]
    write_metrics(
        job.folder, {"first_critic_loss": losses[0], "least_critic_loss": min(losses), "last_critic_loss": losses[-1]}
    )


def load_gan(folder: Path) -> CompositionGan:
    """The network of a training."""
    network = load_model(folder / "model.ckpt").network
    assert isinstance(network, CompositionGan)
    return network


def learned_from(config: ExperimentConfig, share: float, prepared: Path) -> tuple[Compositions, Compositions]:
    """What the network learned from, and what was held out, as the training of the first repeat split them."""
    compositions, _ = load_compositions(prepared / FORMULAS_FILE)
    training, held_out = hold_out(len(compositions), share, config.seed)
    return compositions[training], compositions[held_out]


def count_draws(
    config: ExperimentConfig,
    settings: CompositionGanSettings,
    job: Job,
    *,
    samples: int,
    threshold: float,
    table: str,
    critic_share: float = 1.0,
) -> None:
    """Draw, and count what is charge-neutral, electronegativity-balanced, new and unique."""
    training, held_out = learned_from(config, settings.validation_share, job.prepared)
    network = load_gan(job.needed["gan"][0])
    sampler = CompositionSampler(network, threshold=threshold, critic_share=critic_share, device=config.device)
    census = take_census(
        sampler,
        samples,
        job.seed,
        known=composition_keys(training),
        held_out=composition_keys(held_out),
        table=table,
        scratch=job.checkpoints / "keys",
    )
    found = {f"n_{name}": value for name, value in asdict(census).items() if name not in ("rejected", "recovered")}
    write_metrics(job.folder, {**found, **census.shares()})
