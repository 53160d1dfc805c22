"""A small finished campaign, every store written by StoreWriter, with crystals of real prototypes."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.core import Lattice, Structure

from sluice.attempts import append_event
from sluice.config import Config
from sluice.crystals import Crystals
from sluice.report.funnel import CANDIDATE_STEPS, store_paths
from sluice.schemas import SCHEMAS, Column
from sluice.store import Chunk, Store, StoreWriter

GENERATED, BATCHES = 60, 2
ELEMENTS = ("Li", "Na", "K", "Mg", "Ca", "F", "Cl", "O")
SPREAD = 0.3  # eV/atom between CHGNet and the energies that stand in for DFT's here


def perovskite(a: str, b: str, x: str, length: float) -> Structure:
    """ABX3 in Pm-3m, lattice constant in Å."""
    sites = [[0.5, 0.5, 0.5], [0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    return Structure(Lattice.cubic(length), [a, b, x, x, x], sites)


def half_heusler(a: str, b: str, c: str, length: float) -> Structure:
    """ABC in F-43m, the primitive cell of a conventional one of that lattice constant in Å."""
    half = length / 2
    cell = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
    return Structure(cell, [a, b, c], [[0.5] * 3, [0.25] * 3, [0] * 3])


def draw_crystals(n: int, seed: int) -> tuple[Crystals, np.ndarray]:
    """``n`` decorated prototypes and their space groups."""
    rng = np.random.default_rng(seed)
    structures, groups = [], []
    for _ in range(n):
        a, b = rng.choice(ELEMENTS[:5], 2, replace=False)
        x = rng.choice(ELEMENTS[5:])
        cubic = rng.random() < 0.6
        length = (3.7 if cubic else 5.2) + 1.5 * rng.random()
        structures.append((perovskite if cubic else half_heusler)(str(a), str(b), str(x), length))
        groups.append(221 if cubic else 216)
    return Crystals.from_structures(structures), np.array(groups)


def values_for(schema: str, n: int, groups: np.ndarray, seed: int) -> dict[str, Any]:
    """Plausible values for every column of a schema."""
    rng = np.random.default_rng(seed)
    energies = -1.0 - 2.0 * rng.random(n)
    known: dict[str, Any] = {
        "prototype": np.where(groups == 221, b"perovskite", b"half-Heusler"),
        "space_group": groups,
        "requested_space_group": groups,
        "relaxed_space_group": groups,
        "formation_energy_ev_per_atom": energies,
        "label_source": [b"chgnet"] * n,
        "min_distance_ratio": 0.8 + 0.2 * rng.random(n),
        "density_g_per_cm3": 2.0 + rng.random(n),
        "screener_score": rng.random(n),
        "mlip_energy_ev_per_atom": energies - 3.0,
        "mlip_formation_energy_ev_per_atom": energies,
        "volume_change": 1.0 + 0.1 * rng.random(n),
        "rank": np.arange(1, n + 1),
        "objective": energies,
        "batch": np.arange(n) % BATCHES,
        "estimated_cpu_seconds": 50.0 + 10.0 * rng.random(n),
        "task_id": [f"{seed:04d}{i:04d}" for i in range(n)],
        "kind": [b"compound"] * n,
        "element": [b""] * n,
        "energy_ev_per_atom": energies - 300.0,
        "converged": np.ones(n, bool),
        "magnetization_mu_b_per_cell": np.where(np.arange(n) % 2, np.nan, 0.0),
        "cpu_seconds": 55.0 + rng.random(n),
        "wall_seconds": 60.0 + rng.random(n),
        "attempts": np.ones(n, int),
        "continuations": np.zeros(n, int),
        "stop": np.zeros(n, bool),
        "reason": [b"rounds left"] * n,
    }
    return {name: known[name] for name in SCHEMAS[schema][1] if name in known}


@dataclass
class Campaign:
    """Where the campaign is and what is in it."""

    folder: Path
    config: Config
    confirmed: int = 0

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``build_report``."""
        rounds = range(1, self.config.rounds + 1)
        return {
            "dataset": self.folder / "curate/dataset.h5",
            "decisions": [self.folder / f"round_{n}/decision.h5" for n in rounds],
            "configuration": self.config,
            "html": self.folder / "report/index.html",
            "summary": self.folder / "report/summary.json",
            "table": self.folder / "report/validated.csv",
            "cifs": self.folder / "report/cifs",
        }


