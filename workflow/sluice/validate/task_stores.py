"""Tasks and their results in stores, in the order of the plan, whichever process computed what."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymatgen.core import Structure

from sluice.config import ValidateSettings
from sluice.crystals import Crystals
from sluice.schemas import Column
from sluice.store import Store, StoreWriter
from sluice.task_library import structure_from_json
from sluice.validate.energies import TotalEnergy
from sluice.validate.run_batch import Record, Task

DIGEST_DIGITS = 12  # of a pseudopotential's SHA-256
TASK_COLUMNS = {"tier": Column("S16")}
RESULT_COLUMNS = {
    "kind": Column("S16"),
    "element": Column("S4"),
    "reason": Column("S64"),
    "detail": Column("S256"),
    "setup": Column("S128"),
    "pseudos": Column("S256"),
    "run_type": Column("S16"),
    "hubbards": Column("S64"),
}


def lineage(store: Store) -> dict[str, Any]:
    """Campaign and round of a store, as keywords for the writer of the next one."""
    return {"campaign": store.attributes["campaign"], "round_number": store.attributes["round"]}


def write_tasks(writer: StoreWriter, tasks: Sequence[Task]) -> None:
    """Append tasks to a store of schema ``tasks``."""
    writer.append(
        [task.candidate_id for task in tasks],
        {
            "task_id": [task.task_id for task in tasks],
            "kind": [task.kind for task in tasks],
            "element": [task.element for task in tasks],
            "batch": [task.batch for task in tasks],
            "estimated_cpu_seconds": [task.estimated_cpu_seconds for task in tasks],
            "tier": [task.tier for task in tasks],
        },
        crystals=Crystals.from_structures([task.structure for task in tasks]),
        parent_id=[task.parent_id for task in tasks],
    )


def read_tasks(path: Path) -> list[Task]:
    """All tasks of a plan, in order."""
    with Store(path, "tasks") as store:
        columns = {name: store.column(name) for name in ("batch", "estimated_cpu_seconds")}
        texts = {name: store.text(name) for name in ("task_id", "kind", "element", "tier")}
        parents = [value.decode() for value in store.rows().parent_id]
        return [
            Task(
                task_id=texts["task_id"][i],
                candidate_id=name,
                kind=texts["kind"][i],
                element=texts["element"][i],
                batch=int(columns["batch"][i]),
                tier=texts["tier"][i],
                estimated_cpu_seconds=float(columns["estimated_cpu_seconds"][i]),
                structure=structure,
                parent_id=parents[i],
            )
            for i, (name, structure) in enumerate(zip(store.ids(), store.crystals().structures(), strict=True))
        ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _pseudos_text(record: Record) -> str:
    return " ".join(f"{el}:{digest[:DIGEST_DIGITS]}" for el, digest in sorted(record.get("pseudos", {}).items()))


def _hubbards_text(record: Record) -> str:
    return " ".join(f"{el}:{u:g}" for el, u in sorted(record.get("hubbards", {}).items()))


def _hubbards(text: str) -> dict[str, float]:
    return {element: float(u) for element, u in _split_pseudos(text).items()}


def final_structure(task: Task, record: Record) -> Structure:
    """The relaxed crystal; the one that was planned where there is none."""
    return structure_from_json(record["structure"]) if record["converged"] else task.structure


def write_results(
    path: Path,
    tasks: Sequence[Task],
    records: Mapping[str, Record],
    *,
    settings: ValidateSettings,
    inputs: Sequence[Path],
    revision: int,
) -> None:
    """Write the results of one batch: one row a task, failed ones with their reason and without an energy.

    Args:
        path: the store (schema ``results``).
        tasks: those of the batch, in order.
        records: task id → record.
        settings: what decided them.
        inputs: files this was made from; the first is the plan.
        revision: the step's.
    """
    with Store(inputs[0], "tasks", verify=False) as plan:
        origin = lineage(plan)
    rows = [records[task.task_id] for task in tasks]
    with StoreWriter(
        path, "results", columns=RESULT_COLUMNS, settings=settings, inputs=inputs, revision=revision, **origin
    ) as writer:
        writer.append(
            [task.candidate_id for task in tasks],
            {
                "task_id": [task.task_id for task in tasks],
                "kind": [task.kind for task in tasks],
                "element": [task.element for task in tasks],
                "energy_ev_per_atom": [_number(row["energy_ev_per_atom"]) for row in rows],
                "converged": [bool(row["converged"]) for row in rows],
                "space_group": [row["space_group"] for row in rows],
                "magnetization_mu_b_per_cell": [_number(row["magnetization_mu_b_per_cell"]) for row in rows],
                "cpu_seconds": [row["cpu_seconds"] for row in rows],
                "wall_seconds": [row["wall_seconds"] for row in rows],
                "attempts": [row["attempts"] for row in rows],
                "continuations": [row["continuations"] for row in rows],
                "reason": [_cut(row["reason"], 64) for row in rows],
                "detail": [_cut(row["detail"], 256) for row in rows],
                "setup": [row.get("setup", "") for row in rows],
                "pseudos": [_pseudos_text(row) for row in rows],
                "run_type": [row.get("run_type", "") for row in rows],
                "hubbards": [_hubbards_text(row) for row in rows],
            },
            crystals=Crystals.from_structures([final_structure(t, r) for t, r in zip(tasks, rows, strict=True)]),
            parent_id=[task.parent_id for task in tasks],
        )


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


@dataclass(frozen=True)
class Result:
    """One row of a store of results.

    Attributes:
        energy: total energy and how it was obtained.
        values: the columns by name, text decoded.
        structure: relaxed crystal.
    """

    energy: TotalEnergy
    values: Mapping[str, Any]
    structure: Structure

    @property
    def converged(self) -> bool:
        """Whether there is an energy."""
        return bool(self.values["converged"])


def result_of(task: Task, record: Record) -> Result:
    """The result of a task as it would be read from a store."""
    energy = TotalEnergy(
        task.candidate_id,
        _number(record["energy_ev_per_atom"]),
        record.get("setup", ""),
        _split_pseudos(_pseudos_text(record)),
        record.get("run_type", ""),
        record.get("hubbards", {}),
    )
    values = {
        "candidate_id": task.candidate_id,
        "task_id": task.task_id,
        "energy_ev_per_atom": energy.energy_ev_per_atom,
        "converged": bool(record["converged"]),
        "space_group": record["space_group"],
        "magnetization_mu_b_per_cell": _number(record["magnetization_mu_b_per_cell"]),
        "cpu_seconds": record["cpu_seconds"],
        "wall_seconds": record["wall_seconds"],
        "attempts": record["attempts"],
        "continuations": record["continuations"],
        "setup": energy.setup,
        "pseudos": _pseudos_text(record),
        "run_type": energy.run_type,
        "hubbards": _hubbards_text(record),
    }
    return Result(energy, values, final_structure(task, record))


def _split_pseudos(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


def read_results(paths: Sequence[Path]) -> Iterator[Result]:
    """The rows of several stores of results."""
    for path in paths:
        with Store(path, "results") as store:
            for chunk in store.chunks():
                assert chunk.crystals is not None
                for i, structure in enumerate(chunk.crystals.structures()):
                    values = {name: _plain(column[i]) for name, column in chunk.columns.items()}
                    pseudos = _split_pseudos(values["pseudos"])
                    name, energy = chunk.candidate_id[i].decode(), values["energy_ev_per_atom"]
                    yield Result(
                        TotalEnergy(
                            name,
                            energy,
                            values["setup"],
                            pseudos,
                            values.get("run_type", ""),
                            _hubbards(values.get("hubbards", "")),
                        ),
                        {**values, "candidate_id": name},
                        structure,
                    )


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()


def reference_energies(results: Sequence[Result]) -> tuple[dict[str, TotalEnergy], dict[str, str]]:
    """Energies of the elements that have one, and why the others have none."""
    energies, failed = {}, {}
    for result in results:
        if result.values["kind"] != "reference":
            continue
        if result.converged:
            energies[result.values["element"]] = result.energy
        else:
            failed[result.values["element"]] = result.values["reason"]
    return energies, failed
