"""Negatives out of materials without a status: those that a first pass of PU learning scores lowest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.errors import BadDataError, SluiceError

MINED = "mined.npz"
# Job of a first pass → the split whose zeros it scores. The authors' README of the time split: "A 0 label indicates the
# material is unlabeled". In the other table, too, most of the balanced test's unlabelled rows are zeros, and some of
# its positives.
MINES = {"mine_time": "time", "mine_elements": "elements"}
FIRST_PASS = {split: job for job, split in MINES.items()}


@dataclass(frozen=True)
class Mined:
    """What a first pass found.

    Attributes:
        ids: (z,) materials without a status.
        score: (z,) mean probability over the bags that did not take the material for a negative.
        negative: (z,) whether it is a negative from now on.
    """

    ids: NDArray[np.str_]
    score: NDArray[np.float64]
    negative: NDArray[np.bool_]

    def write(self, folder: Path) -> None:
        """Write it into a run's folder."""
        np.savez_compressed(folder / MINED, ids=self.ids, score=self.score, negative=self.negative)

    @classmethod
    def read(cls, run: Path) -> Mined:
        """What a run wrote.

        Raises:
            SluiceError: if it wrote nothing.
        """
        if not (run / MINED).is_file():
            raise SluiceError(f"{run}: {MINED} is missing; delete this run and run the experiment again")
        with np.load(run / MINED) as arrays:
            return cls(arrays["ids"], arrays["score"], arrays["negative"])


def lowest(score: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """(z,) which are the ``count`` lowest scores; all if there are fewer; of equal ones the first."""
    chosen = np.zeros(len(score), bool)
    chosen[np.argsort(score, kind="stable")[:count]] = True
    return chosen


def ones_and_zeros(
    known: NDArray[np.int64], labels: NDArray[np.int64], test: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives and materials without a status of a table, without those of its test table.

    Args:
        known: (k,) rows of the table's materials.
        labels: (k,) their labels, 0 for no status.
        test: rows of the test table's.

    Raises:
        BadDataError: if nothing can be mined.
    """
    keep = ~np.isin(known, test)
    ones, zeros = known[keep & (labels == 1)], known[keep & (labels == 0)]
    if not len(ones) or len(zeros) < 2:
        raise BadDataError(
            f"{len(ones)} positives and {len(zeros)} materials without a status are outside the test table, too few to"
            " mine negatives; raise settings.max_rows or settings.graphs.max_atoms"
        )
    return ones, zeros


def second_pass(
    known: NDArray[np.int64], labels: NDArray[np.int64], negatives: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """A balanced table and what is left of it: labelled rows, their labels, rows that stay unlabelled.

    Args:
        known: (k,) rows of the table's materials, without those of its test table.
        labels: (k,) their labels, 0 for no status.
        negatives: rows that the first pass mined.
    """
    labelled = (labels == 1) | np.isin(known, negatives)
    return known[labelled], labels[labelled], known[~labelled]