def make_config(rounds: int, folder: Path) -> Config:
    """A configuration with two batches of everything."""
    values = {
        "campaign": "fluorides",
        "rounds": rounds,
        "results": str(folder.parent),
        "chemistry": {"elements": list(ELEMENTS)},
        "curate": {"batches": BATCHES},
        "generate": {"candidates": GENERATED, "batches": BATCHES},
        "screen": {"relax": {"batches": BATCHES}},
        "validate": {"batches": BATCHES},
    }
    return Config.model_validate(values)


def write_filter(path: Path, schema: str, chunks: list[Chunk], keep: float, reasons: tuple[str, str], **options: Any):
    """Write a step that lets the first share of each chunk through; the rest is rejected, the last one failed."""
    columns = options.pop("columns", {})
    with StoreWriter(path, schema, columns=columns, round_number=options.get("round_number", 1)) as writer:
        for chunk in chunks:
            n = round(keep * len(chunk))
            kept = chunk.select(np.arange(n))
            values = values_for(schema, n, kept.columns["requested_space_group"], seed=n)
            writer.append(
                kept.candidate_id,
                {name: kept.columns.get(name, values.get(name)) for name in writer.columns},
                crystals=kept.crystals,
                parent_id=kept.parent_id,
            )
            gone = chunk.candidate_id[n:]
            writer.drop(gone[:-1], reasons[0], detail="too near")
            writer.drop(gone[-1:], reasons[1], kind="failed", detail="particulars of it")


def read_all(paths: list[Path], schema: str) -> list[Chunk]:
    """Every store as one chunk."""
    found = []
    for path in paths:
        with Store(path, schema) as store:
            found.append(store.rows())
    return found


REASONS = {
    "check_geometry": ("atoms too close", "no cell"),
    "check_symmetry": ("another space group found", "no space group found"),
    "check_charge": ("no neutral assignment", "too many oxidation states"),
    "remove_duplicates": ("duplicate of another candidate", "no structure"),
    "score_candidates": ("not scored", "no score"),
    "select_candidates": ("not among the best", "no score"),
    "relax_candidates": ("exploded", "not converged"),
    "rank_candidates": ("no objective", "no objective"),
    "shortlist_candidates": ("beyond the budget", "no estimate"),
}
KEEP = {
    "check_geometry": 0.8, "check_symmetry": 0.9, "check_charge": 0.7, "remove_duplicates": 0.9,
    "score_candidates": 1.0, "select_candidates": 0.7, "relax_candidates": 0.9, "rank_candidates": 1.0,
    "shortlist_candidates": 0.5,
}  # fmt: skip


def write_round(campaign: Campaign, number: int, *, candidates: int, validated: bool, prefix: str) -> None:
    """Generate, screen and validate."""
    folder, config = campaign.folder, campaign.config
    extra = {"requested_space_group": Column("i2")}
    for batch, path in enumerate(store_paths(CANDIDATE_STEPS[0], config, folder, number)):
        crystals, groups = draw_crystals(candidates, seed=10 * number + batch)
        with StoreWriter(path, "candidates", round_number=number) as writer:
            ids = [f"{prefix}{number}-{batch}-{i:05d}" for i in range(candidates)]
            writer.append(ids, {"requested_space_group": groups}, crystals=crystals)
            writer.count(made=candidates)
    schema, before = "candidates", CANDIDATE_STEPS[0]
    for step in CANDIDATE_STEPS[1:-1]:
        chunks = read_all(store_paths(before, config, folder, number), schema)
        paths = store_paths(step, config, folder, number)
        if len(paths) == len(chunks):
            shares = [[chunk] for chunk in chunks]
        elif len(paths) == 1:
            shares = [chunks]
        else:  # one store dealt to batches
            owner = chunks[0].columns["batch"]
            shares = [[chunks[0].select(owner == batch)] for batch in range(len(paths))]
        for path, share in zip(paths, shares, strict=True):
            keep = KEEP[step.name]
            write_filter(path, step.schema, share, keep, REASONS[step.name], columns=extra, round_number=number)
        schema, before = step.schema, step
    write_dft(campaign, number, validated=validated)


