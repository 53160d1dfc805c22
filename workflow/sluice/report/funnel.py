"""The funnel: how many candidates came into every step, how many left it and why the others did not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from sluice.config import Config
from sluice.errors import SluiceError
from sluice.store import Store
from sluice.store_format import COUNTS

Batches = Literal["one", "label", "generate", "relax", "dft"]


@dataclass(frozen=True)
class Step:
    """A step whose stores are counted.

    Attributes:
        name: of the rule and its function.
        title: what the page calls it.
        schema: of its stores.
        pattern: path of a store below the campaign's folder, with ``{round}`` and ``{batch}``.
        batches: which number of batches of the configuration it runs in.
    """

    name: str
    title: str
    schema: str
    pattern: str
    batches: Batches = "one"


DATABASE_STEPS = (
    Step("collect_crystals", "Crystals built or read", "crystals", "curate/crystals.h5"),
    Step("label_crystals", "Labelled", "labelled", "curate/labelled/batch_{batch}.h5", "label"),
    Step("split_crystals", "Split by formula", "dataset", "curate/dataset.h5"),
)
_SCREEN = "round_{round}/screen"
CANDIDATE_STEPS = (
    Step(
        "generate_candidates", "Generated crystals", "candidates", "round_{round}/generate/batch_{batch}.h5", "generate"
    ),
    Step("check_geometry", "Possible geometry", "geometry", f"{_SCREEN}/geometry/batch_{{batch}}.h5", "generate"),
    Step("check_symmetry", "Symmetry as asked", "symmetry", f"{_SCREEN}/symmetry/batch_{{batch}}.h5", "generate"),
    Step("check_charge", "Charge-neutral", "charge", f"{_SCREEN}/charge/batch_{{batch}}.h5", "generate"),
    Step("remove_duplicates", "New and distinct", "unique", f"{_SCREEN}/unique.h5"),
    Step("score_candidates", "Scored", "scored", f"{_SCREEN}/scored.h5"),
    Step("select_candidates", "Best by score", "selected", f"{_SCREEN}/selected.h5"),
    Step("relax_candidates", "Relaxed with CHGNet", "relaxed", f"{_SCREEN}/relaxed/batch_{{batch}}.h5", "relax"),
    Step("rank_candidates", "Ranked", "ranked", f"{_SCREEN}/ranked.h5"),
    Step("shortlist_candidates", "Within the DFT budget", "shortlist", f"{_SCREEN}/shortlist.h5"),
    Step("collect_energies", "Energy by DFT", "validated", "round_{round}/validate/validated.h5"),
)
# The bookkeeping of calculations: elemental references are made here, so these are no steps of the funnel.
TASK_STEPS = (
    Step("plan_tasks", "Tasks planned", "tasks", "round_{round}/validate/tasks.h5"),
    Step(
        "compute_references",
        "Elemental references",
        "results",
        "round_{round}/validate/references/batch_{batch}.h5",
        "dft",
    ),
    Step("compute_compounds", "Compounds", "results", "round_{round}/validate/compounds/batch_{batch}.h5", "dft"),
)
_COMPOSITIONS = "round_{round}/screen/compositions"
COLLECT_COMPOSITIONS = Step("collect_compositions", "Formulas to learn from", "compositions", "curate/compositions.h5")
COMPOSITION_STEPS = (
    Step(
        "generate_compositions",
        "Readable as a formula",
        "composition_candidates",
        "round_{round}/generate/compositions/batch_{batch}.h5",
        "generate",
    ),
    Step(
        "check_composition_charge",
        "Charge-neutral",
        "composition_charge",
        f"{_COMPOSITIONS}/charge/batch_{{batch}}.h5",
        "generate",
    ),
    Step("remove_known_compositions", "New and distinct", "composition_unique", f"{_COMPOSITIONS}/unique.h5"),
    Step("score_compositions", "Scored", "composition_scored", f"{_COMPOSITIONS}/scored.h5"),
    Step("shortlist_compositions", "Shortlisted", "composition_shortlist", f"{_COMPOSITIONS}/shortlist.h5"),
)
TITLES = {
    step.name: step.title
    for step in (*DATABASE_STEPS, COLLECT_COMPOSITIONS, *CANDIDATE_STEPS, *COMPOSITION_STEPS, *TASK_STEPS)
}


@dataclass(frozen=True)
class Pipeline:
    """The steps of one kind of campaign whose stores are counted, each group in order."""

    database: tuple[Step, ...]
    candidates: tuple[Step, ...]
    tasks: tuple[Step, ...]


def pipeline_of(config: Config) -> Pipeline:
    """The steps of a campaign by what its candidates are."""
    if config.candidates == "crystals":
        return Pipeline(DATABASE_STEPS, CANDIDATE_STEPS, TASK_STEPS)
    before = DATABASE_STEPS if config.curates_crystals else ()
    return Pipeline((*before, COLLECT_COMPOSITIONS), COMPOSITION_STEPS, ())


@dataclass
class FunnelRow:
    """The sums of one step; ``in + made - merged = out + rejected + failed``."""

    step: str
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, other: FunnelRow) -> None:
        """Add the sums of another batch or round of the same step."""
        for name in COUNTS:
            self.counts[name] += other.counts[name]
        self.reasons.update(other.reasons)

    def check(self, where: str = "") -> None:
        """Check the sum rule.

        Raises:
            SluiceError: naming the step and the numbers.
        """
        c = self.counts
        if c["in"] + c["made"] - c["merged"] != c["out"] + c["rejected"] + c["failed"]:
            raise SluiceError(
                f"{self.step}{where}: candidates do not add up: in {c['in']} + made {c['made']} - merged {c['merged']} "
                f"is not out {c['out']} + rejected {c['rejected']} + failed {c['failed']}. "
                "Delete the stores of this step and run the campaign again."
            )
        gone = sum(self.reasons.values())
        if gone != c["rejected"] + c["failed"]:
            raise SluiceError(
                f"{self.step}{where}: {gone} reasons are given for {c['rejected'] + c['failed']} candidates that did "
                "not go on. Delete the stores of this step and run the campaign again."
            )

    def as_dict(self) -> dict[str, Any]:
        """The row of ``summary.json``; reasons by falling count."""
        ordered = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        return {"step": self.step, **self.counts, "reasons": dict(ordered)}


def number_of_batches(step: Step, config: Config) -> int:
    """How many stores a round of this step has."""
    return {
        "one": 1,
        "label": config.curate.batches,
        "generate": config.generate.batches,
        "relax": config.screen.relax.batches,
        "dft": config.validate_.batches,
    }[step.batches]


def store_paths(step: Step, config: Config, folder: Path, round_number: int = 0) -> list[Path]:
    """The stores of a step in one round, by batch."""
    return [
        folder / step.pattern.format(round=round_number, batch=batch)
        for batch in range(number_of_batches(step, config))
    ]


def read_row(step: Step, paths: list[Path]) -> FunnelRow:
    """Sum a step's stores of one round, every digest verified.

    Raises:
        StoreError: if a store is missing or damaged; names it.
        SluiceError: if a store's numbers do not add up; names step and store.
    """
    total = FunnelRow(step.name)
    for path in paths:
        with Store(path, step.schema) as store:
            row = FunnelRow(step.name, store.counts, store.reasons())
        row.check(f" ({path})")
        total.add(row)
    return total


@dataclass
class Funnel:
    """The sums of a campaign, by round and in all."""

    rounds: dict[int, list[FunnelRow]]
    database: list[FunnelRow]
    tasks: list[FunnelRow]

    def total(self) -> list[FunnelRow]:
        """Rounds summed, one row per step."""
        rows = [FunnelRow(row.step) for row in next(iter(self.rounds.values()))]
        for found in self.rounds.values():
            for row, part in zip(rows, found, strict=True):
                row.add(part)
        return rows

    def everything(self) -> Iterator[FunnelRow]:
        """Every row there is: database, funnel, tasks."""
        yield from (*self.database, *self.total(), *self.tasks)


def check_chain(rows: list[FunnelRow], where: str = "") -> None:
    """Check every row, and that what left a step is what came into the next.

    Raises:
        SluiceError: naming the step.
    """
    for row in rows:
        row.check(where)
    for before, after in pairwise(rows):
        if before.counts["out"] != after.counts["in"]:
            raise SluiceError(
                f"{after.step}{where}: {after.counts['in']} candidates came in, but {before.counts['out']} left "
                f"{before.step}. The stores belong to different runs: run the campaign again."
            )


def read_funnel(config: Config, folder: Path) -> Funnel:
    """Sum and check the stores of the whole campaign.

    Args:
        config: tells rounds and batches.
        folder: the campaign's folder.

    Raises:
        SluiceError: where sums do not add up or a store is missing or damaged.
    """
    pipeline = pipeline_of(config)
    rounds = {}
    tasks = [FunnelRow(step.name) for step in pipeline.tasks]
    for number in range(1, config.rounds + 1):
        rounds[number] = [read_row(step, store_paths(step, config, folder, number)) for step in pipeline.candidates]
        check_chain(rounds[number], f" (round {number})")
        for row, step in zip(tasks, pipeline.tasks, strict=True):
            row.add(read_row(step, store_paths(step, config, folder, number)))
    database = [read_row(step, store_paths(step, config, folder)) for step in pipeline.database]
    check_chain(database)
    return Funnel(rounds, database, tasks)
