"""Graphs built once, kept in a store, and read whole as flat arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sluice.crystals import Crystals
from sluice.errors import StoreError
from sluice.models.graphs import Graphs, prepare_graphs, usable
from sluice.models.layers import Scale
from sluice.schemas import Column
from sluice.store import Store, StoreWriter

CHUNK = 5000  # crystals whose graphs are made at a time
NO_GRAPH = "no usable cell"
ARRAYS = {
    "node_offsets": Column("i8"),
    "numbers": Column("u1"),
    "node_counts": Column("i4"),
    "edge_offsets": Column("i8"),
    "neighbours": Column("i4"),
    "distances": Column("f4", "angstrom"),
    "edge_counts": Column("u1"),
}


def write_graphs(
    path: Path,
    ids: Sequence[str],
    crystals: Crystals,
    columns: Mapping[str, tuple[Column, NDArray]],
    *,
    neighbours: int,
    cutoff: float,
    scale: Scale = "given",
    inputs: Sequence[Path] = (),
) -> None:
    """Make the graphs of all usable crystals; the others are recorded as failed.

    Args:
        path: store to write, schema ``graphs``.
        ids: (n,) unique names.
        crystals: n crystals.
        columns: what is known of each crystal: how it is stored and its n values.
        neighbours: see ``prepare_graphs``.
        cutoff: see there.
        scale: see there.
        inputs: files that this was made from.
    """
    good = usable(crystals)
    names = np.asarray(ids, dtype=object)
    made = {"neighbours": neighbours, "cutoff_angstrom": cutoff, "scale": scale}
    kinds = {name: column for name, (column, _) in columns.items()}
    with StoreWriter(
        path, "graphs", columns=kinds, settings=made, inputs=inputs, with_crystals=False, attributes=made, arrays=ARRAYS
    ) as writer:
        writer.append_arrays({"node_offsets": np.zeros(1), "edge_offsets": np.zeros(1)})
        nodes = edges = 0
        for start in range(0, len(crystals), CHUNK):
            rows = np.flatnonzero(good[start : start + CHUNK]) + start
            graphs = prepare_graphs(crystals[rows], neighbours=neighbours, cutoff=cutoff, scale=scale)
            writer.append(list(names[rows]), {name: np.asarray(v)[rows] for name, (_, v) in columns.items()})
            values = {f.name: getattr(graphs, f.name) for f in fields(graphs)}
            values["node_offsets"] = graphs.node_offsets[1:] + nodes
            values["edge_offsets"] = graphs.edge_offsets[1:] + edges
            writer.append_arrays(values)
            nodes, edges = nodes + len(graphs.numbers), edges + len(graphs.distances)
        writer.drop(list(names[~good]), NO_GRAPH, kind="failed")


def read_graphs(path: Path) -> tuple[list[str], Graphs, dict[str, NDArray[Any]]]:
    """Names, graphs and columns of a store that ``write_graphs`` wrote.

    Raises:
        StoreError: if it is damaged or no store of graphs.
    """
    with Store(path, "graphs") as store:
        graphs = Graphs(**{f.name: store.array(f.name) for f in fields(Graphs)})
        if len(graphs) != len(store):
            raise StoreError(f"{path}: {len(store)} names for {len(graphs)} graphs")
        return store.ids(), graphs, {name: store.column(name) for name in store.columns}