def write_dft(campaign: Campaign, number: int, *, validated: bool) -> None:
    """Tasks, results, validated crystals (the last one not converged if there are several) and the decision."""
    folder = campaign.folder / f"round_{number}"
    (chunk,) = read_all([folder / "screen/shortlist.h5"], "shortlist")
    n = len(chunk)
    groups = chunk.columns["requested_space_group"]
    with StoreWriter(folder / "validate/tasks.h5", "tasks", columns={"tier": Column("S16")}) as writer:
        values = values_for("tasks", n, groups, seed=1) | {"tier": ["standard"] * n}
        writer.append(chunk.candidate_id, values, crystals=chunk.crystals)
        writer.count(came_in=n)
    extra = {
        "kind": Column("S16"),
        "element": Column("S4"),
        "setup": Column("S128"),
        "reason": Column("S64"),
        "pseudos": Column("S256"),
    }
    for batch in range(BATCHES):
        mine = chunk.select(np.arange(n) % BATCHES == batch)
        for name in ("references", "compounds"):
            rows = mine if name == "compounds" else mine.select(np.arange(min(1, len(mine))))
            values = values_for("results", len(rows), rows.columns["requested_space_group"], seed=2)
            elements = [""] * len(rows) if name == "compounds" else [("Mg", "F")[batch]] * len(rows)
            kind = name.removesuffix("s").encode()
            values |= {"kind": [kind] * len(rows), "element": elements, "reason": [""] * len(rows)}
            values["setup"] = ["espresso 6.7, fast, standard 48/384 Ry, cold 0.02 Ry, 0.35 1/A"] * len(rows)
            values["pseudos"] = ["F:a1b2c3d4e5f6 Mg:0123456789ab"] * len(rows)
            with StoreWriter(folder / f"validate/{name}/batch_{batch}.h5", "results", columns=extra) as writer:
                writer.append(rows.candidate_id, values, crystals=rows.crystals)
    done = n - 1 if validated and n else 0
    kept = chunk.select(np.arange(done))
    values = values_for("validated", done, kept.columns["requested_space_group"], seed=3)
    mlip = kept.columns["mlip_formation_energy_ev_per_atom"]
    values["mlip_formation_energy_ev_per_atom"] = mlip
    values["formation_energy_ev_per_atom"] = mlip + SPREAD + 0.1 * np.arange(done)
    values["formation_energy_corrected_ev_per_atom"] = np.where(np.arange(done) % 3 == 2, np.nan, mlip + 0.02)
    values |= {"parent_rank": kept.columns["rank"], "novel": np.ones(done, bool)}
    values["confirmed"] = values["formation_energy_ev_per_atom"] < 0
    values |= {"code": ["espresso"] * done, "protocol": ["fast"] * done}
    values["setup"] = ["espresso 6.7, fast, standard 48/384 Ry, cold 0.02 Ry, 0.35 1/A"] * done
    campaign.confirmed += int(values["confirmed"].sum())
    columns = {"setup": Column("S128")}
    with StoreWriter(folder / "validate/validated.h5", "validated", columns=columns, round_number=number) as writer:
        writer.append(kept.candidate_id, values, crystals=kept.crystals, parent_id=kept.candidate_id)
        writer.drop(chunk.candidate_id[done:], "scf not converged", kind="failed", detail="<b>mixing</b> 0.3")
        writer.count(came_in=n)
    with StoreWriter(folder / "decision.h5", "decision", with_crystals=False, round_number=number) as writer:
        writer.append(["decision"], {"stop": [False], "reason": ["all rounds are to be run"]})
        writer.count(made=1, came_in=0)


