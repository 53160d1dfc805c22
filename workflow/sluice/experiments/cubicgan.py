"""The experiment `cubicgan`: CubicGAN on the Materials Project's cubic ternaries, from the draws to S.U.N."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sluice.chemistry.hull import Hull
from sluice.config import GeneratorSettings
from sluice.config_base import Count, Fraction, Section
from sluice.experiments.cubicgan_data import (
    KnownCrystals,
    crystal_keys,
    hull_energies,
    read_cubic,
    read_hull,
    split_by_formula,
)
from sluice.experiments.cubicgan_funnel import Sites, distances, draw_and_check
from sluice.experiments.cubicgan_stability import COLUMNS, judge, shares
from sluice.experiments.cubicgan_table import (
    SETS,
    STABLE,
    analyse,
    funnel_rows,
    hull_figure,
    lengths_figure,
    load_crystals,
    read_sites,
    sites_of,
    stability_rows,
    training_rows,
)
from sluice.experiments.experiment import Comparison, Experiment, ExperimentConfig, Job, Part
from sluice.experiments.folders import write_history, write_metrics
from sluice.experiments.results import learning_curve
from sluice.models.cubicgan import SPACE_GROUPS
from sluice.models.cubicgan_sampling import Sampler
from sluice.models.cubicgan_training import GanLearner
from sluice.models.modelfile import load_model, save_model
from sluice.models.orbits import build_crystals
from sluice.models.potential import energies
from sluice.models.training import Plan, train
from sluice.provenance import sha256_of_arrays, sha256_of_text

# Measured: CPU-seconds for a crystal in training, a draw with its checks, a relaxation with its comparison.
TRAINING_S, DRAW_S, RELAX_S = 1.7e-4, 4e-5, 0.5


class Settings(Section):
    """Of this experiment."""

    samples: Count = Field(1_000_000, description="Crystals drawn and checked.")
    critic_samples: Count = Field(400_000, description="Crystals drawn for the critic to choose from.")
    critic_share: Fraction = Field(0.01, gt=0.0, description="Share of them that the critic keeps.")
    relaxed: Count = Field(400, description="Crystals of each set that are relaxed with CHGNet.")
    generator: GeneratorSettings = GeneratorSettings()


class CubicGanConfig(ExperimentConfig):
    """Configuration of the experiment."""

    settings: Settings = Settings()


class CubicGanExperiment(Experiment):
    """Train, draw, check, relax, compare."""

    config_type = CubicGanConfig

    def parts(self, config: CubicGanConfig) -> list[Part]:
        """One training, one set of draws, a relaxation for each set."""
        sets = [Part(f"stability_{name}", needs=("draws",)) for name in SETS]
        return [Part("training"), Part("draws", needs=("training",)), *sets]

    def cpu_hours(self, config: CubicGanConfig) -> float:
        """From measured rates."""
        s = config.settings
        training = TRAINING_S * 5200 * s.generator.epochs
        return (training + DRAW_S * (s.samples + s.critic_samples) + RELAX_S * s.relaxed * len(SETS) + 60) / 3600

    def relevant(self, config: CubicGanConfig, variant: str) -> dict[str, Any]:
        """Training does not depend on how many are drawn, draws not on how many are relaxed beyond those kept."""
        values = super().relevant(config, variant)
        if variant == "training":
            values["settings"] = {"generator": values["settings"]["generator"]}
        return values

    def prepare(self, config: CubicGanConfig, folder: Path) -> None:
        """Crystals with their split, and the hull."""
        data, ids, formulas = read_cubic(config.data_folders["mp_structures"])
        hull = config.data_folders["elemental_refs_hull"]
        fractions, known = read_hull(hull)
        on_hull = hull_energies(hull)
        np.savez_compressed(
            folder / "crystals.npz",
            space_groups=data.space_groups,
            points=data.points,
            elements=data.elements,
            lengths=data.lengths,
            split=split_by_formula(formulas, config.seed),
            energies=np.array([on_hull.get(name, np.nan) for name in ids]),
        )
        np.savez_compressed(folder / "hull.npz", fractions=fractions, energies=known)

    def run(self, config: CubicGanConfig, job: Job) -> None:
        """One job."""
        if job.variant == "training":
            self._train(config, job)
        elif job.variant == "draws":
            self._draw(config, job)
        else:
            self._judge(config, job, job.variant.removeprefix("stability_"))

    def _train(self, config: CubicGanConfig, job: Job) -> None:
        data, split, _ = load_crystals(job.prepared)
        settings = config.settings.generator
        training = np.flatnonzero(split == "train")
        content = sha256_of_arrays(data.space_groups, data.points, data.elements, data.lengths, split)
        learner = GanLearner(data, settings, training=training, validation=np.flatnonzero(split == "val"))
        rows = train(
            learner,
            Plan(
                description="CubicGAN",
                n_rows=len(training),
                epochs=settings.epochs,
                batch_size=settings.batch_size,
                seed=job.seed,
                digest=sha256_of_text(f"{settings.model_dump_json()} {job.seed} {config.precision} {content}"),
                checkpoints=job.checkpoints,
                checkpoint_minutes=settings.checkpoint_minutes,
                metrics=job.folder / "metrics.csv",
                device=config.device,
                precision=config.precision,
                threads=job.threads,
            ),
        )
        groups = np.searchsorted(SPACE_GROUPS, data.space_groups[training])
        facts = {
            "space_groups": list(SPACE_GROUPS),
            "space_group_counts": np.bincount(groups, minlength=len(SPACE_GROUPS)).tolist(),
            "elements": np.unique(data.elements[training]).tolist(),
            "random_elements": settings.random_elements,
            "training_rows": len(training),
            "campaign": "experiment cubicgan",
            "seed": job.seed,
        }
        save_model(
            job.folder / "model.ckpt",
            kind="cubicgan",
            task="generation",
            hyperparameters=learner.hyperparameters,
            state=learner.weights(),
            facts=facts,
        )
        write_history(job.folder, rows)
        write_metrics(job.folder, {name: value for name, value in rows[-1].items() if name != "epoch"})

    def _draw(self, config: CubicGanConfig, job: Job) -> None:
        data, split, _ = load_crystals(job.prepared)
        model = load_model(job.needed["training"][0] / "model.ckpt")
        s = config.settings
        elements = np.array(model.facts["elements"])
        known = crystal_keys(data.space_groups, data.points, data.elements)
        fit = sites_of(data, split == "train")
        metrics: dict[str, float] = {}
        for name, n, share in (("random", s.samples, 1.0), ("critic", s.critic_samples, s.critic_share)):
            sampler = Sampler(
                model, elements=elements, space_groups=SPACE_GROUPS, critic_share=share, device=config.device
            )
            funnel = draw_and_check(sampler, n, job.seed, keep=s.relaxed)
            metrics |= {f"{name}_{key.replace(' ', '_')}": count for key, count in funnel.counts.items()}
            metrics[f"{name}_novel"] = int((~np.isin(funnel.passed.keys(), known)).sum())
            metrics |= {f"{name}_{key}": value for key, value in distances(funnel.sample, fit).items()}
            order = np.random.default_rng([job.seed, 3]).permutation(len(funnel.passed))[: s.relaxed]
            _save(job.folder / f"{name}.npz", funnel.first, funnel.possible)
            checked = "checked" if name == "random" else f"{name}_checked"
            _save(job.folder / f"{checked}.npz", funnel.passed[order], np.ones(len(order), bool))
            _save(job.folder / f"{name}_sample.npz", funnel.sample, np.ones(len(funnel.sample), bool))
        test = sites_of(data, split == "test")
        metrics |= {f"test_{key}": value for key, value in distances(test, fit).items()}
        order = np.random.default_rng([job.seed, 4]).permutation(len(test))[: s.relaxed]
        _save(job.folder / "test.npz", test[order], np.ones(len(order), bool))
        write_metrics(job.folder, metrics)

    def _judge(self, config: CubicGanConfig, job: Job, name: str) -> None:
        with np.load(job.prepared / "hull.npz") as arrays:
            hull = Hull(arrays["fractions"], arrays["energies"])
        known = KnownCrystals(config.data_folders["mp_structures"])
        sites, possible = read_sites(job.needed["draws"][0] / f"{name}.npz")
        judged = judge(sites, possible, hull, known, job.checkpoints, device=config.device)
        metrics = shares(judged, STABLE)
        if name == "test":
            metrics |= _against_mp(job.prepared, config.device)
        rows = (asdict(row).values() for row in judged)
        lines = [",".join(COLUMNS), *(",".join(map(str, row)) for row in rows)]
        (job.folder / "judged.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_metrics(job.folder, metrics)

    def compare(self, config: CubicGanConfig, prepared: Path, runs: Mapping[str, Sequence[Path]]) -> Comparison:
        """The table: the funnel, distances, S.U.N."""
        _, split, _ = load_crystals(prepared)
        n_train = int((split == "train").sum())
        rows = [
            *training_rows(runs["training"], n_train, int((split == "val").sum())),
            *funnel_rows(runs["draws"], config.settings.critic_share, n_train),
            *stability_rows(runs, n_train),
        ]
        figures = {"Distributions of the lattice constant": lengths_figure(prepared, runs["draws"][0])}
        curve = learning_curve({"CubicGAN": runs["training"]}, ["val_distinct_sites", "val_recovered"], y_title="share")
        if curve is not None:
            figures["Learning curve"] = curve
        figures["Energy above the hull"] = hull_figure(runs)
        return Comparison(
            rows,
            figures=figures,
            model=runs["training"][0] / "model.ckpt",
            analysis=analyse(runs, config.settings.critic_share),
        )


def _save(path: Path, sites: Sites, possible: NDArray[np.bool_]) -> None:
    np.savez_compressed(path, possible=possible, **asdict(sites))


def _against_mp(prepared: Path, device: str) -> dict[str, float]:
    """CHGNet's error on MP's own energies, at MP's geometries: up to 300 held-out crystals on the hull."""
    data, split, energy = load_crystals(prepared)
    chosen = np.flatnonzero((split == "test") & np.isfinite(energy))[:300]
    sites = sites_of(data, chosen)
    crystals = build_crystals(sites.space_groups, sites.points, sites.elements, sites.lengths)
    found = energies(crystals, device=device)
    error = (found - energy[chosen])[np.isfinite(found)]
    return {
        "chgnet_n": len(error),
        "chgnet_mae_ev_per_atom": float(np.abs(error).mean()) if len(error) else float("nan"),
        "chgnet_bias_ev_per_atom": float(error.mean()) if len(error) else float("nan"),
    }


EXPERIMENT = CubicGanExperiment()
