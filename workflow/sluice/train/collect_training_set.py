"""What the models of a round learn from: the database and the DFT labels of all rounds before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.crystals import Crystals
from sluice.schemas import Column
from sluice.step import run_step
from sluice.store import Chunk, Store, StoreWriter

REVISION = 2
DFT = "dft"
HELD_OUT = "formula is held out for validation or test"
ENERGY_DECIMALS = 2  # eV/atom; far below DFT's own error, above most of what a restart changes
COLUMNS = {"confirmed": Column("?"), "label_round": Column("i4")}


def collect_training_set(
    *, dataset: Path, validated: list[Path], shortlists: list[Path], round: int, training_set: Path
) -> None:
    """Join the database with the crystals that DFT has labelled.

    DFT rows go to the training split only. One whose formula is held out for validation or test is left out (and
    counted), so that splits stay disjoint by formula and the same in every round; so is one without a converged energy.

    Args:
        dataset: the database, schema ``dataset``.
        validated: DFT results of the rounds before, oldest first, schema ``validated``.
        shortlists: what those rounds sent to DFT, in the same order, schema ``shortlist``.
        round: number of this round.
        training_set: store to write, schema ``dataset`` with ``confirmed`` and ``label_round`` (0: the database).
    """
    with Store(dataset, "dataset") as known:
        splits = np.array(known.text("split"))
        campaign = str(known.attributes["campaign"])
        extra = {name: column for name, column in known.columns.items() if name not in COLUMNS}
        with StoreWriter(
            training_set,
            "dataset",
            columns=extra | COLUMNS,
            inputs=[dataset, *validated, *shortlists],
            campaign=campaign,
            round_number=round,
            revision=REVISION,
        ) as writer:
            held_out: set[str] = set()
            start = 0
            for chunk in known.chunks():
                assert chunk.crystals is not None
                away = splits[start : start + len(chunk)] != "train"
                held_out.update(chunk.crystals[away].reduced_formulas())
                start += len(chunk)
                writer.append_chunk(
                    chunk, confirmed=np.zeros(len(chunk), bool), label_round=np.zeros(len(chunk), np.int32)
                )
            for number, (path, shortlist) in enumerate(zip(validated, shortlists, strict=True), start=1):
                with Store(path, "validated") as results, Store(shortlist, "shortlist") as sent:
                    for chunk in results.chunks():
                        _append_labels(writer, chunk, sent.rows(), held_out, number)
    print(f"training set: {writer.counts['out']} crystals, {writer.counts['rejected']} DFT labels left out")


def _append_labels(writer: StoreWriter, chunk: Chunk, shortlist: Chunk, held_out: set[str], number: int) -> None:
    """Add the DFT rows of round ``number`` that can be learned from."""
    assert chunk.crystals is not None
    energy = training_energy(chunk)
    converged = chunk.columns["converged"] & np.isfinite(energy)
    writer.drop(chunk.candidate_id[~converged], "no converged DFT energy")
    chunk, energy = chunk.select(converged), energy[converged]
    assert chunk.crystals is not None
    away = np.array([formula in held_out for formula in chunk.crystals.reduced_formulas()], dtype=bool)
    writer.drop(chunk.candidate_id[away], HELD_OUT)
    chunk, energy = chunk.select(~away), energy[~away]
    n = len(chunk)
    assert chunk.crystals is not None
    columns = {name: _missing(column, n) for name, column in writer.columns.items()} | {
        "prototype": np.full(n, b"", "S32"),
        "space_group": chunk.columns["space_group"],
        "formation_energy_ev_per_atom": energy,
        "label_source": np.full(n, DFT.encode(), "S32"),
        "split": np.full(n, b"train", "S8"),
        "confirmed": chunk.columns["confirmed"],
        "label_round": np.full(n, number, np.int32),
    }
    crystals = before_dft(shortlist, chunk.candidate_id.tolist())
    writer.append(chunk.candidate_id, columns, crystals=crystals, parent_id=chunk.parent_id)


def before_dft(shortlist: Chunk, names: list[bytes]) -> Crystals:
    """The crystals as they were sent to DFT.

    # ASSUME: CHGNet's geometry stands for DFT's (lattice constants within about 1 %). All others that the models see
    # are CHGNet's too, and a calculation restarted midway ends in another last digit of the geometry, not of this one.

    Args:
        shortlist: rows of that round's shortlist.
        names: candidate ids among them.
    """
    assert shortlist.crystals is not None
    position = {name: i for i, name in enumerate(shortlist.candidate_id.tolist())}
    return shortlist.crystals[np.array([position[name] for name in names], dtype=np.int64)]


def training_energy(chunk: Chunk) -> NDArray[np.float64]:
    """(n,) formation energy in eV/atom that DFT rows are learned with.

    # ASSUME: the database's labels (CHGNet) are on Materials Project's corrected scale, so the MP2020-corrected value
    # is the comparable one; where no correction is defined, the raw value stands in for it.
    """
    corrected = chunk.columns["formation_energy_corrected_ev_per_atom"]
    energy = np.where(np.isfinite(corrected), corrected, chunk.columns["formation_energy_ev_per_atom"])
    return np.asarray(energy.round(ENERGY_DECIMALS), np.float64)


def _missing(column: Column, n: int) -> NDArray:
    """What a further column of the database holds for a crystal that is not from there."""
    kind = np.dtype(column.dtype).kind
    return np.full(n, np.nan, column.dtype) if kind == "f" else np.zeros(n, column.dtype)


if __name__ == "__main__":
    run_step(collect_training_set)
