"""Collect the formulas to learn from: those of the database with their lowest energy, or a table of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.composition_keys import composition_keys
from sluice.chemistry.composition_store import LONGEST, reduced, written_formulas
from sluice.chemistry.composition_table import Reading, random_split, read_table
from sluice.chemistry.compositions import Compositions, atomic_numbers
from sluice.config import Chemistry, CurateSettings
from sluice.config_composition_campaign import FormulaTableSettings
from sluice.errors import BadDataError
from sluice.step import run_step
from sluice.store import Store, StoreWriter

REVISION = 1
OUTSIDE = "element outside the chemistry"
BAD_ROW = "row cannot be used"
LONG_FORMULA = "formula too long"
USER = "user"
LEAST = 10  # formulas below which nothing can be learned


def collect_compositions(
    *,
    dataset: list[Path],
    table: list[Path],
    settings: FormulaTableSettings,
    curate: CurateSettings,
    chemistry: Chemistry,
    seed: int,
    campaign: str,
    compositions: Path,
) -> None:
    """Write each formula once, with a formation energy and a split.

    # ASSUME: the formation energy of a formula is the lowest of its crystals in the database. Labels of a database
    # that was built are CHGNet's, an interatomic potential's, for cubic prototypes: the ground state may be lower.

    Args:
        dataset: the database of crystals (schema ``dataset``), unless there is a table.
        table: the user's CSV; it is read where it is named, this only makes it an input of the rule.
        settings: the user's CSV, its columns, what becomes of duplicates.
        curate: shares of validation and test, and the bad rows tolerated, for a CSV.
        chemistry: formulas of other elements are left out.
        seed: decides the split of a CSV; that of a database stands.
        campaign: the campaign's name.
        compositions: the formulas (schema ``compositions``).

    Raises:
        BadDataError: if the CSV cannot be read or holds too many bad rows, or hardly a formula is left.
    """
    path = settings.path
    with StoreWriter(
        compositions,
        "compositions",
        settings={"data": settings.model_dump(mode="json"), "chemistry": chemistry.model_dump(mode="json")},
        inputs=[path] if path is not None else dataset,
        campaign=campaign,
        revision=REVISION,
        with_crystals=False,
        attributes={"seed": seed},
    ) as writer:
        if path is not None:
            shares = (curate.validation_share, curate.test_share)
            how = settings.reading(shares, curate.max_bad_fraction)
            _append_table(writer, read_table(path, how), shares, chemistry, seed=seed)
        else:
            _append_database(writer, dataset[0], chemistry)
        counts = writer.counts
        if counts["out"] < LEAST:
            given = counts["out"] + counts["merged"] + counts["rejected"]
            raise BadDataError(
                f"{path or dataset[0]}: {counts['out']} formulas of the elements {', '.join(chemistry.elements)} are"
                f" left of {given} rows; nothing can be learned from fewer than {LEAST}"
            )
    print(f"{counts['out']} formulas, {counts['merged']} rows merged, {counts['rejected']} left out")


def within(compositions: Compositions, chemistry: Chemistry) -> NDArray[np.bool_]:
    """(n,) whether all elements are the chemistry's."""
    allowed = np.isin(compositions.numbers, [atomic_numbers()[symbol] for symbol in chemistry.elements])
    strangers = np.bincount(compositions.rows, ~allowed, minlength=len(compositions))
    return np.asarray(strangers == 0)


def names_of(compositions: Compositions) -> NDArray[np.bytes_]:
    """(n,) ids: equal for equal compositions, on every machine."""
    return np.array([f"c-{key:016x}" for key in composition_keys(compositions).tolist()], dtype="S64")


def _append_database(writer: StoreWriter, path: Path, chemistry: Chemistry) -> None:
    """The lowest crystal of each formula; it becomes the parent."""
    with Store(path, "dataset") as store:
        rows = store.rows()
    assert rows.crystals is not None
    found = Compositions.from_crystals(rows.crystals)
    inside = within(found, chemistry)
    writer.drop(rows.candidate_id[~inside], OUTSIDE)
    rows, found = rows.select(inside), found[inside]
    # Crystals of one formula share a split, so the lowest one stands for all of them.
    order = np.lexsort((rows.candidate_id, rows.columns["formation_energy_ev_per_atom"]))
    _, first = np.unique(composition_keys(found)[order], return_index=True)
    _append(writer, found[order[first]], rows.select(order[first]).columns, parents=rows.candidate_id[order[first]])
    writer.count(merged=len(found) - len(first))


def _append_table(
    writer: StoreWriter, reading: Reading, shares: tuple[float, float], chemistry: Chemistry, *, seed: int
) -> None:
    """The good rows of the user's CSV; the others with their row number and reason."""
    writer.drop([f"row {row}" for row, _ in reading.bad], BAD_ROW, detail=[reason for _, reason in reading.bad])
    writer.count(merged=reading.duplicates)
    found, energies = reading.compositions, reading.target
    inside = within(found, chemistry)
    writer.drop(names_of(found[~inside]), OUTSIDE, detail=written_formulas(found[~inside]))
    found, energies = found[inside], energies[inside]
    short = np.array([len(formula) <= LONGEST for formula in written_formulas(found)], dtype=bool)
    writer.drop(names_of(found[~short]), LONG_FORMULA)
    found, energies = found[short], energies[short]
    columns = {
        "formation_energy_ev_per_atom": energies,
        "label_source": np.full(len(found), USER, "S32"),
        "split": random_split(len(found), shares, seed).astype("S8"),
    }
    _append(writer, found, columns)


def _append(
    writer: StoreWriter,
    compositions: Compositions,
    columns: dict[str, NDArray],
    *,
    parents: NDArray[np.bytes_] | None = None,
) -> None:
    """Append rows in the order of their ids."""
    ids = names_of(compositions)
    order = np.argsort(ids, kind="stable")
    kept = ("formation_energy_ev_per_atom", "label_source", "split")
    writer.append(
        ids[order],
        {"formula": written_formulas(reduced(compositions[order])), **{name: columns[name][order] for name in kept}},
        parent_id=None if parents is None else parents[order],
    )


if __name__ == "__main__":
    run_step(collect_compositions)
