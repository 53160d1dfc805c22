"""Compositions in stores: a column of formulas, which people can read and which is parsed by the million."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sluice.chemistry.composition_table import CompositionTable
from sluice.chemistry.compositions import Compositions, symbols
from sluice.chemistry.oxidation_states import electronegativity_ranks
from sluice.schemas import TEXT
from sluice.store import CHUNK, Chunk, Store

LONGEST = int(TEXT.dtype[1:])  # bytes of a formula in a store
NOT_ENCODED = "cannot be encoded"  # why a scorer leaves a formula of its table out


def reduced(compositions: Compositions) -> Compositions:
    """The same compositions in the smallest integers: Fe4O6 as Fe2O3."""
    return Compositions(compositions.offsets, compositions.numbers, compositions.counts().astype(np.float64))


def written_formulas(compositions: Compositions) -> list[str]:
    """Formulas as people write them, from the least to the most electronegative element: ``SrTiO3``.

    Elements without an electronegativity come last.
    """
    ranks = electronegativity_ranks()[compositions.numbers]
    order = np.lexsort((compositions.numbers, np.where(ranks < 0, ranks.max(initial=0) + 1, ranks), compositions.rows))
    names = symbols()
    texts = [
        names[z] + ("" if amount == 1 else f"{amount:.10g}")
        for z, amount in zip(compositions.numbers[order].tolist(), compositions.amounts[order].tolist(), strict=True)
    ]
    return ["".join(texts[a:b]) for a, b in pairwise(compositions.offsets.tolist())]


def systems(compositions: Compositions) -> list[str]:
    """The set of elements of each composition: ``O-Sr-Ti``."""
    names = symbols()
    texts = [names[z] for z in compositions.numbers.tolist()]
    return ["-".join(sorted(texts[a:b])) for a, b in pairwise(compositions.offsets.tolist())]


def compositions_of(chunk: Chunk) -> Compositions:
    """The compositions of a run of rows.

    Raises:
        FormulaError: if one of its formulas is none.
    """
    return Compositions.from_formulas([text.decode() for text in chunk.columns["formula"].tolist()])


def stream_compositions(paths: list[Path], schema: str, size: int = CHUNK) -> Iterator[tuple[Chunk, Compositions]]:
    """Rows of several stores that were verified before with their compositions, so many at a time."""
    for path in paths:
        with Store(path, schema, verify=False) as store:
            for chunk in store.chunks(size):
                yield chunk, compositions_of(chunk)


def composition_table(chunk: Chunk) -> CompositionTable:
    """Rows of the schema ``compositions`` as a table to learn from."""
    energies: NDArray[np.float64] = chunk.columns["formation_energy_ev_per_atom"]
    return CompositionTable(compositions_of(chunk), energies, chunk.columns["split"].astype("S5"))
