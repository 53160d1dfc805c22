"""What a campaign will cost before it is started: CPU- or GPU-hours of each stage, disk space, number of files.

The rates are in ``rates.csv``, measured by ``benchmarks/campaign_rates.py`` on a finished campaign. They tell
hours from weeks; the machine, the chemistry and how many candidates pass decide the rest.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from rich.table import Table

from sluice.config import Config, GeneratorSettings, ScreenerSettings
from sluice.driver.rules import Rule, read_rules, repository
from sluice.driver.status import expected_jobs
from sluice.provenance import crystal_files

# A row of a store takes about 120 bytes (measured), and a candidate passes some five stores.
# ASSUME: rounded up guesses of what small cells need in pw.x; large cells need more scratch.
BYTES_PER_CANDIDATE = 600
FILES_PER_CALCULATION = 12
BYTES_PER_CALCULATION = 4 << 20
SCRATCH_BYTES_PER_CALCULATION = 200 << 20
# ASSUME: what one GPU does of the networks' work in an hour takes one core so many hours; never measured here.
CORES_PER_GPU = 20.0
NETWORKS = (
    "label_crystals",
    "train_generator",
    "train_screener",
    "generate_candidates",
    "score_candidates",
    "relax_candidates",
)
DFT = ("compute_references", "compute_compounds")


@dataclass(frozen=True)
class Space:
    """Estimated disk use: stores and results that stay, working files while DFT runs, and number of files."""

    kept_bytes: int
    scratch_bytes: int
    files: int


@dataclass(frozen=True)
class Rate:
    """CPU-seconds of one job's start, and of one unit of a step's work."""

    start: float
    per_unit: float
    unit: str


@dataclass
class StageCost:
    """The jobs of one stage: CPU-seconds on cores, and those of networks, which a GPU may do instead."""

    jobs: int = 0
    cpu_seconds: float = 0.0
    network_seconds: float = 0.0


def estimate_space(config: Config) -> Space:
    """Estimate what a campaign writes; an upper bound for DFT, whose budget may pay for fewer calculations."""
    if config.candidates == "compositions":
        return Space(config.rounds * config.generate.candidates * BYTES_PER_CANDIDATE, 0, 200 * config.rounds)
    # ASSUME: as many calculations as the shortlist may hold plus one reference for every element of the chemistry.
    calculations = config.rounds * config.screen.shortlist.max_candidates + len(config.chemistry.elements)
    kept = config.rounds * config.generate.candidates * BYTES_PER_CANDIDATE + calculations * BYTES_PER_CALCULATION
    number = calculations * FILES_PER_CALCULATION + 200 * config.rounds
    return Space(kept, config.validate_.batches * SCRATCH_BYTES_PER_CALCULATION, number)


@cache
def rates() -> dict[str, Rate]:
    """The measured rates by step; trainings by step and kind of model (``train_screener tsdnn``)."""
    text = (files("sluice.driver") / "rates.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["step"]: Rate(float(row["start_cpu_seconds"]), float(row["cpu_seconds_per_unit"]), row["unit"])
        for row in rows
    }


def parameters(kind: type[Any], **sizes: Any) -> int:
    """Number of weights of a network, none of them made."""
    import torch

    with torch.device("meta"):
        return sum(weights.numel() for weights in kind(**sizes).parameters())


def generator_rate(settings: GeneratorSettings) -> float:
    """CPU-seconds for one crystal in one epoch.

    # ASSUME: a straight line in the number of weights through the two presets, which are measured.
    """
    from sluice.models.cubicgan import CubicGAN

    def weights(sizes: dict[str, Any]) -> int:
        return parameters(
            CubicGAN,
            sites=settings.base_sites,
            noise_size=settings.noise_size,
            sizes=sizes,
            length_range=[3.0, 9.0],
        )

    small, paper = (weights({"preset": name}) for name in ("small", "paper"))
    a, b = (rates()[f"train_generator {name}"].per_unit for name in ("small", "paper"))
    share = (weights(settings.sizes.model_dump(mode="json")) - small) / (paper - small)
    return max(0.0, a + share * (b - a))


def screener_rate(settings: ScreenerSettings) -> float:
    """CPU-seconds for one crystal in one epoch.

    # ASSUME: proportional to layers × width², measured at the default sizes.
    """
    usual = ScreenerSettings()
    size = settings.convolutions * settings.hidden_size**2 / (usual.convolutions * usual.hidden_size**2)
    return rates()[f"train_screener {settings.model}"].per_unit * size


def work(config: Config) -> dict[str, float]:
    """Units of work of each step in the whole campaign; 0 where a job's start is all that counts."""
    build = config.curate.build.max_crystals
    database = build
    if config.curate.source == "files" and config.curate.files.path is not None:
        # ASSUME: as many crystals as a built database holds, where they are not files of their own to be counted.
        database = max(1, len(crystal_files(config.curate.files.path))) if config.curate.files.path.is_dir() else build
    labelled = database if config.curate.source == "build" or config.curate.files.properties is None else 0
    training = database * (1 - config.curate.validation_share - config.curate.test_share)
    drawn = config.rounds * config.generate.candidates
    models = 1 + len([one for one in config.screen.score.filters if not one.missing()])
    missing = len(config.screen.score.refused())
    return {
        "collect_crystals": database,
        "label_crystals": labelled,
        "train_generator": config.rounds * training * config.train.generator.epochs,
        "train_screener": config.rounds * training * config.train.screener.epochs,
        **dict.fromkeys(
            ("generate_candidates", "check_geometry", "check_symmetry", "check_charge", "remove_duplicates"), drawn
        ),
        "score_candidates": drawn * (models + missing),
        "relax_candidates": config.rounds * config.screen.relax.candidates,
    }