def write_training(campaign: Campaign, number: int, *, metrics: bool) -> None:
    """Training set, predictions of the test split and metrics."""
    folder = campaign.folder / f"round_{number}/train"
    (chunk,) = read_all([campaign.folder / "curate/dataset.h5"], "dataset")
    test = chunk.select(chunk.columns["split"] == b"test")
    energies = test.columns["formation_energy_ev_per_atom"]
    target = (energies < np.median(energies)).astype(float)
    rng = np.random.default_rng(number)
    predicted = np.clip(0.2 + 0.6 * target + 0.25 * rng.standard_normal(len(target)), 0, 1)
    with StoreWriter(folder / "training_set.h5", "dataset", round_number=number) as writer:
        writer.append_chunk(chunk)
    with StoreWriter(folder / "screener_test.h5", "predictions", with_crystals=False) as writer:
        values = {name: test.columns[name] for name in ("formation_energy_ev_per_atom", "label_source", "split")}
        writer.append(test.candidate_id, values | {"predicted": predicted, "target": target})
    if not metrics:
        (folder / "generator_metrics.csv").write_text("", encoding="utf-8")
        return
    names = {"generator": ("critic_loss", "generator_loss"), "screener": ("train_loss", "val_loss", "val_roc_auc")}
    for model, columns in names.items():
        with (folder / f"{model}_metrics.csv").open("w", encoding="utf-8", newline="") as handle:
            writer_ = csv.writer(handle)
            writer_.writerow(("epoch", *columns))
            writer_.writerows([e, *(0.5 + 0.4 * np.exp(-e / 5) for _ in columns)] for e in range(1, 13))


def write_database(campaign: Campaign, n: int = 80) -> None:
    """Crystals, labels in batches, and the split."""
    folder = campaign.folder / "curate"
    crystals, groups = draw_crystals(n, seed=0)
    ids = [f"db-{i:05d}" for i in range(n)]
    with StoreWriter(folder / "crystals.h5", "crystals") as writer:
        writer.append(ids, values_for("crystals", n, groups, seed=0), crystals=crystals)
        writer.count(made=n, came_in=0)
    values = values_for("labelled", n, groups, seed=0)
    for batch in range(BATCHES):
        mine = np.arange(n) % BATCHES == batch
        with StoreWriter(folder / f"labelled/batch_{batch}.h5", "labelled") as writer:
            columns = {name: np.asarray(value)[mine] for name, value in values.items()}
            writer.append(np.array(ids)[mine], columns, crystals=crystals[mine])
    split = np.array([b"train", b"train", b"train", b"val", b"test"])[np.arange(n) % 5]
    with StoreWriter(folder / "dataset.h5", "dataset") as writer:
        writer.append(ids, values | {"split": split}, crystals=crystals)


def write_attempts(path: Path) -> None:
    """A killed attempt, one that was continued, one that failed, and three that ended well."""
    ends = [
        ("train_generator", "continued", 100.0),
        ("train_generator", "done", 60.0),
        ("relax_candidates", None, 0.0),
        ("relax_candidates", "failed", 5.0),
        ("relax_candidates", "done", 30.0),
        ("compute_compounds", "done", 200.0),
    ]
    for k, (step, outcome, cpu) in enumerate(ends):
        start = {"event": "start", "attempt": f"a{k}", "job": step, "step": step, "host": "node1", "pid": 1}
        append_event(path, start | {"pid_started": 0.0, "time": 1000.0 + 100 * k})
        if outcome is None:
            progress = {"event": "progress", "attempt": f"a{k}", "done": 1, "total": 2, "time": 1040.0 + 100 * k}
            append_event(path, progress)
            continue
        end = {"event": "end", "attempt": f"a{k}", "outcome": outcome, "reason": "", "cpu_seconds": cpu}
        append_event(path, end | {"gpu_seconds": 0.0, "max_rss_mb": 100.0 + k, "time": 1050.0 + 100 * k})


def make_campaign(
    folder: Path,
    *,
    rounds: int = 1,
    candidates: int = GENERATED // BATCHES,
    validated: bool = True,
    metrics: bool = True,
    prefix: str = "c",
) -> Campaign:
    """Write a whole campaign."""
    campaign = Campaign(folder, make_config(rounds, folder))
    write_database(campaign)
    for number in range(1, rounds + 1):
        write_training(campaign, number, metrics=metrics)
        write_round(campaign, number, candidates=candidates, validated=validated, prefix=prefix)
    write_attempts(folder / "attempts.jsonl")
    return campaign
