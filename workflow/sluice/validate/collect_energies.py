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
from sluice.step import run_step, track
from sluice.store import Store, StoreWriter
from sluice.validate.energies import TotalEnergy, formation_energy, mp2020_correction
from sluice.validate.task_stores import RESULT_COLUMNS, Result, lineage, read_results, reference_energies

REVISION = 1
NO_RESULT = "no result"
_PASSED_ON = {name: RESULT_COLUMNS[name] for name in ("setup", "pseudos")}


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


def formation_energies(result: Result, references: dict[str, TotalEnergy]) -> tuple[float, float]:
    """Raw formation energy of a converged compound and the one with MP2020's corrections (or NaN), eV/atom.

    Raises:
        MixedReferencesError: where compound and references were not computed alike.
    """
    amounts = {str(element): float(n) for element, n in result.structure.composition.get_el_amt_dict().items()}
    raw = formation_energy(amounts, result.energy, references)
    return raw, raw + mp2020_correction(result.structure)


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

    A crystal is confirmed if its calculation converged, its raw formation energy is negative, its space group is
    known and, relaxed, it is none of the training data.

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
        columns=_PASSED_ON,
        settings={"validate": settings.model_dump(mode="json"), "duplicates": duplicates.model_dump()},
        inputs=[shortlist, tasks, *references, *compounds, known],
        revision=REVISION,
        **origin,
    ) as writer:
        for row, i in enumerate(track(converged, "formation energies", unit="crystals")):
            result, crystal = found[names[i]], relaxed[row : row + 1]
            raw, corrected = formation_energies(result, energies)
            novel = not memory.has(crystal)
            values = {name: result.values[name] for name in writer.columns if name in result.values}
            values |= {
                "parent_rank": int(given["rank"][i]),
                "formation_energy_ev_per_atom": raw,
                "formation_energy_corrected_ev_per_atom": corrected,
                "mlip_formation_energy_ev_per_atom": float(given["mlip_formation_energy_ev_per_atom"][i]),
                "novel": novel,
                "confirmed": bool(raw < 0.0 and values["space_group"] > 0 and novel),
                "code": settings.code,
                "protocol": settings.protocol_name,
            }
            columns: dict[str, Sequence[Any]] = {name: [value] for name, value in values.items()}
            writer.append([names[i]], columns, crystals=crystal, parent_id=parents[i : i + 1])
        for name in (name for name in names if name not in found or not found[name].converged):
            reason, detail = _why(name, found, unplanned)
            writer.drop([name], reason, kind="failed", detail=detail)
        writer.count(came_in=len(names))


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