def estimate_cost(config: Config, rules: dict[str, Rule] | None = None) -> dict[str, StageCost]:
    """Cost of each stage; that of DFT is its budget.

    Args:
        config: the campaign's.
        rules: the workflow's; None: the repository's.
    """
    rules = rules if rules is not None else read_rules(repository() / "workflow" / "rules")
    amounts = work(config)
    special = {
        "train_generator": generator_rate(config.train.generator),
        "train_screener": screener_rate(config.train.screener),
    }
    variants = {
        "train_generator": "train_generator small",
        "train_screener": f"train_screener {config.train.screener.model}",
    }
    found: dict[str, StageCost] = {}
    for name, jobs in expected_jobs(config, rules).items():
        stage = found.setdefault(rules[name].stage, StageCost())
        stage.jobs += jobs
        if name in DFT:
            continue
        rate = rates().get(variants.get(name, name), Rate(0.0, 0.0, ""))
        seconds = jobs * rate.start + amounts.get(name, 0.0) * special.get(name, rate.per_unit)
        if name in NETWORKS:
            stage.network_seconds += seconds
        else:
            stage.cpu_seconds += seconds
    found["validate"].cpu_seconds += config.rounds * config.screen.shortlist.dft_cpu_seconds
    return found


def hours(seconds: float) -> str:
    """Hours with as many digits as an estimate has."""
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def cost_table(config: Config) -> Table:
    """The estimate for the terminal."""
    costs, space = estimate_cost(config), estimate_space(config)
    gpu = config.train.device != "cpu"
    columns = ["stage", "jobs", "CPU-hours", *(["networks: CPU-hours", "or GPU-hours"] if gpu else [])]
    table = Table(title=f"{config.campaign}: estimated cost", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == "stage" else "right")
    total = StageCost()
    for stage, cost in costs.items():
        total.jobs += cost.jobs
        total.cpu_seconds += cost.cpu_seconds
        total.network_seconds += cost.network_seconds
        table.add_row(stage, *_cells(cost, gpu=gpu))
    table.add_section()
    table.add_row("all", *_cells(total, gpu=gpu))
    budget = config.rounds * config.screen.shortlist.dft_cpu_seconds
    table.caption = (
        f"DFT is its budget, {hours(budget)} CPU-hours in estimated seconds.\n"
        f"Disk: {space.kept_bytes / 2**30:.1f} GiB in about {space.files:,} files kept,"
        f" {space.scratch_bytes / 2**30:.1f} GiB of scratch.\n"
        f"From rates measured on one core{f'; a GPU counted as {CORES_PER_GPU:.0f} cores (assumed)' if gpu else ''}."
    )
    return table


def _cells(cost: StageCost, *, gpu: bool) -> list[str]:
    if not gpu:
        return [f"{cost.jobs:,}", hours(cost.cpu_seconds + cost.network_seconds)]
    network = cost.network_seconds
    both = [hours(network), hours(network / CORES_PER_GPU)] if network else ["", ""]
    return [f"{cost.jobs:,}", hours(cost.cpu_seconds), *both]
