"""Formation energies of a round's compounds, raw and corrected, and which crystals they confirm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sluice.chemistry.matching import CrystalMatcher, formula_keys
from sluice.config import DuplicateSettings, ValidateSettings
from sluice.crystals import Crystals
from sluice.errors import SluiceError
from sluice.schemas import Column
from sluice.step import run_step, track
from sluice.store import Store, StoreWriter
from sluice.validate.energies import CORRECTIONS, MixedRunTypesError, formation_energies
from sluice.validate.task_stores import RESULT_COLUMNS, Result, lineage, read_results, reference_energies

REVISION = 1
NO_RESULT, CANNOT_BE_JOINED = "no result", "energies of different functionals"
_PASSED_ON = {name: RESULT_COLUMNS[name] for name in ("setup", "pseudos", "run_type", "hubbards")}
_SAID = {"references": Column("S128"), "corrections": Column("S96")}


class KnownCrystals:
    """The training data, asked whether a crystal is among them.

    Args:
        path: the data set.
        crystals: those that will be asked about; only known crystals of their compositions are kept.
        settings: when two crystals count as the same.
    """

    def __init__(self, path: Path, crystals: Crystals, settings: DuplicateSettings) -> None:
        self._matcher = CrystalMatcher(settings)
        self._known: dict[int, list[Any]] = {}
        wanted = formula_keys(crystals)
        with Store(path, "dataset") as store:
            for chunk in store.chunks():
                assert chunk.crystals is not None
                keys = formula_keys(chunk.crystals)
                for i in np.flatnonzero(np.isin(keys, wanted)):
                    reduced = self._matcher.reduce(chunk.crystals.structure(int(i)))
                    self._known.setdefault(int(keys[i]), []).append(reduced)

    def has(self, crystal: Crystals) -> bool:
        """Whether the one crystal given is known."""
        candidates = self._known.get(int(formula_keys(crystal)[0]), [])
        if not candidates:
            return False
        reduced = self._matcher.reduce(crystal.structure(0))
        return any(self._matcher.same(reduced, known) for known in candidates)


def collect_energies(
    *,
    shortlist: Path,
    tasks: Path,
    references: list[Path],
    compounds: list[Path],
    known: Path,
    settings: ValidateSettings,
    duplicates: DuplicateSettings,
    validated: Path,
) -> None:
    """Make formation energies of total energies; every candidate of the shortlist is a row or a failure.

    A crystal is confirmed if its calculation converged, its raw formation energy is negative (a GGA+U compound has a
    corrected one only), its space group is known and, relaxed, it is none of the training data.

    Args:
        shortlist: what was to be computed (schema ``shortlist``).
        tasks: the plan, for what could not be planned (schema ``tasks``).
        references: results of the elemental references (schema ``results``).
        compounds: results of the compounds (schema ``results``).
        known: the training data (schema ``dataset``).
        settings: code and protocol.
        duplicates: when two crystals count as the same.
        validated: the store to write (schema ``validated``), relaxed crystals in order of the shortlist.

    Raises:
        MixedReferencesError: where compound and references were not computed alike.
    """
    energies, _ = reference_energies(list(read_results(references)))
    found = {result.energy.name: result for result in read_results(compounds)}
    with Store(shortlist, "shortlist") as store:
        names, origin = store.ids(), lineage(store)
        parents = store.rows().parent_id
        given = {name: store.column(name) for name in ("rank", "mlip_formation_energy_ev_per_atom")}
    converged = [i for i, name in enumerate(names) if name in found and found[name].converged]
    relaxed = Crystals.from_structures([found[names[i]].structure for i in converged])
    unplanned = _unplanned(tasks)
    memory = KnownCrystals(known, relaxed, duplicates)
    with StoreWriter(
        validated,
        "validated",
        columns=_PASSED_ON | _SAID,
        settings={"validate": settings.model_dump(mode="json"), "duplicates": duplicates.model_dump()},
        inputs=[shortlist, tasks, *references, *compounds, known],
        revision=REVISION,
        **origin,
    ) as writer:
        for row, i in enumerate(track(converged, "formation energies", unit="crystals")):
            result, crystal = found[names[i]], relaxed[row : row + 1]
            try:
                raw, corrected = formation_energies(result.structure, result.energy, energies)
            except MixedRunTypesError as error:
                writer.drop([names[i]], CANNOT_BE_JOINED, kind="failed", detail=str(error))
                continue
            novel = not memory.has(crystal)
            values = {name: result.values[name] for name in writer.columns if name in result.values}
            values |= {
                "parent_rank": int(given["rank"][i]),
                "formation_energy_ev_per_atom": raw,
                "formation_energy_corrected_ev_per_atom": corrected,
                "mlip_formation_energy_ev_per_atom": float(given["mlip_formation_energy_ev_per_atom"][i]),
                "novel": novel,
                "confirmed": bool(decisive(raw, corrected) < 0.0 and values["space_group"] > 0 and novel),
                "references": energies[str(result.structure[0].specie)].setup,
                "corrections": CORRECTIONS if np.isfinite(corrected) else "",
                "code": settings.code,
                "protocol": settings.protocol_name,
            }
            columns: dict[str, Sequence[Any]] = {name: [value] for name, value in values.items()}
            writer.append([names[i]], columns, crystals=crystal, parent_id=parents[i : i + 1])
        for name in (name for name in names if name not in found or not found[name].converged):
            reason, detail = _why(name, found, unplanned)
            writer.drop([name], reason, kind="failed", detail=detail)
        writer.count(came_in=len(names))


def decisive(raw: float, corrected: float) -> float:
    """The formation energy that confirms a crystal: the raw one, or where none has a meaning the corrected one."""
    return raw if np.isfinite(raw) else corrected


def _unplanned(tasks: Path) -> dict[str, tuple[str, str]]:
    with Store(tasks, "tasks") as store:
        failures = store.failures()
    return {
        name: (reason, detail)
        for name, reason, detail in zip(failures.candidate_id, failures.reason, failures.detail, strict=True)
    }


def _why(name: str, found: dict[str, Result], unplanned: dict[str, tuple[str, str]]) -> tuple[str, str]:
    if name in found:
        return found[name].values["reason"] or NO_RESULT, found[name].values["detail"]
    if name in unplanned:
        return unplanned[name]
    raise SluiceError(
        f"{name} is on the shortlist, but there is neither a result nor a reason for it: shortlist and results belong "
        "to different runs. Delete the round's validate directory and resume."
    )


if __name__ == "__main__":
    run_step(collect_energies)
