"""Atoms that no network of distances can tell apart made one node: the same answers from far smaller graphs.

A graph convolution sees of an atom its element and, through its bonds, the distances and features of its neighbours.
Refining colours by just that (Weisfeiler and Leman, 1968; Xu et al., ICLR 2019) until no class splits any further gives
classes whose members carry equal features in every layer of any such network. One member stands for all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESOLUTION = 1e-4  # Å; distances in a crystal of which each is nearer to the next than this are one
_A, _B, _C = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit hash (the finalizer of splitmix64, Steele et al., OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _sums(values: NDArray[np.uint64], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Sum of each run, modulo 2⁶⁴."""
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    return total[offsets[1:]] - total[offsets[:-1]]


def distinct_distances(crystal: NDArray[np.int64], distances: NDArray[np.float32]) -> NDArray[np.int64]:
    """(e,) number of each distance among the distinct ones of all crystals; noise does not make two of one."""
    order = np.lexsort((distances, crystal))
    gap = np.diff(distances[order].astype(np.float64)) > RESOLUTION
    new = gap | (np.diff(crystal[order]) != 0)
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.concatenate([np.zeros(min(1, len(order)), np.int64), np.cumsum(new)])
    return numbers


def colours(
    node_offsets: NDArray[np.int64],
    numbers: NDArray[np.uint8],
    edge_offsets: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    steps: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """(m,) the stable colour of each node; equal only within a crystal.

    Args:
        node_offsets: as of ``Graphs``.
        numbers: as of ``Graphs``.
        edge_offsets: as of ``Graphs``.
        neighbours: (e,) node at the far end, counted over all crystals.
        steps: (e,) number of each distance among the distinct ones.
    """
    crystal = np.repeat(np.arange(len(node_offsets) - 1, dtype=np.uint64), np.diff(node_offsets))
    colour = _mix(crystal * _A + numbers.astype(np.uint64) * _B + _C)
    bond = _mix(steps * _B + _C)
    classes = len(np.unique(colour))
    while True:
        refined = _mix(colour * _C + _sums(_mix(colour[neighbours] * _A + bond), edge_offsets))
        found = len(np.unique(refined))
        if found == classes:
            return colour
        colour, classes = refined, found


def merge_equal(  # noqa: PLR0917
    node_offsets: NDArray[np.int64],
    numbers: NDArray[np.uint8],
    node_counts: NDArray[np.int32],
    edge_offsets: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    distances: NDArray[np.float32],
    edge_counts: NDArray[np.uint8],
) -> tuple[NDArray, ...]:
    """Merge equal nodes and equal edges of graphs that stand for one atom and bond each.

    Args and result: the arrays of ``sluice.models.graphs.Graphs``, in its order.

    Raises:
        ValueError: if the graphs have been merged before.
    """
    if (node_counts != 1).any() or (edge_counts != 1).any():
        raise ValueError("these graphs have been merged before")
    sizes = np.diff(node_offsets)
    degrees = np.diff(edge_offsets)
    far = neighbours.astype(np.int64) + np.repeat(np.repeat(node_offsets[:-1], sizes), degrees)
    steps = distinct_distances(np.repeat(np.repeat(np.arange(len(sizes)), sizes), degrees), distances)
    colour = colours(node_offsets, numbers, edge_offsets, far, steps.astype(np.uint64))
    _, first, member, counts = np.unique(colour, return_index=True, return_inverse=True, return_counts=True)
    # Classes in the order of their first members: crystals stay together.
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    node_class, first, counts = place[member], first[order], counts[order]
    new_offsets = np.searchsorted(first, node_offsets)
    starts = np.repeat(new_offsets[:-1], np.diff(new_offsets))  # first class of each class's crystal

    lengths = degrees[first]
    owner = np.repeat(np.arange(len(first)), lengths)
    ends = np.cumsum(lengths)
    edges = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(edge_offsets[first] - (ends - lengths), lengths)
    target, step = node_class[far[edges]], steps[edges]
    by = np.lexsort((target, step, owner))
    owner, target, step, edges = owner[by], target[by], step[by], edges[by]
    new = np.ones(len(owner), bool)
    new[1:] = (owner[1:] != owner[:-1]) | (target[1:] != target[:-1]) | (step[1:] != step[:-1])
    begin = np.flatnonzero(new)
    edge_numbers = np.diff(np.append(begin, len(owner)))
    new_edge_offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[begin], minlength=len(first)))])
    return (
        new_offsets.astype(np.int64),
        numbers[first],
        counts.astype(np.int32),
        new_edge_offsets.astype(np.int64),
        (target[begin] - starts[owner[begin]]).astype(np.int32),
        distances[edges[begin]],
        edge_numbers.astype(np.uint8),
    )
